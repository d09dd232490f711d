"""Leased clients in the memory of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, final

from resilient.backends.clients import ClientCall, LeasedAnswer, Refused, scope_of
from resilient.backends.store import Answer
from resilient.errors import StoreUnavailable

__all__ = ["BlockingMemoryClients"]

_SWEEP = 4


class Claims(Protocol):
    """What is needed of the store of claims."""

    def begin(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float, takeover: bool = True
    ) -> Answer: ...
    def remove(self, scope: str, key: str) -> bool: ...


@dataclass(slots=True)
class _Row:
    principal: str
    lease: float
    lease_until: float
    acknowledged: int = 0
    records: set[int] = field(default_factory=set[int])
    """The numbers of which there may be a record."""


@final
class BlockingMemoryClients:
    """At most `max_records` clients; a full store raises `StoreUnavailable`."""

    waits = False

    def __init__(self, claims: Claims, now: Callable[[], float], *, max_records: int) -> None:
        self._claims = claims
        self._now = now
        self._max_records = max_records
        self._lock = threading.Lock()  # claims of clients are begun and removed only under it
        self._rows: dict[str, _Row] = {}

    def register(self, client: str, principal: str, *, lease: float) -> None:
        """Give a client its lease."""
        with self._lock:
            self._collect(_SWEEP)
            if len(self._rows) >= self._max_records:
                raise StoreUnavailable(f"{self!r} is full, and no client's lease is over")
            self._rows[client] = _Row(principal, lease, self._now() + lease)

    def renew(self, client: str, principal: str, acknowledged: int, *, lease: float) -> bool:
        """Let its lease begin anew, unless it is over."""
        with self._lock:
            self._collect(_SWEEP)
            row = self._find(client, principal)
            if row is None or row.lease_until <= self._now():
                return False
            self._forget(client, row, acknowledged)
            row.lease, row.lease_until = lease, self._now() + lease
        return True

    def begin(
        self,
        call: ClientCall,
        principal: str,
        fingerprint: bytes,
        *,
        owner: str,
        lease: float,
        ttl: float,
        takeover: bool,
    ) -> LeasedAnswer:
        """Ask for the right to run a call of a client."""
        client, number = call.client, call.number
        with self._lock:
            row = self._find(client, principal)
            if row is None:
                return Refused("expired")
            self._forget(client, row, call.acknowledged)
            if number <= row.acknowledged:
                return Refused("stale")
            if row.lease_until <= self._now() and number not in row.records:
                return Refused("expired")
            answer = self._claims.begin(
                scope_of(client), str(number), fingerprint, owner=owner, lease=lease, ttl=ttl, takeover=takeover
            )
            row.records.add(number)
        return answer

    def leave(self, client: str, principal: str) -> bool:
        """End its lease."""
        with self._lock:
            row = self._find(client, principal)
            if row is None:
                return False
            row.lease_until = -float("inf")
            self._remove(client, row)
        return True

    def collect(self, limit: int = 100) -> int:
        """Remove clients whose lease ended a lease ago."""
        with self._lock:
            return self._collect(limit)

    def count(self) -> int:
        """How many clients there are."""
        return len(self._rows)

    def close(self) -> None:
        """There is nothing to give back."""

    def __repr__(self) -> str:
        return f"MemoryClients(max_records={self._max_records})"

    def _find(self, client: str, principal: str) -> _Row | None:
        row = self._rows.get(client)
        return row if row is not None and row.principal == principal else None

    def _forget(self, client: str, row: _Row, acknowledged: int) -> None:
        if acknowledged > row.acknowledged:
            row.acknowledged = acknowledged
            over = [number for number in row.records if number <= acknowledged]
            row.records.difference_update(
                number for number in over if self._claims.remove(scope_of(client), str(number))
            )

    def _remove(self, client: str, row: _Row) -> bool:
        scope = scope_of(client)
        gone = [number for number in row.records if self._claims.remove(scope, str(number))]
        row.records.difference_update(gone)
        if row.records:  # something of it still runs
            return False
        del self._rows[client]
        return True

    def _collect(self, limit: int) -> int:
        now = self._now()
        over = [client for client, row in self._rows.items() if row.lease_until + row.lease <= now]
        return sum(self._remove(client, self._rows[client]) for client in over[:limit])
