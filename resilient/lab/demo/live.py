"""What is seen in the terminal: the runs while they go on, the comparison, and the verdict."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self, final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column, Table
from rich.text import Text

from resilient.lab.demo.callers import Kind
from resilient.lab.demo.evidence import PROMPT, Evidence
from resilient.lab.demo.script import ATTEMPTS, Act, Settings
from resilient.lab.demo.verdict import FIGURES, Condition, Figure
from resilient.lab.load import Record

__all__ = ["TITLES", "Show", "comparison", "introduction", "outcome"]

TITLES: dict[Kind, str] = {"plain": "plain httpx", "resilient": "resilient"}
"""What the two clients are called."""

_REFRESH = 0.2


@final
class Show:
    """Shows the two runs while they go on: two bars in a terminal, a line for each event elsewhere."""

    def __init__(self, console: Console, settings: Settings) -> None:
        self._console = console
        self._settings = settings
        self._began = 0.0
        self._last = 0.0
        self._late = 0
        self._good: deque[float] = deque()
        self._progress: Progress | None = None
        self._bars: dict[Kind, TaskID] = {}
        self._kind: Kind = "plain"
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("  {task.description:<11}"),
                BarColumn(bar_width=14, complete_style="cyan", finished_style="cyan"),
                TextColumn("{task.fields[clock]:>7}", style="dim"),
                TextColumn("{task.fields[goodput]:>8}"),
                TextColumn("{task.fields[late]:>7}"),
                TextColumn("{task.fields[happening]}", table_column=Column(no_wrap=True)),
                console=console,
                auto_refresh=False,
            )

    def __enter__(self) -> Self:
        if self._progress is not None:
            for kind, title in TITLES.items():
                self._bars[kind] = self._progress.add_task(
                    title, total=self._settings.duration, clock="", goodput="", late="", happening=""
                )
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def starting(self, kind: Kind) -> None:
        """The processes are being started."""
        self._kind = kind
        words = f"{self._settings.instances} processes start"
        if self._progress is None:
            self._console.print(f"{TITLES[kind]}: {words}")
        else:
            self._say(words)

    def loading(self, kind: Kind) -> None:
        """The load begins now."""
        self._began = self._last = time.monotonic()
        self._late = 0
        self._good.clear()
        self._say("all is well")

    def happened(self, act: Act) -> None:
        """Something was done to instances."""
        self._say(act.says)

    def ended(self, record: Record) -> None:
        """A call is over."""
        if record.ok and record.latency <= self._settings.deadline:
            self._good.append(record.finished)
        else:
            self._late += 1
        now = time.monotonic()
        if self._progress is not None and now - self._last >= _REFRESH:
            self._last = now
            self._draw()

    def finished(self, evidence: Evidence) -> None:
        """The run is over."""
        if self._progress is None:
            self._console.print(
                f"{TITLES[evidence.kind]}: {len(evidence.records):,} calls, {evidence.late:,} not in time"
            )
            return
        found = evidence.audit
        said = f"{len(found.lost)} lost, {len(found.duplicated)} duplicated"
        style = "red" if found.lost or found.duplicated else "green"
        self._progress.update(
            self._bars[evidence.kind],
            completed=self._settings.duration,
            clock=f"{self._settings.duration:.0f} s",
            goodput="",
            happening=f"[{style}]{said}[/]",
        )
        self._progress.refresh()

    def _draw(self) -> None:
        assert self._progress is not None
        elapsed = min(time.monotonic() - self._began, self._settings.duration)
        while self._good and self._good[0] < elapsed - 1.0:
            self._good.popleft()
        self._progress.update(
            self._bars[self._kind],
            completed=elapsed,
            clock=f"{elapsed:.0f} s",
            goodput=f"{len(self._good)} ok/s",
            late=f"[red]{self._late} late[/]" if self._late else "[dim]0 late[/]",
        )
        self._progress.refresh()

    def _say(self, words: str) -> None:
        if self._progress is not None:
            self._progress.update(self._bars[self._kind], happening=f"[yellow]{words}[/]")
            self._progress.refresh()
        else:
            self._console.print(f"  {time.monotonic() - self._began:5.1f} s  {words}")


def introduction(settings: Settings) -> Text:
    """What is about to happen."""
    return Text.assemble(
        ("resilient demo", "bold"),
        "\n",
        f"{settings.instances} processes of an orders service, one SQLite database, {settings.rate:g} orders/s for "
        f"{settings.duration:g} s, twice through the same disasters (seed {settings.seed}).",
    )


def comparison(plain: Evidence, resilient: Evidence) -> Padding:
    """The two runs side by side; what is better is green."""
    settings = plain.settings
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    for run in (plain, resilient):
        table.add_column(TITLES[run.kind], justify="right", min_width=11)
    table.add_column("", style="dim", no_wrap=True)
    notes = {
        "success ratio": f"acknowledged within {settings.deadline:g} s",
        "latency p50": "successes, from when due",
        "attempts per call": f"at most {ATTEMPTS} of {settings.attempt_timeout:g} s each",
        "orders lost": "acknowledged, yet absent",
        "orders duplicated": "stored more than once",
        "recovery time": f"slowest, to p95 ≤ {PROMPT * 1000:.0f} ms",
    }
    for figure in FIGURES:
        cells = [_cell(figure, run, (plain, resilient)) for run in (plain, resilient)]
        table.add_row(figure.title, *cells, notes.get(figure.title, ""))
    return Padding(table, (0, 2))


def _cell(figure: Figure, run: Evidence, runs: tuple[Evidence, Evidence]) -> Text:
    style = "bold green" if figure.winner(*runs) is run else ""
    return Text(figure.text(run), style=style)


def outcome(conditions: Sequence[Condition]) -> Text:
    """What holds and what does not."""
    text = Text()
    for condition in conditions:
        mark, style = ("✔", "green") if condition.holds else ("✘", "bold red")
        text.append(f"  {mark} ", style=style)
        text.append(f"{condition.found}\n", style="" if condition.holds else "bold red")
    proven = all(condition.holds for condition in conditions)
    text.append("  Proven." if proven else "  Not proven.", style="bold green" if proven else "bold red")
    return text
