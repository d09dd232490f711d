"""The whole demo: both runs, the comparison, the verdict and the report."""

from __future__ import annotations

import signal
import tempfile
from datetime import datetime
from pathlib import Path

import anyio
from rich.console import Console

from resilient.lab.demo.callers import CALLERS
from resilient.lab.demo.evidence import Evidence
from resilient.lab.demo.experiment import run
from resilient.lab.demo.fleet import FleetError
from resilient.lab.demo.live import Show, comparison, introduction, outcome
from resilient.lab.demo.page import page
from resilient.lab.demo.script import Settings
from resilient.lab.demo.verdict import caution_of, judge

__all__ = ["Settings", "run_demo"]


def run_demo(settings: Settings, *, out: Path, console: Console) -> int:
    """Run it and return the exit code: 0 proven, 1 not proven, 128 + n ended by signal n. No process is left behind."""
    out.parent.mkdir(parents=True, exist_ok=True)  # now, not when all is done
    console.print(introduction(settings))
    console.print()
    try:
        runs = anyio.run(_both, settings, console)
    except FleetError as error:
        console.print(f"The demo failed: {error}", style="bold red", markup=False)
        return 1
    if isinstance(runs, signal.Signals):
        console.print(f"Ended by {runs.name}; no process is left behind.")
        return 128 + runs
    plain, resilient = runs
    conditions = judge(plain, resilient)
    console.print()
    console.print(comparison(plain, resilient))
    console.print(outcome(conditions))
    if (caution := caution_of(plain, resilient)) is not None:
        console.print(f"  {caution}", style="yellow")
    out.write_text(page(plain, resilient, conditions, made=datetime.now().astimezone()).html(), encoding="utf-8")
    console.print(f"  Report: {out.resolve().as_uri()}", soft_wrap=True)
    return 0 if all(condition.holds for condition in conditions) else 1


async def _both(settings: Settings, console: Console) -> tuple[Evidence, Evidence] | signal.Signals:
    """Make both runs, or as much of them as a signal leaves time for."""
    caught: signal.Signals | None = None
    failure: FleetError | None = None
    runs: list[Evidence] = []

    async def end_at_signal() -> None:
        nonlocal caught
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            caught = await anext(aiter(signals))
        tasks.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end_at_signal)
            with Show(console, settings) as show:
                for kind in CALLERS:
                    with tempfile.TemporaryDirectory(prefix="resilient-demo-") as folder:
                        runs.append(await run(kind, settings, Path(folder), show))
            tasks.cancel_scope.cancel()
    except* FleetError as group:
        failure = _first(group)
    if failure is not None:
        raise failure
    if caught is not None:
        return caught
    plain, resilient = runs
    return plain, resilient


def _first(group: BaseExceptionGroup[FleetError]) -> FleetError:
    first = group.exceptions[0]
    return first if isinstance(first, FleetError) else _first(first)
