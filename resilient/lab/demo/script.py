"""What the demo does: how much load for how long, and which disaster strikes whom when."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, final

from resilient.lab.demo.faults import SLOWER, Fault

__all__ = ["ATTEMPTS", "Act", "Deed", "Disaster", "Settings"]

ATTEMPTS = 3
"""How many attempts either caller makes at most: what `Retry` makes by default, and most people write."""

Deed: TypeAlias = Literal["start", "kill", "wake", "heal"] | Fault
"""What is done to an instance."""

_FEWEST, _MOST = 3, 16
_SHORTEST, _LONGEST = 6.0, 600.0
_HIGHEST_RATE = 1000.0
_SCHEDULE: tuple[tuple[Literal["kill"] | Fault, float, float], ...] = (
    # When it begins and ends, in parts of the run. The killed instance does not come back: a new one replaces it.
    ("kill", 0.10, 0.82),
    ("stop", 0.20, 0.34),
    ("slow", 0.38, 0.50),
    ("fail", 0.54, 0.66),
    ("lose", 0.68, 0.80),
)


class Act(NamedTuple):
    """One deed at one moment, in seconds since the load began."""

    at: float
    deed: Deed
    instances: tuple[str, ...]
    says: str
    """What has happened, for people."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Disaster:
    """Something that goes wrong for a while."""

    title: str
    """What is the matter, for people."""
    relief: str
    """What ends it."""
    kind: Literal["kill"] | Fault
    victims: tuple[str, ...]
    start: float
    end: float
    """When it is undone; a killed instance is replaced."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is run, twice.

    `rate`
        Orders a second (100), due at a constant interval whatever became of the earlier ones.
    `duration`
        Seconds of load of each of the two runs (40).
    `seed`
        Of everything that is drawn: how long each order takes, retry jitter, the balancer's choices (1).
    `instances`
        Processes of the service at the beginning (5).
    `attempt_timeout`
        Seconds that either caller waits for an attempt (1.0).
    `deadline`
        Seconds within which an order has to be acknowledged to be in time (3.0: what three attempts may take).

    Raises `ValueError` for what is out of its range.
    """

    rate: float = 100.0
    duration: float = 40.0
    seed: int = 1
    instances: int = 5
    attempt_timeout: float = 1.0
    deadline: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.rate <= _HIGHEST_RATE:
            raise ValueError(f"rate={self.rate!r}: orders a second, more than 0 and at most {_HIGHEST_RATE:g}")
        if not _SHORTEST <= self.duration <= _LONGEST:
            raise ValueError(f"duration={self.duration!r}: between {_SHORTEST:g} and {_LONGEST:g} seconds")
        if not _FEWEST <= self.instances <= _MOST:
            raise ValueError(f"instances={self.instances!r}: between {_FEWEST} and {_MOST} processes")
        for name, seconds in (("attempt_timeout", self.attempt_timeout), ("deadline", self.deadline)):
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"{name}={seconds!r}: a finite number of seconds, more than 0")

    @property
    def fleet(self) -> tuple[str, ...]:
        """The names of the instances at the beginning."""
        return tuple(f"orders-{number}" for number in range(1, self.instances + 1))

    @property
    def newcomer(self) -> str:
        """The name of the instance that joins later."""
        return f"orders-{self.instances + 1}"

    @property
    def disasters(self) -> tuple[Disaster, ...]:
        """What goes wrong, in the order of time."""
        killed, *alive = self.fleet
        stopped, slow, failing = (alive[number % len(alive)] for number in range(3))
        told: dict[str, tuple[str, str, tuple[str, ...]]] = {
            "kill": (f"{killed} is killed", f"{self.newcomer} joins", (killed,)),
            "stop": (f"{stopped} stops itself", f"{stopped} wakes up", (stopped,)),
            "slow": (f"{slow} is {SLOWER:g}x slower", f"{slow} is fast again", (slow,)),
            "fail": (f"{failing} answers 500", f"{failing} is well again", (failing,)),
            "lose": ("replies lost after commit", "replies arrive again", tuple(alive)),
        }
        return tuple(
            Disaster(
                title=told[kind][0],
                relief=told[kind][1],
                kind=kind,
                victims=told[kind][2],
                start=round(start * self.duration, 3),
                end=round(end * self.duration, 3),
            )
            for kind, start, end in _SCHEDULE
        )

    def acts(self) -> list[Act]:
        """Everything that is done to instances, in the order of time."""
        return sorted(self._acts(), key=lambda act: act.at)

    def _acts(self) -> Iterator[Act]:
        for disaster in self.disasters:
            yield Act(disaster.start, disaster.kind, disaster.victims, disaster.title)
            if disaster.kind == "kill":
                yield Act(disaster.end, "start", (self.newcomer,), disaster.relief)
            else:
                undo: Deed = "wake" if disaster.kind == "stop" else "heal"
                yield Act(disaster.end, undo, disaster.victims, disaster.relief)
