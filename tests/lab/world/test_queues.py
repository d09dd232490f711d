"""Who is served next, who is refused, and who is discarded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.call import Priority
from resilient.lab.world.job import Errand, Job
from resilient.lab.world.queues import AdaptiveLifo, CoDel, Fifo, Priorities


def job(number, *, arrived=0.0, deadline=None, priority=Priority.CRITICAL) -> Job:
    made = Job(Errand(number), 0, lambda *_: None, deadline=deadline, priority=priority, idempotency_key=None)
    made.arrived = arrived
    return made


class Line:
    """A queue that is told of numbers, and says who goes."""

    def __init__(self, queue):
        self.queue = queue
        self.discarded = []

    def push(self, number, now=0.0, **options):
        refused = self.queue.push(job(number, arrived=now, **options), now)
        return None if refused is None else refused.errand.number

    def pop(self, now=0.0):
        served = self.queue.pop(now, lambda gone: self.discarded.append(gone.errand.number))
        return None if served is None else served.errand.number

    def pop_all(self, now=0.0):
        served = []
        while (number := self.pop(now)) is not None:
            served.append(number)
        return served


UNBOUNDED = [
    Fifo,
    lambda: AdaptiveLifo(limit=None),
    lambda: CoDel(limit=None),
    lambda: Priorities(limit=None),
]


@pytest.mark.parametrize("make", UNBOUNDED)
def test_while_nothing_is_wrong_all_are_first_come_first_served(make):
    line = Line(make())
    assert [line.push(number) for number in range(5)] == [None] * 5
    assert len(line.queue) == 5
    assert line.pop_all() == [0, 1, 2, 3, 4]
    assert len(line.queue) == 0
    assert line.discarded == []


@pytest.mark.parametrize("kind", [Fifo, AdaptiveLifo, CoDel, Priorities])
def test_whoever_finds_it_full_is_refused(kind):
    line = Line(kind(limit=2))
    assert [line.push(number) for number in range(4)] == [None, None, 2, 3]
    assert line.pop_all() == [0, 1]
    assert Line(kind(limit=0)).push(0) == 0


@pytest.mark.parametrize("kind", [Fifo, AdaptiveLifo, CoDel, Priorities])
def test_a_limit_is_checked(kind):
    with pytest.raises(ValueError, match="limit=-1"):
        kind(limit=-1)


QUEUES = {
    "fifo": lambda: Fifo(limit=5),
    "expired": lambda: Fifo(limit=5, drop="expired"),
    "hopeless": lambda: Fifo(drop="hopeless", expected=0.3),
    "adaptive lifo": lambda: AdaptiveLifo(limit=5),
    "codel": lambda: CoDel(limit=5),
    "priorities": lambda: Priorities(limit=5),
}


@pytest.mark.parametrize("name", QUEUES)
@given(data=st.data())
def test_nobody_is_lost_and_nobody_leaves_twice(name, data):
    steps = data.draw(st.lists(st.tuples(st.floats(0, 0.4), st.booleans(), st.sampled_from(Priority))), label="steps")
    line, now = Line(QUEUES[name]()), 0.0
    gone = []
    for number, (gap, comes, priority) in enumerate(steps):
        now += gap
        if comes:
            gone.append(line.push(number, now, deadline=now + 1.0, priority=priority))
        else:
            gone.append(line.pop(now))
    came = [number for number, (_, comes, _) in enumerate(steps) if comes]
    left = [number for number in gone if number is not None] + line.discarded
    waiting = len(line.queue)
    line.discarded.clear()
    stayed = line.pop_all(now) + line.discarded
    assert len(stayed) == waiting
    assert sorted(left + stayed) == came


# -- first in, first out --------------------------------------------------------------------------------------------


def test_the_expired_are_discarded_when_their_turn_comes():
    line = Line(Fifo(drop="expired"))
    for number, deadline in enumerate([1.0, None, 1.5, 3.0]):
        line.push(number, deadline=deadline)
    assert line.pop(now=2.0) == 1
    assert line.discarded == [0]
    assert line.pop(now=2.0) == 3
    assert line.discarded == [0, 2]


def test_the_hopeless_are_discarded_before_their_deadline():
    line = Line(Fifo(drop="hopeless", expected=1.0))
    for number, deadline in enumerate([2.9, 3.0, 2.9]):
        line.push(number, deadline=deadline)
    assert line.pop(now=2.0) == 1  # in time by a hair
    assert line.discarded == [0]
    assert line.pop(now=2.0) is None
    assert line.discarded == [0, 2]


def test_nobody_is_discarded_for_a_deadline_unless_that_is_asked_for():
    line = Line(Fifo())
    line.push(0, deadline=1.0)
    assert line.pop(now=9.0) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": "late"}, "drop='late': None, 'expired' or 'hopeless'"),
        ({"drop": "hopeless"}, "drop='hopeless', expected=None"),
        ({"drop": "expired", "expected": 1.0}, "drop='expired', expected=1.0"),
        ({"expected": 1.0}, "drop=None, expected=1.0"),
    ],
)
def test_what_is_to_be_dropped_is_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Fifo(**options)


# -- adaptive -------------------------------------------------------------------------------------------------------


def test_once_a_queue_persists_the_newest_is_served_and_the_stale_are_discarded():
    line = Line(AdaptiveLifo(interval=1.0, timeout=2.0))
    for number in range(5):
        line.push(number, now=float(number))
    assert line.pop(now=0.9) == 0  # it was empty a moment ago
    assert line.pop(now=4.5) == 4
    assert line.discarded == [1, 2]  # 3 waits for 1.5 seconds only
    assert line.pop(now=4.5) == 3
    assert line.pop(now=4.5) is None


def test_when_it_was_empty_it_is_a_line_again():
    line = Line(AdaptiveLifo(interval=1.0, timeout=9.0))
    line.push(0, now=0.0)
    line.push(1, now=0.0)
    assert line.pop(now=2.0) == 1
    assert line.pop(now=2.0) == 0
    line.push(2, now=2.5)
    line.push(3, now=2.6)
    assert line.pop(now=3.0) == 2


def test_a_full_queue_that_persists_lets_its_oldest_go():
    line = Line(AdaptiveLifo(limit=2, interval=1.0, timeout=9.0))
    assert [line.push(number, now=0.0) for number in range(3)] == [None, None, 2]
    assert line.push(3, now=2.0) == 0
    assert line.pop(now=2.0) == 3


# -- controlled delay -----------------------------------------------------------------------------------------------


def waits(line: Line, *pairs: tuple[float, float]):
    """Let one after the other be served at a moment after so long a wait; those who were."""
    served = []
    for number, (now, waited) in enumerate(pairs):
        line.queue.push(job(number, arrived=now - waited), now - waited)
        served.append(line.pop(now))
    return served


def test_short_waits_are_never_discarded():
    line = Line(CoDel(interval=1.0, target=0.1))
    assert waits(line, *[(0.1 * n, 0.05) for n in range(40)]) == [*range(40)]


def test_one_short_wait_in_an_interval_is_enough():
    line = Line(CoDel(interval=1.0, target=0.1))
    pairs = [(0.25 * n, 0.05 if n % 4 == 3 else 0.9) for n in range(40)]
    assert waits(line, *pairs) == [*range(40)]


def test_after_an_interval_without_a_short_wait_long_ones_are_discarded():
    line = Line(CoDel(interval=1.0, target=0.1))
    served = waits(line, (0.0, 0.5), (0.5, 0.5), (1.0, 0.5), (1.1, 0.15), (1.2, 0.25))
    assert served == [0, 1, None, 3, None]
    assert line.discarded == [2, 4]  # those who waited for more than twice the target


def test_an_interval_in_which_nobody_was_served_says_nothing():
    line = Line(CoDel(interval=1.0, target=0.1))
    assert waits(line, (0.0, 0.5)) == [0]
    line.queue._shortest = float("inf")
    assert waits(line, (9.0, 5.0)) == [0]


# -- priorities -----------------------------------------------------------------------------------------------------


@given(priorities=st.lists(st.sampled_from(Priority)))
def test_the_most_important_are_served_first_and_among_them_the_oldest(priorities):
    line = Line(Priorities(limit=None))
    for number, priority in enumerate(priorities):
        line.push(number, priority=priority)
    assert line.pop_all() == sorted(range(len(priorities)), key=lambda number: -priorities[number])


@given(priorities=st.lists(st.sampled_from(Priority)), limit=st.integers(0, 4))
def test_a_full_queue_keeps_the_most_important_who_came_first(priorities, limit):
    line = Line(Priorities(limit=limit))
    refused = [
        gone for number, priority in enumerate(priorities) if (gone := line.push(number, priority=priority)) is not None
    ]
    kept = sorted(range(len(priorities)), key=lambda number: (-priorities[number], number))[:limit]
    assert line.pop_all() == kept
    assert sorted(refused + kept) == [*range(len(priorities))]


@pytest.mark.parametrize("make", UNBOUNDED)
def test_who_leaves_is_not_served(make):
    queue = make()
    jobs = [job(number) for number in range(3)]
    for each in jobs:
        queue.push(each, 0.0)
    assert queue.remove(jobs[1])
    assert not queue.remove(jobs[1])
    assert not queue.remove(job(7))
    assert len(queue) == 2
    assert [queue.pop(0.0, lambda _: None) for _ in range(3)] == [jobs[0], jobs[2], None]
