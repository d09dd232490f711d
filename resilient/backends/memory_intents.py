"""Intents in the memory of this process: for tests, where nothing has to survive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from resilient.backends.intents import Held, Intent, IntentAnswer
from resilient.errors import StoreUnavailable

__all__ = ["BlockingMemoryIntents"]


@dataclass(slots=True)
class _Row:
    id: int
    fingerprint: bytes
    request: bytes
    owner: str
    created_at: float
    until: float = 0.0
    lease_until: float = 0.0
    attempts: int = 1
    due_at: float = 0.0
    reason: str = ""
    done: bool = False
    result: bytes | None = None


@final
class BlockingMemoryIntents:
    """At most `max_records` intents; a full store raises `StoreUnavailable`."""

    waits = False

    def __init__(self, now: Callable[[], float], *, max_records: int) -> None:
        self._now = now
        self._max_records = max_records
        self._lock = threading.Lock()
        self._rows: dict[tuple[str, str], _Row] = {}
        self._last = 0

    def begin(
        self,
        scope: str,
        key: str,
        fingerprint: bytes,
        request: bytes,
        *,
        owner: str,
        lease: float,
        window: float,
        create: bool = True,
    ) -> IntentAnswer:
        """Write an intent down, or take over the one that is there."""
        with self._lock:
            now = self._now()
            row = self._rows.get((scope, key))
            known = None if row is None else self._read((scope, key), now)
            if row is not None and known is not None and not known.forgotten:
                answer = known.answer(fingerprint)
                if answer is not None:
                    return answer
                row.owner, row.lease_until, row.attempts = owner, now + lease, row.attempts + 1
            elif create:
                row = self._add((scope, key), fingerprint, request, owner, now)
                row.until, row.lease_until = now + window, now + lease
            else:
                return None
            return Held(
                scope=scope,
                key=key,
                owner=owner,
                window_left=row.until - now,
                attempts=row.attempts,
                request=row.request,
            )

    def heartbeat(self, held: Held, *, lease: float) -> bool:
        """Let the lease begin anew."""
        with self._lock:
            row = self._mine(held)
            if row is not None:
                row.lease_until = self._now() + lease
        return row is not None

    def release(self, held: Held, *, delay: float, reason: str) -> bool:
        """Leave it open for whoever resumes it, no earlier than in `delay` seconds."""
        with self._lock:
            row = self._mine(held)
            if row is not None:
                now = self._now()
                row.lease_until, row.due_at, row.reason = now, now + delay, reason
        return row is not None

    def finish(self, held: Held, result: bytes | None, *, keep: float) -> bool:
        """Write down what came of it, and keep that for `keep` seconds."""
        with self._lock:
            row = self._mine(held)
            if row is not None:
                self._finish(row, result, keep)
        return row is not None

    def drop(self, held: Held) -> bool:
        """Remove it."""
        with self._lock:
            row = self._mine(held)
            if row is not None:
                del self._rows[held.scope, held.key]
        return row is not None

    def settle(self, scope: str, key: str, *, done: bool, result: bytes | None, keep: float) -> bool:
        """Say what came of an intent, by hand."""
        with self._lock:
            row = self._rows.get((scope, key))
            if row is None:
                return False
            if done:
                self._finish(row, result, keep)
            else:
                del self._rows[scope, key]
        return True

    def unfinished(self, *, limit: int, after: int = 0) -> list[Intent]:
        """Read the intents that are open or lapsed."""
        with self._lock:
            now = self._now()
            places = [place for place, row in self._rows.items() if not row.done and row.id > after]
            return [self._read(place, now) for place in places[:limit]]

    def lookup(self, scope: str, key: str) -> Intent | None:
        """Read an intent."""
        with self._lock:
            known = self._read((scope, key), self._now()) if (scope, key) in self._rows else None
        return None if known is None or known.forgotten else known

    def gc(self, limit: int = 1000) -> int:
        """Remove done intents whose retention is over."""
        with self._lock:
            return self._sweep(self._now(), limit)

    def close(self) -> None:
        """There is nothing to give back; the intents stay."""

    def __repr__(self) -> str:
        return f"MemoryIntents(max_records={self._max_records})"

    def _add(self, place: tuple[str, str], fingerprint: bytes, request: bytes, owner: str, now: float) -> _Row:
        self._rows.pop(place, None)
        if len(self._rows) >= self._max_records and not self._sweep(now, self._max_records):
            raise StoreUnavailable(f"{self!r} is full, and no intent may be forgotten yet")
        self._last += 1
        row = self._rows[place] = _Row(self._last, fingerprint, request, owner, now)
        return row

    def _mine(self, held: Held) -> _Row | None:
        row = self._rows.get((held.scope, held.key))
        return row if row is not None and row.owner == held.owner and not row.done else None

    def _finish(self, row: _Row, result: bytes | None, keep: float) -> None:
        now = self._now()
        row.done, row.result, row.lease_until, row.until = True, result, now, now + keep
        row.request = b""  # it is not sent again

    def _read(self, place: tuple[str, str], now: float) -> Intent:
        row = self._rows[place]
        lapsed = row.until <= now and row.lease_until <= now
        return Intent(
            id=row.id,
            scope=place[0],
            key=place[1],
            state="done" if row.done else "lapsed" if lapsed else "open",
            fingerprint=row.fingerprint,
            request=row.request,
            result=row.result,
            attempts=row.attempts,
            age=now - row.created_at,
            window_left=row.until - now,
            lease_left=row.lease_until - now,
            due_in=row.due_at - now,
            reason=row.reason,
        )

    def _sweep(self, now: float, limit: int) -> int:
        over = [place for place, row in self._rows.items() if row.done and row.until <= now][:limit]
        for place in over:
            del self._rows[place]
        return len(over)
