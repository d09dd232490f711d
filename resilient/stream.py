"""Async generator functions as calls: the call is over when the stream is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any, final

from resilient.call import Call
from resilient.context import ambient
from resilient.deadline import bounded

__all__ = ["Stream", "close_stream"]

_END: Any = object()


@final
class Stream:
    """One attempt's stream: opened by reading its first item, so that an attempt which fails before it may be repeated.

    Each read has the attempt's deadline and is made as the current call; nothing is held across a `yield`.
    """

    __slots__ = ("_generator", "call", "item")

    def __init__(self, call: Call, generator: AsyncGenerator[Any, Any]) -> None:
        self.call = call
        self.item: Any = _END
        self._generator = generator

    @property
    def over(self) -> bool:
        """Whether there is no item any more."""
        return self.item is _END

    async def open(self) -> None:
        """Read the first item; the pipeline has set the deadline and the current call."""
        self.item = await anext(self._generator, _END)

    async def send(self, value: Any) -> None:
        """Read the next item, sending `value` to the generator."""
        await self._read(lambda _: self._generator.asend(value))

    async def throw(self, error: BaseException) -> None:
        """Read the next item, raising `error` in the generator."""
        await self._read(lambda _: self._generator.athrow(error))

    async def _read(self, step: Callable[[None], Any]) -> None:
        token = ambient.set(self.call)
        try:
            if self.call.deadline is None:
                self.item = await step(None)
            else:
                self.item = await bounded(self.call, step, None)
        except StopAsyncIteration:
            self.item = _END
        finally:
            ambient.reset(token)

    async def close(self, error: BaseException | None) -> None:
        """Settle everything that waits for the end of this stream, then close the generator."""
        self.item = _END
        # A consumer that leaves early has what it wanted.
        self.call.finish(None if isinstance(error, GeneratorExit) else error)
        await self._generator.aclose()


async def close_stream(stream: Stream) -> bool:
    """Close a stream that another attempt takes the place of; nobody can read it any more."""
    await stream._generator.aclose()  # noqa: SLF001 - the other half of the same class, as a classifier needs it
    return False
