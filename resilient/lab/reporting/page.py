"""Lab results as one HTML page: an overview, and for each scenario its verdict, its figures and its plots."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from resilient.lab.drawing.report import Block, Cell, Column, Listing, Page, Points, Section, Table, Text
from resilient.lab.reporting.findings import findings, headline, overall, worst_seed
from resilient.lab.reporting.measures import in_order, measure_of
from resilient.lab.reporting.panels import panels
from resilient.lab.reporting.statistics import LEAST, estimate
from resilient.lab.results import Results, ScenarioFacts, replay_command

__all__ = ["page"]

_NOTHING: Final = Cell("\N{EN DASH}")


def page(results: Results, *, file: str | os.PathLike[str]) -> Page:
    """Lay the results out. `file` is where they are kept: it stands in the commands that replay a run."""
    scenarios = results.scenarios
    said = overall(results)
    return Page(
        title="Failure policies in the lab" if len(scenarios) != 1 else results.header.scenarios[scenarios[0]].title,
        lead=f"{said}." if said else "",
        facts=_facts(results),
        switches=results.policies() if len(results.policies()) > 1 else (),
        sections=[
            *([_overview(results)] if len(scenarios) > 1 else []),
            *(_scenario(results, scenario, file, alone=len(scenarios) == 1) for scenario in scenarios),
            _method(results, file),
        ],
    )


def _facts(results: Results) -> dict[str, str]:
    header = results.header
    return {
        "Runs": f"{len(results.runs):,}",
        "Seeds": _ranges(sorted({run.seed for run in results.runs})),
        "Clock": f"virtual, {header.backend}",
        "Calls": header.mode,
        **{name.capitalize() if name == "python" else name: version for name, version in header.versions.items()},
        "Made": header.made.replace("T", " ")[:16],
    }


def _ranges(numbers: Sequence[int]) -> str:
    """Write whole numbers shortly: `0-9, 12`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}\N{EN DASH}{part[-1]}" for part in parts)


def _overview(results: Results) -> Section:
    policies = results.policies()
    rows: list[Sequence[Cell]] = []
    for scenario in results.scenarios:
        facts = results.header.scenarios[scenario]
        first = findings(results, scenario)[0]
        row = [Cell(facts.title, [first.measure.title], anchor=scenario)]
        row += [_cell(results, scenario, policy, first.measure.name, first.best) for policy in policies]
        rows.append(row)
    return Section(
        title="Overview",
        lead="Each scenario by the metric that matters most in it. The best is bold, and who is level with it.",
        blocks=[Table(columns=[Column(title=""), *(Column(title=policy) for policy in policies)], rows=rows)],
    )


def _scenario(results: Results, scenario: str, file: str | os.PathLike[str], *, alone: bool) -> Section:
    facts = results.header.scenarios[scenario]
    found = findings(results, scenario) if len(results.policies(scenario)) > 1 else []
    told = [
        (about, text)
        for about, text in (("Naive policies", facts.naive), ("Good ones", facts.good), ("Setting", _setting(facts)))
        if text
    ]
    return Section(
        title="" if alone else facts.title,  # the page has it
        anchor=scenario,
        lead=f"{scenario}, after {facts.source}" if facts.source else scenario,
        blocks=[
            Text(_sentence(headline(results, scenario)), large=True),
            *([Points([(finding.measure.title, _sentence(finding.text)) for finding in found])] if found else []),
            *panels(results, scenario),
            _figures(results, scenario),
            Points(told),
            *_replays(results, scenario, file),
        ],
    )


def _setting(facts: ScenarioFacts) -> str:
    parts = [f"{facts.duration:g} s"]
    if facts.warmup:
        parts.append(f"of which the first {facts.warmup:g} s count in no metric")
    if facts.trigger is not None:
        parts.append(f"trigger from second {facts.trigger[0]:g} to {facts.trigger[1]:g}")
    if facts.deadline is not None:
        parts.append(f"callers wait {facts.deadline:g} s")
    parts += [f"{name} {value:g}" if type(value) is float else f"{name} {value}" for name, value in facts.knobs.items()]
    return f"{', '.join(parts)}."


def _figures(results: Results, scenario: str) -> Table:
    facts, policies = results.header.scenarios[scenario], results.policies(scenario)
    best = {finding.measure.name: finding.best for finding in findings(results, scenario)}
    names = in_order({name for run in results.runs if run.scenario == scenario for name in run.metrics}, facts.primary)
    rows = [
        [Cell(measure_of(name).title, strong=name in best)]
        + [_cell(results, scenario, policy, name, best.get(name, ())) for policy in policies]
        for name in names
    ]
    explained = [measure for name in names if (measure := measure_of(name)).explains and "." not in name]
    return Table(
        columns=[Column(title=""), *(Column(title=policy) for policy in policies)],
        rows=rows,
        caption="; ".join(f"{measure.title}: {measure.explains}" for measure in explained),
    )


def _cell(results: Results, scenario: str, policy: str, metric: str, best: Sequence[str]) -> Cell:
    if not results.of(scenario, policy):
        return _NOTHING
    found = estimate(results, scenario, policy, metric)
    value, interval = found.texts
    notes = [part for part in (interval, f"({found.remark})" if found.remark else "") if part]
    return Cell(value, notes, strong=policy in best)


def _replays(results: Results, scenario: str, file: str | os.PathLike[str]) -> list[Block]:
    lines: list[str] = []
    for policy in results.policies(scenario):
        runs = results.of(scenario, policy)
        worst = worst_seed(results, scenario, policy)
        lines.append(replay_command(file, runs[worst if worst is not None else min(runs)]))
    return [Listing("Replay the worst run of each policy", lines)]


def _method(results: Results, file: str | os.PathLike[str]) -> Section:
    seeds = len({run.seed for run in results.runs})
    return Section(
        title="How to read it",
        blocks=[
            Text(
                "Every policy met the same arrivals and the same service times, seed by seed, in virtual time. "
                "Figures are means over the seeds; recovery is a median, in which a run that never recovers counts as "
                "infinity. Below each is its 95 % interval (bootstrap over the seeds), unless it is as narrow as the "
                "figure is written. Lines are means, the areas behind them reach from the lowest seed to the highest."
            ),
            Text(
                "A difference is called clear if the 95 % interval of the paired differences excludes 0 "
                f"(over at least {LEAST} seeds; here there {'is' if seeds == 1 else 'are'} {seeds}). Of twenty "
                "comparisons in which nothing differs, one looks clear."
            ),
            Listing(
                "Make it again",
                [
                    results.header.command,
                    f"# the runs in {os.fspath(file)} have the SHA-256",
                    f"# {results.sha256}",
                ],
            ),
        ],
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
