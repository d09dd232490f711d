"""The inbox in a PostgreSQL database, beside the tables that effects change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from resilient.backends.inbox import Failure, InboxStats, Known, Letter
from resilient.backends.outbox import Plan, Statement
from resilient.backends.postgres.database import Database, Work
from resilient.waiting import drive

__all__ = ["MIGRATIONS", "BlockingPostgresInbox"]

_SWEEP = 8
"""How many forgotten failures each new one removes: more than it adds."""
_DIED = "no consumer that processed it survived"

MIGRATIONS = (
    (
        """
        CREATE TABLE resilient_inbox_positions (
            consumer text NOT NULL,
            stream text NOT NULL,
            position bigint NOT NULL,
            PRIMARY KEY (consumer, stream)
        )
        """,
        """
        CREATE TABLE resilient_inbox_failures (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            consumer text NOT NULL,
            key text NOT NULL,
            payload bytea NOT NULL,
            stream text,
            position bigint,
            state text NOT NULL CHECK (state IN ('failing', 'parked')),
            attempts integer NOT NULL,
            error text NOT NULL,
            created_at timestamptz NOT NULL,
            failed_at timestamptz NOT NULL,
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
    SELECT f.attempts, f.state, p.position, (
        SELECT min(o.position) FROM resilient_inbox_failures AS o
        WHERE o.consumer = l.consumer AND o.stream = l.stream AND o.position < l.position AND o.state = 'failing'
        AND o.position > coalesce(p.position, -1)
    )
    FROM (VALUES (%s::text, %s::text, %s::text, %s::bigint)) AS l (consumer, key, stream, position)
    LEFT JOIN resilient_inbox_failures AS f ON f.consumer = l.consumer AND f.key = l.key
    LEFT JOIN resilient_inbox_positions AS p ON p.consumer = l.consumer AND p.stream = l.stream
"""
# The time of its first failure stays, and so does its id.
_FAIL = """
    INSERT INTO resilient_inbox_failures AS f
        (consumer, key, payload, stream, position, state, attempts, error, created_at, failed_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, {clock}, {clock})
    ON CONFLICT (consumer, key) DO UPDATE SET
        payload = EXCLUDED.payload, state = EXCLUDED.state, attempts = {attempts}, error = EXCLUDED.error,
        failed_at = EXCLUDED.failed_at
    RETURNING f.attempts
"""
_ADVANCE = """
    INSERT INTO resilient_inbox_positions AS p VALUES ({consumer}, {stream}, {position})
    ON CONFLICT (consumer, stream) DO UPDATE SET position = EXCLUDED.position WHERE p.position < EXCLUDED.position
"""
_DONE = "DELETE FROM resilient_inbox_failures WHERE consumer = {consumer} AND key = {key}"
_FORGET = """
    DELETE FROM resilient_inbox_failures WHERE ctid IN (
        SELECT f.ctid FROM resilient_inbox_failures AS f
        WHERE f.state = 'failing' AND f.failed_at <= {clock} - %s * interval '1 second' ORDER BY f.failed_at LIMIT %s
        FOR UPDATE SKIP LOCKED
    )
"""


@final
class BlockingPostgresInbox:
    """The inbox in `database`; `clock` is its expression for now."""

    def __init__(self, database: Database, clock: str) -> None:
        mine = database.sibling(tables="inbox_records", migrations=MIGRATIONS)
        self._work = Work(mine, mine.threads)
        self._clock = clock

    def prepare(self) -> None:
        """Make the tables."""
        drive(self._work.prepare())

    def look(self, consumer: str, letter: Letter) -> Known:
        """Tell what is known of a message."""
        place = (letter.stream, letter.position)
        ((attempts, state, position, behind),) = drive(self._work.run(_LOOK, consumer, letter.key, *place))
        return Known(attempts=attempts or 0, parked=state == "parked", position=position, behind=behind)

    def begun(self, consumer: str, letter: Letter) -> int:
        """Count an attempt that follows one that died."""
        sql = _FAIL.format(clock=self._clock, attempts="f.attempts + 1")
        values = (*_values(consumer, letter), "failing", 2, _DIED)
        ((attempts,),) = drive(self._work.run(sql, *values, repeatable=False))
        return int(attempts)

    def fail(self, consumer: str, letter: Letter, *, attempts: int, error: str, park: bool, keep: float) -> None:
        """Write down that a message failed."""
        sql = _FAIL.format(clock=self._clock, attempts="EXCLUDED.attempts")
        values: list[object] = [*_values(consumer, letter), "parked" if park else "failing", attempts, error]
        if park and letter.stream is not None:
            sql += f"; {_ADVANCE.format(consumer='%s', stream='%s', position='%s')}"
            values += [consumer, letter.stream, letter.position]
        sql = f"BEGIN; {sql}; {_FORGET.format(clock=self._clock)}; COMMIT"
        drive(self._work.run(sql, *values, keep, _SWEEP))

    def done(self, consumer: str, key: str) -> Plan[None]:
        """Tell how to forget that a message failed."""
        yield Statement(_DONE.format(consumer=":consumer", key=":key"), {"consumer": consumer, "key": key})

    def clear(self, consumer: str, key: str) -> None:
        """Forget that a message failed."""
        drive(self._work.run(_DONE.format(consumer="%s", key="%s"), consumer, key))

    def advance(self, consumer: str, stream: str, position: int) -> Plan[bool]:
        """Tell how to move the position of a stream."""
        sql = _ADVANCE.format(consumer=":consumer", stream=":stream", position=":position")
        moved = yield Statement(sql, {"consumer": consumer, "stream": stream, "position": position})
        return moved.changed == 1

    def position(self, consumer: str, stream: str) -> int | None:
        """Return how far a stream was processed."""
        sql = "SELECT position FROM resilient_inbox_positions WHERE consumer = %s AND stream = %s"
        rows = drive(self._work.run(sql, consumer, stream))
        return rows[0][0] if rows else None

    def parked(self, consumer: str, *, limit: int = 100, after: int = 0) -> list[Failure]:
        """Return parked messages."""
        sql = f"""
            SELECT id, key, payload, stream, position, attempts, error,
                   greatest(0, extract(epoch FROM {self._clock} - created_at))::float8
            FROM resilient_inbox_failures WHERE consumer = %s AND state = 'parked' AND id > %s ORDER BY id LIMIT %s
        """  # noqa: S608 - made of constants
        return [_read(row) for row in drive(self._work.run(sql, consumer, after, limit))]

    def discard(self, consumer: str, ids: Sequence[int]) -> int:
        """Forget parked messages."""
        sql = """
            DELETE FROM resilient_inbox_failures
            WHERE consumer = %s AND id = ANY(%s::bigint[]) AND state = 'parked' RETURNING id
        """
        return len(drive(self._work.run(sql, consumer, list(ids), repeatable=False)))

    def stats(self, consumer: str) -> InboxStats:
        """Count what failed."""
        sql = f"""
            SELECT count(*) FILTER (WHERE state = 'failing'), count(*) FILTER (WHERE state = 'parked'),
                   greatest(0, coalesce(extract(epoch FROM {self._clock} - min(created_at)), 0))::float8
            FROM resilient_inbox_failures WHERE consumer = %s
        """  # noqa: S608 - made of constants
        ((failing, parked, oldest),) = drive(self._work.run(sql, consumer))
        return InboxStats(failing=failing, parked=parked, oldest=oldest)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._work.close()

    def __repr__(self) -> str:
        return f"PostgresInbox({self._work.database.name!r})"


def _values(consumer: str, letter: Letter) -> tuple[object, ...]:
    return consumer, letter.key, letter.payload, letter.stream, letter.position


def _read(columns: Sequence[Any]) -> Failure:
    number, key, payload, stream, position, attempts, error, age = columns
    return Failure(
        id=number,
        letter=Letter(key=key, payload=payload, stream=stream, position=position),
        attempts=attempts,
        error=error,
        age=age,
    )
