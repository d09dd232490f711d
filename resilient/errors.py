"""Every error that the library raises, as one tree.

::

    ResilienceError
    |- Rejected                    this call was never attempted: repeating it cannot do anything twice
    |  |- CircuitOpen              a circuit breaker is open
    |  |- RateLimited              a rate limit has no room
    |  |- ConcurrencyExceeded      a bulkhead or a connection pool is full
    |  |- Overloaded               the far side refuses so much that the call was not sent
    |  `- NoInstance               there is no instance to send to
    |- DeadlineExceeded            the call's time is over; also a builtin TimeoutError
    |- OutcomeUnknown              it may have run and may not be repeated: reconcile
    |- IdempotencyError
    |  |- KeyReused                another payload under a known idempotency key
    |  |- InProgress               the same key is being processed at this moment
    |  `- ExpiredKey               the key is older than what the other side remembers
    |- DiscoveryError              the instances of a service could not be learned
    |- ConfigError                 a configuration was refused
    |- StoreUnavailable            a durable store could not be reached: nothing was run
    `- LeaseLost                   a lease ended while it was still needed

Wrong *arguments* are not here: they are a builtin `ValueError` or `TypeError`, raised at construction.
Every error is a fresh object: a shared exception instance would collect tracebacks for ever.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "CircuitOpen",
    "ConcurrencyExceeded",
    "ConfigError",
    "DeadlineExceeded",
    "DiscoveryError",
    "ExpiredKey",
    "IdempotencyError",
    "InProgress",
    "KeyReused",
    "LeaseLost",
    "NoInstance",
    "OutcomeUnknown",
    "Overloaded",
    "RateLimited",
    "Rejected",
    "ResilienceError",
    "StoreUnavailable",
]


class ResilienceError(Exception):
    """The root of every error of this library."""


class Rejected(ResilienceError):
    """A policy refused the call before anything was sent.

    `policy` is the policy that refused. `retry_after` says after how many seconds another call has a
    chance, or is None where nobody can know.
    """

    def __init__(self, message: str = "", *, policy: object = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.policy = policy
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        # A policy holds locks. What crosses a process boundary is its description.
        state = {**self.__dict__, "policy": None if self.policy is None else repr(self.policy)}
        return (type(self), self.args, state)


class CircuitOpen(Rejected):
    """The circuit breaker is open: the far side failed too often a moment ago."""


class RateLimited(Rejected):
    """The rate limit has no room for this call now."""


class ConcurrencyExceeded(Rejected):
    """As many calls as allowed are in flight, and the queue is full or was too slow."""


class Overloaded(Rejected):
    """The far side refuses so many calls that this one was dropped before it was sent."""


class NoInstance(Rejected):
    """No instance of the service is known, or none may be used."""


class DeadlineExceeded(ResilienceError, TimeoutError):
    """The call's deadline passed.

    `sent` tells whether anything was invoked: True when an attempt ran out of time (its effect is
    unknown), False when no time was left before it began (nothing happened). `overslept` is True where the caller's
    own process stood still over the deadline and noticed it much too late: the answer may have come in time, so this
    says nothing about whoever was called.
    """

    def __init__(self, message: str = "", *, sent: bool = True, overslept: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.overslept = overslept


class OutcomeUnknown(ResilienceError):
    """The operation may have taken effect and must not be repeated: reconcile it."""


class IdempotencyError(ResilienceError):
    """A call under an idempotency key cannot be answered as asked."""


class KeyReused(IdempotencyError):
    """The key was used before with another payload; the other payload was not run."""


class InProgress(IdempotencyError):
    """The same key is being processed now; `retry_after` is the rest of its lease in seconds."""

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ExpiredKey(IdempotencyError):
    """The key is older than the other side's memory: whether it was processed can no longer be told.

    `stale` tells that this was meant: its leased client has acknowledged the call, and a late copy of it came by.
    """

    def __init__(self, message: str = "", *, stale: bool = False) -> None:
        super().__init__(message)
        self.stale = stale


class DiscoveryError(ResilienceError):
    """The instances of a service could not be learned."""


class ConfigError(ResilienceError):
    """A configuration was refused; the last good one stays in force."""


class StoreUnavailable(ResilienceError):
    """A durable store could not be reached or did not answer; nothing was run on a guess."""


class LeaseLost(ResilienceError):
    """A lease ended, or was taken over, while its holder still needed it."""
