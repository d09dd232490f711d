"""What of the runs is drawn: for each scenario the same few small plots, a line a policy.

A line is the mean over the seeds, the light area behind it reaches from the lowest seed to the highest. The page and
pictures draw the same panels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, TypeAlias, final

from resilient.lab.drawing.axis import FACTOR
from resilient.lab.drawing.chart import Band, Line, Plot
from resilient.lab.results import Results, Run

__all__ = ["OFFERED", "panels"]

OFFERED: Final = "offered"
"""The label of the load that was offered, drawn in grey."""

_FAR_APART = 30.0
"""From here on the peaks of two policies do not fit on one linear scale."""

Series: TypeAlias = Sequence[float | None]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    title: str
    unit: str = ""
    series: Callable[[Run], Series | None]
    """What a run contributes; None where it has no such series."""
    log: bool = False
    counts: bool = False
    """Not drawn if there never are any; on a logarithmic scale where policies differ far, from 1 on."""
    step: bool = False
    backdrop: str = ""
    """A series drawn in grey behind it."""


def panels(results: Results, scenario: str) -> list[Plot]:
    """Return the plots of a scenario; those of which no run has the series are left out."""
    runs = {policy: list(results.of(scenario, policy).values()) for policy in results.policies(scenario)}
    names = dict.fromkeys(name for found in runs.values() for run in found for name in run.series)
    own = [_Panel(title=name, series=_named(name)) for name in names if name not in _DRAWN]
    plots = (_plot(results, scenario, panel, runs) for panel in (*_PANELS, *own))
    return [plot for plot in plots if plot is not None]


def _plot(results: Results, scenario: str, panel: _Panel, runs: Mapping[str, Sequence[Run]]) -> Plot | None:
    facts = results.header.scenarios[scenario]
    found = {policy: _seeds(panel.series, of) for policy, of in runs.items()}
    found = {policy: series for policy, series in found.items() if series}
    peaks = [max((value or 0.0 for series in of for value in series), default=0.0) for of in found.values()]
    if not found or (panel.counts and not any(peaks)):
        return None
    apart = panel.counts and max(peaks) > _FAR_APART * max(min(peaks), 1.0)
    least = 1.0 if apart else -math.inf
    lines = [_line(policy, series, least=least, step=panel.step) for policy, series in found.items()]
    notes = ["What is less than 1 is drawn at 1."] if apart else []
    behind = _seeds(_named(panel.backdrop), [run for of in runs.values() for run in of])
    if behind:
        lines.insert(0, _line(panel.backdrop, behind, muted=True))
        notes.append(f"Grey: {panel.backdrop}.")
    return Plot(
        title=panel.title,
        unit=panel.unit,
        lines=lines,
        bands=[] if facts.trigger is None else [Band(*facts.trigger, "trigger")],
        note=" ".join(notes),
        log=panel.log or apart,
        start=0.0,
        end=facts.duration,
        labelled=False,
    )


def _seeds(series: Callable[[Run], Series | None], runs: Sequence[Run]) -> list[Series]:
    return [found for run in runs if (found := series(run))]


def _line(
    label: str, seeds: Sequence[Series], *, least: float = -math.inf, muted: bool = False, step: bool = False
) -> Line:
    points: list[tuple[float, float | None]] = []
    spread: list[tuple[float, float | None, float | None]] = []
    for second, values in enumerate(zip_longest(*seeds)):
        known = [max(value, least) for value in values if value is not None]
        middle = second + 0.5
        points.append((middle, math.fsum(known) / len(known) if known else None))
        spread.append((middle, min(known, default=None), max(known, default=None)))
    several = len(seeds) > 1 and not muted
    return Line(label=label, points=points, spread=spread if several else (), muted=muted, step=step)


def _named(name: str) -> Callable[[Run], Series | None]:
    def series(run: Run) -> Series | None:
        return run.series.get(name)

    return series


def _amplification(run: Run) -> Series | None:
    attempts, offered = run.series.get("attempts"), run.series.get("offered")
    return None if attempts is None or offered is None else list(_ratios(attempts, offered))


def _ratios(above: Series, below: Series) -> Iterator[float | None]:
    for one, other in zip(above, below, strict=False):
        yield one / other if one is not None and other else None


_PANELS: Final = (
    _Panel(title="Goodput", unit="calls/s", series=_named("goodput"), backdrop=OFFERED),
    _Panel(title="Latency of successes, p99", unit="s", series=_named("p99"), log=True),
    _Panel(title="Amplification", unit=FACTOR, series=_amplification),
    _Panel(title="Calls queued", series=_named("queue"), counts=True),
    _Panel(title="Instances ejected", series=_named("ejected"), counts=True),
    _Panel(title="Circuits open", series=_named("open"), counts=True),
    _Panel(title="Rejected by policies", unit="calls/s", series=_named("rejected"), counts=True),
    _Panel(title="Share that is throttled", unit="%", series=_named("throttled"), counts=True),
)

_DRAWN: Final = {
    *("offered", "goodput", "failures", "attempts", "p50", "p99"),
    *("queue", "ejected", "open", "rejected", "throttled"),
}
"""Series that have a panel, or say nothing that the panels do not."""
