"""Places and the line in front of them: none is lost, none is made up, and the line is a line."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilient.machines.lines import Fifo
from resilient.machines.slots import Slots
from tests.tables import read_table


@dataclass(frozen=True)
class Person:
    name: object
    deadline: float | None = None
    arrived: float = 0.0
    priority: int = 0


def slots_of(limit: int, max_queue: int) -> Slots[Person]:
    return Slots(limit=limit, line=Fifo(max_queue))


FIRST, SECOND, OTHER, HURRIED = Person("first"), Person("second"), Person("other"), Person("hurried", deadline=5.9)
REFUSED = (False, OTHER, HURRIED)


class SlotsAgainstALedger(RuleBasedStateMachine):
    """The model is a ledger of who holds a place and who waits. Everybody has a number."""

    @initialize(limit=st.integers(1, 3), max_queue=st.integers(0, 3))
    def begin(self, limit: int, max_queue: int) -> None:
        self.slots = slots_of(limit, max_queue)
        self.limit, self.max_queue = limit, max_queue
        self.holders: set[Person] = set()
        self.line: list[Person] = []
        self.people = 0

    @rule()
    def somebody_comes(self) -> None:
        self.people += 1
        person = Person(self.people)
        if self.slots.take():
            self.holders.add(person)
        else:
            assert len(self.holders) >= self.limit
            refused = self.slots.enqueue(person, 0.0)
            assert refused == (None if len(self.line) < self.max_queue else person)
            self.line = [*self.line, person][: self.max_queue]

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def a_holder_leaves(self, data: st.DataObject) -> None:
        self.holders.remove(data.draw(st.sampled_from(sorted(self.holders, key=repr))))
        self.slots.give()

    @rule()
    def places_are_handed_over(self) -> None:
        free = max(0, self.limit - len(self.holders))
        woken, self.line = self.line[:free], self.line[free:]
        assert self.slots.hand_over(0.0) == (woken, [])
        self.holders |= set(woken)

    @rule(limit=st.integers(1, 5))
    def the_limit_moves(self, limit: int) -> None:
        self.slots.resize(limit)
        self.limit = limit

    @precondition(lambda self: self.people)
    @rule(data=st.data())
    def somebody_leaves_the_line(self, data: st.DataObject) -> None:
        person = Person(data.draw(st.integers(1, self.people)))
        waited = person in self.line
        assert self.slots.forget(person) == waited
        if waited:
            self.line.remove(person)

    @invariant()
    def the_books_balance(self) -> None:
        assert self.slots.held == len(self.holders)
        assert len(self.slots.free) == max(0, self.limit - len(self.holders))
        assert list(self.slots.waiters) == self.line


TestSlots = SlotsAgainstALedger.TestCase


def full(*, max_queue: int = 1) -> Slots[Person]:
    slots = slots_of(1, max_queue)
    assert slots.take()
    return slots


def waiting() -> Slots[Person]:
    slots = full()
    assert slots.enqueue(FIRST, 0.0) is None
    return slots


def given_a_place() -> Slots[Person]:
    slots = waiting()
    slots.give()
    assert slots.hand_over(0.0) == ([FIRST], [])
    return slots


def several_places() -> Slots[Person]:
    slots = slots_of(3, 3)
    slots.waiters += [FIRST, SECOND]
    return slots


def shrunk() -> Slots[Person]:
    """Three places are held, and there are two."""
    slots = slots_of(3, 1)
    assert all(slots.take() for _ in range(3))
    slots.resize(2)
    return slots


def slow() -> Slots[Person]:
    """A call takes a second."""
    slots = full(max_queue=2)
    slots.took(1.0)
    return slots


def hopeless() -> Slots[Person]:
    """Somebody waits who had the time when they came, and a place is free."""
    slots = slow()
    assert slots.enqueue(HURRIED, 4.0) is None
    slots.give()
    return slots


Step = tuple[Callable[[], Slots[Person]], Callable[[Slots[Person]], object]]
# Ways to each row of the table: what was before, and what is done.
ROWS: dict[tuple[str, str], list[Step]] = {
    ("take", "a place is free"): [(lambda: slots_of(1, 0), lambda slots: slots.take())],
    ("take", "none is free"): [(full, lambda slots: slots.take()), (waiting, lambda slots: slots.take())],
    ("enqueue", "the line has room"): [(full, lambda slots: slots.enqueue(OTHER, 0.0))],
    ("enqueue", "the line is full"): [
        (waiting, lambda slots: slots.enqueue(OTHER, 0.0)),
        (lambda: full(max_queue=0), lambda slots: slots.enqueue(OTHER, 0.0)),
    ],
    ("enqueue", "the waiter is hopeless"): [(slow, lambda slots: slots.enqueue(HURRIED, 5.0))],
    ("give", "no more are held than the limit"): [
        (full, lambda slots: slots.give()),
        (waiting, lambda slots: slots.give()),
    ],
    ("give", "more are held than the limit"): [(shrunk, lambda slots: slots.give())],
    ("resize", "to more"): [(full, lambda slots: slots.resize(2)), (shrunk, lambda slots: slots.resize(3))],
    ("resize", "to fewer"): [(several_places, lambda slots: slots.resize(2)), (shrunk, lambda slots: slots.resize(1))],
    ("hand_over", "a place is free, somebody waits"): [(several_places, lambda slots: slots.hand_over(0.0))],
    ("hand_over", "the next waiter is hopeless"): [(hopeless, lambda slots: slots.hand_over(6.0))],
    ("hand_over", "none is free, or nobody waits"): [
        (waiting, lambda slots: slots.hand_over(0.0)),
        (lambda: slots_of(1, 1), lambda slots: slots.hand_over(0.0)),
    ],
    ("forget", "the waiter still waits"): [(waiting, lambda slots: slots.forget(FIRST))],
    ("forget", "the waiter was given a place"): [(given_a_place, lambda slots: slots.forget(FIRST))],
}
# What the table's words say of the answer, of how many more are held, and of how many more wait.
EFFECTS: dict[str, tuple[object, int, int]] = {
    "it is held": (True, 1, 0),
    "refused": (REFUSED, 0, 0),
    "the waiter waits": (None, 0, 1),
    "it is free": (None, -1, 0),
    "it is gone": (None, -1, 0),
    "there are more free places": (None, 0, 0),
    "free places are gone, and held ones as they are given back": (None, 0, 0),
    "the next waiter holds it, and is to be woken; the next ones too, while places are free": (
        ([FIRST, SECOND], []),
        2,
        -2,
    ),
    "it left the line, and is to be turned away": (([], [HURRIED]), 0, -1),
    "nothing": (([], []), 0, 0),
    "it left the line": (True, 0, -1),
    "refused: the place is its own, to be given back": (False, 0, 0),
}


def test_the_table_in_the_docstring_is_what_the_machine_does() -> None:
    table = {(event, condition): effect for event, condition, effect in read_table(Slots.__doc__)}
    assert table.keys() == ROWS.keys()
    for key, effect in table.items():
        for make, step in ROWS[key]:
            slots = make()
            held, line = slots.held, len(slots.waiters)
            answer, more, longer = EFFECTS[effect]
            found = step(slots)
            assert (slots.held - held, len(slots.waiters) - line) == (more, longer)
            assert found in REFUSED if answer is REFUSED else found == answer


def test_waiters_that_time_out_lose_no_place() -> None:
    slots = slots_of(2, 1)
    for waiter in range(1000):
        assert slots.take()
        assert slots.take()
        assert slots.enqueue(Person(waiter), 0.0) is None
        assert slots.forget(Person(waiter))
        slots.give()
        slots.give()
        assert slots.hand_over(0.0) == ([], [])
    assert slots.held == 0


def test_a_waiter_that_times_out_when_it_was_just_given_a_place_passes_it_on() -> None:
    slots = slots_of(1, 2)
    assert slots.take()
    assert slots.enqueue(FIRST, 0.0) is None
    assert slots.enqueue(SECOND, 0.0) is None
    slots.give()
    assert slots.hand_over(0.0) == ([FIRST], [])
    assert not slots.forget(FIRST)
    slots.give()
    assert slots.hand_over(0.0) == ([SECOND], [])
    assert slots.held == 1


def interleavings(*lengths: int) -> Iterator[tuple[int, ...]]:
    """Every order in which threads with so many steps each can take their turns."""
    if not any(lengths):
        yield ()
    for thread, left in enumerate(lengths):
        if left:
            for rest in interleavings(*(n - (thread == other) for other, n in enumerate(lengths))):
                yield (thread, *rest)


class Protocol:
    """The steps that threads take, each of them whole, as a policy takes them. Whoever has a place gives it back."""

    def __init__(self) -> None:
        self.slots = slots_of(1, 2)
        self.in_line: set[str] = set()
        self.served: list[str] = []
        self.to_give = 0

    def hold(self) -> Iterator[None]:
        """Give back the place that was taken before the race."""
        self.slots.give()
        yield
        if self.slots.waiters:
            yield
            self.wake()

    def come(self, name: str) -> Iterator[None]:
        """Take a place, or stand in line; then look again."""
        if self.slots.take():
            self.served.append(name)
            yield
            yield from self.hold()
            return
        yield
        assert self.slots.enqueue(Person(name), 0.0) is None
        yield
        self.wake()

    def wake(self) -> None:
        lucky, gone = self.slots.hand_over(0.0)
        assert gone == []
        for person in lucky:
            self.served.append(str(person.name))
            self.to_give += 1

    def settle(self) -> None:
        """Those who were woken give their places back, one after the other."""
        while self.to_give:
            self.to_give -= 1
            for _ in self.hold():
                pass


@pytest.mark.parametrize("comers", [1, 2])
def test_in_every_interleaving_of_threads_each_waiter_is_served(comers: int) -> None:
    for order in interleavings(3, *[4] * comers):
        protocol = Protocol()
        assert protocol.slots.take()
        threads = [protocol.hold(), *(protocol.come(f"comer {number}") for number in range(comers))]
        for thread in order:
            next(threads[thread], None)
        for unfinished in threads:
            for _ in unfinished:
                pass
        protocol.settle()
        assert sorted(protocol.served) == [f"comer {number}" for number in range(comers)]
        assert protocol.slots.held == 0


@given(limit=st.integers(1, 3))
def test_never_more_than_the_limit_are_held(limit: int) -> None:
    slots = slots_of(limit, 0)
    assert [slots.take() for _ in range(limit + 2)] == [True] * limit + [False] * 2


def test_threads_that_take_and_give_without_a_lock_keep_the_books() -> None:
    slots = slots_of(3, 0)
    most = [0] * 8
    start = threading.Barrier(len(most))

    def work(index: int) -> None:
        start.wait()
        for _ in range(5_000):
            if slots.take():
                most[index] = max(most[index], slots.held)
                slots.give()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(most))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert slots.held == 0
    assert 1 <= max(most) <= 3
