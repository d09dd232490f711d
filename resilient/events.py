"""What happened, for logs, metrics and traces: frozen records named by past participles.

Events go to `Runtime.emit`. None listening, the default, means that none is built. Each carries `at`, the
runtime's monotonic second, and `name`, the operation or service it concerns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "CallRejected",
    "CircuitClosed",
    "CircuitHalfOpened",
    "CircuitIsolated",
    "CircuitOpened",
    "Event",
    "FaultInjected",
    "HedgeStarted",
    "InstanceEjected",
    "InstanceHealthy",
    "InstancePicked",
    "InstanceRestored",
    "InstanceUnhealthy",
    "LimitChanged",
    "RetriesExhausted",
    "RetryScheduled",
    "SnapshotApplied",
    "SnapshotStale",
    "StaleServed",
    "send_event",
]

_log = logging.getLogger("resilient")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened at the monotonic second `at`, to the operation or service `name`."""

    at: float
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled(Event):
    """Another attempt follows after `delay` seconds, because attempt `attempt` ended with `reason`."""

    attempt: int
    delay: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetriesExhausted(Event):
    """No further attempt: `reason` says why (attempts, stop, deadline, budget)."""

    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeStarted(Event):
    """A second attempt was sent although the first one still runs."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRejected(Event):
    """A policy refused the call; nothing was sent."""

    policy: str
    retry_after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitOpened(Event):
    """A circuit breaker opened for `cooldown` seconds."""

    cooldown: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitHalfOpened(Event):
    """A circuit breaker lets probes through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitClosed(Event):
    """A circuit breaker closed again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitIsolated(Event):
    """A circuit breaker was opened by hand and stays open until it is reset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultInjected(Event):
    """Chaos let a call suffer a fault: `Delay`, `Fail`, `Answer`, `LoseReply` or one of your own."""

    fault: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleServed(Event):
    """An old result was the answer: of `age` seconds, while it is `revalidating`, or because of an `error`."""

    age: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitChanged(Event):
    """An adaptive limit lets `limit` calls be in flight, after it let `before`."""

    before: int
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancePicked(Event):
    """The balancer chose `instance` for an attempt, for `reason`."""

    instance: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceEjected(Event):
    """`instance` gets no calls for `seconds`: it failed too often."""

    instance: str
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRestored(Event):
    """`instance` gets calls again."""

    instance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceUnhealthy(Event):
    """`instance` fails its health checks; `reason` is what the last one came to."""

    instance: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceHealthy(Event):
    """`instance` passes its health checks again."""

    instance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotApplied(Event):
    """Discovery changed what is known: `added` and `removed` are instance ids."""

    version: int
    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotStale(Event):
    """Discovery fails; the last good snapshot stays in force."""

    error: str


def send_event(emit: Callable[[Event], None], event: Event) -> None:
    """Hand `event` to `emit`, so that a faulty listener cannot fail a call: what it raises is logged."""
    try:
        emit(event)
    except Exception:  # noqa: BLE001 - whatever a listener raises is its own business
        _log.exception("an event listener failed on %r", event)
