"""The bodies of requests and responses, as a call sees them."""

from __future__ import annotations

import logging
import warnings
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any, cast, final

from resilient.call import Call
from resilient.deadline import no_time_left, send
from resilient.errors import DeadlineExceeded
from resilient.http.package import Package
from resilient.http.punctual import TimeLeft
from resilient.verdict import Verdict
from resilient.waiting import drive

__all__ = ["Body", "body_of", "close_quietly", "once_only", "replayable", "verdict_on_the_caller"]

_log = logging.getLogger("resilient")
_SET_ASIDE = 65_536
_PATIENCE = 1.0
"""Seconds for the rest of a response that is given up: beyond them a new connection costs less than the wait."""
_END: Any = object()
_VERDICT = "__resilient_verdict__"


class Body:
    """A response's body: the call is over when it is read to its end or closed, and each read has the call's deadline.

    It serves asynchronous and synchronous clients: what it awaits of a synchronous transport never suspends.
    One that is dropped without being closed (a forgotten `client.stream`) goes to `dropped`, for somebody to close:
    a finalizer can neither await nor take a lock.
    """

    timed_out: type[Exception]

    def __init__(
        self,
        call: Call,
        inner: Any,
        dropped: deque[Body],
        *,
        sync: bool,
        timeout: TimeLeft | None = None,
        multiplexed: bool = False,
        break_off: Callable[[], None] | None = None,
    ) -> None:
        self.call = call
        self.error: BaseException | None = None
        self._inner: Any = inner
        self._dropped = dropped
        self._sync = sync
        self._timeout = timeout
        """Of each read of a synchronous transport."""
        self._multiplexed = multiplexed
        """httpx does not tell the other side that a stream of HTTP/2 is left before its end: it stays open."""
        self._break_off = break_off
        self._chunks: Any = None
        self._ahead: deque[bytes] = deque()
        """What was read ahead."""
        self._kept: Iterator[bytes] | None = None
        self._ended = False

    @property
    def open(self) -> bool:
        """Whether its connection is still in use."""
        return self._inner is not None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._read()
        if chunk is _END:
            await self.aclose()
            raise StopAsyncIteration
        return cast("bytes", chunk)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = drive(self._read())
        if chunk is _END:
            self.close()
            raise StopIteration
        return cast("bytes", chunk)

    async def _read(self) -> Any:
        """The next chunk, from the network or from what was set aside."""
        if self._ahead:
            return self._ahead.popleft()
        if self._inner is None:
            return _END if self._kept is None else next(self._kept, _END)
        call = self.call
        if call.deadline is not None and call.deadline <= call.runtime.now():
            # The reader took its time, which nobody is to blame for; but something was sent.
            self.error = no_time_left(call)
            raise DeadlineExceeded(f"{call.name}: the deadline passed between two reads of the body")
        try:
            chunk = await send(call, self._next)
        except BaseException as error:
            self.error = error
            raise
        self._ended = chunk is _END
        return chunk

    async def _next(self, call: Call) -> Any:
        if self._chunks is None:
            self._chunks = iter(self._inner) if self._sync else aiter(self._inner)
        if not self._sync:
            return await anext(self._chunks, _END)
        try:
            return next(self._chunks, _END)
        except self.timed_out as error:
            remaining = call.remaining
            if remaining is None or remaining > 0:
                raise
            raise DeadlineExceeded(f"{call.name}: the body did not arrive within the deadline") from error

    async def set_aside(self) -> bool:
        """Read what is left, if that is little and comes soon, and close; tell whether it can still be read."""
        kept: list[bytes] = []
        size = 0
        call = self.call
        soon = call.runtime.now() + _PATIENCE
        if call.deadline is None or soon < call.deadline:
            self.call = call.evolve(deadline=soon)
            if self._timeout is not None:
                self._timeout.deadline = soon
        try:
            while (chunk := await self._read()) is not _END:
                kept.append(chunk)
                size += len(chunk)
                if size > _SET_ASIDE:
                    return False
        except Exception:  # noqa: BLE001 - it is given up; how it would have ended says nothing of the attempt
            self.error = None
            return False
        finally:
            self.call = call
            with suppress(Exception):  # it is given up, and so is its connection
                await self._let_go()
        self._kept = iter(kept)
        return True

    async def hold(self, limit: int) -> bytes | None:
        """Read ahead; return the whole body, or None where that is more than `limit` bytes. It can still be read."""
        ahead: deque[bytes] = deque()
        size = 0
        while size <= limit and (chunk := await self._read()) is not _END:
            ahead.append(chunk)
            size += len(chunk)
        self._ahead = ahead
        if size > limit:
            return None
        await self._let_go()
        return b"".join(ahead)

    async def _let_go(self) -> None:
        """Close the inner body; what is to be settled at the end of the call is not touched."""
        inner, self._inner = self._inner, None
        if inner is None:
            return
        broken_off = self._multiplexed and not self._ended
        try:
            if self._sync:
                inner.close()
            else:
                await inner.aclose()
        except BaseException as error:
            broken_off = broken_off or not isinstance(error, Exception)
            raise
        finally:
            if broken_off and self._break_off is not None:
                self._break_off()

    async def aclose(self) -> None:
        """Close the body and settle the call."""
        try:
            await self._let_go()
        finally:
            self.call.finish(self.error)

    def close(self) -> None:
        """Close the body and settle the call."""
        drive(self.aclose())

    def __del__(self) -> None:
        if self._inner is not None:
            self._dropped.append(self)
            warnings.warn(f"{self.call.name}: a response was dropped without being closed", ResourceWarning, 2, self)


@lru_cache(maxsize=8)
def body_of(package: Package) -> type[Body]:
    """The class of response bodies that this package's clients accept."""
    module = package.module

    class PackageBody(Body, module.AsyncByteStream, module.SyncByteStream):  # type: ignore[misc, name-defined]  # known at run time
        timed_out = package.timed_out

    return PackageBody


async def close_quietly(what: Any, *, sync: bool) -> None:
    """Close a body or a transport, where the caller has an error, or an answer, of its own; log what goes wrong."""
    try:
        if sync:
            what.close()
        else:
            await what.aclose()
    except Exception:  # noqa: BLE001 - logged
        _log.warning("%r could not be closed", what, exc_info=True)


class _OnceOnly:
    """A request's body that can be read once in a call. It remembers whether it was, and when it is what failed."""

    consumed: type[Exception]

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.begun = False

    @property
    def what(self) -> str:
        """What the body is called where it is told that it cannot be read again."""
        return type(self.inner).__name__

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Reading(self._begin())

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._begin()
        except Exception as error:
            _blame_the_caller(error, Verdict.CANCELLED)
            raise

    def _begin(self) -> Any:
        if self.begun:  # by another attempt, perhaps at this moment: each would get a part of it
            error = self.consumed()
            _blame_the_caller(error, Verdict.LOCAL)
            raise error
        self.begun = True
        return self.inner


@final
class _Reading:
    """An asynchronous generator would have to be closed."""

    __slots__ = ("_chunks",)

    def __init__(self, inner: Any) -> None:
        self._chunks: AsyncIterator[bytes] = aiter(inner)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._chunks)
        except StopAsyncIteration:
            raise
        except Exception as error:
            _blame_the_caller(error, Verdict.CANCELLED)
            raise


def _blame_the_caller(error: Exception, verdict: Verdict) -> None:
    """Mark an error of the request's own body: the instance has no part in it."""
    if not hasattr(error, _VERDICT):
        with suppress(AttributeError):  # some exceptions take no attributes
            setattr(error, _VERDICT, verdict)


def verdict_on_the_caller(error: Exception) -> Verdict | None:
    """The verdict on an error of the request's own body; None: it is not one."""
    verdict: Verdict | None = getattr(error, _VERDICT, None)
    return verdict


@lru_cache(maxsize=8)
def _once_only_of(package: Package) -> type[_OnceOnly]:
    module = package.module

    class PackageOnceOnly(_OnceOnly, module.AsyncByteStream, module.SyncByteStream):  # type: ignore[misc, name-defined]  # known at run time
        consumed = module.StreamConsumed

    return PackageOnceOnly


def once_only(package: Package, stream: Any) -> Any:
    """The stream itself where it can be read again, else one that remembers whether this call has read it.

    Only what is in memory can be read again, and by two attempts at once. A file or a generator may be at its end.
    """
    if replayable(package, stream):
        return stream
    if isinstance(stream, _OnceOnly):  # a redirect, or a second request of an authentication: a call of its own
        stream = stream.inner
    return _once_only_of(package)(stream)


def replayable(package: Package, stream: Any) -> bool:
    """Whether it can be read as often as one likes."""
    return isinstance(stream, package.ByteStream) or _in_memory(stream)


def _in_memory(stream: Any) -> bool:
    """Whether it is httpx's own multipart body, without a file that is read only now."""
    return type(stream).__name__ == "MultipartStream" and all(
        isinstance(getattr(field, "file", b""), bytes | str) for field in stream.fields
    )
