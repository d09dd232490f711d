"""Which figures the two runs are compared by, and whether they prove what they are to prove."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

from resilient.lab.demo.evidence import Evidence
from resilient.lab.drawing.axis import quantity

__all__ = ["FIGURES", "LEAST_IN_TIME", "Condition", "Figure", "caution_of", "judge"]

LEAST_IN_TIME = 0.999
"""The share of its calls that `resilient` has to answer in time."""

_BEHIND = 0.25


@final
@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the comparison."""

    title: str
    heading: str
    """Shorter, for a column."""
    unit: str
    of: Callable[[Evidence], float | None]
    best: Literal["min", "max"] | None = None

    def text(self, evidence: Evidence) -> str:
        """The figure of one run, with its unit."""
        value = self.of(evidence)
        return f"{value:,}" if isinstance(value, int) else quantity(value, self.unit)

    def winner(self, *runs: Evidence) -> Evidence | None:
        """The one run whose figure is better than that of all others as they are printed."""
        if self.best is None:
            return None
        pick = min if self.best == "min" else max
        worst = float("inf") if self.best == "min" else float("-inf")
        best = pick(runs, key=lambda run: worst if (value := self.of(run)) is None else value)
        return best if [self.text(run) for run in runs].count(self.text(best)) == 1 else None


FIGURES = (
    Figure("orders sent", "Orders", "", lambda run: len(run.records)),
    Figure("success ratio", "Success", "%", lambda run: run.in_time_ratio, "max"),
    Figure("latency p50", "p50", "s", lambda run: run.summary.p50, "min"),
    Figure("latency p99", "p99", "s", lambda run: run.summary.p99, "min"),
    Figure("latency p99.9", "p99.9", "s", lambda run: run.summary.p999, "min"),
    Figure("attempts per call", "Attempts", "", lambda run: run.summary.attempts_per_call, "min"),
    Figure("orders lost", "Lost", "", lambda run: len(run.audit.lost), "min"),
    Figure("orders duplicated", "Duplicated", "", lambda run: len(run.audit.duplicated), "min"),
    Figure("recovery time", "Recovery", "s", lambda run: run.slowest_recovery, "min"),
)


@final
@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that has to hold, and what was found."""

    holds: bool
    found: str


def judge(plain: Evidence, resilient: Evidence) -> tuple[Condition, ...]:
    """Tell which conditions hold; it is proven when all do."""
    lost, duplicated, doubled = (
        len(numbers) for numbers in (resilient.audit.lost, resilient.audit.duplicated, plain.audit.duplicated)
    )
    calls, good = len(resilient.records), len(resilient.records) - resilient.late
    return (
        Condition(not lost, f"resilient lost {_orders(lost)}"),
        Condition(not duplicated, f"resilient duplicated {_orders(duplicated)}"),
        Condition(
            good >= LEAST_IN_TIME * calls,
            f"resilient answered {good:,} of {calls:,} calls within {resilient.settings.deadline:g} s, "
            f"and {quantity(LEAST_IN_TIME, '%')} is asked for{_reasons(resilient)}",
        ),
        Condition(
            doubled > 0,
            f"the plain client duplicated {_orders(doubled)}"
            + ("" if doubled else ": the disasters were too tame to prove anything"),
        ),
    )


def caution_of(*runs: Evidence) -> str | None:
    """What to think of before the latencies are believed; None where there is nothing."""
    behind = max(run.behind for run in runs)
    if behind <= _BEHIND:
        return None
    return (
        f"This machine is busy: the load generator was late by {quantity(behind, 's')}, which is in the latencies. "
        "A lower --rate helps."
    )


def _reasons(run: Evidence) -> str:
    reasons = ", ".join(f"{times} {reason}" for reason, times in run.failures.most_common())
    return f" ({reasons})" if reasons else ""


def _orders(number: int) -> str:
    return "no order" if number == 0 else "1 order" if number == 1 else f"{number:,} orders"
