"""Lab results in the terminal: a table a scenario, what it says in words, differences, and judgements.

Everything fits into the width of the console (80 columns where it goes to a file), and says without colour what it says
with it. Needs rich, which the extra `cli` brings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from resilient.lab.reporting.comparison import Change, Comparison
from resilient.lab.reporting.findings import Finding, findings, headline, overall
from resilient.lab.reporting.gate import Judgement
from resilient.lab.reporting.measures import in_order, measure_of
from resilient.lab.reporting.statistics import estimate
from resilient.lab.results import Results

__all__ = ["show_comparison", "show_judgements", "show_results"]

_USUAL = ("success", "p99", "amplification")
"""What one wants to know of every scenario, besides its primary metrics."""

_INDENT = 2
_GAP = 2
"""Columns between the columns of a table: one of them is rich's, for a rule that is not drawn."""


def show_results(results: Results, console: Console, *, all_metrics: bool = False) -> None:
    """Print a table and the findings of each scenario; with its primary and the usual metrics, or with all of them."""
    for scenario in results.scenarios:
        facts = results.header.scenarios[scenario]
        console.print(Text.assemble((scenario, "bold"), "  ", (facts.title, "dim")))
        found = findings(results, scenario)
        known = {name for run in results.runs if run.scenario == scenario for name in run.metrics}
        names = in_order(known if all_metrics else known & {*facts.primary, *_USUAL}, facts.primary)
        for table in _tables(results, scenario, names, found, console.width - _INDENT):
            console.print(_indented(table))
        console.print(_indented(_inline(f"{headline(results, scenario)}.")))
        console.print(_indented(_findings(found)))
        console.print()
    said = overall(results)
    if said and len(results.scenarios) > 1:
        console.print(_inline(f"{said}."))
    console.print(
        Text("Means over the seeds (recovery: median) and 95 % intervals; the best is marked with *.", style="dim")
    )


def _tables(
    results: Results, scenario: str, names: Sequence[str], found: Sequence[Finding], width: int
) -> Iterable[Table]:
    """As few tables as fit beside each other into `width`, the policies in each of them."""
    policies = results.policies(scenario)
    first = max(len(policy) for policy in policies)
    best = {finding.measure.name: finding.best for finding in found}
    group: list[tuple[str, list[Text]]] = []
    taken = first
    for name in names:
        cells = [_cell(results, scenario, policy, name, policy in best.get(name, ())) for policy in policies]
        title = measure_of(name).title
        needed = _GAP + max(len(title), *(cell.cell_len for cell in cells))
        if group and taken + needed > width:
            yield _table(policies, group)
            group, taken = [], first
        group.append((title, cells))
        taken += needed
    if group:
        yield _table(policies, group)


def _table(policies: Sequence[str], columns: Sequence[tuple[str, Sequence[Text]]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, _GAP - 1, 0, 0))
    table.add_column("", no_wrap=True)
    for title, _ in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for index, policy in enumerate(policies):
        table.add_row(Text(policy), *(cells[index] for _, cells in columns))
    return table


def _cell(results: Results, scenario: str, policy: str, metric: str, best: bool) -> Text:  # noqa: FBT001
    found = estimate(results, scenario, policy, metric)
    value, interval = found.texts
    text = Text(f"*{value}" if best else value, style="bold green" if best else "")
    if interval:
        text.append(f" {interval}", style="not bold dim")
    if found.remark:
        text.append(f" ({found.remark})", style="not bold dim")
    return text


def _findings(found: Sequence[Finding]) -> Table:
    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for finding in found:
        table.add_row(finding.measure.title, _inline(f"{finding.text}."))
    return table


def _inline(text: str) -> Text:
    """What stands between backticks, bold; without colours the backticks stay, so that names do not read as words."""
    return Text.assemble(*((part, "bold") if part.startswith("`") else part for part in re.split("(`[^`]+`)", text)))


def show_comparison(comparison: Comparison, console: Console, *, all_metrics: bool = False) -> None:
    """Print what differs between two results: what differs clearly, and every primary metric; or all metrics."""
    identical, common = comparison.identical, comparison.common
    if identical == common:
        console.print(f"The same: all {common} runs that both have are equal to the last bit.")
    else:
        chosen = [change for change in comparison.changes if all_metrics or change.primary or change.difference.clear]
        console.print(_changes(chosen))
        better, worse = len(comparison.better), len(comparison.worse)
        console.print(
            f"Of {len(comparison.changes)} figures {worse} {_are(worse)} clearly worse and {better} clearly better; "
            f"{identical} of {common} runs are equal to the last bit."
        )
    for words, keys in (("before", comparison.only_before), ("after", comparison.only_after)):
        if keys:
            console.print(f"Left out, because only there {words}: {_runs([key[:2] for key in keys])}.")


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _runs(pairs: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{pairs.count(pair)} of {pair[0]}/{pair[1]}" for pair in dict.fromkeys(pairs))


def _changes(changes: Sequence[Change]) -> Group:
    parts: list[RenderableType] = []
    for scenario, policy in dict.fromkeys((change.scenario, change.policy) for change in changes):
        title = Text.assemble((scenario, "bold"), " ", policy)
        of = [change for change in changes if (change.scenario, change.policy) == (scenario, policy)]
        if all(change.difference.low == change.difference.high == 0 for change in of):
            parts.append(Text.assemble(title, (": the same", "dim")))
        else:
            parts += [title, _indented(_differences(of)), Text()]
    return Group(*parts)


def _differences(changes: Sequence[Change]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, _GAP - 1, 0, 0))
    table.add_column("")
    table.add_column("before", justify="right", no_wrap=True)
    table.add_column("after", justify="right", no_wrap=True)
    table.add_column("difference", justify="right")
    table.add_column("", no_wrap=True)
    for change in changes:
        found = change.difference
        table.add_row(found.measure.title, change.before.text, change.after.text, found.text, _said(change))
    return table


def _said(change: Change) -> Text:
    difference = change.difference
    if difference.better:
        return Text("better", style="green")
    if difference.worse:
        return Text("worse", style="bold red")
    if difference.clear:
        return Text("differs", style="yellow")
    if difference.low == difference.high == 0:
        return Text("the same", style="dim")
    return Text("not clear" if difference.enough else "too few seeds", style="dim")


def show_judgements(judgements: Sequence[Judgement], console: Console) -> None:
    """Print of each rule whether it holds, with what was measured, and how many do not."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for judgement in judgements:
        mark, style = ("✔", "green") if judgement.holds else ("✘", "bold red")
        table.add_row(Text(mark, style), Text(judgement.text, "" if judgement.holds else "bold red"))
    console.print(table)
    failed = sum(not judgement.holds for judgement in judgements)
    rules = "1 rule" if len(judgements) == 1 else f"{len(judgements)} rules"
    if failed:
        console.print(Text(f"{failed} of {rules} {'does' if failed == 1 else 'do'} not hold.", "bold red"))
    else:
        console.print(Text(f"{rules}, all hold." if len(judgements) > 1 else "The rule holds.", "bold green"))


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, _INDENT))
