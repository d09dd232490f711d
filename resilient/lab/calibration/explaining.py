"""Why a real run came out differently from the simulated one: from measurements, or not at all.

The simulation is asked again, with what was measured. *With the sockets* each call takes longer by what an idle call
costs over them here; *with the machine* also by how late the event loop was during the run. Each is simulated several
times, with other dice for what policies draw, so that there is a range in which chance alone leaves a figure. What lies
outside of both is not explained, and said so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Final, Literal, TypeAlias, final

from resilient.lab.calibration.playing import Conditions, Idle
from resilient.lab.drawing.axis import FACTOR, quantity
from resilient.lab.reporting.measures import NEVER, Measure, measure_of

__all__ = ["DICE", "Cause", "Explanation", "Figure", "Range", "Rolls", "explain", "figure", "idle_together", "together"]

DICE: Final = 5
"""How often each run is simulated with the sockets, and with the machine."""
_T = 2.776
"""Student's t: 95 % of what four degrees of freedom leave to chance."""
_FEW = 3.0
"""Calls that end a millisecond before or after a deadline, or an attempt more or less: nobody's doing."""
_STARVED = 0.2
"""The share of the time that a process may wait for a processor, and still be measured."""
_BUCKET = 1 / 64
"""By how much two equal latencies may differ: percentiles are of a histogram with buckets as wide as that."""

Cause: TypeAlias = Literal["same", "sockets", "chance", "machine", "unexplained"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Where the simulation has a figure in 95 % of all cases, whatever the dice; infinity is never."""

    expected: float
    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One metric of one policy; None where it has no value, infinity where it never came."""

    metric: str
    simulated: float | None
    sockets: Range | None
    """Simulated with the sockets."""
    machine: Range | None
    """Simulated with the sockets and the machine."""
    real: float | None

    @property
    def delta(self) -> float | None:
        """How much more the real one is; None where one has no value."""
        if self.simulated is None or self.real is None:
            return None
        return 0.0 if self.real == self.simulated else self.real - self.simulated


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a difference is due to, and how that is said: "" where there is none."""

    cause: Cause
    text: str = ""


Rolls: TypeAlias = Sequence[Sequence[float | None]]
"""The values of a metric: for each die, those of the seeds."""


def figure(
    metric: str,
    *,
    calls: float,
    simulated: Sequence[float | None],
    sockets: Rolls,
    machine: Rolls,
    real: Sequence[float | None],
) -> Figure:
    """Sum up a metric over the seeds, in which there were so many calls."""
    measure = measure_of(metric)
    few = _FEW / max(calls, 1.0)
    return Figure(
        metric=metric,
        simulated=_centre(measure, simulated),
        sockets=_range(measure, sockets, few),
        machine=_range(measure, machine, few),
        real=_centre(measure, real),
    )


def _centre(measure: Measure, values: Sequence[float | None]) -> float | None:
    """The mean over the seeds that have a value; of what may never come, the median."""
    if measure.never:
        return median(NEVER if value is None else value for value in values)
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _range(measure: Measure, rolls: Rolls, few: float) -> Range | None:
    values = [value for value in (_centre(measure, seeds) for seeds in rolls) if value is not None]
    if not values:
        return None
    if not all(math.isfinite(value) for value in values):
        return Range(expected=median(values), low=min(values), high=max(values))
    expected = fmean(values)
    reach = _T * stdev(values) * math.sqrt(1 + 1 / len(values)) if len(values) > 1 else 0.0
    if measure.unit == "s" and not measure.never:
        reach = max(reach, expected * _BUCKET)
    elif measure.unit in {"%", FACTOR}:
        reach = max(reach, few)
    elif measure.unit:
        reach = max(reach, few * expected)
    return Range(expected=expected, low=expected - reach, high=expected + reach)


def explain(figure: Figure, idle: Idle, conditions: Conditions) -> Explanation:
    """Say where a difference comes from: the sockets' cost, the policies' dice, a slow machine, or nobody knows."""
    measure = measure_of(figure.metric)
    real, simulated, sockets, machine = figure.real, figure.simulated, figure.sockets, figure.machine
    if real == simulated:
        return Explanation(cause="same")
    if real is None or simulated is None or sockets is None or machine is None:
        return Explanation(cause="unexplained", text="not explained: one of the two has no value")
    if real in sockets:
        return _with_the_sockets(measure, figure, sockets, idle)
    low, high = min(sockets.low, machine.low), max(sockets.high, machine.high)
    if low <= real <= high:
        late = conditions.late_percentiles
        return Explanation(
            cause="machine",
            text=f"the event loop was {quantity(conditions.late, 's')} late on average ({quantity(late[-2], 's')} once "
            f"in a hundred times, {quantity(late[-1], 's')} at worst); with that the simulation has "
            f"{_between(measure, machine)}",
        )
    if conditions.waited is not None and conditions.waited > _STARVED:
        return Explanation(
            cause="machine",
            text="other programs had the processors: this one waited for a CPU in "
            f"{quantity(conditions.waited, '%')} of the time, and nothing can be said",
        )
    beyond = _difference(measure, real - (high if real > high else low))
    return Explanation(
        cause="unexplained",
        text=f"not explained: {beyond} beyond what sockets, event loop and chance account for, "
        f"{_between(measure, Range(expected=low, low=low, high=high))}",
    )


def _with_the_sockets(measure: Measure, figure: Figure, sockets: Range, idle: Idle) -> Explanation:
    delta = figure.delta
    assert delta is not None
    assert figure.simulated is not None
    cost = sockets.expected - figure.simulated
    if math.isfinite(cost) and math.isfinite(delta) and cost * delta > 0 and abs(cost) >= abs(delta) / 2:
        text = f"an idle call over the socket costs {quantity(idle.latency, 's')} here; with that the simulation has "
        return Explanation(cause="sockets", text=f"{text}{measure.text(sockets.expected)}")
    text = "chance: with other dice for the policies, and other calls that were late, the simulation has "
    return Explanation(cause="chance", text=f"{text}{_between(measure, sockets)}")


def _between(measure: Measure, found: Range) -> str:
    return f"{measure.text(found.low)} to {measure.text(found.high)}"


def _difference(measure: Measure, value: float) -> str:
    if math.isinf(value):
        return "never instead of some time" if value > 0 else "some time instead of never"
    return measure.difference_texts(value, value, value)[0]


def idle_together(idle: Sequence[Idle]) -> Idle:
    """What was measured several times."""
    return Idle(
        samples=[sample for one in idle for sample in one.samples],
        cpu=fmean(one.cpu for one in idle),
        late=fmean(one.late for one in idle),
    )


def together(conditions: Sequence[Conditions]) -> Conditions:
    """What holds of several runs: means of what is usual, the worst of the worst, sums of counts."""
    waited = [one.waited for one in conditions if one.waited is not None]
    percentiles = [[*values] for values in zip(*(one.late_percentiles for one in conditions), strict=True)]
    return Conditions(
        seconds=math.fsum(one.seconds for one in conditions),
        cpu=fmean(one.cpu for one in conditions),
        waited=fmean(waited) if len(waited) == len(conditions) else None,
        late=fmean(one.late for one in conditions),
        late_percentiles=[*(fmean(values) for values in percentiles[:-1]), max(percentiles[-1])],
        opened=sum(one.opened for one in conditions),
        refused=sum(one.refused for one in conditions),
        unanswered=sum(one.unanswered for one in conditions),
    )
