"""Intents in a PostgreSQL database: shared by many machines, each of which can finish what another one left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from resilient.backends.intents import Held, Intent, IntentAnswer
from resilient.backends.postgres.database import Database, Work
from resilient.backends.postgres.sessions import Session
from resilient.waiting import drive

__all__ = ["MIGRATIONS", "BlockingPostgresIntents"]

_SWEEP = 8
"""How many done intents each new one removes: more than it adds."""

MIGRATIONS = (
    (
        # `until` ends the window of an open intent, and the retention of a done one.
        """
        CREATE TABLE resilient_intents (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            scope text NOT NULL,
            key text NOT NULL,
            state text NOT NULL CHECK (state IN ('open', 'done')),
            fingerprint bytea NOT NULL,
            request bytea NOT NULL,
            owner text NOT NULL,
            attempts integer NOT NULL,
            reason text NOT NULL,
            result bytea,
            created_at timestamptz NOT NULL,
            lease_until timestamptz NOT NULL,
            due_at timestamptz NOT NULL,
            until timestamptz NOT NULL,
            UNIQUE (scope, key)
        )
        """,
        "CREATE INDEX resilient_intents_unfinished ON resilient_intents (id) WHERE state = 'open'",
        "CREATE INDEX resilient_intents_expiry ON resilient_intents (until) WHERE state = 'done'",
    ),
)

_COLUMNS = """
    id, scope, key, state, fingerprint, request, result, attempts, reason, owner,
    extract(epoch FROM {clock} - created_at)::float8, extract(epoch FROM until - {clock})::float8,
    extract(epoch FROM lease_until - {clock})::float8, extract(epoch FROM due_at - {clock})::float8
"""
_IN = "{clock} + %s * interval '1 second'"
# One at a time under a key, also where there is no row yet that could be locked.
_LOCK = "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock(hashtextextended(%s, hashtext(%s)))"
_MINE = "scope = %s AND key = %s AND owner = %s AND state = 'open'"
_SWEEP_UP = """
    DELETE FROM resilient_intents WHERE ctid IN (
        SELECT ctid FROM resilient_intents WHERE state = 'done' AND until <= {clock} ORDER BY until LIMIT %s
        FOR UPDATE SKIP LOCKED
    )
"""


@final
class BlockingPostgresIntents:
    """Intents in `database`; `clock` is its expression for now."""

    waits = True

    def __init__(self, database: Database, clock: str) -> None:
        mine = database.sibling(tables="intents", migrations=MIGRATIONS)
        self._work = Work(mine, mine.threads)
        later = _IN.format(clock=clock)
        select = f"SELECT {_COLUMNS.format(clock=clock)} FROM resilient_intents"  # noqa: S608 - made of constants
        self._find_sql = f"{select} WHERE scope = %s AND key = %s"
        self._unfinished_sql = f"{select} WHERE state = 'open' AND id > %s ORDER BY id LIMIT %s"
        self._sweep_sql = _SWEEP_UP.format(clock=clock)
        self._insert_sql = f"""
            DELETE FROM resilient_intents WHERE scope = %s AND key = %s;
            INSERT INTO resilient_intents (scope, key, state, fingerprint, request, owner, attempts, reason, created_at,
                                           lease_until, due_at, until)
            VALUES (%s, %s, 'open', %s, %s, %s, 1, '', {clock}, {later}, {clock}, {later});
            {self._sweep_sql}; COMMIT
        """  # noqa: S608 - likewise
        take = f"owner = %s, attempts = attempts + 1, lease_until = {later}"
        self._take_sql = f"UPDATE resilient_intents SET {take} WHERE id = %s; COMMIT"  # noqa: S608 - likewise
        self._heartbeat = f"lease_until = {later}"
        self._release = f"lease_until = {clock}, due_at = {later}, reason = %s"
        # What was sent is not sent again: only its fingerprint is needed.
        self._done = f"state = 'done', result = %s, request = '', reason = '', lease_until = {clock}, until = {later}"

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

        async def step(session: Session) -> IntentAnswer:
            rows = await session.run(f"{_LOCK}; {self._find_sql}", scope, key, scope, key)
            known, held_by = _read(rows[0]) if rows else (None, "")
            if known is None or known.forgotten:
                if not create:
                    return None
                values = (scope, key, fingerprint, request, owner, lease, window)
                await session.run(self._insert_sql, scope, key, *values, _SWEEP)
                return Held(scope=scope, key=key, owner=owner, window_left=window, attempts=1, request=request)
            attempts = known.attempts
            # Its own, when it is asked again because only the answer was lost.
            if held_by != owner or known.state == "done":
                answer = known.answer(fingerprint)
                if answer is not None:
                    return answer
                await session.run(self._take_sql, owner, lease, known.id)
                attempts += 1
            return Held(
                scope=scope,
                key=key,
                owner=owner,
                window_left=known.window_left,
                attempts=attempts,
                request=known.request,
            )

        return drive(self._work.repeat(step, broken=True))

    def heartbeat(self, held: Held, *, lease: float) -> bool:
        """Let the lease begin anew."""
        return self._update(held, self._heartbeat, lease)

    def release(self, held: Held, *, delay: float, reason: str) -> bool:
        """Leave it open for whoever resumes it, no earlier than in `delay` seconds."""
        return self._update(held, self._release, delay, reason)

    def finish(self, held: Held, result: bytes | None, *, keep: float) -> bool:
        """Write down what came of it, and keep that for `keep` seconds."""
        return self._update(held, self._done, result, keep)

    def drop(self, held: Held) -> bool:
        """Remove it."""
        sql = f"DELETE FROM resilient_intents WHERE {_MINE} RETURNING 1"  # noqa: S608 - likewise
        return bool(drive(self._work.run(sql, held.scope, held.key, held.owner)))

    def settle(self, scope: str, key: str, *, done: bool, result: bytes | None, keep: float) -> bool:
        """Say what came of an intent, by hand."""
        where = "WHERE scope = %s AND key = %s RETURNING 1"
        if done:
            sql = f"UPDATE resilient_intents SET {self._done} {where}"  # noqa: S608 - likewise
            return bool(drive(self._work.run(sql, result, keep, scope, key)))
        return bool(drive(self._work.run(f"DELETE FROM resilient_intents {where}", scope, key, repeatable=False)))  # noqa: S608 - likewise

    def unfinished(self, *, limit: int, after: int = 0) -> list[Intent]:
        """Read the intents that are open or lapsed."""
        return [_read(row)[0] for row in drive(self._work.run(self._unfinished_sql, after, limit))]

    def lookup(self, scope: str, key: str) -> Intent | None:
        """Read an intent."""
        rows = drive(self._work.run(self._find_sql, scope, key))
        known = _read(rows[0])[0] if rows else None
        return None if known is None or known.forgotten else known

    def gc(self, limit: int = 1000) -> int:
        """Remove done intents whose retention is over."""
        return len(drive(self._work.run(f"{self._sweep_sql} RETURNING 1", limit)))

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._work.close()

    def __repr__(self) -> str:
        return f"PostgresIntents({self._work.database.name!r})"

    def _update(self, held: Held, change: str, *values: object) -> bool:
        sql = f"UPDATE resilient_intents SET {change} WHERE {_MINE} RETURNING 1"  # noqa: S608 - likewise
        return bool(drive(self._work.run(sql, *values, held.scope, held.key, held.owner)))


def _read(columns: Sequence[Any]) -> tuple[Intent, str]:
    """The intent, and who holds it."""
    number, scope, key, state, fingerprint, request, result, attempts, reason, owner, *times = columns
    age, window_left, lease_left, due_in = times
    lapsed = state == "open" and window_left <= 0 and lease_left <= 0
    intent = Intent(
        id=number,
        scope=scope,
        key=key,
        state="lapsed" if lapsed else state,
        fingerprint=bytes(fingerprint),
        request=bytes(request),
        result=None if result is None else bytes(result),
        attempts=attempts,
        age=age,
        window_left=window_left,
        lease_left=lease_left,
        due_in=due_in,
        reason=reason,
    )
    return intent, owner
