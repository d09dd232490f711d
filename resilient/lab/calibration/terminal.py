"""A calibration in the terminal. Needs rich, which the extra `cli` brings."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from resilient.lab.calibration.calibrating import Calibrated, Calibration
from resilient.lab.calibration.explaining import Cause, Figure
from resilient.lab.drawing.axis import NOTHING, quantity
from resilient.lab.reporting.measures import measure_of

__all__ = ["show_calibration"]

_STYLES: dict[Cause, str] = {"same": "dim", "machine": "yellow", "unexplained": "bold red"}
_BUSY = 0.7
"""The share of a processor beyond which whatever is due waits for its turn longer than it takes."""
_WAITING = 0.01
"""The share of the time that a process may wait for a processor on a quiet machine."""


def show_calibration(calibration: Calibration, console: Console) -> None:
    """Print of each policy what was measured, every figure simulated and real, and what their difference is due to."""
    scenario = calibration.scenario
    knobs = ", ".join(f"{name}={value}" for name, value in scenario.knobs.items())
    console.print(Text.assemble((scenario.name, "bold"), f"  {scenario.duration:g} s", f", {knobs}" if knobs else ""))
    for one in calibration.policies:
        console.print()
        _show(one, console)


def _show(one: Calibrated, console: Console) -> None:
    console.print(Text(one.policy, "bold"))
    console.print(Padding(Text("\n".join(_measured(one)), "dim"), (0, 0, 0, 2)))
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for title in ("simulated", "sockets", "delta"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("due to", no_wrap=True)
    said = Table.grid(padding=(0, 2, 0, 0))
    said.add_column(style="dim", no_wrap=True)
    said.add_column()
    for figure, explanation in one.figures:
        style = _STYLES.get(explanation.cause, "")
        table.add_row(*_row(figure), Text("" if explanation.cause == "same" else explanation.cause, style))
        if explanation.text:
            said.add_row(measure_of(figure.metric).title, Text(f"{explanation.text}.", style))
    console.print(Padding(table, (0, 0, 0, 2)))
    console.print(Padding(said, (0, 0, 0, 2)))


def _measured(one: Calibrated) -> list[str]:
    idle, run = one.idle, one.conditions
    waited = "" if run.waited is None else f", and waited for a CPU in {quantity(run.waited, '%')}"
    lines = [
        f"An idle call over the socket takes {quantity(idle.latency, 's')} more, {quantity(idle.cpu, 's')} of it CPU.",
        f"This process ran in {quantity(run.cpu, '%')} of {run.seconds:.0f} s{waited}; the event loop was late by "
        f"{quantity(run.late, 's')} on average, {quantity(run.late_percentiles[-2], 's')} once in a hundred times, "
        f"{quantity(run.late_percentiles[-1], 's')} at worst; {run.opened} connections opened, {run.refused} refused"
        + (f", {run.unanswered} given up." if run.unanswered else "."),
    ]
    if run.cpu > _BUSY:
        lines.append("This process was too busy for its figures to be trusted: make the scenario smaller.")
    if run.waited is not None and run.waited > _WAITING:
        lines.append("Other programs kept the processors busy: latencies are theirs, too. A quiet machine tells more.")
    return lines


def _row(figure: Figure) -> tuple[str, ...]:
    measure = measure_of(figure.metric)
    delta = figure.delta
    said = NOTHING if delta is None else measure.difference_texts(delta, delta, delta)[0] if delta else "0"
    return measure.title, measure.text(figure.simulated), measure.text(figure.real), said
