"""Threads of a forked child that come to the pool at the same time."""

from __future__ import annotations

import threading

import pytest

from resilient.backends.redis.server import Address, ThreadPool
from tests.servers.valkey import Valkey


def test_none_of_them_takes_a_connection_of_the_parent(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ThreadPool(Address.parse(valkey.url), connections=2, timeout=5.0)
    assert pool.exchange([("ECHO", "parent")]) == [b"parent"]
    (inherited,) = pool._idle
    inherited.send_packed_command(inherited.pack_commands([("ECHO", "of the parent")]), check_health=False)
    pool._process = -1  # as it is in a child

    semaphore, answers = threading.Semaphore, []

    def let_another_thread_in(value: int) -> threading.Semaphore:
        monkeypatch.setattr(threading, "Semaphore", semaphore)
        other = threading.Thread(target=lambda: answers.extend(pool.exchange([("ECHO", "one")])))
        other.start()
        other.join()
        return semaphore(value)

    monkeypatch.setattr(threading, "Semaphore", let_another_thread_in)
    answers += pool.exchange([("ECHO", "other")])
    assert answers == [b"one", b"other"]
    pool.close()
    inherited.disconnect()
