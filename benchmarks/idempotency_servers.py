"""Both sides of what `benchmarks.idempotency` measures: in Valkey, and in PostgreSQL.

The raw side sends the very scripts and statements of ours through the plain driver.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import count

import psycopg
import redis

from benchmarks.idempotency_pairs import (
    FINGERPRINT,
    LONG,
    OWNER,
    RESULT,
    TTL,
    Pair,
    first_in,
    repeated,
    replay_in,
)
from benchmarks.servers import valkey
from resilient.backends.postgres import PostgresStore
from resilient.backends.postgres.statements import CLOCK, GUARD, Statements
from resilient.backends.redis import RedisStore
from resilient.backends.redis.scripts import Scripts
from resilient.idempotency import BlockingClaim, once
from tests.servers.postgres import Postgres

__all__ = ["pairs_of_postgres", "pairs_of_valkey"]

_MS = round(TTL * 1000)
_PATIENCE = 5000


@contextlib.contextmanager
def pairs_of_valkey() -> Iterator[Sequence[Pair]]:
    """A server on the loopback that keeps nothing on disk."""
    with valkey() as port:
        store = RedisStore(f"redis://127.0.0.1:{port}")
        raw = redis.Redis(port=port)
        scripts = Scripts()
        begin, complete = (raw.script_load(script.source) for script in (scripts.begin, scripts.complete))
        numbers = count()
        fence_key = "resilient:{raw}:fence"

        def first() -> None:
            number = next(numbers)
            key = f"resilient:{{raw}}:claim:8:payments:{number}"
            _, fence, *_ = raw.evalsha(begin, 2, key, fence_key, f"{number}b", FINGERPRINT, OWNER, _MS, _MS, 1)
            raw.evalsha(complete, 1, key, fence, f"{number}c", _MS, 1, RESULT, 0, 0)

        def replay() -> None:
            raw.evalsha(begin, 2, "resilient:{raw}:claim:done", fence_key, "r", FINGERPRINT, OWNER, _MS, _MS, 1)

        def least() -> None:
            key = f"least {next(numbers)}"
            raw.set(key, FINGERPRINT + OWNER.encode(), px=_MS, nx=True)
            raw.set(key, RESULT, px=_MS)

        raw.set("done", RESULT)
        key, long = "resilient:{raw}:claim:done", round(LONG * 1000)
        _, fence, *_ = raw.evalsha(begin, 2, key, fence_key, "b", FINGERPRINT, OWNER, long, long, 1)
        raw.evalsha(complete, 1, key, fence, "c", long, 1, RESULT, 0, 0)
        try:
            yield [
                Pair(
                    "Valkey",
                    "first: 2 round trips",
                    repeated(first_in(store.blocking)),
                    repeated(first),
                    1.3,
                    repeated(least),
                ),
                Pair(
                    "Valkey",
                    "replay: 1 round trip",
                    repeated(replay_in(store.blocking)),
                    repeated(replay),
                    1.2,
                    repeated(lambda: raw.get("done")),
                ),
            ]
        finally:
            store.blocking.close()
            raw.close()


class _ByHand:
    """The statements of ours, and the least that one would write, through the driver's own cursor."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True)
        self.cursor = psycopg.ClientCursor(self.connection)
        self.cursor.execute("CREATE TABLE payments (key text, cents integer)")
        self.cursor.execute("CREATE TABLE records (key text PRIMARY KEY, fingerprint bytea, owner text, result bytea)")
        self.cursor.execute("INSERT INTO records VALUES ('done', %s, %s, %s)", (FINGERPRINT, OWNER, RESULT))
        self.sql = Statements(CLOCK, GUARD)
        self.numbers = count()

    def look(self, key: str) -> None:
        """The first round trip of everything, and the only one of a replay."""
        self.cursor.execute(self.sql.look, ("payments", key)).fetchone()

    def fence(self) -> int:
        """What the last statement of a claim returned."""
        while True:
            row = self.cursor.fetchone() if self.cursor.description is not None else None
            if row is not None and len(row) == 4:
                return int(row[0])
            if not self.cursor.nextset():
                raise AssertionError("no claim")

    def first(self) -> None:
        """Look, claim, record: two transactions."""
        key = f"by hand {next(self.numbers)}"
        self.look(key)
        claim = ("payments", key, FINGERPRINT, OWNER, TTL, TTL, TTL, TTL, True)
        self.cursor.execute(self.sql.claim, (_PATIENCE, *claim))
        self.cursor.execute(self.sql.complete, (RESULT, TTL, "payments", key, self.fence(), "running"))

    def first_transactional(self) -> None:
        """Look, claim, effect, record: one transaction."""
        key = f"by hand {next(self.numbers)}"
        self.look(key)
        claim = ("payments", key, FINGERPRINT, OWNER, TTL, TTL, TTL, TTL, True)
        self.cursor.execute(self.sql.open, (_PATIENCE, _PATIENCE, key, "payments", *claim))
        fence = self.fence()
        self.cursor.execute("INSERT INTO payments VALUES (%s, 500)", (key,))
        self.cursor.execute(self.sql.record, (RESULT, TTL, "payments", key, fence, "written"))

    def least(self) -> None:
        """Claim, record: two transactions."""
        key = f"least {next(self.numbers)}"
        self.cursor.execute("INSERT INTO records VALUES (%s, %s, %s)", (key, FINGERPRINT, OWNER))
        self.cursor.execute("UPDATE records SET result = %s WHERE key = %s", (RESULT, key))

    def least_transactional(self) -> None:
        """Claim, effect, record: one transaction."""
        key = f"least {next(self.numbers)}"
        self.cursor.execute("BEGIN; INSERT INTO records VALUES (%s, %s, %s)", (key, FINGERPRINT, OWNER))
        self.cursor.execute("INSERT INTO payments VALUES (%s, 500)", (key,))
        self.cursor.execute("UPDATE records SET result = %s WHERE key = %s; COMMIT", (RESULT, key))

    def least_replay(self) -> None:
        """Read a row."""
        self.cursor.execute("SELECT * FROM records WHERE key = 'done'").fetchone()


@contextlib.contextmanager
def pairs_of_postgres() -> Iterator[Sequence[Pair]]:
    """A server on the loopback, with fsync on."""
    with Postgres() as server:
        url = server.create_database()
        store, bank = PostgresStore(url), PostgresStore(url)
        ours, replayed = first_in(store.blocking), replay_in(store.blocking)
        ours()  # makes the tables
        by_hand = _ByHand(url)
        numbers = count()

        @once(bank, key=lambda key: key, ttl=TTL, lease=1.0)
        def pay(claim: BlockingClaim, key: str) -> str:
            with claim.transaction() as connection:
                connection.execute("INSERT INTO payments VALUES (%s, 500)", (key,))
            return RESULT.decode()

        try:
            yield [
                Pair(
                    "PostgreSQL",
                    "first, transactional: 1 commit",
                    repeated(lambda: pay(f"key {next(numbers)}")),
                    repeated(by_hand.first_transactional),
                    1.3,
                    repeated(by_hand.least_transactional),
                ),
                Pair(
                    "PostgreSQL",
                    "first: 2 commits",
                    repeated(ours),
                    repeated(by_hand.first),
                    1.3,
                    repeated(by_hand.least),
                ),
                Pair(
                    "PostgreSQL",
                    "replay: 1 round trip",
                    repeated(replayed),
                    repeated(lambda: by_hand.look("done")),
                    1.2,
                    repeated(by_hand.least_replay),
                ),
            ]
        finally:
            for one in (store.blocking, bank.blocking):
                one.close()
            by_hand.connection.close()
