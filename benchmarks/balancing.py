"""What the choice of an instance costs: every picker, with 10, 1,000 and 10,000 instances, and changes of the set.

    make bench                                                 # the table
    python -m benchmarks.balancing --only PeakEwma,Prequal     # some of it
    python -m benchmarks.balancing --check                     # and fail where a goal is missed

A figure is the 10th percentile of many short slices (see `measuring.py`). A pick is `Balancer.pick` and `settle`, one
after the other, without an event loop; pickers with a key get one of a thousand, `WeightedRoundRobin` also takes a
report, and `Prequal` also the three answers that come in for each call.

A result file holds the header (`schema`, `date`, `machine`, `versions`), the `seconds` of measuring, and

`picks`
    `picker`, `instances`, `us`: of a pick.
`moves`
    `picker`, `instances`, `change`, `mean`, `most`: of the keys that belong to another instance after a `removal` or a
    `replacement` of one, in shares: 1 is as many as an equal instance has. Of some sets of instances the mean, and the
    one of which most move.
`changes`
    `change`, `picker`, `instances`, `ms`: a whole `snapshot` for a new balancer; a `diff`, by which one instance is
    replaced; and the `table` that is made at the first pick after that.
`goals`
    `goal`, `at_most`, `figure`, `met`.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from statistics import fmean
from time import perf_counter

from benchmarks.measuring import Slice, interleave, percentile
from benchmarks.reporting import Verdict, begin, finish, options, table
from resilient import Instance, Snapshot
from resilient import Verdict as Outcome
from resilient.balancing import (
    Balancer,
    LeastRequest,
    Load,
    Maglev,
    PeakEwma,
    Picker,
    Prequal,
    Random,
    Rendezvous,
    RingHash,
    RoundRobin,
    WeightedRoundRobin,
)
from resilient.call import Call

__all__ = ["main"]

SIZES = (10, 1_000, 10_000)
_CHANCE = random.Random(0).random
_LOAD = Load(in_flight=2, latency=0.01, rps=100.0, application_utilization=0.5)
_REPETITIONS = 5


def _key(call: Call) -> str:
    return call.name


PICKERS: dict[str, Picker] = {
    "Random": Random(),
    "RoundRobin": RoundRobin(),
    "LeastRequest": LeastRequest(),
    "PeakEwma": PeakEwma(),
    "WeightedRoundRobin": WeightedRoundRobin(),
    "Prequal": Prequal(),
    "RingHash": RingHash(_key),
    "Maglev": Maglev(_key),
    "Rendezvous": Rendezvous(_key),
}
CONSTANT = ("Random", "RoundRobin", "LeastRequest", "PeakEwma")
"""Those that are to cost next to nothing, and hardly more with many instances than with few."""
TABLES = ("RingHash", "Maglev")
MOVED_SIZES = (10, 50, 100, 200)
_MOVED_AMONG = 50
_MOVED_SHARES = {"removal": 1.2, "replacement": 2.5}
_SETS = 5
_KEYS = 40_000
_AT_MOST_US = 1.5
_AT_MOST_GROWTH = 2.0
_SNAPSHOT_MS = 50.0
_DIFF_MS = 2.0


@dataclass(frozen=True, slots=True)
class Pick:
    """What a pick costs."""

    picker: str
    instances: int
    us: float


@dataclass(frozen=True, slots=True)
class Change:
    """What a change of the instances costs."""

    change: str
    picker: str
    instances: int
    ms: float


@dataclass(frozen=True, slots=True)
class Move:
    """How many keys a change moves, in shares."""

    picker: str
    instances: int
    change: str
    mean: float
    most: float


def fleet(count: int, seed: int = 10) -> Snapshot:
    """So many instances."""
    return Snapshot(version=1, instances=tuple(_instance(number, seed) for number in range(count)))


def _instance(number: int, seed: int = 10) -> Instance:
    return Instance(id=f"{seed}.{number >> 16}.{number >> 8 & 255}.{number & 255}:8080", host="h", port=80)


def replaced(snapshot: Snapshot) -> Snapshot:
    """The same, but for one that has left and another one that has come."""
    others = snapshot.instances[1:]
    return Snapshot(version=snapshot.version + 1, instances=(*others, _instance(len(others) + 1)))


def balancing(picker: str, snapshot: Snapshot) -> Balancer:
    """A new balancer, as a service has one."""
    balancer = Balancer(PICKERS[picker])
    balancer.apply(snapshot, 0.0, _CHANCE)
    return balancer


def picking(picker: str, snapshot: Snapshot) -> Slice:
    """Picks and settles, again and again."""
    balancer = balancing(picker, snapshot)
    pick, settle, chance, good = balancer.pick, balancer.settle, _CHANCE, Outcome.OK
    keys = cycle([f"user-{number}" for number in range(1000)]) if balancer.key is not None else cycle([None])
    now = 1.0

    async def plain(calls: int) -> None:
        nonlocal now
        for _, key in zip(range(calls), keys, strict=False):
            now += 0.001
            settle(pick(now, chance, None, key), good, 0.01, now, chance)

    async def reporting(calls: int) -> None:
        nonlocal now
        for _ in range(calls):
            now += 0.001
            picked = pick(now, chance)
            balancer.report(picked.instance, _LOAD, now)
            settle(picked, good, 0.01, now, chance)

    async def probing(calls: int) -> None:
        nonlocal now
        for _ in range(calls):
            now += 0.001
            picked = pick(now, chance)
            for instance in balancer.probes(chance):
                balancer.answered(instance, _LOAD, now, chance)
            settle(picked, good, 0.01, now, chance)

    if balancer.wants_reports:
        return reporting
    return plain if balancer.probing is None else probing


def measure_picks(pickers: Sequence[str], seconds: float) -> list[Pick]:
    """The sizes of a picker in turn, one picker after the other: a process has one, and its caches to itself."""
    picks: list[Pick] = []
    for picker in pickers:
        runs = {str(size): picking(picker, fleet(size)) for size in SIZES}
        samples = asyncio.run(interleave(runs, seconds=seconds / len(pickers)))
        picks += [Pick(picker, size, round(percentile(samples[str(size)], 10) / 1000, 3)) for size in SIZES]
    return picks


def _milliseconds(step: Callable[..., object], *arguments: object) -> float:
    started = perf_counter()
    step(*arguments)
    return (perf_counter() - started) * 1000


def measure_changes(pickers: Sequence[str]) -> list[Change]:
    """The least of some times each, since whatever disturbs the machine only adds to it."""
    changes = []
    for size in SIZES:
        before = fleet(size)
        after = replaced(before)
        for picker in pickers:
            figures: dict[str, list[float]] = {"snapshot": [], "diff": [], "table": []}
            for _ in range(_REPETITIONS):
                balancer = Balancer(PICKERS[picker])
                figures["snapshot"].append(_milliseconds(balancer.apply, before, 0.0, _CHANCE))
                first_pick(balancer, 0.0)
                figures["diff"].append(_milliseconds(balancer.apply, after, 1.0, _CHANCE))
                figures["table"].append(_milliseconds(first_pick, balancer, 1.0))
            changes += [Change(change, picker, size, round(min(values), 3)) for change, values in figures.items()]
    return changes


def first_pick(balancer: Balancer, now: float) -> None:
    """A pick, which makes what was not made before."""
    balancer.settle(balancer.pick(now, _CHANCE, None, "key"), Outcome.OK, 0.01, now, _CHANCE)


def measure_moves(pickers: Sequence[str]) -> list[Move]:
    """Of the pickers with a table, since the others never move a key that could stay."""
    found: list[Move] = []
    for count in MOVED_SIZES:
        for picker in (one for one in pickers if one in TABLES):
            moved: dict[str, list[float]] = {"removal": [], "replacement": []}
            for seed in range(_SETS):
                whole = fleet(count, seed).instances
                before = owners(picker, whole)
                for change, after in (("removal", whole[1:]), ("replacement", (*whole[1:], _instance(count, seed)))):
                    others = owners(picker, after)
                    differ = sum(one != other for one, other in zip(before, others, strict=True))
                    moved[change].append(differ * count / len(before))
            found += [
                Move(picker, count, change, round(fmean(shares), 3), round(max(shares), 3))
                for change, shares in moved.items()
            ]
    return found


def owners(picker: str, instances: Sequence[Instance]) -> list[str]:
    """Whose the keys are."""
    balancer = balancing(picker, Snapshot(version=1, instances=tuple(instances)))
    found = []
    for key in range(_KEYS):
        picked = balancer.pick(0.0, _CHANCE, None, key)
        found.append(picked.instance.id)
        balancer.settle(picked, Outcome.OK, 0.01, 0.0, _CHANCE)
    return found


def judge(picks: Sequence[Pick], changes: Sequence[Change], moves: Sequence[Move] = ()) -> list[Verdict]:
    """Compare with the goals, as far as their subjects were measured."""
    us = {(pick.picker, pick.instances): pick.us for pick in picks}
    fewest, most = SIZES[0], SIZES[-1]
    verdicts = []
    for picker in CONSTANT:
        if (picker, fewest) in us:
            cost, growth = us[picker, fewest], us[picker, most] / us[picker, fewest]
            verdicts.append(Verdict(f"{picker}, us with {fewest:,}", _AT_MOST_US, cost, cost <= _AT_MOST_US))
            words = f"{picker}, {most:,} / {fewest:,}"
            verdicts.append(Verdict(words, _AT_MOST_GROWTH, round(growth, 3), growth <= _AT_MOST_GROWTH))
    for change, limit in (("snapshot", _SNAPSHOT_MS), ("diff", _DIFF_MS)):
        taken = [one.ms for one in changes if one.change == change and one.instances == most]
        if taken:
            worst = max(taken)
            verdicts.append(Verdict(f"{change} of {most:,}, ms, the slowest picker", limit, worst, worst <= limit))
    for move in moves:
        if move.instances <= _MOVED_AMONG:
            limit = _MOVED_SHARES[move.change]
            words = f"{move.picker}, shares moved by a {move.change}, {move.instances} instances"
            verdicts.append(Verdict(words, limit, move.most, move.most <= limit))
    return verdicts


def _in_words(picks: Sequence[Pick], changes: Sequence[Change], moves: Sequence[Move], *, markdown: bool) -> str:
    us = {(pick.picker, pick.instances): pick.us for pick in picks}
    ms = {(one.picker, one.change, one.instances): one.ms for one in changes}
    pickers = list(dict.fromkeys(pick.picker for pick in picks))
    columns = ["pick and settle, us", *(f"{size:,}" for size in SIZES)]
    kinds = ("snapshot", "diff", "table")
    columns += [f"{kind} of {SIZES[-1]:,}, ms" for kind in kinds] + [f"table of {SIZES[0]}, ms"]
    rows = [
        (
            picker,
            *(f"{us[picker, size]:,.2f}" for size in SIZES),
            *(f"{ms[picker, kind, SIZES[-1]]:,.2f}" for kind in kinds),
            f"{ms[picker, 'table', SIZES[0]]:,.2f}",
        )
        for picker in pickers
    ]
    words = table(columns, rows, markdown=markdown)
    if moves:
        columns = ["keys moved, in shares: mean, most", *(f"{count} instances" for count in MOVED_SIZES)]
        shares = {(one.picker, one.change, one.instances): f"{one.mean:.2f}, {one.most:.2f}" for one in moves}
        kinds_moved = dict.fromkeys((one.picker, one.change) for one in moves)
        lines = [(" ".join(kind), *(shares[*kind, count] for count in MOVED_SIZES)) for kind in kinds_moved]
        words += "\n\n" + table(columns, lines, markdown=markdown)
    return words


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = options("Measure what the choice of an instance costs.", seconds=30.0)
    parser.add_argument("--only", metavar="NAMES", help="of pickers, separated by commas")
    given = parser.parse_args(arguments)
    chosen = list(PICKERS) if given.only is None else given.only.split(",")
    unknown = sorted(set(chosen) - set(PICKERS))
    if unknown:
        parser.error(f"--only {','.join(unknown)}: one of {', '.join(PICKERS)}")
    head = begin(parser, ())
    picks, changes = measure_picks(chosen, given.seconds), measure_changes(chosen)
    moves = measure_moves(chosen)
    result = {
        **head,
        "seconds": given.seconds,
        "picks": [asdict(pick) for pick in picks],
        "changes": [asdict(change) for change in changes],
        "moves": [asdict(move) for move in moves],
    }
    return finish(
        given, result, _in_words(picks, changes, moves, markdown=given.markdown), judge(picks, changes, moves)
    )


if __name__ == "__main__":
    sys.exit(main())
