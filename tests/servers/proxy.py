"""Stands between a client and a server and does to TCP what networks do.

Its own event loop runs in a thread; what is asked of it may be asked from any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar

T = TypeVar("T")

Direction = Literal["to server", "to client"]

_LINGER = struct.pack("ii", 1, 0)
"""Close with a reset."""
_CHUNK = 65_536
_PATIENCE = 10.0


@dataclass(eq=False)
class _Link:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    passed: dict[str, int] = field(default_factory=lambda: {"to server": 0, "to client": 0})
    doomed: bool = False
    """The server's next answer is the last thing that happens here, and does not arrive."""
    deaf: bool = False
    """Half open: the client may say what it likes."""


@dataclass(frozen=True)
class _Cut:
    """When to reset a connection."""

    direction: Direction
    size: int = 0
    pattern: bytes = b""
    answered: bool = False
    """Let the pattern pass, and cut off the answer."""


class Proxy:
    """`with Proxy(port) as proxy:` forwards connections to `proxy.port` on the loopback, and may be told otherwise.

    `latency` is added to every message, in seconds, in both directions. `cuts` counts the connections that were cut.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.latency = 0.0
        self.cuts = 0
        self._silent = False
        self._refusing = False
        self._cut: _Cut | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy")

    def __enter__(self) -> Self:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self._thread.start()
        self._server = self._ask(asyncio.start_server(self._accept, sock=listener))
        return self

    def __exit__(self, *error: object) -> None:
        self._ask(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def black_hole(self) -> None:
        """Swallow every byte, in both directions; connections stand, and new ones are accepted."""
        self._silent = True

    def refuse(self) -> None:
        """Reset every new connection at once."""
        self._refusing = True

    def heal(self) -> None:
        """Forward again. What was swallowed is lost, so the connections that it was lost on are reset."""
        was_silent, self._silent, self._refusing, self._cut, self.latency = self._silent, False, False, None, 0.0
        if was_silent:
            self.reset()

    def reset(self) -> int:
        """Reset every connection, on both sides, and tell how many there were."""
        return self._ask(self._each(self._reset))

    def half_open(self) -> int:
        """Close every connection to the server, of which the client is not told."""
        return self._ask(self._each(self._leave_half_open))

    def cut_after(self, size: int, direction: Direction = "to server") -> None:
        """Reset the next connection that has passed `size` bytes in one direction, then and there, once."""
        self._cut = _Cut(direction, size=size)

    def cut_before(self, pattern: bytes) -> None:
        """Reset the next connection on which a client says `pattern`, which does not arrive, once."""
        self._cut = _Cut("to server", pattern=pattern)

    def cut_answer(self, pattern: bytes) -> None:
        """Reset the next connection on which a client says `pattern`; that arrives, its answer does not. Once."""
        self._cut = _Cut("to server", pattern=pattern, answered=True)

    @property
    def connections(self) -> int:
        """How many stand."""
        return len(self._links)

    def wait_for_cut(self, number: int) -> None:
        """Wait until so many connections were cut."""
        deadline = time.monotonic() + _PATIENCE
        while self.cuts < number:
            assert time.monotonic() < deadline, f"{self.cuts} of {number} connections were cut"
            time.sleep(0.002)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _ask(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(_PATIENCE)

    async def _each(self, act: Callable[[_Link], None]) -> int:
        links = list(self._links)
        for link in links:
            act(link)
        return len(links)

    async def _end(self) -> None:
        self._server.close()
        await self._each(self._reset)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            _abort(writer)
            return
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            _abort(writer)
            return
        link = _Link(writer, server)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(link, reader, server, "to server"))
                group.create_task(self._forward(link, server_reader, writer, "to client"))
        finally:
            self._links.discard(link)
            _abort(writer)
            _abort(server)

    async def _forward(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self.latency:
                    await asyncio.sleep(self.latency)
                if link.deaf or self._silent:
                    continue
                if link.doomed and direction == "to client":
                    self._reset(link)
                    return
                data, ends = self._judge(link, data, direction)
                if data:
                    writer.write(data)
                    await writer.drain()
                if ends:
                    self._reset(link)
                    return
            if not link.deaf and writer.can_write_eof():
                writer.write_eof()
        if link.deaf and direction == "to client":
            await asyncio.Event().wait()  # the other half stays open

    def _judge(self, link: _Link, data: bytes, direction: Direction) -> tuple[bytes, bool]:
        """What of these bytes passes, and whether the connection ends with them."""
        passed = link.passed[direction]
        link.passed[direction] += len(data)
        cut = self._cut
        if cut is None or cut.direction != direction:
            return data, False
        if cut.pattern and cut.pattern in data:
            self._cut, link.doomed = None, cut.answered
            return (data, False) if cut.answered else (b"", True)
        if not cut.pattern and passed + len(data) >= cut.size:
            self._cut = None
            return data[: max(0, cut.size - passed)], True
        return data, False

    def _reset(self, link: _Link) -> None:
        self.cuts += 1
        _abort(link.client)
        _abort(link.server)

    def _leave_half_open(self, link: _Link) -> None:
        link.deaf = True
        _abort(link.server)


def _abort(writer: asyncio.StreamWriter) -> None:
    plug = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
    writer.transport.abort()
