"""What only the memory store has: a bound."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from resilient.backends.memory import BlockingMemoryStore, MemoryStore
from resilient.backends.store import Run
from resilient.errors import StoreUnavailable
from resilient.runtime import Runtime
from tests.contract.stores import Clock


def begin(store: BlockingMemoryStore, key: str, *, lease: float = 30.0, ttl: float = 60.0) -> Run:
    answer = store.begin("s", key, b"", owner="o", lease=lease, ttl=ttl)
    assert isinstance(answer, Run)
    return answer


def test_a_full_store_fails_closed_instead_of_forgetting_early() -> None:
    clock = Clock()
    store = BlockingMemoryStore(max_records=3, runtime=Runtime(now=clock.now, wall=clock.now))
    for key in "abc":
        begin(store, key)
    with pytest.raises(StoreUnavailable, match="full"):
        begin(store, "d")
    clock.advance(60)
    begin(store, "d")
    assert store.stats().records == 1


def test_a_full_store_still_answers_for_the_keys_it_holds() -> None:
    clock = Clock()
    store = BlockingMemoryStore(max_records=1, runtime=Runtime(now=clock.now, wall=clock.now))
    first = begin(store, "a")
    clock.advance(30)
    assert begin(store, "a").fence > first.fence


def test_a_result_with_a_shorter_retention_is_removed_when_that_is_over() -> None:
    clock = Clock()
    store = BlockingMemoryStore(runtime=Runtime(now=clock.now, wall=clock.now))
    store.complete(begin(store, "a", ttl=3600), b"", ttl=10)
    clock.advance(10)
    assert store.gc() == 1
    assert store.stats().records == 0


def test_threads_share_it() -> None:
    store = BlockingMemoryStore()

    def one(number: int) -> bool:
        answer = store.begin("s", str(number % 50), b"", owner="o", lease=30.0, ttl=60.0)
        return isinstance(answer, Run)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one, range(400))) == 50


def test_it_has_no_transactions_and_says_so() -> None:
    store = MemoryStore()
    assert store.modes == {"fenced", "at_most_once"}
    with pytest.raises(ValueError, match="not transactional"):
        store.blocking.transaction(begin(BlockingMemoryStore(), "a"))


def test_a_bound_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="max_records=0"):
        MemoryStore(max_records=0)
