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
    "ClaimBegan",
    "ClaimFailed",
    "ClaimLost",
    "ClaimRefused",
    "DeliveryFailed",
    "Event",
    "FaultInjected",
    "HedgeStarted",
    "IdempotencyBypassed",
    "InstanceEjected",
    "InstanceHealthy",
    "InstancePicked",
    "InstanceRestored",
    "InstanceUnhealthy",
    "LimitChanged",
    "MessageParked",
    "OutcomeLeftUnknown",
    "ResultRecorded",
    "ResultReplayed",
    "RetriesExhausted",
    "RetryScheduled",
    "SnapshotApplied",
    "SnapshotStale",
    "StaleServed",
    "StoreFailed",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFailed(Event):
    """Attempt `attempt` to deliver a message of an outbox failed; the next one is due after `delay` seconds."""

    key: str
    attempt: int
    delay: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageParked(Event):
    """A message of an outbox or an inbox is not tried any more until somebody has looked into it."""

    key: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimBegan(Event):
    """An executor may run the operation `name` under `key`.

    `takeover` tells that somebody began before and did not finish: that executor crashed, or is too slow for its lease.
    """

    key: str
    fence: int
    takeover: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRecorded(Event):
    """The operation under `key` is done, for everybody.

    `kept` is False where only that was recorded: a retry learns that it happened, and gets no result (too large, a
    stream, not serialisable).
    """

    key: str
    fence: int
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimFailed(Event):
    """An executor ended without a result: an exception, or `claim.release()`. `released`: the key is free at once."""

    key: str
    fence: int
    released: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimLost(Event):
    """An executor found its lease over: somebody else may run, and what this one came to is not recorded."""

    key: str
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultReplayed(Event):
    """A retry was answered with what was recorded."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRefused(Event):
    """Nothing ran: the key is being processed (`in_progress`), or belongs to another payload (`reused`)."""

    key: str
    reason: str
    retry_after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeLeftUnknown(Event):
    """Nothing ran: whoever ran it under `key` before did not report, and it may not be repeated. To be reconciled."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFailed(Event):
    """The store could not tell or could not record, and what it was asked for `key` was taken as refused."""

    key: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyBypassed(Event):
    """The store failed, and the request was served all the same, as `on_store_failure="open"` asks: it may run twice.

    `ran` is False where nothing has run yet (no claim could be taken), True where the outcome could not be recorded.
    """

    key: str
    error: str
    ran: bool


def send_event(emit: Callable[[Event], None], event: Event) -> None:
    """Hand `event` to `emit`, so that a faulty listener cannot fail a call: what it raises is logged."""
    try:
        emit(event)
    except Exception:  # noqa: BLE001 - whatever a listener raises is its own business
        _log.exception("an event listener failed on %r", event)
