"""The inbox in an SQLite file, beside the tables that effects change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

from resilient.backends.inbox import Failure, InboxStats, Known, Letter
from resilient.backends.outbox import Plan, Statement
from resilient.backends.sqlite.database import Connection, Database

__all__ = ["MIGRATIONS", "BlockingSQLiteInbox"]

_SWEEP = 8
"""How many forgotten failures each new one removes: more than it adds."""

MIGRATIONS = (
    (
        # All times are milliseconds since the epoch.
        """
        CREATE TABLE resilient_inbox_positions (
            consumer TEXT NOT NULL,
            stream TEXT NOT NULL,
            position INTEGER NOT NULL,
            PRIMARY KEY (consumer, stream)
        )
        """,
        """
        CREATE TABLE resilient_inbox_failures (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            consumer TEXT NOT NULL,
            key TEXT NOT NULL,
            payload BLOB NOT NULL,
            stream TEXT,
            position INTEGER,
            state TEXT NOT NULL CHECK (state IN ('failing', 'parked')),
            attempts INTEGER NOT NULL,
            error TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            failed_at INTEGER NOT NULL,
            UNIQUE (consumer, key)
        )
        """,
        """
        CREATE INDEX resilient_inbox_failing ON resilient_inbox_failures (consumer, stream, position)
        WHERE state = 'failing'
        """,
        "CREATE INDEX resilient_inbox_forgotten ON resilient_inbox_failures (failed_at) WHERE state = 'failing'",
        "CREATE INDEX resilient_inbox_parked ON resilient_inbox_failures (consumer, id) WHERE state = 'parked'",
    ),
)

_LOOK = """
    SELECT
        (SELECT attempts FROM resilient_inbox_failures WHERE consumer = :consumer AND key = :key),
        (SELECT state FROM resilient_inbox_failures WHERE consumer = :consumer AND key = :key),
        (SELECT position FROM resilient_inbox_positions WHERE consumer = :consumer AND stream = :stream),
        (SELECT min(position) FROM resilient_inbox_failures AS f
         WHERE consumer = :consumer AND stream = :stream AND position < :position AND state = 'failing'
         AND position > coalesce((SELECT p.position FROM resilient_inbox_positions AS p
                                  WHERE p.consumer = :consumer AND p.stream = :stream), -1))
"""
# The time of its first failure stays, and so does its id.
_FAIL = """
    INSERT INTO resilient_inbox_failures
        (consumer, key, payload, stream, position, state, attempts, error, created_at, failed_at)
    VALUES (:consumer, :key, :payload, :stream, :position, :state, :attempts, :error, {clock}, {clock})
    ON CONFLICT (consumer, key) DO UPDATE SET
        payload = excluded.payload, state = excluded.state, attempts = {attempts}, error = excluded.error,
        failed_at = excluded.failed_at
"""
_ADVANCE = """
    INSERT INTO resilient_inbox_positions VALUES (:consumer, :stream, :position)
    ON CONFLICT (consumer, stream) DO UPDATE SET position = excluded.position WHERE position < excluded.position
"""
_DONE = "DELETE FROM resilient_inbox_failures WHERE consumer = :consumer AND key = :key"
_DIED = "no consumer that processed it survived"


@final
class BlockingSQLiteInbox:
    """The inbox in the file of `database`; `clock` is its expression for now, in milliseconds."""

    def __init__(self, database: Database, clock: str) -> None:
        self._database = database.sibling(tables="inbox_records", migrations=MIGRATIONS)
        self._clock = clock

    def statements(self) -> list[str]:
        """What makes the tables in an empty database."""
        return self._database.statements()

    def migrate(self) -> list[str]:
        """Make the tables, or bring them up to date."""
        return self._database.migrate()

    def prepare(self) -> None:
        """Do nothing: a second connection would wait for the first one's transaction."""

    def look(self, consumer: str, letter: Letter) -> Known:
        """Tell what is known of a message."""
        with self._database.read() as connection:
            row = connection.execute(_LOOK, _names(consumer, letter)).fetchone()
        attempts, state, position, behind = row
        return Known(attempts=attempts or 0, parked=state == "parked", position=position, behind=behind)

    def begun(self, consumer: str, letter: Letter) -> int:
        """Count an attempt that follows one that died."""
        sql = _FAIL.format(clock=self._clock, attempts="attempts + 1")
        find = "SELECT attempts FROM resilient_inbox_failures WHERE consumer = :consumer AND key = :key"
        names = _names(consumer, letter)
        with self._database.write() as connection:
            connection.execute(sql, {**names, "state": "failing", "attempts": 2, "error": _DIED})
            attempts: int = connection.execute(find, names).fetchone()[0]
        return attempts

    def fail(self, consumer: str, letter: Letter, *, attempts: int, error: str, park: bool, keep: float) -> None:
        """Write down that a message failed."""
        sql = _FAIL.format(clock=self._clock, attempts="excluded.attempts")
        names = _names(consumer, letter)
        with self._database.write() as connection:
            state = "parked" if park else "failing"
            connection.execute(sql, {**names, "state": state, "attempts": attempts, "error": error})
            if park and letter.stream is not None:
                connection.execute(_ADVANCE, names)
            self._forget(connection, keep)

    def done(self, consumer: str, key: str) -> Plan[None]:
        """Tell how to forget that a message failed."""
        yield from self._database.prepare_through()
        yield Statement(_DONE, {"consumer": consumer, "key": key})

    def clear(self, consumer: str, key: str) -> None:
        """Forget that a message failed."""
        with self._database.write() as connection:
            connection.execute(_DONE, {"consumer": consumer, "key": key})

    def advance(self, consumer: str, stream: str, position: int) -> Plan[bool]:
        """Tell how to move the position of a stream."""
        yield from self._database.check_file()
        yield from self._database.prepare_through()
        moved = yield Statement(_ADVANCE, {"consumer": consumer, "stream": stream, "position": position})
        return moved.changed == 1

    def position(self, consumer: str, stream: str) -> int | None:
        """Return how far a stream was processed."""
        sql = "SELECT position FROM resilient_inbox_positions WHERE consumer = ? AND stream = ?"
        with self._database.read() as connection:
            row: tuple[int] | None = connection.execute(sql, (consumer, stream)).fetchone()
        return None if row is None else row[0]

    def parked(self, consumer: str, *, limit: int = 100, after: int = 0) -> list[Failure]:
        """Return parked messages."""
        sql = (
            f"SELECT id, key, payload, stream, position, attempts, error, created_at, {self._clock} "  # noqa: S608 - made of constants
            "FROM resilient_inbox_failures WHERE consumer = ? AND state = 'parked' AND id > ? ORDER BY id LIMIT ?"
        )
        with self._database.read() as connection:
            return [_read(row) for row in connection.execute(sql, (consumer, after, limit))]

    def discard(self, consumer: str, ids: Sequence[int]) -> int:
        """Forget parked messages."""
        sql = "DELETE FROM resilient_inbox_failures WHERE consumer = ? AND id = ? AND state = 'parked'"
        with self._database.write() as connection:
            return sum(connection.execute(sql, (consumer, each)).rowcount for each in ids)

    def stats(self, consumer: str) -> InboxStats:
        """Count what failed."""
        sql = (
            "SELECT coalesce(sum(state = 'failing'), 0), coalesce(sum(state = 'parked'), 0), "  # noqa: S608 - made of constants
            f"coalesce({self._clock} - min(created_at), 0) FROM resilient_inbox_failures WHERE consumer = ?"
        )
        with self._database.read() as connection:
            failing, parked, oldest = connection.execute(sql, (consumer,)).fetchone()
        return InboxStats(failing=failing, parked=parked, oldest=max(0, oldest) / 1000)

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def __repr__(self) -> str:
        return f"SQLiteInbox({str(self._database.path)!r})"

    def _forget(self, connection: Connection, keep: float) -> None:
        sql = (
            "DELETE FROM resilient_inbox_failures WHERE id IN (SELECT id FROM resilient_inbox_failures "  # noqa: S608 - likewise
            f"WHERE state = 'failing' AND failed_at <= {self._clock} - ? ORDER BY failed_at LIMIT ?)"
        )
        connection.execute(sql, (math.ceil(keep * 1000), _SWEEP))


def _names(consumer: str, letter: Letter) -> dict[str, object]:
    return {
        "consumer": consumer,
        "key": letter.key,
        "payload": letter.payload,
        "stream": letter.stream,
        "position": letter.position,
    }


def _read(columns: Sequence[Any]) -> Failure:
    number, key, payload, stream, position, attempts, error, created_at, now = columns
    return Failure(
        id=number,
        letter=Letter(key=key, payload=payload, stream=stream, position=position),
        attempts=attempts,
        error=error,
        age=max(0, now - created_at) / 1000,
    )
