"""The whole suite of the lab: every scenario with its policies and ten seeds, its bands, and the golden report.

    make lab                                                       # half an hour on two cores
    python -m benchmarks.lab_suite --only slow-instance --seeds 3  # some of it, compared and not written

The golden report, `benchmarks/results/lab.json`, holds the metrics of every run. A run depends on nothing but its
scenario, its policy and its seed, so what differs from the report was changed by a change of the code: the suite says
what, and the tests play a part of it again. With `--write` the report is written anew, and beside it a page and the
tables that the documentation includes; scenarios that `--only` leaves out stay in it as they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks.catalogue import catalogue
from resilient.lab.bench.bands import judge
from resilient.lab.bench.collecting import collect, facts_of
from resilient.lab.bench.playing import Job, play_all
from resilient.lab.bench.references import make_scenario
from resilient.lab.reporting.comparison import compare
from resilient.lab.reporting.page import page
from resilient.lab.reporting.terminal import show_comparison
from resilient.lab.results import Results, Run
from resilient.lab.scenarios import names

__all__ = ["CATALOGUE", "GOLDEN", "main"]

GOLDEN = Path(__file__).parent / "results" / "lab.json"
CATALOGUE = GOLDEN.with_suffix(".md")


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, judge and compare; return the exit code: 1 where a band does not hold."""
    parser = argparse.ArgumentParser(description="Play the lab's whole suite.")
    parser.add_argument("--seeds", type=int, default=10, help="of each policy (default: %(default)s)")
    parser.add_argument("--only", metavar="WORDS", help="scenarios whose names hold one of these, separated by commas")
    parser.add_argument("--write", action="store_true", help="write the golden report and its tables anew")
    parser.add_argument("--page", metavar="FILE", type=Path, help="write a page of all results there")
    given = parser.parse_args(arguments)
    words = None if given.only is None else given.only.split(",")
    chosen = [name for name in names() if words is None or any(word in name for word in words)]
    console = Console(width=120)

    scenarios = [make_scenario(name) for name in chosen]
    jobs = [
        Job(scenario=scenario.name, policy=policy, seed=seed)
        for scenario in scenarios
        for policy in scenario.policies
        for seed in range(given.seeds)
    ]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("playing", total=len(jobs))
        played = play_all(jobs, on_run=lambda job, _run: progress.update(task, advance=1, description=job.scenario))
    if len(played) < len(jobs):
        return 130
    results = collect(played, [(scenario, scenario.name) for scenario in scenarios], command=["lab", "run", "all"])

    findings = [finding for scenario in scenarios for finding in judge(scenario, results.runs)]
    failed = [finding for finding in findings if not finding.holds]
    for finding in failed:
        console.print(f"✘ {finding}", style="bold red", markup=False)
    console.print(f"{len(findings) - len(failed)} of {len(findings)} bands hold.")
    without_series = replace(results, runs=[_without_series(run) for run in results.runs])
    if GOLDEN.exists() and not given.write:
        show_comparison(compare(Results.read(GOLDEN), without_series), console)
    if given.page is not None:
        given.page.parent.mkdir(parents=True, exist_ok=True)
        given.page.write_text(page(results, file=given.page.with_suffix(".json")).html(), encoding="utf-8")
        results.write(given.page.with_suffix(".json"))
    if given.write:
        _write(without_series)
    return 1 if failed else 0


def _write(results: Results) -> None:
    """Write the report, with the scenarios of the last one that were not played now."""
    recorded = Results.read(GOLDEN) if GOLDEN.exists() else results
    scenarios = [make_scenario(name) for name in names()]
    runs = [
        run
        for scenario in scenarios
        for run in (results if scenario.name in results.scenarios else recorded).runs
        if run.scenario == scenario.name
    ]
    facts = {scenario.name: facts_of(scenario, scenario.name) for scenario in scenarios}
    whole = Results(header=replace(results.header, scenarios=facts), runs=runs)
    whole.write(GOLDEN)
    findings = [finding for scenario in scenarios for finding in judge(scenario, runs)]
    CATALOGUE.write_text(catalogue(whole, scenarios, findings), encoding="utf-8")


def _without_series(run: Run) -> Run:
    return replace(run, series={})


if __name__ == "__main__":
    sys.exit(main())
