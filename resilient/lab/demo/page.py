"""The report of both runs, as one HTML page."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate

from resilient.events import (
    Event,
    InstanceEjected,
    InstancePicked,
    InstanceRestored,
    RetriesExhausted,
    RetryScheduled,
    SnapshotApplied,
)
from resilient.lab.demo.app import LEASE
from resilient.lab.demo.evidence import PROMPT, Evidence, Spell
from resilient.lab.demo.faults import LOST
from resilient.lab.demo.live import TITLES
from resilient.lab.demo.script import ATTEMPTS, Settings
from resilient.lab.demo.server import TTL
from resilient.lab.demo.verdict import FIGURES, Condition, caution_of
from resilient.lab.drawing.report import Band, Column, Line, Marker, Page, Plot, Section, Stat, Table, Text
from resilient.lab.metrics import series

__all__ = ["page"]

_WIDTH = 1.0
"""Seconds of each point of a plot."""
_MILLISECONDS = 3
"""Decimals, where one client takes seconds and the other does not."""


def page(plain: Evidence, resilient: Evidence, conditions: Sequence[Condition], *, made: datetime) -> Page:
    """Lay the report out."""
    proven = all(condition.holds for condition in conditions)
    return Page(
        title="Five disasters, twice",
        lead=(
            f"The same {len(plain.records):,} orders were sent to the same small service through the same disasters, "
            f"once with a plain httpx client (round robin, {ATTEMPTS} attempts) and once through resilient. "
            + ("Everything that this was to prove is proven." if proven else "It does not prove what it was to prove.")
        ),
        facts=_facts(plain, made),
        sections=[
            Section(blocks=_stats(plain, resilient)),
            Section(
                title="Side by side",
                blocks=[
                    _comparison(plain, resilient),
                    *(Text(_sentence(condition)) for condition in conditions),
                    *(Text(caution) for caution in [caution_of(plain, resilient)] if caution is not None),
                ],
            ),
            Section(
                title="Over time",
                lead="Calls count in the second in which they ended, orders in which they were due.",
                blocks=_plots(plain, resilient),
            ),
            Section(
                title="Who was asked",
                lead="Attempts that each instance was sent, by second. Without a disaster each would get its share.",
                blocks=[_spread(run) for run in (plain, resilient)],
            ),
            Section(
                title="Disaster by disaster",
                lead="The calls that were due from the beginning of each until it ended or the next one began.",
                blocks=[_by_disaster(plain, resilient)],
            ),
            Section(title="What resilient did", blocks=_deeds(resilient)),
            Section(title="How it was measured", blocks=_method(plain, resilient)),
        ],
    )


def _facts(run: Evidence, made: datetime) -> dict[str, str]:
    settings = run.settings
    return {
        "Load": f"{settings.rate:g} orders/s for {settings.duration:g} s",
        "Processes": str(settings.instances),
        "Seed": str(settings.seed),
        "Machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "Python": platform.python_version(),
        "httpx": version("httpx"),
        "resilient": _own_version(),
        "Made": made.strftime("%Y-%m-%d %H:%M"),
    }


def _own_version() -> str:
    try:
        return version("resilient-mesh")
    except PackageNotFoundError:
        return "not installed: run from its source"


def _stats(plain: Evidence, resilient: Evidence) -> list[Stat]:
    chosen = ("orders duplicated", "orders lost", "success ratio", "latency p99", "recovery time")
    figures = {figure.title: figure for figure in FIGURES}
    return [
        Stat(title.capitalize(), figures[title].text(resilient), f"{TITLES['plain']}: {figures[title].text(plain)}")
        for title in chosen
    ]


def _comparison(plain: Evidence, resilient: Evidence) -> Table:
    columns = [Column(title="")]
    columns += [
        Column(
            title=figure.heading,
            unit=figure.unit,
            decimals=_MILLISECONDS if figure.heading in {"p99", "p99.9"} else None,
            best=figure.best if figure.winner(plain, resilient) else None,
        )
        for figure in FIGURES
    ]
    rows = [[TITLES[run.kind], *(figure.of(run) for figure in FIGURES)] for run in (plain, resilient)]
    deadline = plain.settings.deadline
    return Table(
        columns=columns,
        rows=rows,
        caption=(
            f"What is better is bold. Success: acknowledged within {deadline:g} s. Latencies are those of successful "
            "calls, from when each was due. Attempts: for each call. Lost: acknowledged, but not in the database. "
            "Duplicated: in the database more than once. Recovery: from the beginning of a disaster to the first "
            f"second in which 95 % of the calls due are answered within {PROMPT * 1000:.0f} ms, for the slowest."
        ),
    )


def _sentence(condition: Condition) -> str:
    return f"{'✔' if condition.holds else '✘ Not so:'} {condition.found}."


def _plots(plain: Evidence, resilient: Evidence) -> list[Plot]:
    runs = (plain, resilient)
    settings = plain.settings
    cut = {
        run.kind: series(run.records, width=_WIDTH, end=settings.duration, deadline=settings.deadline) for run in runs
    }

    def lines(of: str) -> list[Line]:
        return [
            Line(
                label=TITLES[run.kind],
                points=[(window.start + _WIDTH / 2, getattr(window, of)) for window in cut[run.kind]],
            )
            for run in runs
        ]

    duplicates = [Line(label=TITLES[run.kind], points=_duplicates(run), step=True) for run in runs]
    return [
        _plot(settings, "Orders duplicated so far", "orders", duplicates),
        _plot(settings, "Latency, 99th percentile", "s", lines("p99"), log=True),
        _plot(settings, "Answered in time", "calls/s", lines("goodput"), top=settings.rate),
        _plot(settings, "Attempts", "attempts/s", lines("attempts"), top=settings.rate),
    ]


def _plot(
    settings: Settings, title: str, unit: str, lines: Sequence[Line], *, log: bool = False, top: float | None = None
) -> Plot:
    killed, *others = settings.disasters
    return Plot(
        title=title,
        unit=unit,
        lines=lines,
        bands=[Band(disaster.start, disaster.end, disaster.title) for disaster in others],
        markers=[Marker(killed.start, killed.title), Marker(killed.end, killed.relief)],
        log=log,
        start=0.0,
        end=settings.duration,
        top=top,
    )


def _spread(run: Evidence) -> Plot:
    settings = run.settings
    asked: dict[str, Counter[int]] = {name: Counter() for name in (*settings.fleet, settings.newcomer)}
    for at, event in run.events:
        if isinstance(event, InstancePicked):
            asked[event.instance][int(at / _WIDTH)] += 1
    lines = [
        Line(
            label=name,
            points=[
                ((second + 0.5) * _WIDTH, times[second] / _WIDTH) for second in range(int(settings.duration / _WIDTH))
            ],
        )
        for name, times in asked.items()
    ]
    return _plot(settings, TITLES[run.kind], "attempts/s", lines)


def _duplicates(run: Evidence) -> list[tuple[float, float | None]]:
    seconds = int(run.settings.duration)
    added = [0] * (seconds + 1)
    for number in run.audit.duplicated:
        added[min(int(run.records[number].intended) + 1, seconds)] += 1
    return [(float(second), float(total)) for second, total in enumerate(accumulate(added))]


def _by_disaster(plain: Evidence, resilient: Evidence) -> Table:
    columns = [Column(title="Disaster"), Column(title="Client")]
    columns += [
        Column(title="Success", unit="%"),
        Column(title="p50", unit="s"),
        Column(title="p99", unit="s", decimals=_MILLISECONDS),
        Column(title="Attempts per call", decimals=2),
        Column(title="Duplicated"),
        Column(title="Recovery", unit="s", decimals=2),
    ]
    rows: list[list[str | float | None]] = []
    for spells in zip(plain.spells, resilient.spells, strict=True):
        for run, spell in zip((plain, resilient), spells, strict=True):
            rows.append([spell.disaster.title if run is plain else "", TITLES[run.kind], *_spell(spell)])
    return Table(columns=columns, rows=rows, caption="A dash: it did not recover before the disaster was over.")


def _spell(spell: Spell) -> list[float | None]:
    summary = spell.summary
    return [
        1.0 - spell.late / summary.calls if summary.calls else None,
        summary.p50,
        summary.p99,
        summary.attempts_per_call,
        spell.duplicated,
        spell.recovery,
    ]


def _deeds(run: Evidence) -> list[Text | Table]:
    retries = sum(isinstance(event, RetryScheduled) for _, event in run.events)
    given_up = sum(isinstance(event, RetriesExhausted) for _, event in run.events)
    rows: list[list[str | float | None]] = [
        [f"{at:.1f} s", words] for at, event in run.events if (words := _in_words(event)) is not None
    ]
    intro = (
        f"Further attempts, each under the idempotency key of the first: {retries:,}. Calls given up: {given_up:,} of "
        f"{len(run.records):,}. It sends to the instance that it expects to answer sooner, and so leaves one that "
        "hangs, fails or is slow before the registry says that it is gone."
    )
    table = Table(columns=[Column(title="Second"), Column(title="What it learned and decided")], rows=rows)
    return [Text(intro), table] if rows else [Text(intro)]


def _in_words(event: Event) -> str | None:
    match event:
        case InstanceEjected(instance=instance, seconds=seconds, reason=reason):
            return f"{instance} gets no calls for {seconds:.1f} s: {reason}"
        case InstanceRestored(instance=instance):
            return f"{instance} gets calls again"
        case SnapshotApplied(added=added, removed=removed):
            parts = [f"{', '.join(names)} {verb}" for names, verb in ((added, "found"), (removed, "gone")) if names]
            return f"registry: {'; '.join(parts)}" if parts else None
        case _:
            return None


def _method(plain: Evidence, resilient: Evidence) -> list[Text]:
    settings = plain.settings
    behind = max(run.behind for run in (plain, resilient))
    return [
        Text(
            f"Both runs begin with {settings.instances} fresh processes (Starlette on uvicorn) and a fresh SQLite "
            "database that they share. Orders are due at a constant rate and are sent when they are due, whatever "
            "became of the earlier ones (open loop). An order takes about 12 ms of work, drawn from the seed by its "
            "number, so it is the same in both runs. The load generator itself was late by "
            f"{behind * 1000:.0f} ms at most."
        ),
        Text(
            "Both clients take the instances from the same registry, in which each process renews its entry; it "
            f"expires after {TTL:g} s. Both give an attempt {settings.attempt_timeout:g} s and make at most "
            f"{ATTEMPTS}. The plain one goes round the list and tries the next one after a transport error, a "
            "timeout or a 5xx. The other is a Service with its default policies; it adds an Idempotency-Key, and the "
            "service commits order and key in one transaction. An instance that dies keeps its order for a lease of "
            f"{LEASE:g} s."
        ),
        Text(
            "A killed process gets SIGKILL. A stopped one stops itself (SIGSTOP) while it works on an order, but not "
            f"inside a transaction. Replies are lost by resetting the connection of one in {LOST} after the "
            "commit. SQLite does not wait for the disk: processes die here, not the machine."
        ),
        Text(
            "When all calls have ended, the processes finish what they still have and leave; then the database is held "
            f"against what the callers were told. Calls without an answer: {len(plain.audit.unknown)} with the plain "
            f"client, of which {len(plain.audit.unknown_done)} had taken effect; {len(resilient.audit.unknown)} "
            f"through resilient, of which {len(resilient.audit.unknown_done)} had."
        ),
    ]
