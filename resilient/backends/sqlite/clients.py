"""Leased clients in an SQLite file, beside the claims of their calls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, final

from resilient.backends.clients import ClientCall, LeasedAnswer, Refused, scope_of
from resilient.backends.sqlite.database import Connection

if TYPE_CHECKING:
    from resilient.backends.sqlite.claims import BlockingSQLiteStore

__all__ = ["MIGRATIONS", "BlockingSQLiteClients"]

_SWEEP = 4
"""How many clients each registration and renewal removes."""

MIGRATIONS = (
    (
        # All times are milliseconds, `lease_until` since the epoch.
        """
        CREATE TABLE resilient_clients (
            client TEXT PRIMARY KEY,
            principal TEXT NOT NULL,
            lease INTEGER NOT NULL,
            lease_until INTEGER NOT NULL,
            acknowledged INTEGER NOT NULL
        )
        """,
        "CREATE INDEX resilient_clients_collection ON resilient_clients (lease_until + lease)",
    ),
)

_REMOVE = "DELETE FROM resilient_claims WHERE scope = ? AND (state = 'done' OR lease_until <= {clock})"
_FORGET = _REMOVE + " AND CAST(key AS INTEGER) <= ?"
_LEFT = "SELECT 1 FROM resilient_claims WHERE scope = ? LIMIT 1"


class _Row(NamedTuple):
    principal: str
    acknowledged: int
    leased: bool


@final
class BlockingSQLiteClients:
    """Clients in the file of `claims`."""

    waits = True

    def __init__(self, claims: BlockingSQLiteStore) -> None:
        clock = claims.clock
        self._claims = claims
        self._clock = clock
        self._database = claims.database.sibling(tables="clients", migrations=MIGRATIONS)
        self._find_sql = (
            f"SELECT principal, acknowledged, lease_until > {clock} FROM resilient_clients WHERE client = ?"  # noqa: S608 - made of constants
        )
        self._over_sql = (
            f"SELECT client FROM resilient_clients WHERE lease_until + lease <= {clock} ORDER BY lease_until + lease "  # noqa: S608 - likewise
            "LIMIT ?"
        )
        self._remove_sql = _REMOVE.format(clock=clock)
        self._forget_sql = _FORGET.format(clock=clock)

    def register(self, client: str, principal: str, *, lease: float) -> None:
        """Give a client its lease."""
        self._claims.prepare()
        with self._database.write() as connection:
            self._collect(connection, _SWEEP)
            sql = f"INSERT INTO resilient_clients VALUES (?, ?, ?, {self._clock} + ?, 0)"  # noqa: S608 - likewise
            connection.execute(sql, (client, principal, _ms(lease), _ms(lease)))

    def renew(self, client: str, principal: str, acknowledged: int, *, lease: float) -> bool:
        """Let its lease begin anew, unless it is over."""
        self._claims.prepare()
        with self._database.write() as connection:
            self._collect(connection, _SWEEP)
            row = self._find(connection, client, principal)
            if row is None or not row.leased:
                return False
            self._forget(connection, client, row, acknowledged)
            sql = f"UPDATE resilient_clients SET lease = ?, lease_until = {self._clock} + ? WHERE client = ?"  # noqa: S608 - likewise
            connection.execute(sql, (_ms(lease), _ms(lease), client))
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
        scope, key = scope_of(client), str(number)
        self._claims.prepare()
        with self._database.write() as connection:
            row = self._find(connection, client, principal)
            if row is None:
                return Refused("expired")
            acknowledged = self._forget(connection, client, row, call.acknowledged)
            if number <= acknowledged:
                return Refused("stale")
            if not row.leased and not self._claims.knows(connection, scope, key):
                return Refused("expired")
            return self._claims.begin_inside(
                connection, scope, key, fingerprint, owner=owner, lease=lease, ttl=ttl, takeover=takeover
            )

    def leave(self, client: str, principal: str) -> bool:
        """End its lease."""
        self._claims.prepare()
        with self._database.write() as connection:
            if self._find(connection, client, principal) is None:
                return False
            connection.execute("UPDATE resilient_clients SET lease = 0, lease_until = 0 WHERE client = ?", (client,))
            self._remove(connection, client)
        return True

    def collect(self, limit: int = 100) -> int:
        """Remove clients whose lease ended a lease ago."""
        self._claims.prepare()
        with self._database.write() as connection:
            return self._collect(connection, limit)

    def count(self) -> int:
        """How many clients there are."""
        with self._database.read() as connection:
            count: int = connection.execute("SELECT count(*) FROM resilient_clients").fetchone()[0]
        return count

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def __repr__(self) -> str:
        return f"SQLiteClients({str(self._database.path)!r})"

    def _find(self, connection: Connection, client: str, principal: str) -> _Row | None:
        columns = connection.execute(self._find_sql, (client,)).fetchone()
        row = None if columns is None else _Row(*columns)
        return row if row is not None and row.principal == principal else None

    def _forget(self, connection: Connection, client: str, row: _Row, acknowledged: int) -> int:
        if acknowledged <= row.acknowledged:
            return row.acknowledged
        sql = "UPDATE resilient_clients SET acknowledged = ? WHERE client = ?"
        connection.execute(sql, (acknowledged, client))
        connection.execute(self._forget_sql, (scope_of(client), acknowledged))
        return acknowledged

    def _remove(self, connection: Connection, client: str) -> bool:
        scope = scope_of(client)
        connection.execute(self._remove_sql, (scope,))
        if connection.execute(_LEFT, (scope,)).fetchone() is not None:
            return False  # something of it still runs
        connection.execute("DELETE FROM resilient_clients WHERE client = ?", (client,))
        return True

    def _collect(self, connection: Connection, limit: int) -> int:
        over = connection.execute(self._over_sql, (limit,)).fetchall()
        return sum(self._remove(connection, client) for (client,) in over)


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)
