"""Fences in one commit: whoever waited for a claim that was undone must not come with a fence from before its wait."""

from __future__ import annotations

import threading
import time

from resilient.backends.postgres import PostgresStore
from resilient.backends.postgres.store import BlockingPostgresStore
from resilient.backends.store import BlockingOpened
from tests.servers.postgres import Postgres
from tests.servers.sharing import shared

WAITING = 4


def test_fences_rise_among_those_who_waited_for_a_claim_that_is_undone() -> None:
    server = shared(Postgres)
    url, stores = server.create_database(), list[BlockingPostgresStore]()
    fences: list[int] = []

    def claim() -> BlockingOpened:
        # As a process of its own: of those in one, one waits in the database, and the others are told to come back.
        store = PostgresStore(url, lock_timeout=5.0).blocking
        stores.append(store)
        opened = store.open("s", "k", b"", owner="o", lease=30.0, ttl=60.0)
        assert isinstance(opened, BlockingOpened)
        return opened

    def claim_and_undo() -> None:
        opened = claim()
        fences.append(opened.run.fence)
        opened.transaction.rollback()

    first = claim()
    fences.append(first.run.fence)
    others = [threading.Thread(target=claim_and_undo) for _ in range(WAITING)]
    for other in others:
        other.start()
    deadline = time.monotonic() + 4
    while server.ask("SELECT count(*) FROM pg_locks WHERE NOT granted") != [(WAITING,)]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.transaction.rollback()
    for other in others:
        other.join()
    assert len(fences) == WAITING + 1
    assert fences == sorted(set(fences))
    for store in stores:
        store.close()
