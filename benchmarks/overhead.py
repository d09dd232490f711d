"""What protecting a call costs: each policy, stacks of them, and our peers, measured in one run.

    make bench                                                    # the table
    python benchmarks/overhead.py --only Timeout,asyncio.timeout  # some of it
    python benchmarks/overhead.py --check                         # and fail where a goal is missed

A subject protects an async function that does nothing, and its calls succeed. Its figure is the 10th percentile of many
short slices (see `measuring.py`) less that of the function alone: the median of several processes, since where a
process lays out its memory is worth some percent. What counts are the ratios within a run; nanoseconds belong to the
machine.

A result file holds the header (`schema`, `date`, `machine`, `versions`), the `seconds` of measuring and the number of
`processes`, `bare_ns` of the function alone, and

`subjects`
    `name`, `group`, `net_ns`; `median_ns`, the 50th percentile, which is far above on a busy machine;
    `asyncio_timeouts` and `peers_stacks`, ratios to what one `asyncio.timeout` and the stack of peers cost, null where
    that was not measured; `objects` and `peak_bytes`, what a call allocates (see `Footprint`).
`goals`
    `goal`, `at_most`, `figure`, `met`.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import repeat

from benchmarks.measuring import Footprint, Subject, each, footprint, interleave, noop, percentile
from benchmarks.ours import HOOK, OURS, STACK
from benchmarks.peers import ASYNCIO_TIMEOUT, PEERS, PEERS_STACK
from benchmarks.reporting import Verdict, begin, finish, options, table

__all__ = ["main"]

SUBJECTS = (*OURS, *PEERS)
_BARE = Subject("the bare call", "", each)


@dataclass(frozen=True, slots=True)
class Goal:
    """What one subject may cost, as a share of another one's net cost; without another one, in nanoseconds."""

    subject: str
    beside: str | None
    at_most: float = 1.0
    since_312: float | None = None
    """From 3.12 on, where `asyncio.timeout` costs less."""

    @property
    def limit(self) -> float:
        """What is asked of the Python that runs."""
        return self.at_most if self.since_312 is None or sys.version_info < (3, 12) else self.since_312


GOALS = (
    Goal(STACK, ASYNCIO_TIMEOUT, 0.60, since_312=0.85),
    Goal(STACK, PEERS_STACK, 0.06),
    Goal("resilient Timeout", ASYNCIO_TIMEOUT, 0.50, since_312=0.75),
    Goal("resilient Timeout", "nopanic timeout"),
    Goal("resilient Retry", "stamina @retry"),
    Goal("resilient Retry", "backoff @on_exception"),
    Goal("resilient Retry", "nopanic retry"),
    Goal("resilient CircuitBreaker", "purgatory"),
    Goal("resilient CircuitBreaker", "aiobreaker"),
    Goal("resilient CircuitBreaker", "nopanic circuit_breaker"),
    Goal("resilient RateLimit", "aiolimiter"),
    Goal("resilient RateLimit", "limits.aio fixed window"),
    Goal("resilient RateLimit", "nopanic rate_limit"),
    Goal("resilient Bulkhead", "nopanic bulkhead"),
    Goal("resilient Hedge, hedgeable call", "nopanic hedge"),
    Goal("resilient fallback", "nopanic fallback"),
    Goal(HOOK, None, 30.0),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A subject's figures, net."""

    name: str
    group: str
    net_ns: float
    median_ns: float
    asyncio_timeouts: float | None
    peers_stacks: float | None
    objects: int
    peak_bytes: int


def select(only: str | None) -> list[Subject]:
    """The subjects whose names hold one of the words, and what they are measured against."""
    if only is None:
        return [*SUBJECTS]
    words = [word.strip().lower() for word in only.split(",")]
    chosen = [subject for subject in SUBJECTS if any(word in subject.name.lower() for word in words)]
    baselines = {subject.baseline for subject in chosen}
    return [subject for subject in SUBJECTS if subject in chosen or subject.name in baselines]


@dataclass(frozen=True, slots=True)
class _Run:
    """The figures of one process by subject, gross."""

    low: dict[str, float]
    middle: dict[str, float]
    footprints: dict[str, Footprint]


def _run(names: Sequence[str], seconds: float) -> _Run:
    """Measure in this process."""
    makes = {subject.name: subject.make for subject in (_BARE, *SUBJECTS) if subject.name in names}

    async def run() -> _Run:
        slices = {name: make(noop) for name, make in makes.items()}
        samples = await interleave(slices, seconds=seconds)
        return _Run(
            low={name: percentile(figures, 10) for name, figures in samples.items()},
            middle={name: percentile(figures, 50) for name, figures in samples.items()},
            footprints={name: await footprint(make) for name, make in makes.items()},
        )

    return asyncio.run(run())


def measure(subjects: Sequence[Subject], seconds: float, processes: int) -> tuple[float, list[Row]]:
    """Measure in one process after the other; return the nanoseconds of the bare call, and a row a subject."""
    names = [_BARE.name, *(subject.name for subject in subjects)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        runs = list(pool.map(_run, repeat(names, processes), repeat(seconds / processes)))

    def net(subject: Subject, figure: Callable[[_Run, str], float]) -> float:
        baseline = subject.baseline or _BARE.name
        return statistics.median(figure(run, subject.name) - figure(run, baseline) for run in runs) / subject.times

    costs = {subject.name: net(subject, lambda run, name: run.low[name]) for subject in subjects}

    def share(name: str, whole: str) -> float | None:
        return round(costs[name] / costs[whole], 4) if whole in costs else None

    rows = [
        Row(
            name=subject.name,
            group=subject.group,
            net_ns=round(costs[subject.name], 1),
            median_ns=round(net(subject, lambda run, name: run.middle[name]), 1),
            asyncio_timeouts=share(subject.name, ASYNCIO_TIMEOUT),
            peers_stacks=share(subject.name, PEERS_STACK),
            objects=round(net(subject, lambda run, name: run.footprints[name].objects)),
            peak_bytes=round(net(subject, lambda run, name: run.footprints[name].peak)),
        )
        for subject in subjects
    ]
    return statistics.median(run.low[_BARE.name] for run in runs), rows


def judge(rows: Sequence[Row]) -> list[Verdict]:
    """Compare with the goals, as far as their subjects were measured."""
    net = {row.name: row.net_ns for row in rows}
    verdicts = []
    for goal in GOALS:
        if goal.subject in net and (goal.beside is None or goal.beside in net):
            figure = net[goal.subject] if goal.beside is None else net[goal.subject] / net[goal.beside]
            words = f"{goal.subject}, ns" if goal.beside is None else f"{goal.subject} / {goal.beside}"
            verdicts.append(Verdict(words, goal.limit, round(figure, 4), figure <= goal.limit))
    return verdicts


def _rows_in_words(rows: Sequence[Row], *, markdown: bool) -> str:
    """Group by group, the cheapest first; in Markdown ours stand out."""
    groups = list(dict.fromkeys(row.group for row in rows))
    ordered = sorted(rows, key=lambda row: (groups.index(row.group), row.net_ns))
    lines = [
        (
            f"**{row.name}**" if markdown and row.name.startswith("resilient ") else row.name,
            f"{row.net_ns:,.0f}",
            _ratio(row.asyncio_timeouts),
            _ratio(row.peers_stacks),
            str(row.objects),
            f"{row.peak_bytes:,}",
        )
        for row in ordered
    ]
    columns = ("success path", "net ns", "of asyncio.timeout", "of the peers' stack", "objects", "peak bytes")
    return table(columns, lines, markdown=markdown)


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = options("Measure what protecting a call costs, ours and our peers'.", seconds=60.0)
    parser.add_argument("--processes", type=int, default=5, help="that share the time (default: %(default)s)")
    parser.add_argument("--only", metavar="WORDS", help="subjects whose names hold one of these, separated by commas")
    given = parser.parse_args(arguments)

    subjects = select(given.only)
    if not subjects:
        parser.error(f"--only {given.only}: no subject is called that")
    required = (name for subject in subjects for name in subject.requires)
    head = begin(parser, required, otherwise="; `--only resilient` measures without them")
    bare, rows = measure(subjects, given.seconds, given.processes)
    result = {
        **head,
        "seconds": given.seconds,
        "processes": given.processes,
        "bare_ns": round(bare, 1),
        "subjects": [asdict(row) for row in rows],
    }
    return finish(given, result, _rows_in_words(rows, markdown=given.markdown), judge(rows))


if __name__ == "__main__":
    sys.exit(main())
