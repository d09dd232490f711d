"""Health by checks: the table in the docstring is complete, and is what the machine does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.machines.health import Health
from tests.tables import read_table

TABLE = {(state, event): (following, effect) for state, event, following, effect in read_table(Health.__doc__)}
OK, BAD, CERTAIN = "ok", "bad", "certain"


def play(*checks: str, unhealthy_after: int = 3, healthy_after: int = 2) -> Health:
    health = Health(unhealthy_after=unhealthy_after, healthy_after=healthy_after)
    for check in checks:
        if check == OK:
            health.succeed()
        else:
            health.fail(certain=check == CERTAIN)
    return health


# What was before, and the checks that bring each row about.
EVENTS: dict[tuple[str, str], tuple[Sequence[str], Sequence[Sequence[str]]]] = {
    ("unknown", "a check succeeded"): ([BAD], [[OK]]),
    ("unknown", "a check failed, others have yet to"): ([], [[BAD]]),
    ("unknown", "enough in a row failed, or one for certain"): ([], [[BAD, BAD, BAD], [CERTAIN]]),
    ("healthy", "a check succeeded"): ([OK, BAD], [[OK]]),
    ("healthy", "a check failed, others have yet to"): ([OK], [[BAD]]),
    ("healthy", "enough in a row failed, or one for certain"): ([OK], [[BAD, BAD, BAD], [CERTAIN]]),
    ("unhealthy", "a check failed"): ([OK, CERTAIN, OK], [[BAD], [CERTAIN]]),
    ("unhealthy", "a check succeeded, it was never healthy"): ([CERTAIN], [[OK]]),
    ("unhealthy", "a check succeeded, others have yet to"): ([OK, CERTAIN], [[OK]]),
    ("unhealthy", "enough in a row succeeded"): ([OK, CERTAIN], [[OK, OK]]),
}
EFFECTS: dict[str, Callable[[Health], bool]] = {
    "it has been healthy": lambda it: it.was_healthy and it.row == 0,
    "it counts for the row": lambda it: it.row == 1,
    "the row begins anew": lambda it: it.row == 0,
}


def test_every_row_of_the_table_is_brought_about_here() -> None:
    assert TABLE.keys() == EVENTS.keys()


@pytest.mark.parametrize(("state", "event"), TABLE)
def test_the_table_in_the_docstring_is_what_the_machine_does(state: str, event: str) -> None:
    following, effect = TABLE[state, event]
    before, ways = EVENTS[state, event]
    assert play(*before).state == state
    for checks in ways:
        it = play(*before, *checks)
        assert it.state == following
        assert EFFECTS[effect](it)


@given(st.lists(st.sampled_from([OK, BAD, CERTAIN])), st.integers(1, 4), st.integers(1, 4))
def test_it_is_what_the_last_checks_say(checks: list[str], bad: int, good: int) -> None:
    """A model that looks at the whole past each time."""
    state, since, was_healthy = "unknown", 0, False
    for number in range(1, len(checks) + 1):
        recent = checks[since:number]
        failing = recent[-1] == CERTAIN or (len(recent) >= bad and OK not in recent[-bad:])
        passing = len(recent) >= (good if was_healthy else 1) and not {BAD, CERTAIN} & {
            *recent[-(good if was_healthy else 1) :]
        }
        if state != "unhealthy" and failing:
            state, since = "unhealthy", number
        elif (state == "unknown" and recent[-1] == OK) or (state == "unhealthy" and passing):
            state, since, was_healthy = "healthy", number, True
    assert play(*checks, unhealthy_after=bad, healthy_after=good).state == state
