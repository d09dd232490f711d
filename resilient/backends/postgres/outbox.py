"""The outbox in a PostgreSQL database, beside the tables that effects change.

Relays lock what is due with `FOR UPDATE SKIP LOCKED`, so that none waits for another one. Which message is the first of
its group is asked in a statement of its own, after the lock: only then it sees what was settled in between. Messages of
one group are added one transaction after another, under an advisory lock, so that their ids rise in the order of their
commits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, final

from resilient.backends.outbox import Claimed, Draft, Message, OutboxStats, Parked, Plan, Settlement, Statement
from resilient.backends.postgres.database import Database, Work
from resilient.backends.postgres.sessions import Session
from resilient.errors import KeyReused
from resilient.waiting import drive

__all__ = ["MIGRATIONS", "BlockingPostgresOutbox"]

_LOOK_FURTHER = 512
"""Due messages looked at in one transaction, where the first ones were all behind others of their groups."""
_SWEEP = 2
"""Messages removed for each one settled: more than are added."""
_NO_SURVIVOR = "no relay that delivered it survived"
_GROUPS = 0x7265_7369_6F75_7462
"""Sets our advisory locks apart from those of others."""
_ROUNDS = 8
"""How often an add looks again after a message with its key was forgotten in a moment."""

MIGRATIONS = (
    (
        # `due_at` of a leased message is the end of its lease; `settled_at` is set when it is delivered or discarded.
        """
        CREATE TABLE resilient_outbox (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            topic text NOT NULL,
            key text NOT NULL,
            payload bytea NOT NULL,
            in_group text,
            headers text NOT NULL,
            state text NOT NULL CHECK (state IN ('pending', 'waiting', 'parked', 'delivered', 'discarded')),
            attempts integer NOT NULL DEFAULT 0,
            fence bigint NOT NULL DEFAULT 0,
            owner text,
            error text NOT NULL DEFAULT '',
            created_at timestamptz NOT NULL,
            due_at timestamptz NOT NULL,
            settled_at timestamptz,
            UNIQUE (topic, key)
        )
        """,
        "CREATE INDEX resilient_outbox_due ON resilient_outbox (due_at, id) WHERE state = 'pending'",
        "CREATE INDEX resilient_outbox_open ON resilient_outbox (topic, in_group, id) WHERE settled_at IS NULL",
        "CREATE INDEX resilient_outbox_parked ON resilient_outbox (id) WHERE state = 'parked'",
        "CREATE INDEX resilient_outbox_settled ON resilient_outbox (settled_at) WHERE settled_at IS NOT NULL",
    ),
)

_LOCK_GROUP = (
    f"SELECT pg_advisory_xact_lock(hashtextextended(CAST(:topic AS text) || ':' || CAST(:group AS text), {_GROUPS}))"
)
_ADD = """
    INSERT INTO resilient_outbox (topic, key, payload, in_group, headers, state, created_at, due_at)
    VALUES (:topic, :key, :payload, :group, :headers, 'pending', {clock},
            {clock} + CAST(:delay AS float8) * interval '1 second')
    ON CONFLICT (topic, key) DO NOTHING
"""
_FIND = "SELECT payload, in_group FROM resilient_outbox WHERE topic = :topic AND key = :key"
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_COLUMNS = """
    m.id, m.topic, m.key, m.payload, m.in_group, m.headers, m.attempts, m.error, m.fence,
    greatest(0, extract(epoch FROM {clock} - m.created_at))::float8
"""
_FIRST = """
    (SELECT min(o.id) FROM resilient_outbox AS o
     WHERE o.topic = m.topic AND o.in_group = m.in_group AND o.settled_at IS NULL)
"""
_DUE = """
    FROM resilient_outbox AS m
    WHERE m.state = 'pending' AND m.due_at <= {clock} AND (%s::text[] IS NULL OR m.topic = ANY(%s::text[]))
"""
_TAKE = """
    WITH seen AS (
        SELECT m.id, l.place, m.attempts >= %s AS spent, m.in_group IS NOT NULL AND m.id <> {first} AS behind
        FROM unnest(%s::bigint[]) WITH ORDINALITY AS l (id, place) JOIN resilient_outbox AS m ON m.id = l.id
    ), due AS (
        SELECT s.*, count(*) FILTER (WHERE NOT s.spent AND NOT s.behind) OVER (ORDER BY s.place) AS rank FROM seen AS s
    ), waiting AS (
        UPDATE resilient_outbox AS m SET state = 'waiting' FROM due WHERE m.id = due.id AND due.behind
    ), parked AS (
        UPDATE resilient_outbox AS m SET state = 'parked', owner = NULL, error = %s
        FROM due WHERE m.id = due.id AND due.spent AND NOT due.behind RETURNING {columns}
    ), claimed AS (
        UPDATE resilient_outbox AS m
        SET attempts = m.attempts + 1, fence = m.fence + 1, owner = %s, due_at = {clock} + %s * interval '1 second'
        FROM due WHERE m.id = due.id AND NOT due.spent AND NOT due.behind AND due.rank <= %s RETURNING {columns}
    )
    SELECT true, claimed.* FROM claimed UNION ALL SELECT false, parked.* FROM parked ORDER BY 2
"""
_SETTLE = """
    UPDATE resilient_outbox AS m SET
        state = s.state,
        owner = NULL,
        error = s.error,
        attempts = m.attempts - s.uncounted,
        due_at = {clock} + s.delay * interval '1 second',
        settled_at = CASE WHEN s.state = 'delivered' THEN {clock} END
    FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::int[], %s::float8[])
        AS s (id, fence, state, error, uncounted, delay)
    WHERE m.id = s.id AND m.fence = s.fence AND m.owner IS NOT NULL AND m.state = 'pending'
    RETURNING m.id, m.topic, m.in_group, m.settled_at IS NOT NULL
"""
# Whatever state it is in: a relay may be about to let it wait, and then this waits for the relay.
_PROMOTE = """
    UPDATE resilient_outbox AS m SET state = 'pending' WHERE m.state IN ('pending', 'waiting') AND m.id IN (
        SELECT (SELECT min(o.id) FROM resilient_outbox AS o
                WHERE o.topic = g.topic AND o.in_group = g.in_group AND o.settled_at IS NULL)
        FROM unnest(%s::text[], %s::text[]) AS g (topic, in_group)
    )
"""
_SWEEP_UP = """
    DELETE FROM resilient_outbox WHERE ctid IN (
        SELECT m.ctid FROM resilient_outbox AS m
        WHERE m.settled_at <= {clock} - %s * interval '1 second' ORDER BY m.settled_at LIMIT %s
        FOR UPDATE SKIP LOCKED
    )
"""
_COUNT = """
    SELECT count(*) FILTER (WHERE m.state = 'pending'),
           count(*) FILTER (WHERE m.state = 'pending' AND m.owner IS NOT NULL AND m.due_at > {clock}),
           count(*) FILTER (WHERE m.state = 'waiting'),
           count(*) FILTER (WHERE m.state = 'parked'),
           count(*) FILTER (WHERE m.settled_at IS NOT NULL),
           greatest(0, coalesce(extract(epoch FROM {clock} - min(m.created_at)
               FILTER (WHERE m.state IN ('pending', 'waiting'))), 0))::float8
    FROM resilient_outbox AS m
"""


@final
class BlockingPostgresOutbox:
    """The outbox in `database`; `clock` is its expression for now."""

    def __init__(self, database: Database, clock: str, *, keep: float) -> None:
        mine = database.sibling(tables="outbox_messages", migrations=MIGRATIONS)
        self._work = Work(mine, mine.threads)
        self._clock = clock
        self._keep = keep

    def prepare(self) -> None:
        """Make the tables."""
        drive(self._work.prepare())

    def add(self, draft: Draft) -> Plan[bool]:
        """Tell how to add a message."""
        names: dict[str, object] = {"topic": draft.topic, "key": draft.key}
        group: dict[str, object] = {"topic": draft.topic, "group": draft.group}
        others = {"payload": draft.payload, "headers": json.dumps(dict(draft.headers)), "delay": draft.delay}
        if draft.group is not None:
            yield Statement(_LOCK_GROUP, group)
        for _ in range(_ROUNDS):
            added = yield Statement(self._sql(_ADD), {**names, **group, **others})
            if added.changed == 1:
                return True
            found = yield Statement(_FIND, names)
            if not found.rows:
                continue
            payload, in_group = found.rows[0]
            if (bytes(payload), in_group) == (draft.payload, draft.group):
                return False
            break
        raise KeyReused(f"key={draft.key!r}: it was added to {draft.topic!r} before, with another payload or group")

    def claim(
        self, *, owner: str, limit: int, lease: float, attempts: int, topics: Sequence[str] | None = None
    ) -> Claimed:
        """Lease messages that are due."""
        claimed = Claimed([], [])
        wanted = None if topics is None else list(topics)
        look = f"SELECT 1 {self._sql(_DUE)} LIMIT 1"
        lock = f"{_BEGIN}; SELECT m.id {self._sql(_DUE)} ORDER BY m.due_at, m.id LIMIT %s FOR UPDATE SKIP LOCKED"
        columns = self._sql(_COLUMNS)
        take = f"{_TAKE.format(first=_FIRST, columns=columns, clock=self._clock)}; COMMIT"

        async def take_some(session: Session) -> int:
            ids = [number for (number,) in await session.run(lock, wanted, wanted, most)]
            for fresh, *columns in await session.run(take, attempts, ids, _NO_SURVIVOR, owner, lease, limit):
                (claimed.messages if fresh else claimed.parked).append(_read_message(columns))
            return len(ids)

        # To look needs no lock, and so no transaction.
        found = len(drive(self._work.run(look, wanted, wanted)))
        most = limit  # others may have the rest
        while found and not claimed.messages:
            # Not repeated when its connection breaks: it may have been committed.
            found = drive(self._work.repeat(take_some, broken=False))
            most = max(limit, _LOOK_FURTHER)
        return claimed

    def renew(self, messages: Sequence[Message], *, lease: float) -> set[int]:
        """Let the leases begin anew."""
        sql = f"""
            UPDATE resilient_outbox AS m SET due_at = {self._clock} + %s * interval '1 second'
            FROM unnest(%s::bigint[], %s::bigint[]) AS s (id, fence)
            WHERE m.id = s.id AND m.fence = s.fence AND m.owner IS NOT NULL AND m.state = 'pending' RETURNING m.id
        """  # noqa: S608 - made of constants
        ids, fences = [each.id for each in messages], [each.fence for each in messages]
        return {number for (number,) in drive(self._work.run(sql, lease, ids, fences))}

    def settle(self, settlements: Sequence[Settlement]) -> set[int]:
        """Write down what came of deliveries."""
        columns = (
            [each.message.id for each in settlements],
            [each.message.fence for each in settlements],
            ["pending" if each.state == "failed" else each.state for each in settlements],
            [each.error for each in settlements],
            [0 if each.counted or each.state == "delivered" else 1 for each in settlements],
            [each.delay for each in settlements],
        )

        async def step(session: Session) -> set[int]:
            rows = await session.run(f"{_BEGIN}; {self._sql(_SETTLE)}", *columns)
            groups = [(topic, group) for _, topic, group, over in rows if over and group is not None]
            await self._finish(session, groups, _SWEEP * len(settlements))
            return {number for number, *_ in rows}

        return drive(self._work.repeat(step, broken=False))

    def parked(self, *, limit: int = 100, after: int = 0) -> list[Parked]:
        """Return parked messages."""
        sql = f"""
            SELECT {self._sql(_COLUMNS)} FROM resilient_outbox AS m
            WHERE m.state = 'parked' AND m.id > %s ORDER BY m.id LIMIT %s
        """  # noqa: S608 - likewise
        return [_read_parked(row) for row in drive(self._work.run(sql, after, limit))]

    def requeue(self, ids: Sequence[int]) -> int:
        """Let parked messages be delivered after all."""
        sql = f"""
            UPDATE resilient_outbox SET state = 'pending', attempts = 0, due_at = {self._clock}
            WHERE id = ANY(%s::bigint[]) AND state = 'parked' RETURNING id
        """  # noqa: S608 - likewise
        return len(drive(self._work.run(sql, list(ids), repeatable=False)))

    def discard(self, ids: Sequence[int]) -> int:
        """Give up parked messages."""
        sql = f"""
            UPDATE resilient_outbox SET state = 'discarded', settled_at = {self._clock}
            WHERE id = ANY(%s::bigint[]) AND state = 'parked' RETURNING topic, in_group
        """  # noqa: S608 - likewise

        async def step(session: Session) -> int:
            rows = await session.run(f"{_BEGIN}; {sql}", list(ids))
            await self._finish(session, [(topic, group) for topic, group in rows if group is not None], 0)
            return len(rows)

        return drive(self._work.repeat(step, broken=False))

    def gc(self, limit: int = 1000) -> int:
        """Remove messages whose retention is over."""
        return len(drive(self._work.run(f"{self._sql(_SWEEP_UP)} RETURNING 1", self._keep, limit)))

    def stats(self) -> OutboxStats:
        """Count what is held."""
        ((pending, in_flight, waiting, parked, settled, oldest),) = drive(self._work.run(self._sql(_COUNT)))
        return OutboxStats(
            pending=pending, in_flight=in_flight, waiting=waiting, parked=parked, delivered=settled, oldest=oldest
        )

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._work.close()

    def __repr__(self) -> str:
        return f"PostgresOutbox({self._work.database.name!r})"

    async def _finish(self, session: Session, groups: list[tuple[str, str]], sweep: int) -> None:
        """Let the next of each group be claimed, remove some of what is over, and commit."""
        topics, names = [topic for topic, _ in groups], [group for _, group in groups]
        promote = f"{_PROMOTE}; " if groups else ""
        values = (topics, names) if groups else ()
        await session.run(f"{promote}{self._sql(_SWEEP_UP)}; COMMIT", *values, self._keep, sweep)

    def _sql(self, template: str) -> str:
        return template.format(clock=self._clock)


def _read_message(columns: Sequence[Any]) -> Message:
    number, topic, key, payload, group, headers, attempts, _error, fence, age = columns
    return Message(
        id=number,
        topic=topic,
        key=key,
        payload=payload,
        group=group,
        headers=json.loads(headers),
        attempt=attempts,
        age=age,
        fence=fence,
    )


def _read_parked(columns: Sequence[Any]) -> Parked:
    number, topic, key, payload, group, headers, attempts, error, _fence, age = columns
    return Parked(
        id=number,
        topic=topic,
        key=key,
        payload=payload,
        group=group,
        headers=json.loads(headers),
        attempts=attempts,
        error=error,
        age=age,
    )
