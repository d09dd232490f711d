"""What the HTTP client of a service costs and gains beside a bare `httpx.AsyncClient`, over real sockets.

    python benchmarks/http_client.py

Five uvicorn processes on loopback answer at once. The bare client, with its defaults, asks them in turn; ours goes
through the whole default stack. Both are measured in interleaved slices: with one call at a time to one of the servers
and to all of them, and with 64 at once.
Then 40 workers cancel requests after 0 to 30 ms for some seconds, in front of ten connections to one slow server; how
many of the ten are of use afterwards is counted by using all at once.

The file is not called `http.py`: run as a script it would hide the standard library's module from everybody.
A result file holds the header, `seconds`, and

`subjects`
    `client`, `load` (`instances`, `at_once`), `call_us` (10th percentile of the slices), `median_us`, `calls_a_second`.
`cancelling`
    `client`, `requests`, `cancelled`, `failed`, `lost` (of ten connections).
`goals`
    `goal`, `at_most`, `figure`, `met`.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import signal
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle, repeat
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import httpx

import resilient
from benchmarks.measuring import Slice, each, interleave, percentile
from benchmarks.reporting import Verdict, begin, finish, options, table
from resilient import Service

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

__all__ = ["main"]

BARE, OURS = "httpx", "resilient"
SERVERS = 5
AT_ONCE = 64
CONNECTIONS = 10
WORKERS = 40
LONGEST_DEADLINE = 0.03
SLICE = 0.1

_SLOW, _HOLD = 0.01, 0.5  # how long the paths /slow and /hold take
_SHARE_OF_CANCELLING = 0.2  # of the time, for each of the two clients
_STARTUP = 30  # seconds
_LIFETIME = 600  # seconds; a server that was forgotten ends by itself

Get = Callable[[], Awaitable[httpx.Response]]


async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Answer; after a while, where the path asks for it."""
    assert scope["type"] == "http"
    delay = {"/slow": _SLOW, "/hold": _HOLD}.get(scope["path"])
    if delay is not None:
        await asyncio.sleep(delay)
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")], "trailers": False}
    )
    await send({"type": "http.response.body", "body": b"ok", "more_body": False})


def _serve(port: Connection) -> None:
    """The main function of a server's process: send the port, then serve."""
    import uvicorn

    signal.alarm(_LIFETIME)
    # With the protocol left out asyncio would not turn off Nagle's algorithm, and a body would wait 40 ms for it.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port.send(listening.getsockname()[1])
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
        server.run(sockets=[listening])


@contextmanager
def servers(number: int) -> Iterator[list[str]]:
    """Run so many servers, each in a process of its own; give their addresses."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in repeat(None, number)]
    processes = [context.Process(target=_serve, args=(theirs,), daemon=True) for _, theirs in pipes]
    try:
        for process in processes:
            process.start()
        addresses = []
        for ours, theirs in pipes:
            theirs.close()
            if not ours.poll(_STARTUP):
                raise RuntimeError(f"a server did not start within {_STARTUP} s")
            addresses.append(f"127.0.0.1:{ours.recv()}")
        yield addresses
    finally:
        started = [process for process in processes if process.pid is not None]
        for process in started:
            process.terminate()
        for process in started:
            process.join(_STARTUP)
            if process.is_alive():
                process.kill()


def at_once(get: Get, number: int) -> Slice:
    """Let so many tasks share the calls."""

    async def run(calls: int) -> None:
        left = repeat(None, calls)

        async def worker() -> None:
            for _ in left:
                await get()

        async with asyncio.TaskGroup() as tasks:
            for _ in repeat(None, number):
                tasks.create_task(worker())

    return run


@dataclass(frozen=True, slots=True)
class Load:
    """How a client is used."""

    instances: int
    at_once: int

    def __str__(self) -> str:
        return f"{self.instances} instance{'s' * (self.instances > 1)}, {self.at_once} at once"


LOADS = (Load(1, 1), Load(SERVERS, 1), Load(SERVERS, AT_ONCE))


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one client under one load."""

    client: str
    load: Load
    call_us: float
    median_us: float
    calls_a_second: int


async def measure_calls(addresses: Sequence[str], seconds: float) -> list[Row]:
    """Measure both clients under each load, with connections of their own."""
    async with AsyncExitStack() as stack:
        getters = {
            (client, load): await make(stack, addresses[: load.instances])
            for load in LOADS
            for client, make in ((BARE, _bare), (OURS, _ours))
        }
        slices = {
            f"{client}, {load}": each(get) if load.at_once == 1 else at_once(get, load.at_once)
            for (client, load), get in getters.items()
        }
        samples = await interleave(slices, seconds=seconds, slice_seconds=min(SLICE, seconds / 100))

    def row(client: str, load: Load) -> Row:
        figures = samples[f"{client}, {load}"]
        low, middle = percentile(figures, 10) / 1000, percentile(figures, 50) / 1000
        return Row(client, load, round(low, 1), round(middle, 1), round(1e6 / low))

    return [row(*key) for key in getters]


async def _bare(stack: AsyncExitStack, addresses: Sequence[str]) -> Get:
    urls = cycle([f"http://{address}/" for address in addresses])
    client = await stack.enter_async_context(httpx.AsyncClient())
    return lambda: client.get(next(urls))


async def _ours(stack: AsyncExitStack, addresses: Sequence[str]) -> Get:
    service = await stack.enter_async_context(Service("orders", f"static://{','.join(addresses)}"))
    client = await stack.enter_async_context(resilient.http.client(service))
    return lambda: client.get(
        "http://orders/"
    )  # whole, as for the bare client: joining it to a base URL costs httpx time


@dataclass(frozen=True, slots=True)
class Cancelling:
    """What came of cancelling one client's requests."""

    client: str
    requests: int
    cancelled: int
    failed: int
    """Ended in an exception instead: of the client, or of a policy."""
    lost: int
    """Of the ten connections, those that are of no use afterwards."""


async def cancel(client: str, get: Callable[[str], Awaitable[httpx.Response]], seconds: float) -> Cancelling:
    """Cancel for some seconds, then use all connections at once."""
    ends: Counter[str] = Counter()
    now = asyncio.get_running_loop().time
    until = now() + seconds

    async def attempt(path: str, deadline: float) -> str:
        try:
            async with asyncio.timeout(deadline):
                return "answered" if (await get(path)).is_success else "failed"
        except TimeoutError:
            return "cancelled"
        except (httpx.HTTPError, resilient.ResilienceError):
            return "failed"

    async def worker() -> None:
        while now() < until:
            ends[await attempt("/slow", random.random() * LONGEST_DEADLINE)] += 1
            await asyncio.sleep(0)  # a refusal takes no time

    async with asyncio.TaskGroup() as tasks:
        for _ in repeat(None, WORKERS):
            tasks.create_task(worker())
    # The deadline is too short for two requests one after the other: each needs a connection of its own.
    used = await asyncio.gather(*[attempt("/hold", 1.8 * _HOLD) for _ in repeat(None, CONNECTIONS)])
    lost = CONNECTIONS - used.count("answered")
    return Cancelling(client, ends.total(), ends["cancelled"], ends["failed"], lost)


async def measure_cancelling(address: str, seconds: float) -> list[Cancelling]:
    """Cancel requests of both clients."""
    limits = httpx.Limits(max_connections=CONNECTIONS)
    async with httpx.AsyncClient(base_url=f"http://{address}", limits=limits) as bare:
        without = await cancel(BARE, bare.get, seconds)
    async with Service("orders", f"static://{address}") as service:
        transport = resilient.http.Transport(service, connections=CONNECTIONS)
        async with httpx.AsyncClient(base_url="http://orders", transport=transport) as ours:
            return [without, await cancel(OURS, ours.get, seconds)]


def judge(rows: Sequence[Row], cancelling: Sequence[Cancelling]) -> list[Verdict]:
    """Compare with the goals."""
    cost = {(row.client, row.load): row.call_us for row in rows}
    verdicts = []
    for load in LOADS:
        at_most = 1.10 if load.at_once == 1 else 0.67
        figure = cost[OURS, load] / cost[BARE, load]
        verdicts.append(Verdict(f"time of a call, {load}: ours / bare", at_most, round(figure, 4), figure <= at_most))
    lost = sum(row.lost for row in cancelling if row.client == OURS)
    verdicts.append(Verdict("connections lost by cancelling", 0, lost, lost == 0))
    return verdicts


def _in_words(rows: Sequence[Row], cancelling: Sequence[Cancelling], *, markdown: bool) -> str:
    figures = [
        (f"{row.client}, {row.load}", f"{row.call_us:,.0f}", f"{row.median_us:,.0f}", f"{row.calls_a_second:,}")
        for row in rows
    ]
    cancelled = [
        (row.client, f"{row.requests:,}", f"{row.cancelled:,}", f"{row.failed:,}", f"{row.lost} of {CONNECTIONS}")
        for row in cancelling
    ]
    return "\n\n".join(
        [
            table(("client", "call us", "median us", "calls a second"), figures, markdown=markdown),
            table(("cancelling", "requests", "cancelled", "failed", "connections lost"), cancelled, markdown=markdown),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = options("Measure the HTTP client of a service beside a bare httpx.AsyncClient.", seconds=40.0)
    given = parser.parse_args(arguments)
    # Without sniffio httpcore looks for it ten times a request, in vain: that would hide what anything else costs.
    head = begin(parser, ["httpx", "httpcore", "anyio", "sniffio", "uvicorn"])
    with servers(SERVERS) as addresses:
        rows = asyncio.run(measure_calls(addresses, (1 - 2 * _SHARE_OF_CANCELLING) * given.seconds))
        cancelling = asyncio.run(measure_cancelling(addresses[0], _SHARE_OF_CANCELLING * given.seconds))
    result = {
        **head,
        "seconds": given.seconds,
        "subjects": [asdict(row) for row in rows],
        "cancelling": [asdict(row) for row in cancelling],
    }
    words = _in_words(rows, cancelling, markdown=given.markdown)
    return finish(given, result, words, judge(rows, cancelling))


if __name__ == "__main__":
    sys.exit(main())
