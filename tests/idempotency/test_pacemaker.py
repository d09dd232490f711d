"""The one thread that looks after the executions of plain functions."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from resilient.backends.memory import MemoryStore
from resilient.idempotency import BlockingClaim, once, pacemaker
from resilient.idempotency.pacemaker import _Pacemaker, after
from resilient.runtime import Runtime

PATIENCE = 10.0


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> _Pacemaker:
    monkeypatch.setattr(pacemaker, "_IDLE", 0.2)
    return _Pacemaker(Runtime().now)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_what_is_due_is_run_in_the_order_of_its_time(paced: _Pacemaker) -> None:
    seen: list[str] = []
    for name, seconds in (("last", 0.15), ("first", 0.01), ("second", 0.08)):
        paced.after(seconds, partial(seen.append, name))
    eventually(lambda: len(seen) == 3)
    assert seen == ["first", "second", "last"]


def test_what_takes_long_keeps_nobody_waiting(paced: _Pacemaker) -> None:
    gate, done = threading.Event(), threading.Event()
    paced.after(0.0, lambda: gate.wait(PATIENCE))
    paced.after(0.01, done.set)
    assert done.wait(PATIENCE)
    gate.set()


def test_what_is_cancelled_is_not_run_and_not_kept(paced: _Pacemaker) -> None:
    ran: list[int] = []
    cancels = [paced.after(PATIENCE, lambda: ran.append(1)) for _ in range(1000)]
    for cancel in cancels:
        cancel()
        cancel()  # which changes nothing
    assert len(paced._entries) <= pacemaker._FEWEST
    done = threading.Event()
    paced.after(0.0, done.set)
    assert done.wait(PATIENCE)
    assert ran == []


def test_the_thread_ends_when_nobody_needs_it_and_comes_back(paced: _Pacemaker) -> None:
    for _ in range(2):
        done = threading.Event()
        paced.after(0.0, done.set)
        assert done.wait(PATIENCE)
        eventually(lambda: paced._thread is None)


def test_a_short_call_has_no_thread_of_its_own() -> None:
    @once(MemoryStore(), key=lambda n: n, mode="fenced")
    def work(claim: BlockingClaim, n: int) -> int:
        return threading.active_count()

    work(0)
    before = threading.active_count()
    assert max(work(n) for n in range(1, 50)) <= before


def test_a_long_one_is_renewed() -> None:
    @once(MemoryStore(), key=lambda: "k", mode="fenced", lease=0.15)
    def work(claim: BlockingClaim) -> bool:
        time.sleep(0.6)
        return claim.lost

    assert work() is False


def in_child(answers: multiprocessing.Queue[str]) -> None:
    done = threading.Event()
    after(0.0, done.set)
    answers.put("paced" if done.wait(PATIENCE) else "stood still")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_has_a_thread_of_its_own() -> None:
    done = threading.Event()
    after(0.0, done.set)
    assert done.wait(PATIENCE)
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[str] = context.Queue()
    child = context.Process(target=in_child, args=(answers,))
    child.start()
    assert answers.get(timeout=PATIENCE) == "paced"
    child.join(PATIENCE)
