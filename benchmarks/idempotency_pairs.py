"""Both sides of what `benchmarks.idempotency` measures: in memory, and in SQLite."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.measuring import Slice, each
from resilient.asgi import IdempotencyMiddleware
from resilient.backends.memory import MemoryStore
from resilient.backends.sqlite import SQLiteStore
from resilient.backends.store import BlockingStore, Replay, Run
from resilient.idempotency import BlockingClaim, Claim, once

__all__ = [
    "FINGERPRINT",
    "LONG",
    "OWNER",
    "RESULT",
    "TTL",
    "Pair",
    "first_in",
    "pairs_of_memory",
    "pairs_of_sqlite",
    "repeated",
    "replay_in",
]

FINGERPRINT = bytes(32)
RESULT = b"a receipt of the usual size, some two hundred bytes: " + b"." * 150
OWNER = "8e03978e-40d5-43e8-bc93-6894a57f9324"
TTL = 0.05
"""Seconds of retention where first runs are measured: short, so that the tables have a steady size."""
LONG = 3600.0

Step: TypeAlias = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Pair:
    """Ours, and what it is held against; `at_most` is the goal of their ratio, or of our microseconds alone."""

    store: str
    operation: str
    ours: Slice
    raw: Slice | None = None
    at_most: float | None = None
    least: Slice | None = None
    """The cheapest that could be written by hand for the purpose, without what makes it right after a crash."""


def repeated(step: Step) -> Slice:
    """Call `step` again and again."""

    async def run(calls: int) -> None:
        for _ in range(calls):
            step()

    return run


def first_in(store: BlockingStore, ttl: float = TTL) -> Step:
    """Begin and complete under a key that is new."""
    numbers = count()

    def step() -> None:
        key = f"key {next(numbers)}"
        run = store.begin("payments", key, FINGERPRINT, owner=OWNER, lease=ttl, ttl=ttl)
        assert isinstance(run, Run)
        store.complete(run, RESULT, ttl=ttl)

    return step


def replay_in(store: BlockingStore) -> Step:
    """Begin under a key whose operation is done."""
    run = store.begin("payments", "done", FINGERPRINT, owner=OWNER, lease=LONG, ttl=LONG)
    if isinstance(run, Run):
        store.complete(run, RESULT, ttl=LONG)

    def step() -> None:
        answer = store.begin("payments", "done", FINGERPRINT, owner=OWNER, lease=LONG, ttl=LONG)
        assert isinstance(answer, Replay)

    return step


# ---- memory, and what stands around a store


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers at once."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": RESULT})


def request_to(app: Any, key: Callable[[], bytes] | None) -> Slice:
    """A request as a server passes it on; no key where None."""
    common = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"authorization", b"Bearer alice")]

    async def receive() -> Any:
        return {"type": "http.request", "body": b'{"cents": 500}', "more_body": False}

    async def send(message: Any) -> None:
        pass

    async def step() -> None:
        headers = common if key is None else [*common, (b"idempotency-key", key())]
        scope = {"type": "http", "method": "POST", "path": "/payments", "query_string": b"", "headers": headers}
        await app({**scope, "extensions": {}}, receive, send)

    return each(step)


async def pairs_of_memory() -> Sequence[Pair]:
    """A store in memory, a function and an application around it."""
    store = MemoryStore()
    numbers = count()

    @once(store, key=lambda key: key, mode="fenced", ttl=TTL, lease=TTL, scope="coroutine")
    async def pay(claim: Claim, key: str) -> str:
        return key

    @once(store, key=lambda key: key, mode="fenced", ttl=LONG, scope="paid")
    async def paid(claim: Claim, key: str) -> str:
        return key

    @once(store, key=lambda key: key, mode="fenced", ttl=LONG, scope="plain")
    def plainly_paid(claim: BlockingClaim, key: str) -> str:
        return key

    @once(store, key=lambda key: key, mode="fenced", ttl=TTL, lease=TTL, scope="plain first")
    def plainly_pay(claim: BlockingClaim, key: str) -> str:
        return key

    protected = IdempotencyMiddleware(bare, store, ttl=TTL, lease=TTL)
    replaying = IdempotencyMiddleware(bare, store, ttl=LONG)
    await paid("key")
    plainly_paid("key")
    alone = request_to(bare, None)
    return [
        Pair("memory", "first", repeated(first_in(store.blocking)), at_most=3.0),
        Pair("memory", "replay", repeated(replay_in(store.blocking))),
        Pair("memory", "once, a coroutine, first", each(lambda: pay(f"key {next(numbers)}"))),
        Pair("memory", "once, a coroutine, replay", each(lambda: paid("key"))),
        Pair("memory", "once, a plain function, first", repeated(lambda: plainly_pay(f"key {next(numbers)}"))),
        Pair("memory", "once, a plain function, replay", repeated(lambda: plainly_paid("key"))),
        Pair("memory", "request without a key", request_to(protected, None), alone),
        Pair("memory", "request, first", request_to(protected, lambda: b"key-%d" % next(numbers)), alone),
        Pair("memory", "request, replay", request_to(replaying, lambda: b"key"), alone),
    ]


# ---- SQLite


def pairs_of_sqlite(folder: Path) -> Sequence[Pair]:
    """A file on this disk: every commit waits for it."""
    store = SQLiteStore(folder / "claims.db").blocking
    pay = transactional(SQLiteStore(folder / "bank.db"), folder / "bank.db")
    raw = sqlite3.connect(folder / "raw.db", isolation_level=None)
    raw.executescript(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; "
        "CREATE TABLE records (key TEXT PRIMARY KEY, fingerprint BLOB, owner TEXT, result BLOB);"
        "CREATE TABLE payments (key TEXT, cents INTEGER)"
    )
    numbers = count()

    def claim(key: str) -> None:
        raw.execute("BEGIN IMMEDIATE")
        raw.execute("INSERT INTO records VALUES (?, ?, ?, NULL)", (key, FINGERPRINT, OWNER))
        raw.execute("DELETE FROM records WHERE key = (SELECT min(key) FROM records)")
        raw.execute("COMMIT")

    def first() -> None:
        key = f"key {next(numbers):012}"
        claim(key)
        raw.execute("BEGIN IMMEDIATE")
        raw.execute("UPDATE records SET result = ? WHERE key = ?", (RESULT, key))
        raw.execute("COMMIT")

    def first_with_effect() -> None:
        key = f"key {next(numbers):012}"
        claim(key)
        raw.execute("BEGIN IMMEDIATE")
        raw.execute("INSERT INTO payments VALUES (?, 500)", (key,))
        raw.execute("UPDATE records SET result = ? WHERE key = ?", (RESULT, key))
        raw.execute("COMMIT")

    def replay() -> None:
        raw.execute("SELECT * FROM records WHERE key = 'z done'").fetchone()

    raw.execute("INSERT INTO records VALUES ('z done', ?, ?, ?)", (FINGERPRINT, OWNER, RESULT))
    raw.executemany("INSERT INTO records VALUES (?, ?, ?, NULL)", [(f"before {n:02}", b"", "") for n in range(100)])
    return [
        Pair("SQLite", "first: 2 commits", repeated(first_in(store)), repeated(first), 1.3),
        Pair("SQLite", "first, transactional: 2 commits", repeated(pay), repeated(first_with_effect), 1.3),
        Pair("SQLite", "replay: 1 query", repeated(replay_in(store)), repeated(replay)),
    ]


def transactional(store: Any, database: Path) -> Step:
    """A payment whose effect and record share a commit."""
    numbers = count()
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE payments (key TEXT, cents INTEGER)")

    @once(store, key=lambda key: key, ttl=TTL, lease=1.0)
    def pay(claim: BlockingClaim, key: str) -> str:
        with claim.transaction() as connection:
            connection.execute("INSERT INTO payments VALUES (?, 500)", (key,))
        return RESULT.decode()

    return lambda: pay(f"key {next(numbers)}")
