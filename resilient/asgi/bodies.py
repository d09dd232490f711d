"""A request's body, read to its end before anything runs: compared by its hash, then read again by the application."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Callable
from typing import IO, TypeVar, final

import anyio
from anyio.lowlevel import RunVar

from resilient.asgi.types import Message, Receive, Scope

__all__ = ["Body", "TooLarge"]

T = TypeVar("T")

_BLOCK = 262_144
"""Bytes that are read from a file at once."""
_THREADS = 8
"""Threads an event loop that wait for the disk. Of their own: a handler that waits for its body may hold another."""
_limiter: RunVar[anyio.CapacityLimiter | None] = RunVar("resilient.asgi.bodies", None)


class TooLarge(Exception):
    """The request's body is larger than what is compared."""


@final
class Body:
    """Keeps at most `memory` bytes in memory (and the chunk that came last); the rest goes to a file without a name.

    Raises `OSError` where the disk does not take it.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._content: bytes | bytearray = b""
        self._hash = hashlib.sha256()
        self._spooled = False
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()
        """A step in a thread goes on when its caller was cancelled, and must not meet a file that is closed."""
        self._closed = False
        self._left = 0
        self.done = False
        """All of it was handed out."""

    @classmethod
    async def read(cls, scope: Scope, receive: Receive, *, memory: int, limit: int) -> Body | None:
        """Read all of a request's body; None where the client left before its end.

        Raises `TooLarge` beyond `limit`, without a look at the body where the request itself says so.
        """
        for name, value in scope["headers"]:
            # The server has checked it, or will end a connection that does not keep to it.
            if name.lower() == b"content-length" and value.isdigit() and int(value) > limit:
                raise TooLarge
        body = cls(memory)
        whole = False
        try:
            whole = await body._read_all(receive, limit)
        finally:
            if not whole:
                await body.close()
        return body if whole else None

    async def _read_all(self, receive: Receive, limit: int) -> bool:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            chunk: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            self._left += len(chunk)
            if self._left > limit:
                raise TooLarge
            self._hash.update(chunk)
            self._hold(chunk)
            if len(self._content) > self._memory:
                await self._spool()
        if self._spooled:
            await self._spool()
            await _in_thread(self._rewind)
        return True

    @property
    def digest(self) -> bytes:
        """SHA-256 of the whole."""
        return self._hash.digest()

    async def next(self) -> Message:
        """The next part, as the server would send it."""
        content: bytes
        if self._spooled:
            content = await _in_thread(self._next_block)
        else:
            content, self._content = bytes(self._content), b""
        self._left -= len(content)
        self.done = not self._left
        return {"type": "http.request", "body": content, "more_body": not self.done}

    def then(self, receive: Receive) -> Receive:
        """What reads the body, and then whatever the server says."""

        async def read() -> Message:
            return await receive() if self.done else await self.next()

        return read

    async def close(self) -> None:
        """Forget it. What had to be written is removed from the disk."""
        self._content = b""
        if self._spooled:
            with anyio.CancelScope(shield=True):
                await _in_thread(self._close)

    def _hold(self, chunk: bytes) -> None:
        if not self._content:
            self._content = chunk  # most bodies come in one piece, which need not be copied
        elif chunk:
            if not isinstance(self._content, bytearray):
                self._content = bytearray(self._content)
            self._content += chunk

    async def _spool(self) -> None:
        content, self._content, self._spooled = self._content, b"", True
        await _in_thread(lambda: self._write(content))

    def _write(self, content: bytes | bytearray) -> None:
        with self._lock:
            if self._closed:
                return
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
            self._file.write(content)

    def _rewind(self) -> None:
        with self._lock:
            if self._file is not None and not self._closed:
                self._file.seek(0)

    def _next_block(self) -> bytes:
        with self._lock:
            content = b"" if self._file is None or self._closed else self._file.read(_BLOCK)
        if not content:
            raise OSError("the request's body is not there any more: the request is over")
        return content

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            if self._file is not None:
                self._file.close()


async def _in_thread(step: Callable[[], T]) -> T:
    limiter = _limiter.get()
    if limiter is None:
        limiter = anyio.CapacityLimiter(_THREADS)
        _limiter.set(limiter)
    return await anyio.to_thread.run_sync(step, limiter=limiter)
