"""Holds what came of the runs against what a scenario says must come of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from resilient.lab.results import Number, Run
from resilient.lab.scenario import Band, Scenario

__all__ = ["Finding", "judge"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One band, and whether it holds. `value` is what was measured (a factor, where the band is one), or None."""

    scenario: str
    band: Band
    value: float | None
    holds: bool

    def __str__(self) -> str:
        band = self.band
        what = f"{self.scenario}: {band.metric} of {band.policy}" + (f" / {band.of}" if band.of else "")
        value = "has no value" if self.value is None else f"is {self.value:.4g}".replace("is inf", "is never")
        bounds = f"at least {band.low:g}" * (band.low > -math.inf), f"at most {band.high:g}" * (band.high < math.inf)
        allowed = " and ".join(filter(None, bounds)).replace("at least inf", "never")
        return f"{what} {value}; expected {allowed}{f' ({band.why})' if band.why else ''}"


def judge(scenario: Scenario, runs: Sequence[Run]) -> list[Finding]:
    """Judge each band whose policies were played."""
    values: dict[str, list[Mapping[str, Number]]] = {}
    for run in runs:
        if run.scenario == scenario.name:
            values.setdefault(run.policy, []).append(run.metrics)
    findings: list[Finding] = []
    for band in scenario.bands:
        if band.policy in values and (band.of is None or band.of in values):
            # That something never recovers is said of every seed, and holds for none that did.
            central = _best if band.low == math.inf else _central
            value = central(band.metric, values[band.policy])
            if band.of is not None and value is not None:
                other = _central(band.metric, values[band.of])
                value = None if not other else value / other
            holds = value is not None and band.low <= value <= band.high
            findings.append(Finding(scenario=scenario.name, band=band, value=value, holds=holds))
    return findings


def _best(metric: str, runs: Sequence[Mapping[str, Number]]) -> float | None:
    return min(math.inf if value is None else value for value in (run.get(metric) for run in runs))


def _central(metric: str, runs: Sequence[Mapping[str, Number]]) -> float | None:
    """The mean over the seeds; of recovery the median, in which a run that never recovers counts as infinite."""
    if metric == "recovery":
        return statistics.median(math.inf if run.get(metric) is None else run[metric] or 0.0 for run in runs)
    found = [value for run in runs if (value := run.get(metric)) is not None]
    return math.fsum(found) / len(found) if len(found) == len(runs) else None
