"""The queues that scenarios know by name."""

from __future__ import annotations

import pytest

from resilient.call import Priority
from resilient.lab.world.job import Errand, Job
from resilient.lab.world.queues import AdaptiveLifo, Fifo, discipline


def job(number: int, deadline: float | None = None) -> Job:
    return Job(Errand(number), 0, lambda *_: None, deadline=deadline, priority=Priority.CRITICAL, idempotency_key=None)


def served(name: str, *deadlines: float | None, now: float) -> list[int]:
    queue = discipline(name, limit=2, expected=0.5)()
    for number, deadline in enumerate(deadlines):
        queue.push(job(number, deadline), 0.0)
    found = []
    while (one := queue.pop(now, lambda _: None)) is not None:
        found.append(one.errand.number)
    return found


def test_each_name_is_the_queue_that_it_says():
    assert served("unbounded", 1.0, 1.2, None, now=1.1) == [0, 1, 2]
    assert served("bounded", 1.0, 1.2, None, now=1.1) == [0, 1]
    assert served("expired", 1.0, 1.2, 9.0, None, now=1.1) == [1, 2, 3]
    assert served("hopeless", 1.0, 1.2, 9.0, None, now=1.1) == [2, 3]


def test_each_call_makes_a_queue_of_its_own():
    make = discipline("lifo", limit=2, expected=0.5)
    assert isinstance(make(), AdaptiveLifo)
    assert isinstance(discipline("bounded", limit=2, expected=0.5)(), Fifo)
    assert make() is not make()


def test_another_name_is_refused():
    with pytest.raises(ValueError, match=r"queue='stack': one of unbounded, bounded, expired, hopeless, lifo"):
        discipline("stack", limit=2, expected=0.5)
