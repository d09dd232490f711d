"""The bodies of requests and responses, as a call sees them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import lru_cache
from typing import Any

from resilient.call import Call
from resilient.deadline import bounded
from resilient.errors import DeadlineExceeded
from resilient.http.package import Package

__all__ = ["AsyncBody", "Body", "SyncBody", "bodies_of", "once_only"]

_SET_ASIDE = 65_536
_END: Any = object()


class Body:
    """A response's body: the call is over when it is closed, and each read has the call's deadline."""

    def __init__(self, call: Call, inner: Any, release: Callable[[], None]) -> None:
        self.call = call
        self.error: BaseException | None = None
        self._inner = inner
        self._release: Callable[[], None] | None = release
        self._chunks: list[bytes] | None = None

    def _take_release(self) -> Callable[[], None] | None:
        """What frees the connection's place, for the one who closes the inner body."""
        release, self._release = self._release, None
        return release


class AsyncBody(Body):
    """The body of a response of an asynchronous client."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Read chunk by chunk, from the network or from what was set aside."""
        if self._chunks is not None:
            for chunk in self._chunks:
                yield chunk
            return
        chunks = self._inner.__aiter__()
        while (chunk := await self._read(chunks)) is not _END:
            yield chunk

    async def _read(self, chunks: AsyncIterator[bytes]) -> Any:
        try:
            if self.call.deadline is None:
                return await _next(chunks)
            return await bounded(self.call, _next, chunks)
        except BaseException as error:
            self.error = error
            raise

    async def set_aside(self) -> bool:
        """Read what is left, if that is little, and close the connection's side; tell whether it can still be read."""
        kept: list[bytes] = []
        size = 0
        chunks = self._inner.__aiter__()
        try:
            while (chunk := await self._read(chunks)) is not _END:
                kept.append(chunk)
                size += len(chunk)
                if size > _SET_ASIDE:
                    return False
        except Exception:
            return False
        finally:
            await self.let_go()
        self._chunks = kept
        return True

    async def let_go(self) -> None:
        """Close the inner body; what is to be settled at the end of the call is not touched."""
        release = self._take_release()
        if release is not None:
            try:
                await self._inner.aclose()
            finally:
                release()

    async def aclose(self) -> None:
        """Close the body and settle the call."""
        try:
            await self.let_go()
        finally:
            self.call.finish(self.error)


async def _next(chunks: AsyncIterator[bytes]) -> Any:
    return await anext(chunks, _END)


class SyncBody(Body):
    """The body of a response of a synchronous client.

    Nothing can interrupt a read from outside, so each is given the remaining time as its timeout.
    """

    timeouts: dict[str, float | None]
    timed_out: type[Exception]

    def __iter__(self) -> Iterator[bytes]:
        """Read chunk by chunk, from the network or from what was set aside."""
        if self._chunks is not None:
            yield from self._chunks
            return
        chunks = iter(self._inner)
        while (chunk := self._read(chunks)) is not _END:
            yield chunk

    def _read(self, chunks: Iterator[bytes]) -> Any:
        try:
            remaining = self.call.remaining
            if remaining is not None:
                self._limit(remaining)
            return next(chunks, _END)
        except self.timed_out as error:
            self.error = error
            remaining = self.call.remaining
            if remaining is not None and remaining <= 0:
                self.error = DeadlineExceeded(f"{self.call.name}: the body did not arrive within the deadline")
                raise self.error from error
            raise
        except BaseException as error:
            self.error = error
            raise

    def _limit(self, remaining: float) -> None:
        if remaining <= 0:
            raise DeadlineExceeded(f"{self.call.name}: the body did not arrive within the deadline")
        usual = self.timeouts.get("read")
        self.timeouts["read"] = remaining if usual is None else min(usual, remaining)

    async def set_aside(self) -> bool:
        """Read what is left, if that is little, and close the connection's side; tell whether it can still be read."""
        kept: list[bytes] = []
        size = 0
        chunks = iter(self._inner)
        try:
            while (chunk := self._read(chunks)) is not _END:
                kept.append(chunk)
                size += len(chunk)
                if size > _SET_ASIDE:
                    return False
        except Exception:
            return False
        finally:
            self.let_go()
        self._chunks = kept
        return True

    def let_go(self) -> None:
        """Close the inner body; what is to be settled at the end of the call is not touched."""
        release = self._take_release()
        if release is not None:
            try:
                self._inner.close()
            finally:
                release()

    def close(self) -> None:
        """Close the body and settle the call."""
        try:
            self.let_go()
        finally:
            self.call.finish(self.error)


@lru_cache(maxsize=8)
def bodies_of(package: Package) -> tuple[type[AsyncBody], type[SyncBody]]:
    """The classes of response bodies that this package's clients accept."""
    module = package.module

    class PackageAsyncBody(AsyncBody, module.AsyncByteStream):  # type: ignore[misc, name-defined]  # known at run time
        pass

    class PackageSyncBody(SyncBody, module.SyncByteStream):  # type: ignore[misc, name-defined]  # known at run time
        timed_out = package.timed_out

    return PackageAsyncBody, PackageSyncBody


class _OnceOnly:
    """A request's body that can be read once. It remembers whether it was."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.begun = False
        self.what = type(inner).__name__

    def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun = True
        chunks: AsyncIterator[bytes] = self._inner.__aiter__()
        return chunks

    def __iter__(self) -> Iterator[bytes]:
        self.begun = True
        return iter(self._inner)

    async def aclose(self) -> None:
        close: Callable[[], Awaitable[None]] | None = getattr(self._inner, "aclose", None)
        if close is not None:
            await close()

    def close(self) -> None:
        close: Callable[[], None] | None = getattr(self._inner, "close", None)
        if close is not None:
            close()


@lru_cache(maxsize=8)
def _once_only_of(package: Package) -> type[_OnceOnly]:
    module = package.module

    class PackageOnceOnly(_OnceOnly, module.AsyncByteStream, module.SyncByteStream):  # type: ignore[misc, name-defined]  # known at run time
        pass

    return PackageOnceOnly


def once_only(package: Package, stream: Any) -> Any:
    """The stream itself where it can be read again, else one that remembers whether it was read.

    Only bytes in memory can. A file or a generator may be at its end, or be read by two attempts at once.
    """
    if isinstance(stream, (package.ByteStream, _OnceOnly)):
        return stream
    return _once_only_of(package)(stream)
