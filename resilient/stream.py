"""Async generator functions as calls: the call is over when the stream is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Any, final

from resilient.call import Call, Next
from resilient.context import ambient
from resilient.deadline import no_time_left, send
from resilient.errors import DeadlineExceeded

__all__ = ["Stream", "settle"]

_END: Any = object()

OnExit = Callable[[type[BaseException] | None, BaseException | None, TracebackType | None], None]


def settle(call: Call) -> OnExit:
    """What a context calls on its exit to settle the call."""

    def on_exit(_kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None) -> None:
        # A consumer that leaves early has what it wanted.
        call.finish(None if isinstance(error, GeneratorExit) else error)

    return on_exit


@final
class Stream:
    """One attempt's stream: opened by reading its first item, so that an attempt which fails before it may be repeated.

    Each read has the attempt's deadline and is made as the current call; nothing is held across a `yield`. To leave
    it settles everything that waits for the end of the stream, then closes the generator.
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

    async def __aenter__(self) -> Stream:
        """Read the first item; the pipeline has set the deadline and the current call."""
        self.item = await anext(self._generator, _END)
        return self

    async def send(self, value: Any) -> None:
        """Read the next item, sending `value` to the generator."""
        await self._read(lambda _: self._generator.asend(value))

    async def throw(self, error: BaseException) -> None:
        """Read the next item, raising `error` in the generator."""
        await self._read(lambda _: self._generator.athrow(error))

    async def _read(self, step: Next[Any]) -> None:
        call = self.call
        if call.deadline is not None and call.deadline <= call.runtime.now():
            # The consumer took its time, which nobody is to blame for; but something was sent.
            call.finish(no_time_left(call))
            raise DeadlineExceeded(f"{call.name}: the deadline passed between two items")
        try:
            self.item = await send(call, step)
        except StopAsyncIteration:
            self.item = _END

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            settle(self.call)(kind, error, trace)
        finally:
            await self.discard()

    async def discard(self) -> bool:
        """Close the generator; nobody can read it any more."""
        self.item = _END
        token = ambient.set(self.call)
        try:
            await self._generator.aclose()
        finally:
            ambient.reset(token)
        return False
