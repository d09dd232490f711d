"""The outbox in an SQLite file, beside the tables that effects change."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, final

from resilient.backends.outbox import (
    Claimed,
    Draft,
    Message,
    OutboxStats,
    Parked,
    Plan,
    Settlement,
    Statement,
)
from resilient.backends.sqlite.database import Connection, Database
from resilient.errors import KeyReused

__all__ = ["MIGRATIONS", "BlockingSQLiteOutbox"]

_LOOK, _LOOK_FURTHER = 64, 512
"""Due messages looked at in one transaction: in the first one, and where those were all behind others of their groups.
It stays short, however many there are."""
_SWEEP = 2
"""Messages removed for each one settled: more than are added."""
_NO_SURVIVOR = "no relay that delivered it survived"

MIGRATIONS = (
    (
        # All times are milliseconds since the epoch. `due_at` of a leased message is the end of its lease; `settled_at`
        # is set when it is delivered or discarded.
        """
        CREATE TABLE resilient_outbox (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            topic TEXT NOT NULL,
            key TEXT NOT NULL,
            payload BLOB NOT NULL,
            in_group TEXT,
            headers TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('pending', 'waiting', 'parked', 'delivered', 'discarded')),
            attempts INTEGER NOT NULL DEFAULT 0,
            fence INTEGER NOT NULL DEFAULT 0,
            owner TEXT,
            error TEXT NOT NULL DEFAULT '',
            created_at INTEGER NOT NULL,
            due_at INTEGER NOT NULL,
            settled_at INTEGER,
            UNIQUE (topic, key)
        )
        """,
        "CREATE INDEX resilient_outbox_due ON resilient_outbox (due_at, id) WHERE state = 'pending'",
        "CREATE INDEX resilient_outbox_open ON resilient_outbox (topic, in_group, id) WHERE settled_at IS NULL",
        "CREATE INDEX resilient_outbox_parked ON resilient_outbox (id) WHERE state = 'parked'",
        "CREATE INDEX resilient_outbox_settled ON resilient_outbox (settled_at) WHERE settled_at IS NOT NULL",
    ),
)

_ADD = """
    INSERT INTO resilient_outbox (topic, key, payload, in_group, headers, state, created_at, due_at)
    VALUES (:topic, :key, :payload, :group, :headers, 'pending', {clock}, {clock} + :delay)
    ON CONFLICT (topic, key) DO NOTHING
"""
_FIND = "SELECT payload, in_group FROM resilient_outbox WHERE topic = :topic AND key = :key"
_COLUMNS = "id, topic, key, payload, in_group, headers, attempts, error, created_at, fence"
_DUE = "state = 'pending' AND due_at <= {clock}"
_FIRST = "SELECT min(id) FROM resilient_outbox WHERE topic = ? AND in_group = ? AND settled_at IS NULL"
_MINE = "id = ? AND fence = ? AND owner IS NOT NULL AND state = 'pending'"
_COUNT = """
    SELECT coalesce(sum(state = 'pending'), 0),
           coalesce(sum(state = 'pending' AND owner IS NOT NULL AND due_at > {clock}), 0),
           coalesce(sum(state = 'waiting'), 0), coalesce(sum(state = 'parked'), 0),
           coalesce(sum(settled_at IS NOT NULL), 0),
           coalesce({clock} - min(CASE WHEN state IN ('pending', 'waiting') THEN created_at END), 0)
    FROM resilient_outbox
"""


@final
class BlockingSQLiteOutbox:
    """The outbox in the file of `database`; `clock` is its expression for now, in milliseconds."""

    def __init__(self, database: Database, clock: str, *, keep: float) -> None:
        self._database = database.sibling(tables="outbox_messages", migrations=MIGRATIONS)
        self._clock = clock
        self._keep = _ms(keep)

    def statements(self) -> list[str]:
        """What makes the tables in an empty database."""
        return self._database.statements()

    def migrate(self) -> list[str]:
        """Make the tables, or bring them up to date."""
        return self._database.migrate()

    def prepare(self) -> None:
        """Do nothing: a second connection would wait for the first one's transaction."""

    def add(self, draft: Draft) -> Plan[bool]:
        """Tell how to add a message."""
        yield from self._database.check_file()
        yield from self._database.prepare_through()
        names: dict[str, object] = {"topic": draft.topic, "key": draft.key}
        others = {"payload": draft.payload, "group": draft.group, "headers": json.dumps(dict(draft.headers))}
        added = yield Statement(self._sql(_ADD), {**names, **others, "delay": _ms(draft.delay)})
        if added.changed == 1:
            return True
        found = yield Statement(_FIND, names)
        if not found.rows or tuple(found.rows[0]) != (draft.payload, draft.group):
            raise KeyReused(f"key={draft.key!r}: it was added to {draft.topic!r} before, with another payload or group")
        return False

    def claim(
        self, *, owner: str, limit: int, lease: float, attempts: int, topics: Sequence[str] | None = None
    ) -> Claimed:
        """Lease messages that are due."""
        claimed = Claimed([], [])
        # To look needs no lock.
        with self._database.read() as connection:
            found = bool(self._due(connection, topics, 1))
        most = _LOOK
        while found and not claimed.messages:
            with self._database.write() as connection:
                due = self._due(connection, topics, most)
                for row in due:
                    if len(claimed.messages) < limit:
                        self._take(connection, row, owner, lease, attempts, claimed)
            found, most = len(due) == most, _LOOK_FURTHER
        return claimed

    def renew(self, messages: Sequence[Message], *, lease: float) -> set[int]:
        """Let the leases begin anew."""
        with self._database.write() as connection:
            change = f"due_at = {self._clock} + ?"
            return {each.id for each in messages if self._update(connection, each, change, _ms(lease))}

    def settle(self, settlements: Sequence[Settlement]) -> set[int]:
        """Write down what came of deliveries."""
        with self._database.write() as connection:
            mine = {each.message.id for each in settlements if self._settle(connection, each)}
            self._sweep(connection, _SWEEP * len(settlements))
        return mine

    def parked(self, *, limit: int = 100, after: int = 0) -> list[Parked]:
        """Return parked messages."""
        sql = f"SELECT {_COLUMNS}, {self._clock} FROM resilient_outbox WHERE state = 'parked' AND id > ? ORDER BY id LIMIT ?"  # noqa: E501, S608 - made of constants
        with self._database.read() as connection:
            return [_read_parked(row) for row in connection.execute(sql, (after, limit))]

    def requeue(self, ids: Sequence[int]) -> int:
        """Let parked messages be delivered after all."""
        sql = f"UPDATE resilient_outbox SET state = 'pending', attempts = 0, due_at = {self._clock} WHERE id = ? AND state = 'parked'"  # noqa: E501, S608 - likewise
        with self._database.write() as connection:
            return sum(connection.execute(sql, (each,)).rowcount for each in ids)

    def discard(self, ids: Sequence[int]) -> int:
        """Give up parked messages."""
        sql = f"UPDATE resilient_outbox SET state = 'discarded', settled_at = {self._clock} WHERE id = ? AND state = 'parked'"  # noqa: E501, S608 - likewise
        find = "SELECT topic, in_group FROM resilient_outbox WHERE id = ?"
        done = 0
        with self._database.write() as connection:
            for each in ids:
                if connection.execute(sql, (each,)).rowcount:
                    done += 1
                    self._promote(connection, *connection.execute(find, (each,)).fetchone())
        return done

    def gc(self, limit: int = 1000) -> int:
        """Remove messages whose retention is over."""
        with self._database.write() as connection:
            return self._sweep(connection, limit)

    def stats(self) -> OutboxStats:
        """Count what is held."""
        with self._database.read() as connection:
            pending, in_flight, waiting, parked, settled, oldest = connection.execute(self._sql(_COUNT)).fetchone()
        return OutboxStats(
            pending=pending,
            in_flight=in_flight,
            waiting=waiting,
            parked=parked,
            delivered=settled,
            oldest=max(0, oldest) / 1000,
        )

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def __repr__(self) -> str:
        return f"SQLiteOutbox({str(self._database.path)!r})"

    def _sql(self, template: str) -> str:
        return template.format(clock=self._clock)

    def _due(self, connection: Connection, topics: Sequence[str] | None, limit: int) -> list[Any]:
        condition = self._sql(_DUE)
        if topics is not None:
            condition += f" AND topic IN ({', '.join('?' * len(topics))})"
        sql = f"SELECT {_COLUMNS}, {self._clock} FROM resilient_outbox WHERE {condition} ORDER BY due_at, id LIMIT ?"  # noqa: S608 - made of constants
        return connection.execute(sql, (*(topics or ()), limit)).fetchall()

    def _take(
        self, connection: Connection, row: Sequence[Any], owner: str, lease: float, attempts: int, claimed: Claimed
    ) -> None:
        number, topic, _, _, group, _, tried, *_ = row
        change = "UPDATE resilient_outbox SET {} WHERE id = ?"
        if group is not None and connection.execute(_FIRST, (topic, group)).fetchone() != (number,):
            connection.execute(change.format("state = 'waiting'"), (number,))
        elif tried >= attempts:
            connection.execute(change.format("state = 'parked', owner = NULL, error = ?"), (_NO_SURVIVOR, number))
            claimed.parked.append(_read_message(row))
        else:
            lease_it = f"attempts = attempts + 1, fence = fence + 1, owner = ?, due_at = {self._clock} + ?"
            connection.execute(change.format(lease_it), (owner, _ms(lease), number))
            claimed.messages.append(_read_message(row, claims=1))

    def _settle(self, connection: Connection, settlement: Settlement) -> bool:
        message = settlement.message
        if settlement.state == "delivered":
            change = f"state = 'delivered', owner = NULL, error = '', settled_at = {self._clock}"
            done = self._update(connection, message, change)
            if done:
                self._promote(connection, message.topic, message.group)
            return done
        state = "parked" if settlement.state == "parked" else "pending"
        change = f"state = ?, owner = NULL, error = ?, attempts = attempts - ?, due_at = {self._clock} + ?"
        uncounted = 0 if settlement.counted else 1
        return self._update(connection, message, change, state, settlement.error, uncounted, _ms(settlement.delay))

    def _promote(self, connection: Connection, topic: str, group: str | None) -> None:
        """Let the next of a group be claimed."""
        if group is not None:
            sql = f"UPDATE resilient_outbox SET state = 'pending' WHERE id = ({_FIRST}) AND state = 'waiting'"  # noqa: S608 - made of constants
            connection.execute(sql, (topic, group))

    def _update(self, connection: Connection, message: Message, change: str, *values: object) -> bool:
        sql = f"UPDATE resilient_outbox SET {change} WHERE {_MINE}"  # noqa: S608 - made of constants
        return connection.execute(sql, (*values, message.id, message.fence)).rowcount == 1

    def _sweep(self, connection: Connection, limit: int) -> int:
        sql = (
            "DELETE FROM resilient_outbox WHERE id IN (SELECT id FROM resilient_outbox "  # noqa: S608 - likewise
            f"WHERE settled_at IS NOT NULL AND settled_at <= {self._clock} - ? ORDER BY settled_at LIMIT ?)"
        )
        return connection.execute(sql, (self._keep, limit)).rowcount


def _read_message(columns: Sequence[Any], *, claims: int = 0) -> Message:
    number, topic, key, payload, group, headers, attempts, _error, created_at, fence, now = columns
    return Message(
        id=number,
        topic=topic,
        key=key,
        payload=payload,
        group=group,
        headers=json.loads(headers),
        attempt=attempts + claims,
        age=max(0, now - created_at) / 1000,
        fence=fence + claims,
    )


def _read_parked(columns: Sequence[Any]) -> Parked:
    number, topic, key, payload, group, headers, attempts, error, created_at, _fence, now = columns
    return Parked(
        id=number,
        topic=topic,
        key=key,
        payload=payload,
        group=group,
        headers=json.loads(headers),
        attempts=attempts,
        error=error,
        age=max(0, now - created_at) / 1000,
    )


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)
