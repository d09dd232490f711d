"""What passes between callers and servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, final

from resilient.call import Priority
from resilient.machines.load import Load

__all__ = ["Errand", "Job", "Reply"]

_FIRST_BAD = 400
_FAN_OUT = 64
"""More attempts than any policy makes of one call, and more calls than any server makes for one: no two errands of a
tier have the same number."""


class Reply(NamedTuple):
    """A server's answer, in the status codes of HTTP, which every classifier understands."""

    status: int = 200
    value: Any = None
    retry_after: float | None = None
    """Seconds that the server asks to wait."""
    intact: bool = True
    """Whether its checksum holds: a reply that was changed on its way does not pass for a right one."""
    load: Load | None = None
    """How busy the server is, by its own account, where anybody goes by that."""

    @property
    def ok(self) -> bool:
        """Whether the server did what it was asked."""
        return self.status < _FIRST_BAD


@final
class Errand:
    """What a caller wants of a tier: the same under every policy."""

    __slots__ = ("attempts", "key", "number", "origin", "priority", "repeatable", "zone")

    def __init__(
        self,
        number: int,
        *,
        repeatable: bool = True,
        priority: Priority = Priority.CRITICAL,
        key: int = 0,
        zone: str | None = None,
        origin: int | None = None,
    ) -> None:
        self.number = number
        """Of the logical call at its tier, the same under every policy: service times and faults are drawn by it."""
        self.repeatable = repeatable
        """Whether its operation may run twice by nature: a read."""
        self.priority = priority
        self.key = key
        """What it concerns: a customer, a row, a shard."""
        self.zone = zone
        """Where its caller is."""
        self.origin = number if origin is None else origin
        """The number of the user's call that it is made for, at whatever depth."""
        self.attempts = 0
        """How often it was sent."""

    def onward(self, attempt: int, step: int, zone: str | None) -> Errand:
        """The errand that a server in `zone` has for this one's attempt, as the call number `step` that it makes."""
        return Errand(
            (self.number * _FAN_OUT + attempt) * _FAN_OUT + step,
            repeatable=self.repeatable,
            priority=self.priority,
            key=self.key,
            zone=zone,
            origin=self.origin,
        )


@final
class Job:
    """One attempt, as the server that it reached sees it."""

    __slots__ = (
        "answer",
        "arrived",
        "attempt",
        "deadline",
        "errand",
        "finishes",
        "idempotency_key",
        "left",
        "priority",
        "started",
    )

    def __init__(
        self,
        errand: Errand,
        attempt: int,
        answer: Callable[[Job, Reply | Exception], object],
        *,
        deadline: float | None,
        priority: Priority,
        idempotency_key: str | None,
    ) -> None:
        self.errand = errand
        self.attempt = attempt
        """How often the errand was sent before, from 0 on."""
        self.answer = answer
        """Takes the reply, or what the caller's connection dies of."""
        self.deadline = deadline
        """When the caller stops waiting, if it told the server."""
        self.priority = priority
        self.idempotency_key = idempotency_key
        self.arrived = 0.0
        self.started = 0.0
        self.finishes = 0.0
        """When its work is done; moved by whatever holds the server up."""
        self.left = False
        """Whether the caller has gone, or has its answer. The server does not know, and works on."""

    def again(self) -> Job:
        """The same attempt, as a network that repeats itself delivers it."""
        return Job(
            self.errand,
            self.attempt,
            self.answer,
            deadline=self.deadline,
            priority=self.priority,
            idempotency_key=self.idempotency_key,
        )
