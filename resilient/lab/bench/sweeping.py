"""One knob through several values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from rich.console import Console
from rich.table import Table

from resilient.lab.bench.collecting import versions
from resilient.lab.bench.playing import Job
from resilient.lab.reporting.measures import measure_of
from resilient.lab.reporting.picture import new_figure
from resilient.lab.reporting.statistics import Estimate, estimate_of
from resilient.lab.results import Run

__all__ = ["Sweep", "draw_sweep", "show_sweep"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What came of it."""

    scenario: str
    knob: str
    values: Sequence[Any]
    policies: Sequence[str]
    played: Sequence[tuple[Job, Run]]

    def of(self, value: Any, policy: str) -> dict[int, Run]:
        """The runs of a policy at a value, by seed."""
        return {
            job.seed: run
            for job, run in self.played
            if job.policy == policy and dict(job.knobs).get(self.knob) == value
        }

    def estimate(self, value: Any, policy: str, metric: str) -> Estimate:
        """What a policy came to at a value, over the seeds."""
        return estimate_of(measure_of(metric), self.of(value, policy))

    def write(self, file: Path) -> None:
        """Write all runs' metrics as JSON."""
        runs: list[Mapping[str, object]] = [
            {
                self.knob: dict(job.knobs)[self.knob],
                "policy": job.policy,
                "seed": job.seed,
                "metrics": dict(run.metrics),
            }
            for job, run in self.played
        ]
        document = {"schema": 1, "scenario": self.scenario, "knob": self.knob, "versions": versions(), "runs": runs}
        file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def show_sweep(sweep: Sweep, metric: str, console: Console) -> None:
    """Print a table: a row a value, a column a policy."""
    table = Table(title=f"{measure_of(metric).title} by {sweep.knob}, {sweep.scenario}", title_justify="left")
    table.add_column(sweep.knob, justify="right")
    for policy in sweep.policies:
        table.add_column(policy, justify="right")
    for value in sweep.values:
        cells = [str(sweep.estimate(value, policy, metric)) for policy in sweep.policies if sweep.of(value, policy)]
        table.add_row(str(value), *cells)
    console.print(table)


def draw_sweep(sweep: Sweep, metrics: Sequence[str], file: Path) -> None:
    """Draw a picture: a panel a metric, a line a policy, its interval shaded. Needs matplotlib, of the extra `lab`."""
    figure = new_figure(width=4.5 * len(metrics), height=3.2)
    for place, metric in enumerate(metrics, 1):
        axes = figure.add_subplot(1, len(metrics), place)
        for number, policy in enumerate(sweep.policies):
            points = [
                (index, found)
                for index, value in enumerate(sweep.values)
                if (found := sweep.estimate(value, policy, metric)).centre is not None and math.isfinite(found.centre)
            ]
            where = [index for index, _ in points]
            axes.plot(where, [found.centre for _, found in points], color=f"C{number}", marker="o", label=policy)
            low = [found.centre if found.low is None else found.low for _, found in points]
            high = [found.centre if found.high is None else found.high for _, found in points]
            axes.fill_between(where, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
        axes.set_xticks(range(len(sweep.values)), [str(value) for value in sweep.values])
        axes.set_xlabel(sweep.knob)
        axes.set_title(measure_of(metric).title)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(file, metadata={"Software": None})
