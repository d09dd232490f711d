"""The transition table in the circuit's docstring is complete, and is what the machine does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from resilient.machines.circuit import Circuit, CircuitState, Permit
from tests.machines.circuits import BAD, COOLDOWN, GOOD, NOTHING, call, circuit, make, settle
from tests.tables import read_table

TABLE = {(state, event): (following, effect) for state, event, following, effect in read_table(Circuit.__doc__)}
TRANSITIONS = {
    (old, CircuitState(following))
    for (state, _), (following, _) in TABLE.items()
    if following != "the same"
    for old in (CircuitState if state == "any" else [CircuitState(state)])
}
"""From where to where a circuit may go. Walks at random hold it to that, in the tests against its history."""


def build(state: str, *, probes: int = 1) -> tuple[Circuit, Permit]:
    """A circuit in this state at the second 10, and a permit of an earlier era."""
    it = circuit(minimum_calls=2, failure_ratio=1.0, consecutive_failures=3, slow_call=1.0, probes=probes)
    early = call(it, 0.0)
    if state in ("open", "half_open"):
        make(it, BAD, 5.0, calls=2)
    if state == "half_open":
        make(it, NOTHING, 10.0)
    if state == "isolated":
        it.isolate()
    if state == "closed":
        it.reset(5.0)
    assert it.state.value == state
    return it, early


def too_many_in_a_row(it: Circuit) -> None:
    make(it, GOOD, 10.0)
    make(it, BAD, 10.0, calls=3)


def a_lease_ends(it: Circuit) -> float:
    call(it, 10.0)
    assert it.admit(14.75) is None
    return 15.0


def a_probe_is_cancelled(it: Circuit) -> float:
    make(it, NOTHING, 10.0)
    return 10.0


# How each row's event is brought about, given the circuit and the early permit; what it returns is the answer.
EVENTS: dict[tuple[str, str], Callable[[Circuit, Permit], object]] = {
    ("closed", "a call"): lambda it, _: it.admit(10.0),
    ("closed", "a failed or slow call brings a ratio to its limit"): lambda it, _: make(it, BAD, 10.0, calls=2),
    ("closed", "as many failures in a row as allowed"): lambda it, _: too_many_in_a_row(it),
    ("open", "a call before the cool-down is over"): lambda it, _: it.admit(9.75),
    ("open", "a call after the cool-down"): lambda it, _: it.admit(10.0),
    ("half_open", "a call while a place for a probe is free"): lambda it, _: it.admit(10.0),
    ("half_open", "a call while none is free"): lambda it, _: (call(it, 10.0), it.admit(10.0))[1],
    ("half_open", "a probe succeeded, others have yet to"): lambda it, _: make(it, GOOD, 10.0),
    ("half_open", "the last probe that was needed succeeded"): lambda it, _: make(it, GOOD, 10.0),
    ("half_open", "a probe failed, was slow or was turned away"): lambda it, _: make(it, BAD, 10.0),
    ("half_open", "a probe was cancelled"): lambda it, _: a_probe_is_cancelled(it),
    ("half_open", "the lease of a probe is over"): lambda it, _: a_lease_ends(it),
    ("isolated", "a call"): lambda it, _: it.admit(10.0),
    ("any", "a result from an earlier era"): lambda it, early: settle(it, early, BAD, 10.0),
    ("closed", "trip"): lambda it, _: it.trip(10.0, lambda: 0.0),
    ("any", "isolate"): lambda it, _: it.isolate(),
    ("any", "reset"): lambda it, _: it.reset(10.0),
}
# What each effect of the table means, given the circuit, the answer, and what was known before.
EFFECTS: dict[str, Callable[[Circuit, object, object], bool]] = {
    "admitted": lambda it, answer, _: answer is it.closed is not None,
    "refused": lambda it, answer, _: answer is None,
    "admitted as a probe": lambda it, answer, _: answer == it._underway[0] and it._underway[0].expires == 15.0,
    "the cool-down begins": lambda it, answer, _: it.until == 10.0 + COOLDOWN,
    "a longer cool-down begins": lambda it, answer, _: 20.0 <= it.until <= 22.0,
    "its place stays taken": lambda it, answer, _: [it.admit(10.0) is None for _ in range(2)] == [False, True],
    "its place is free": lambda it, since, _: isinstance(since, float) and it.admit(since) is not None,
    "the window is empty": lambda it, answer, _: not any(known(it)[2]) and it.failures() == 0,
    "no call is admitted until `reset`": lambda it, answer, _: it.admit(1e9) is None,
    "nothing": lambda it, answer, before: known(it) == before,
}


def known(it: Circuit) -> tuple[int, CircuitState, list[int], int, int, float]:
    return it.era, it.state, it._window.totals(10.0), it.failures(), len(it._underway), it.until


def test_every_row_of_the_table_is_brought_about_here() -> None:
    assert TABLE.keys() == EVENTS.keys()


@pytest.mark.parametrize(("state", "event"), TABLE)
def test_the_table_in_the_docstring_is_what_the_machine_does(state: str, event: str) -> None:
    following, effect = TABLE[state, event]
    for start in ("closed", "open", "half_open", "isolated") if state == "any" else (state,):
        it, early = build(start, probes=2 if "others" in event else 1)
        before = known(it)
        answer = EVENTS[state, event](it, early)
        assert it.state.value == (start if following == "the same" else following)
        assert EFFECTS[effect](it, answer, before)
