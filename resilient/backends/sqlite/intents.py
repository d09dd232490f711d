"""Intents in an SQLite file: they outlive the process that wrote them, and several processes may share them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

from resilient.backends.intents import Held, Intent, IntentAnswer
from resilient.backends.sqlite.database import Connection, Database

__all__ = ["MIGRATIONS", "BlockingSQLiteIntents"]

_SWEEP = 8
"""How many done intents each new one removes: more than it adds."""

MIGRATIONS = (
    (
        # All times are milliseconds since the epoch. `until` ends the window of an open intent, and the retention of
        # a done one.
        """
        CREATE TABLE resilient_intents (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            scope TEXT NOT NULL,
            key TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('open', 'done')),
            fingerprint BLOB NOT NULL,
            request BLOB NOT NULL,
            owner TEXT NOT NULL,
            attempts INTEGER NOT NULL,
            reason TEXT NOT NULL,
            result BLOB,
            created_at INTEGER NOT NULL,
            lease_until INTEGER NOT NULL,
            due_at INTEGER NOT NULL,
            until INTEGER NOT NULL,
            UNIQUE (scope, key)
        )
        """,
        "CREATE INDEX resilient_intents_unfinished ON resilient_intents (id) WHERE state = 'open'",
        "CREATE INDEX resilient_intents_expiry ON resilient_intents (until) WHERE state = 'done'",
    ),
)

_COLUMNS = (
    "id, scope, key, state, fingerprint, request, result, attempts, created_at, until, lease_until, due_at, reason"
)
_MINE = "scope = ? AND key = ? AND owner = ? AND state = 'open'"


@final
class BlockingSQLiteIntents:
    """Intents in the file of `database`; `clock` is its expression for now, in milliseconds."""

    waits = True

    def __init__(self, database: Database, clock: str) -> None:
        self._database = database.sibling(tables="intents", migrations=MIGRATIONS)
        self._clock = clock
        self._find_sql = f"SELECT {_COLUMNS}, {clock} FROM resilient_intents WHERE scope = ? AND key = ?"  # noqa: S608 - made of constants
        self._insert_sql = (
            "INSERT OR REPLACE INTO resilient_intents (scope, key, state, fingerprint, request, owner, attempts, "  # noqa: S608 - likewise
            f"reason, created_at, lease_until, due_at, until) VALUES (?, ?, 'open', ?, ?, ?, 1, '', {clock}, "
            f"{clock} + ?, 0, {clock} + ?)"
        )
        self._unfinished_sql = (
            f"SELECT {_COLUMNS}, {clock} FROM resilient_intents "  # noqa: S608 - likewise
            "WHERE state = 'open' AND id > ? ORDER BY id LIMIT ?"
        )
        self._sweep_sql = (
            "DELETE FROM resilient_intents WHERE id IN (SELECT id FROM resilient_intents "  # noqa: S608 - likewise
            f"WHERE state = 'done' AND until <= {clock} ORDER BY until LIMIT ?)"
        )

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
        with self._database.write() as connection:
            known = self._find(connection, scope, key)
            if known is None or known.forgotten:
                if not create:
                    return None
                connection.execute(self._sweep_sql, (_SWEEP,))
                values = (scope, key, fingerprint, request, owner, _ms(lease), _ms(window))
                connection.execute(self._insert_sql, values)
                return Held(scope=scope, key=key, owner=owner, window_left=window, attempts=1, request=request)
            answer = known.answer(fingerprint)
            if answer is not None:
                return answer
            taken = f"owner = ?, attempts = attempts + 1, lease_until = {self._clock} + ?"
            self._change(connection, taken, owner, _ms(lease), where="id = ?", place=(known.id,))
        return Held(
            scope=scope,
            key=key,
            owner=owner,
            window_left=known.window_left,
            attempts=known.attempts + 1,
            request=known.request,
        )

    def heartbeat(self, held: Held, *, lease: float) -> bool:
        """Let the lease begin anew."""
        return self._update(held, f"lease_until = {self._clock} + ?", _ms(lease))

    def release(self, held: Held, *, delay: float, reason: str) -> bool:
        """Leave it open for whoever resumes it, no earlier than in `delay` seconds."""
        return self._update(held, f"lease_until = 0, due_at = {self._clock} + ?, reason = ?", _ms(delay), reason)

    def finish(self, held: Held, result: bytes | None, *, keep: float) -> bool:
        """Write down what came of it, and keep that for `keep` seconds."""
        return self._update(held, self._done(), result, _ms(keep))

    def drop(self, held: Held) -> bool:
        """Remove it."""
        with self._database.write() as connection:
            sql = f"DELETE FROM resilient_intents WHERE {_MINE}"  # noqa: S608 - likewise
            return connection.execute(sql, (held.scope, held.key, held.owner)).rowcount == 1

    def settle(self, scope: str, key: str, *, done: bool, result: bytes | None, keep: float) -> bool:
        """Say what came of an intent, by hand."""
        where = "scope = ? AND key = ?"
        with self._database.write() as connection:
            if done:
                return self._change(connection, self._done(), result, _ms(keep), where=where, place=(scope, key))
            sql = f"DELETE FROM resilient_intents WHERE {where}"  # noqa: S608 - likewise
            return connection.execute(sql, (scope, key)).rowcount == 1

    def unfinished(self, *, limit: int, after: int = 0) -> list[Intent]:
        """Read the intents that are open or lapsed."""
        with self._database.read() as connection:
            return [_read(row) for row in connection.execute(self._unfinished_sql, (after, limit))]

    def lookup(self, scope: str, key: str) -> Intent | None:
        """Read an intent."""
        with self._database.read() as connection:
            known = self._find(connection, scope, key)
        return None if known is None or known.forgotten else known

    def gc(self, limit: int = 1000) -> int:
        """Remove done intents whose retention is over."""
        with self._database.write() as connection:
            return connection.execute(self._sweep_sql, (limit,)).rowcount

    def close(self) -> None:
        """Close the connections; the store opens new ones when it is used again."""
        self._database.close()

    def __repr__(self) -> str:
        return f"SQLiteIntents({str(self._database.path)!r})"

    def _find(self, connection: Connection, scope: str, key: str) -> Intent | None:
        row = connection.execute(self._find_sql, (scope, key)).fetchone()
        return None if row is None else _read(row)

    def _done(self) -> str:
        # What was sent is not sent again: only its fingerprint is needed.
        return f"state = 'done', result = ?, request = x'', reason = '', lease_until = 0, until = {self._clock} + ?"

    def _update(self, held: Held, change: str, *values: object) -> bool:
        with self._database.write() as connection:
            place = (held.scope, held.key, held.owner)
            return self._change(connection, change, *values, where=_MINE, place=place)

    def _change(
        self, connection: Connection, change: str, *values: object, where: str, place: tuple[object, ...]
    ) -> bool:
        sql = f"UPDATE resilient_intents SET {change} WHERE {where}"  # noqa: S608 - likewise
        return connection.execute(sql, (*values, *place)).rowcount == 1


def _read(columns: Sequence[Any]) -> Intent:
    number, scope, key, state, fingerprint, request, result, attempts, *times, reason, now = columns
    created_at, until, lease_until, due_at = times
    lapsed = state == "open" and until <= now and lease_until <= now
    return Intent(
        id=number,
        scope=scope,
        key=key,
        state="lapsed" if lapsed else state,
        fingerprint=fingerprint,
        request=request,
        result=result,
        attempts=attempts,
        age=(now - created_at) / 1000,
        window_left=(until - now) / 1000,
        lease_left=(lease_until - now) / 1000,
        due_in=(due_at - now) / 1000,
        reason=reason,
    )


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)
