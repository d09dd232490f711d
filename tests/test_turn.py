"""A turn is had by one thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import pytest

from resilient.turn import Turn

THREADS, TIMES = 16, 50


def by_name(turn: Turn, step: Callable[[], None]) -> None:
    turn.take()
    step()
    turn.give(None)


def in_a_block(turn: Turn, step: Callable[[], None]) -> None:
    with turn:
        step()


@pytest.mark.parametrize("ways", [(by_name,), (in_a_block,), (by_name, in_a_block)])
def test_sixteen_threads_lose_nothing_between_a_read_and_a_write(ways):
    turn, start = Turn(), threading.Barrier(THREADS)
    total = 0

    def step() -> None:
        nonlocal total
        seen = total
        sleep(0)  # lets another thread go on
        total = seen + 1

    def often(way: Callable[[Turn, Callable[[], None]], None]) -> None:
        start.wait(30)
        for _ in range(TIMES):
            way(turn, step)

    with ThreadPoolExecutor(THREADS) as threads:
        for done in [threads.submit(often, ways[index % len(ways)]) for index in range(THREADS)]:
            done.result(60)
    assert total == THREADS * TIMES


def test_it_is_given_back_when_its_block_raises():
    turn = Turn()
    with pytest.raises(KeyError), turn:
        raise KeyError
    with turn:
        pass


def test_whoever_comes_while_another_thread_has_it_waits_for_it():
    turn, order = Turn(), []

    def second() -> None:
        with turn:
            order.append("second")

    turn.take()
    thread = threading.Thread(target=second)
    thread.start()
    thread.join(0.05)
    order.append("first")
    turn.give(None)
    thread.join(30)
    assert order == ["first", "second"]
