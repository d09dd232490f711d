"""The lines of an answer that goes on for ever."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import final

import anyio

from resilient.errors import DiscoveryError

__all__ = ["Lines", "lines_of"]

_LONGEST = 64 * 1024 * 1024


@final
class Lines:
    """Splits chunks of bytes at line feeds, and nowhere else: a JSON text may contain what Unicode counts as one."""

    def __init__(self, chunks: AsyncIterator[bytes], longest: int) -> None:
        self._chunks = chunks
        self._longest = longest
        self._buffer = bytearray()

    async def next(self) -> bytes | None:
        """Return the next line that is not blank; None at the end. Half a line at the end is dropped."""
        searched = 0
        while True:
            end = self._buffer.find(b"\n", searched)
            if end >= 0:
                line = bytes(self._buffer[:end]).strip()
                del self._buffer[: end + 1]
                searched = 0
                if line:
                    return line
                continue
            searched = len(self._buffer)
            if searched > self._longest:
                raise DiscoveryError(f"a line of more than {self._longest} bytes")
            chunk = await anext(self._chunks, None)
            if chunk is None:
                return None
            self._buffer += chunk


@asynccontextmanager
async def lines_of(chunks: AsyncIterator[bytes], longest: int = _LONGEST) -> AsyncGenerator[Lines, None]:
    """Read what a generator yields; it is ended, wherever it stands, at the end of the block."""
    try:
        yield Lines(chunks, longest)
    finally:
        # An HTTP client's generators stand one within the other. Closed between two chunks, the inner ones would be
        # left to the garbage collector; a read that is cancelled ends them all.
        with anyio.CancelScope() as scope, suppress(Exception):
            scope.cancel()
            while await anext(chunks, None) is not None:
                pass
