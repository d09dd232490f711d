"""What it costs to write a call down before it is sent, and what a leased key costs beside one with a time to live.

    python -m benchmarks.intents

Everything is on SQLite, in one thread and one folder (`--folder`: that of the disk to be measured), with every commit
synced. The calls themselves cost nothing: a response that is there, a function that returns. Steps are interleaved.

A result file holds the header, `seconds`, and

`figures`
    `step`, `ms` (10th percentile), `median_ms`.
`goals`
    `goal`, `at_most`, `figure`, `met`.
"""

from __future__ import annotations

import itertools
import sqlite3
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import httpx

from benchmarks.measuring import percentile
from benchmarks.reporting import Verdict, begin, finish, options, table
from resilient import Honoured, Pipeline, once
from resilient.http import PipelineTransport
from resilient.idempotency import BlockingClaim, ClientCall, ClientLease, Intents, client_call, connect

__all__ = ["main"]

BODY = b"x" * 300
Step = Callable[[], object]


def two_commits(path: Path) -> Step:
    """What any solution with two durable writes pays."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE bare (id INTEGER PRIMARY KEY, request BLOB, result BLOB)")
    numbers = itertools.count(1)

    def step() -> None:
        number = next(numbers)
        connection.execute("INSERT INTO bare VALUES (?, ?, NULL)", (number, BODY))
        connection.execute("UPDATE bare SET result = ? WHERE id = ?", (BODY, number))

    return step


def call_of(stack: ExitStack, honoured: Honoured) -> Step:
    """A POST through a client, to a response that is there."""

    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(201, content=BODY)

    transport = PipelineTransport(Pipeline(honoured), httpx.MockTransport(answer))
    client = stack.enter_context(httpx.Client(transport=transport))
    return lambda: client.post("http://bank.example/payments", content=BODY)


def keyed(folder: Path) -> tuple[Step, Step]:
    """An `@once` under a key with a time to live, and under a leased one."""
    with_ttl = connect(f"sqlite:///{folder}/ttl.db")
    leased = connect(f"sqlite:///{folder}/leased.db")
    numbers = itertools.count()

    @once(with_ttl, key=lambda number: number, mode="fenced")
    def remembered(_claim: BlockingClaim, number: int) -> int:
        return number

    @once(leased, key=lambda call: call, mode="fenced")
    def acknowledged(_claim: BlockingClaim, call: ClientCall) -> int:
        return call.number

    @Pipeline(Honoured(lease=ClientLease(leased)))
    def call_leased() -> int:
        call = client_call()
        assert call is not None
        return acknowledged(call)

    return lambda: remembered(next(numbers)), call_leased


@dataclass(frozen=True, slots=True)
class Figure:
    """How long one step takes."""

    step: str
    ms: float
    median_ms: float


def measure(seconds: float, folder: Path) -> Iterator[Figure]:
    """Run all steps in turn."""
    with ExitStack() as stack:
        ttl, lease = keyed(folder)
        steps: dict[str, Step] = {
            "two bare commits": two_commits(folder / "bare.db"),
            "a call": call_of(stack, Honoured()),
            "a call, written down": call_of(stack, Honoured(intents=Intents(f"sqlite:///{folder}/intents.db"))),
            "once, a key with a time to live": ttl,
            "once, a leased key": lease,
        }
        took: dict[str, list[float]] = {name: [] for name in steps}
        until = perf_counter() + seconds
        while len(took["a call"]) < 3 or perf_counter() < until:
            for name, step in steps.items():
                started = perf_counter()
                step()
                took[name].append((perf_counter() - started) * 1000)
    for name, samples in took.items():
        yield Figure(name, percentile(samples, 10), statistics.median(samples))


def judge(figures: Sequence[Figure]) -> list[Verdict]:
    """Compare with the goals."""
    median = {figure.step: figure.median_ms for figure in figures}
    written = (median["a call, written down"] - median["a call"]) / median["two bare commits"]
    leased = median["once, a leased key"] / median["once, a key with a time to live"]
    return [
        Verdict("writing a call down / two bare commits", 1.5, written, written <= 1.5),
        Verdict("a leased key / one with a time to live", 1.3, leased, leased <= 1.3),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = options("Measure what it costs to write calls down.", seconds=10.0)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured (default: that of temporary files)")
    given = parser.parse_args(arguments)
    head = begin(parser, ["httpx"])
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        figures = list(measure(given.seconds, Path(folder)))
    rows = [(figure.step, f"{figure.ms:.3f}", f"{figure.median_ms:.3f}") for figure in figures]
    result = {**head, "seconds": given.seconds, "figures": [asdict(figure) for figure in figures]}
    words = table(("step", "ms", "median"), rows, markdown=given.markdown)
    return finish(given, result, words, judge(figures))


if __name__ == "__main__":
    sys.exit(main())
