"""The lab's results as the page of the documentation that lists all scenarios."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.reporting import table
from resilient.lab.bench.bands import Finding
from resilient.lab.reporting.findings import headline
from resilient.lab.reporting.measures import measure_of
from resilient.lab.reporting.statistics import estimate
from resilient.lab.results import Results, Run
from resilient.lab.scenario import Scenario

__all__ = ["catalogue"]


def catalogue(results: Results, scenarios: Sequence[Scenario], findings: Sequence[Finding]) -> str:
    """Write a section for each scenario: what it is, its figures, and what must come of it."""
    header = results.header
    seeds = 1 + max((run.seed for run in results.runs), default=0)
    where = f"CPython {header.versions.get('python', '')}, {header.backend}, {seeds} seeds"
    parts = [f"{header.made[:10]}, {where}. Means over the seeds (of recovery the median) with 95 % intervals."]
    for scenario in scenarios:
        metrics = [*scenario.primary, *(name for name in ("success", "p99") if name not in scenario.primary)]
        metrics = [name for name in metrics if any(name in run.metrics for run in _of(results, scenario))]
        rows = [
            (f"`{policy}`", *(str(estimate(results, scenario.name, policy, name)) for name in metrics))
            for policy in results.policies(scenario.name)
        ]
        columns = ("", *(measure_of(name).title for name in metrics))
        held = [finding for finding in findings if finding.scenario == scenario.name]
        parts += [
            f"## {scenario.title}",
            f"`{scenario.name}`. Source: {scenario.source}.",
            f"**Naive policies.** {scenario.naive}",
            f"**Good ones.** {scenario.good}",
            table(columns, rows, markdown=True),
            (
                f"{_capital(headline(results, scenario.name))}. Bands that hold: "
                f"{sum(finding.holds for finding in held)} of {len(held)}."
            ),
        ]
    return "\n\n".join(parts) + "\n"


def _of(results: Results, scenario: Scenario) -> list[Run]:
    return [run for run in results.runs if run.scenario == scenario.name]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
