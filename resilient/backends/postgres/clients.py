"""Leased clients in a PostgreSQL database, beside the claims of their calls.

A client's row is locked while one of its calls begins: its calls begin one after the other, and the acknowledgement is
read and raised in the transaction that makes the claim.
"""

from __future__ import annotations

from typing import Any, final

from resilient.backends.clients import ClientCall, LeasedAnswer, Refused, scope_of
from resilient.backends.postgres.claims import Claims
from resilient.backends.postgres.database import Work
from resilient.backends.postgres.sessions import Session
from resilient.waiting import drive

__all__ = ["MIGRATIONS", "BlockingPostgresClients"]

_SWEEP = 4
"""How many clients each registration and renewal removes."""

MIGRATIONS = (
    (
        """
        CREATE TABLE resilient_clients (
            client text PRIMARY KEY,
            principal text NOT NULL,
            lease_until timestamptz NOT NULL,
            collect_at timestamptz NOT NULL,
            acknowledged bigint NOT NULL
        )
        """,
        "CREATE INDEX resilient_clients_collection ON resilient_clients (collect_at)",
    ),
)

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_FIND = """
    SELECT acknowledged, lease_until > {clock} FROM resilient_clients WHERE client = %s AND principal = %s FOR UPDATE
"""
_LEASE = "{clock} + %s * interval '1 second', {clock} + 2 * %s * interval '1 second'"
_LAPSED = "(state = 'done' OR (state = 'running' AND (lease_until IS NULL OR lease_until <= {clock})))"
# Keys are numbers in this scope, and anything in others.
_FORGET = """
    DELETE FROM resilient_claims
    WHERE scope = %s AND CASE WHEN scope = %s THEN key::bigint <= %s ELSE false END AND {lapsed}
"""
_REMOVE = """
    DELETE FROM resilient_claims WHERE scope = %s AND {lapsed};
    DELETE FROM resilient_clients WHERE client = %s AND NOT EXISTS (SELECT 1 FROM resilient_claims WHERE scope = %s)
    RETURNING 1
"""


@final
class BlockingPostgresClients:
    """Clients in the database of `claims`."""

    waits = True

    def __init__(self, claims: Claims) -> None:
        clock = claims.sql.clock
        mine = claims.work.database.sibling(tables="clients", migrations=MIGRATIONS)
        self._claims = claims
        self._work = Work(mine, mine.threads)
        lapsed = _LAPSED.format(clock=clock)
        lease = _LEASE.format(clock=clock)
        self._find_sql = _FIND.format(clock=clock)
        self._register_sql = f"INSERT INTO resilient_clients VALUES (%s, %s, {lease}, 0)"  # noqa: S608 - made of constants
        self._renew_sql = (
            f"UPDATE resilient_clients SET (lease_until, collect_at) = ({lease}) WHERE client = %s; COMMIT"  # noqa: S608 - likewise
        )
        self._leave_sql = (
            f"UPDATE resilient_clients SET (lease_until, collect_at) = ({clock}, {clock}) WHERE client = %s"  # noqa: S608 - likewise
        )
        self._over_sql = (
            f"{_BEGIN}; SELECT client FROM resilient_clients WHERE collect_at <= {clock} ORDER BY collect_at LIMIT %s "  # noqa: S608 - likewise
            "FOR UPDATE SKIP LOCKED"
        )
        forget = _FORGET.format(lapsed=lapsed)
        self._raise_sql = f"UPDATE resilient_clients SET acknowledged = %s WHERE client = %s; {forget}"  # noqa: S608 - likewise
        self._remove_sql = _REMOVE.format(lapsed=lapsed)

    def register(self, client: str, principal: str, *, lease: float) -> None:
        """Give a client its lease."""
        self.collect(_SWEEP)
        drive(self._work.run(self._register_sql, client, principal, lease, lease, repeatable=False))

    def renew(self, client: str, principal: str, acknowledged: int, *, lease: float) -> bool:
        """Let its lease begin anew, unless it is over."""
        self.collect(_SWEEP)

        async def step(session: Session) -> bool:
            rows = await session.run(f"{_BEGIN}; {self._find_sql}", client, principal)
            if not rows or not rows[0][1]:
                return False
            await self._forget(session, client, rows[0][0], acknowledged)
            await session.run(self._renew_sql, lease, lease, client)
            return True

        return drive(self._work.repeat(step, broken=True))

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

        async def check(session: Session) -> Refused | None:
            rows = await session.run(self._find_sql, call.client, principal)
            if not rows:
                return Refused("expired")
            acknowledged, leased = rows[0]
            acknowledged = await self._forget(session, call.client, acknowledged, call.acknowledged)
            if call.number <= acknowledged:
                return Refused("stale")
            if leased or await session.run(self._claims.sql.find, scope, key):
                return None
            return Refused("expired")

        drive(self._work.prepare())
        scope, key = scope_of(call.client), str(call.number)
        begin = self._claims.begin_checked
        return drive(begin(check, scope, key, fingerprint, owner=owner, lease=lease, ttl=ttl, takeover=takeover))

    def leave(self, client: str, principal: str) -> bool:
        """End its lease."""
        drive(self._claims.work.prepare())

        async def step(session: Session) -> bool:
            known = bool(await session.run(f"{_BEGIN}; {self._find_sql}", client, principal))
            if known:
                await session.run(self._leave_sql, client)
                await self._remove(session, client)
                await session.run("COMMIT")
            return known

        return drive(self._work.repeat(step, broken=False))

    def collect(self, limit: int = 100) -> int:
        """Remove clients whose lease ended a lease ago."""
        drive(self._claims.work.prepare())

        async def step(session: Session) -> int:
            over = await session.run(self._over_sql, limit)
            removed = [await self._remove(session, client) for (client,) in over]
            await session.run("COMMIT")
            return sum(removed)

        return drive(self._work.repeat(step, broken=True))

    def count(self) -> int:
        """How many clients there are."""
        ((count,),) = drive(self._work.run("SELECT count(*) FROM resilient_clients"))
        return int(count)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._work.close()

    def __repr__(self) -> str:
        return f"PostgresClients({self._work.database.name!r})"

    async def _forget(self, session: Session, client: str, known: Any, acknowledged: int) -> int:
        if acknowledged <= known:
            return int(known)
        scope = scope_of(client)
        await session.run(self._raise_sql, acknowledged, client, scope, scope, acknowledged)
        return acknowledged

    async def _remove(self, session: Session, client: str) -> bool:
        scope = scope_of(client)
        return bool(await session.run(self._remove_sql, scope, client, scope))
