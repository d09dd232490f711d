"""A store that lives and dies with the process: for tests, and for what may be forgotten at a restart."""

from __future__ import annotations

import heapq
import math
import threading
from dataclasses import dataclass
from typing import Literal, NoReturn, final

from resilient.backends.clients import BlockingClientStore
from resilient.backends.faces import DirectStore
from resilient.backends.intents import BlockingIntentStore
from resilient.backends.store import STARTED, Answer, Mode, Record, Run, Stats
from resilient.context import current_runtime
from resilient.errors import StoreUnavailable
from resilient.runtime import Runtime

__all__ = ["BlockingMemoryStore", "MemoryStore"]

_SWEEP = 8
"""How many forgotten records each new claim removes: more than it adds."""


@final
class MemoryStore(DirectStore):
    """Records in this process's memory: modes `fenced` and `at_most_once`.

    `max_records` (100,000: at a few hundred bytes each, tens of megabytes) bounds the table. A full store of records
    that may not be forgotten yet raises `StoreUnavailable`: dropping one early would be a silent second run.
    `runtime` replaces the ambient one, whose `now` times leases and retention.
    """

    def __init__(self, *, max_records: int = 100_000, runtime: Runtime | None = None) -> None:
        super().__init__(BlockingMemoryStore(max_records=max_records, runtime=runtime))


@dataclass(slots=True)
class _Row:
    fingerprint: bytes
    fence: int
    owner: str
    lease_until: float
    expires_at: float
    created_at: float
    swept_at: float = math.inf
    """When the sweep looks at this row next."""
    state: Literal["running", "done"] = "running"
    released: bool = False
    recovery_point: str = STARTED
    recovery_data: bytes | None = None
    result: bytes | None = None

    def read(self, now: float) -> Record:
        return Record(
            fingerprint=self.fingerprint,
            state=self.state,
            fence=self.fence,
            owner=self.owner,
            lease_left=self.lease_until - now,
            released=self.released,
            expires_in=self.expires_at - now,
            recovery_point=self.recovery_point,
            recovery_data=self.recovery_data,
            result=self.result,
        )

    def due(self) -> float:
        return max(self.lease_until, self.expires_at)


@final
class BlockingMemoryStore:
    """The blocking core of `MemoryStore`."""

    modes: frozenset[Mode] = frozenset({"fenced", "at_most_once"})

    def __init__(self, *, max_records: int = 100_000, runtime: Runtime | None = None) -> None:
        if max_records < 1:
            raise ValueError(f"max_records={max_records!r}: a store holds at least 1 record")
        self._max_records = max_records
        self._runtime = runtime
        self._lock = threading.Lock()
        self._rows: dict[tuple[str, str], _Row] = {}
        self._dues: list[tuple[float, tuple[str, str]]] = []
        """A heap of when to look at which row; it may have become due later since."""
        self._last_fence = 0
        self._intents: BlockingIntentStore | None = None
        self._clients: BlockingClientStore | None = None

    def begin(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float, takeover: bool = True
    ) -> Answer:
        """Ask for the right to run."""
        place = (scope, key)
        with self._lock:
            runtime = self._runtime or current_runtime()
            now = runtime.now()
            row = self._rows.get(place)
            taken_over = False
            if row is not None:
                record = row.read(now)
                answer = record.answer(fingerprint, takeover=takeover)
                if answer is not None:
                    return answer
                taken_over = not record.forgotten
            if self._dues and self._dues[0][0] <= now:
                self._sweep(now, _SWEEP)
            # Whoever was shown a fence may outlive this process: the next one has to continue above it.
            fence = int(runtime.wall() * 1_000_000)
            if fence <= self._last_fence:
                fence = self._last_fence + 1
            self._last_fence = fence
            new = _Row(fingerprint, fence, owner, now + lease, now + ttl, now)
            if row is not None and taken_over:
                new.created_at = row.created_at
                new.recovery_point = row.recovery_point
                new.recovery_data = row.recovery_data
            self._put(place, new)
        return Run(scope, key, fence, owner, taken_over, new.recovery_point, new.recovery_data)

    def heartbeat(self, run: Run, *, lease: float) -> bool:
        """Let the lease begin anew."""
        with self._lock:
            row = self._mine(run)
            if row is None:
                return False
            row.lease_until = self._now() + lease
        return True

    def save(self, run: Run, point: str, data: bytes | None) -> bool:
        """Move the recovery point."""
        with self._lock:
            row = self._mine(run)
            if row is None:
                return False
            row.recovery_point, row.recovery_data = point, data
        return True

    def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
        """Record the result."""
        with self._lock:
            row = self._mine(run)
            if row is None:
                return False
            row.state, row.result = "done", result
            row.lease_until = now = self._now()
            row.expires_at = now + ttl
            if row.expires_at < row.swept_at:
                self._schedule((run.scope, run.key), row)
        return True

    def release(self, run: Run) -> bool:
        """Give the key back."""
        with self._lock:
            row = self._mine(run)
            if row is None:
                return False
            row.lease_until, row.released = self._now(), True
        return True

    def transaction(self, run: Run) -> NoReturn:
        """Raise `ValueError`: there is no transaction that an effect could share with memory."""
        raise ValueError("a memory store is not transactional: use mode='fenced', or a database")

    def lookup(self, scope: str, key: str) -> Record | None:
        """Read the record of a key."""
        with self._lock:
            row = self._rows.get((scope, key))
            record = None if row is None else row.read(self._now())
        return None if record is None or record.forgotten else record

    def gc(self, limit: int = 1000) -> int:
        """Remove forgotten records."""
        with self._lock:
            return self._sweep(self._now(), limit)

    def stats(self) -> Stats:
        """Count what is held."""
        with self._lock:
            now = self._now()
            rows = list(self._rows.values())
        done = sum(row.state == "done" for row in rows)
        return Stats(
            records=len(rows),
            running=len(rows) - done,
            done=done,
            forgotten=sum(row.read(now).forgotten for row in rows),
            oldest=max((now - row.created_at for row in rows), default=0.0),
            size=sum(len(row.fingerprint) + len(row.result or b"") + len(row.recovery_data or b"") for row in rows),
        )

    def close(self) -> None:
        """There is nothing to give back; the records stay."""

    def remove(self, scope: str, key: str) -> bool:
        """Remove a record unless it is running under a lease; whether there is none now."""
        with self._lock:
            row = self._rows.get((scope, key))
            if row is not None and row.state == "running" and row.lease_until > self._now():
                return False
            self._rows.pop((scope, key), None)
        return True

    def clients(self) -> BlockingClientStore:
        """Leased clients beside their claims: as many, and the same ones each time."""
        from resilient.backends.memory_clients import BlockingMemoryClients

        with self._lock:
            if self._clients is None:
                self._clients = BlockingMemoryClients(self, self._now, max_records=self._max_records)
            return self._clients

    def intents(self) -> BlockingIntentStore:
        """Intents beside the claims: as many, in the same memory, and the same ones each time."""
        from resilient.backends.memory_intents import BlockingMemoryIntents

        with self._lock:
            if self._intents is None:
                self._intents = BlockingMemoryIntents(self._now, max_records=self._max_records)
            return self._intents

    def __repr__(self) -> str:
        return f"MemoryStore(max_records={self._max_records})"

    def _now(self) -> float:
        return (self._runtime or current_runtime()).now()

    def _mine(self, run: Run) -> _Row | None:
        row = self._rows.get((run.scope, run.key))
        return row if row is not None and row.fence == run.fence and row.state == "running" else None

    def _put(self, place: tuple[str, str], row: _Row) -> None:
        old = self._rows.get(place)
        if old is not None:
            row.swept_at = old.swept_at
        elif len(self._rows) >= self._max_records:
            raise StoreUnavailable(f"{self!r} is full, and no record may be forgotten yet")
        self._rows[place] = row
        self._schedule(place, row)

    def _schedule(self, place: tuple[str, str], row: _Row) -> None:
        due = row.due()
        if due < row.swept_at:
            row.swept_at = due
            heapq.heappush(self._dues, (due, place))

    def _sweep(self, now: float, limit: int) -> int:
        removed = 0
        while removed < limit and self._dues and self._dues[0][0] <= now:
            _, place = heapq.heappop(self._dues)
            row = self._rows.get(place)
            if row is None:
                continue
            row.swept_at = math.inf
            if row.due() > now:
                self._schedule(place, row)
            else:
                del self._rows[place]
                removed += 1
        return removed
