"""The listener in front of a simulated server, on real sockets of the loopback interface."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from resilient.instance import Instance
from resilient.lab.calibration.listener import HOST, Listener, Port
from resilient.lab.engine import Engine, open_engine
from resilient.lab.world.chance import Chance
from resilient.lab.world.job import Errand, Job, Reply
from resilient.lab.world.network import Network
from resilient.lab.world.queues import Fifo
from resilient.lab.world.server import Server
from resilient.lab.world.service_times import Constant

REQUEST = b"GET / HTTP/1.1\r\nHost: it\r\n\r\n"
_SOON = 10.0
"""Seconds after which what has not come does not come."""


class Bench:
    """A listener, its server, and the jobs that came."""

    def __init__(self, engine: Engine, work: float) -> None:
        self.port = Port()
        self.server = Server(
            Instance(id="it", host=HOST, port=self.port.number),
            engine,
            lambda _call, _attempt: 0.5,
            workers=10,
            service_time=Constant(work),
            queue=Fifo,
        )
        self.network = Network(engine, Chance(0))
        self.jobs: list[Job] = []
        self.listener = Listener(self.port, self.server, engine, self.take)
        self.listener.begin()

    def take(self, headers, signal):
        if "unknown" in headers:
            raise LookupError
        taken = self.network.carry(Errand(len(self.jobs)), self.server, signal, None, None)
        self.jobs += taken
        return taken

    async def connect(self):
        return await asyncio.wait_for(asyncio.open_connection(HOST, self.port.number), _SOON)


@asynccontextmanager
async def opened(work: float = 0.001) -> AsyncIterator[Bench]:
    async with open_engine() as engine:
        bench = Bench(engine, work)
        try:
            yield bench
        finally:
            bench.listener.close()
            bench.port.close()
            for _ in range(5):
                await asyncio.sleep(0)  # asyncio closes what it has half accepted


def on_sockets(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run a test on a real event loop."""

    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 30))

    run.__name__ = test.__name__
    return run


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_SOON):
        while not condition():
            await asyncio.sleep(0.002)


async def head(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _SOON)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


@on_sockets
async def test_a_connection_is_kept_for_the_next_request():
    async with opened() as bench:
        reader, writer = await bench.connect()
        for _ in range(3):
            writer.write(REQUEST)
            assert (await head(reader)).startswith(b"HTTP/1.1 200")
        assert (bench.listener.accepted, bench.server.served) == (1, 3)
        await hang_up(writer)


@on_sockets
async def test_requests_that_come_together_are_answered_one_after_the_other():
    async with opened() as bench:
        reader, writer = await bench.connect()
        writer.write(REQUEST + REQUEST)
        for _ in range(2):
            assert (await head(reader)).startswith(b"HTTP/1.1 200")
        await hang_up(writer)


@on_sockets
async def test_whoever_asks_for_it_is_hung_up_on_after_the_answer():
    async with opened() as bench:
        reader, writer = await bench.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: it\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        assert (await asyncio.wait_for(reader.read(), _SOON)).startswith(b"HTTP/1.1 200")
        await hang_up(writer)


@on_sockets
async def test_a_server_that_dies_resets_what_is_open_refuses_what_comes_and_is_back_on_its_port():
    async with opened(work=60) as bench:
        waiting, one = await bench.connect()
        idle, other = await bench.connect()
        one.write(REQUEST)
        await until(lambda: len(bench.jobs) == 1)
        bench.server.die()
        for reader in (waiting, idle):
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(), _SOON)
        with pytest.raises(ConnectionRefusedError):
            await bench.connect()
        bench.server.reachable = True
        _, back = await bench.connect()
        back.write(REQUEST)
        await until(lambda: len(bench.jobs) == 2)
        for writer in (one, other):
            writer.close()
        await hang_up(back)


@on_sockets
async def test_one_that_dies_before_it_has_begun_to_accept_refuses():
    async with opened() as bench:
        bench.server.die()
        bench.server.reachable = True
        bench.server.die()
        with pytest.raises(ConnectionRefusedError):
            await bench.connect()
        await asyncio.sleep(0.01)
        with pytest.raises(ConnectionRefusedError):
            await bench.connect()


@on_sockets
async def test_one_that_dies_while_it_accepts_resets_what_it_accepts():
    async with opened() as bench:
        await until(lambda: bench.listener._accepting is not None)
        with socket.create_connection((HOST, bench.port.number), _SOON) as caller:  # in the line, not yet accepted
            bench.server.die()
            caller.setblocking(False)
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(asyncio.get_running_loop().sock_recv(caller, 1), _SOON)
        bench.server.reachable = True
        reader, writer = await bench.connect()
        bench.listener._socket = None  # what a connection sees that is made only now
        other, late = await bench.connect()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(other.read(), _SOON)
        for one in (writer, late):
            one.close()
        del reader


@on_sockets
async def test_a_caller_that_hangs_up_has_left_and_its_work_is_done_all_the_same():
    async with opened(work=0.05) as bench:
        _, writer = await bench.connect()
        writer.write(REQUEST)
        await until(lambda: len(bench.jobs) == 1)
        await hang_up(writer)
        await until(lambda: bench.server.served == 1)
        assert bench.server.wasted == 1


@on_sockets
async def test_a_caller_that_has_its_answer_wasted_nothing():
    async with opened() as bench:
        reader, writer = await bench.connect()
        writer.write(REQUEST)
        await head(reader)
        await hang_up(writer)
        assert bench.server.wasted == 0
        assert bench.jobs[0].left


@on_sockets
async def test_a_black_hole_accepts_and_never_answers():
    async with opened() as bench:
        bench.server.answers = False
        reader, writer = await bench.connect()
        writer.write(REQUEST)
        await until(lambda: bench.server.received == 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        await hang_up(writer)


@on_sockets
async def test_garbage_is_turned_away_and_reaches_no_server():
    async with opened() as bench:
        reader, writer = await bench.connect()
        writer.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), _SOON)).startswith(b"HTTP/1.1 400")
        await hang_up(writer)
        assert bench.server.received == 0


@on_sockets
async def test_a_request_that_nobody_knows_is_turned_away():
    async with opened() as bench:
        reader, writer = await bench.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: it\r\nUnknown: yes\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), _SOON)).startswith(b"HTTP/1.1 400")
        await hang_up(writer)


@on_sockets
async def test_whoever_sends_more_and_more_without_waiting_is_cut_off():
    async with opened(work=60) as bench:
        reader, writer = await bench.connect()
        writer.write(REQUEST)
        await until(lambda: len(bench.jobs) == 1)
        with pytest.raises(ConnectionError):
            for _ in range(100):
                writer.write(REQUEST * 1000)
                await writer.drain()
                await asyncio.sleep(0)
            await reader.read()
        assert len(bench.jobs) == 1
        writer.close()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(503), b"HTTP/1.1 503"),
        (Reply(409, retry_after=2.0), b"Retry-After: 2"),
        (Reply(intact=False), b"HTTP/1.1 2\x00"),
    ],
)
def test_replies_are_written_as_they_are(reply, expected):
    def take(_headers, signal):
        signal.set_result(reply)
        return ()

    @on_sockets
    async def main():
        async with opened() as bench:
            bench.listener._take = take
            reader, writer = await bench.connect()
            writer.write(REQUEST)
            assert expected in await head(reader)
            await hang_up(writer)

    main()


def test_a_port_is_kept_from_others_while_nobody_listens():
    port = Port()
    try:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((HOST, port.number))
    finally:
        port.close()
