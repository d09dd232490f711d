"""What one run came to: the records of its calls, the rows of its database, and what follows from both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

from resilient.events import Event
from resilient.lab.demo.callers import Kind
from resilient.lab.demo.ledger import Audit
from resilient.lab.demo.script import Disaster, Settings
from resilient.lab.load import Record
from resilient.lab.metrics import Summary, summarise

__all__ = ["PROMPT", "Evidence", "Spell", "recovery"]

PROMPT = 0.25
"""Seconds. Within these an answer is prompt: some ten times what one takes when all is well."""
_AGAIN = 0.95
_WINDOW = 1.0
_STEP = 0.25


def recovery(records: Sequence[Record], *, start: float, end: float) -> float | None:
    """Return the seconds from `start` until calls are answered promptly again, None if that is not before `end`.

    They last until the beginning of the first second in which 95 % of the calls that are due get an answer within
    `PROMPT`. Zero: hardly anybody noticed. Goodput would not tell: three attempts hide from it that a fifth of the
    calls hangs.
    """
    steps = int((end - start - _WINDOW) / _STEP + 1e-9)
    for step in range(steps + 1):
        begin = start + step * _STEP
        due = [record for record in records if begin <= record.intended < begin + _WINDOW]
        prompt = sum(record.ok and record.latency <= PROMPT for record in due)
        if due and prompt >= _AGAIN * len(due):
            return step * _STEP
    return None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """What one disaster did to the calls that were due from its beginning until it ended, or the next one began."""

    disaster: Disaster
    summary: Summary
    late: int
    """Calls that failed or took longer than the deadline."""
    duplicated: int
    recovery: float | None


@final
@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One run."""

    kind: Kind
    settings: Settings
    records: Sequence[Record]
    """Of the orders 0, 1, 2, ..."""
    audit: Audit
    events: Sequence[tuple[float, Event]] = field(default=())
    """What the library did and when, in seconds since the load began."""

    def in_time(self, record: Record) -> bool:
        """Whether the call was answered within the deadline."""
        return record.ok and record.latency <= self.settings.deadline

    @cached_property
    def summary(self) -> Summary:
        """The whole run in one line."""
        return summarise(self.records, end=self.settings.duration, deadline=self.settings.deadline)

    @property
    def late(self) -> int:
        """Calls that failed or took longer than the deadline."""
        return sum(not self.in_time(record) for record in self.records)

    @property
    def in_time_ratio(self) -> float:
        """The share of the calls that were answered within the deadline, to four digits, never rounded up."""
        calls = len(self.records)
        return (10_000 * (calls - self.late) // calls) / 10_000

    @cached_property
    def spells(self) -> tuple[Spell, ...]:
        """What each disaster did."""
        disasters = self.settings.disasters
        nexts = [*(disaster.start for disaster in disasters[1:]), self.settings.duration]
        return tuple(
            self._spell(disaster, min(disaster.end, until)) for disaster, until in zip(disasters, nexts, strict=True)
        )

    @property
    def slowest_recovery(self) -> float | None:
        """The longest recovery from a disaster; None: from one of them there was none while it lasted."""
        times = [spell.recovery for spell in self.spells]
        return None if None in times else max(time for time in times if time is not None)

    @property
    def failures(self) -> Counter[str]:
        """Why calls were not in time, and how often."""
        return Counter(
            record.outcome if not record.ok else "late" for record in self.records if not self.in_time(record)
        )

    @property
    def behind(self) -> float:
        """Seconds by which the load generator was late at most: that much of a latency may be its own."""
        return max(record.started - record.intended for record in self.records)

    def _spell(self, disaster: Disaster, until: float) -> Spell:
        start = disaster.start
        numbers = [number for number, record in enumerate(self.records) if start <= record.intended < until]
        records = [self.records[number] for number in numbers]
        return Spell(
            disaster=disaster,
            summary=summarise(records, start=start, end=until, deadline=self.settings.deadline),
            late=sum(not self.in_time(record) for record in records),
            duplicated=len(set(numbers).intersection(self.audit.duplicated)),
            recovery=recovery(self.records, start=start, end=until),
        )
