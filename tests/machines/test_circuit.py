"""The circuit breaker's decisions. The half-open state is where breakers break, so most of this is about it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resilient.machines.circuit import Circuit, CircuitState, Judgement, Transition
from tests.machines.circuits import (
    BAD,
    CLOSED,
    COOLDOWN,
    GOOD,
    HALF_OPEN,
    NOTHING,
    OPEN,
    TURNED_AWAY,
    WINDOW,
    call,
    circuit,
    half_opened,
    make,
    middling,
    opened,
    settle,
)


def test_a_late_success_from_before_the_opening_does_not_close() -> None:
    it = circuit()
    late, later = call(it, 0.0), call(it, 0.0)
    make(it, BAD, 0.0)
    it.succeed(late, 1.0)
    assert it.state is OPEN
    probe = call(it, 5.0)
    settle(it, later, GOOD, 5.0)
    assert it.state is HALF_OPEN
    settle(it, probe, BAD, 5.0)
    assert it.state is OPEN


def test_a_late_failure_from_before_the_opening_does_not_reopen() -> None:
    it = circuit()
    late, later = call(it, 0.0), call(it, 0.0)
    make(it, BAD, 0.0)
    probe = call(it, 5.0)
    settle(it, late, BAD, 5.0)
    assert it.state is HALF_OPEN
    settle(it, probe, GOOD, 5.0)
    settle(it, later, BAD, 5.0)
    assert it.state is CLOSED
    assert it.failures() == 0


@pytest.mark.parametrize("judgement", [GOOD, BAD])
def test_a_result_from_an_earlier_closed_era_counts_for_nothing_in_this_one(judgement: Judgement) -> None:
    it = circuit(failure_ratio=1.0, minimum_calls=3)
    late, later = call(it, 0.0), call(it, 0.0)
    it.reset(0.0)
    make(it, BAD, 0.0)
    settle(it, late, judgement, 0.0)
    it.succeed(later, 0.0)
    assert it.failures() == 1
    make(it, BAD, 0.0)
    assert it.state is CLOSED
    make(it, BAD, 0.0)
    assert it.state is OPEN


def test_a_hung_call_from_before_the_opening_holds_no_place_of_a_probe() -> None:
    it = circuit()
    call(it, 0.0)
    make(it, BAD, 0.0)
    make(it, GOOD, 5.0)
    assert it.state is CLOSED


@pytest.mark.parametrize("probes", [1, 2, 5])
def test_of_fifty_callers_only_the_probes_are_let_through(probes: int) -> None:
    it = opened(probes=probes)
    admitted = [it.admit(5.0) is not None for _ in range(50)]
    assert admitted == [True] * probes + [False] * (50 - probes)


@pytest.mark.parametrize("probes", [1, 2, 5])
def test_exactly_as_many_successes_as_probes_close_it(probes: int) -> None:
    it = half_opened(probes=probes)
    for number in range(probes):
        assert it.state is HALF_OPEN, number
        make(it, GOOD, 6.0)
    assert it.state is CLOSED


@pytest.mark.parametrize("successes", [0, 1, 4])
@pytest.mark.parametrize("judgement", [BAD, TURNED_AWAY])
def test_one_failed_or_refused_probe_opens_it_again(successes: int, judgement: Judgement) -> None:
    it = half_opened(probes=5)
    make(it, GOOD, 6.0, calls=successes)
    make(it, judgement, 6.0)
    assert it.state is OPEN


def test_a_cancelled_probe_frees_its_place_and_decides_nothing() -> None:
    it = opened()
    for _ in range(100):
        probe = call(it, 5.0)
        assert it.admit(5.0) is None
        settle(it, probe, NOTHING, 5.0)
        assert it.state is HALF_OPEN
    make(it, GOOD, 5.0)
    assert it.state is CLOSED


@pytest.mark.parametrize("lease", [2.0, COOLDOWN, 20.0])
def test_a_hung_probe_is_replaced_when_its_lease_is_over(lease: float) -> None:
    it = opened(lease=lease)
    call(it, 5.0)
    assert it.admit(4.75 + lease) is None
    assert it.retry_after(4.75 + lease) == 0.25
    make(it, GOOD, 5.0 + lease)
    assert it.state is CLOSED


@pytest.mark.parametrize(("judgement", "state"), [(GOOD, CLOSED), (BAD, OPEN), (NOTHING, HALF_OPEN)])
def test_what_a_probe_says_after_its_lease_still_counts(judgement: Judgement, state: CircuitState) -> None:
    """Where every answer takes longer than a lease, the circuit would otherwise stay half-open for ever."""
    it = opened()
    hung, replacement = call(it, 5.0), call(it, 10.0)
    settle(it, hung, judgement, 12.0)
    assert it.state is state
    settle(it, replacement, NOTHING, 12.0)
    assert it.state is state


def test_a_probe_that_is_settled_twice_counts_once() -> None:
    it = half_opened(probes=2)
    probe = call(it, 5.0)
    settle(it, probe, GOOD, 5.0)
    settle(it, probe, GOOD, 5.0)
    assert it.state is HALF_OPEN


def test_hung_probes_do_not_pile_up() -> None:
    it = opened()
    for lease in range(1000):
        call(it, 5.0 + COOLDOWN * lease)
    assert len(it._underway) == 1


@pytest.mark.parametrize("judgement", [NOTHING, TURNED_AWAY])
def test_cancellations_and_refusals_count_for_nothing_while_closed(judgement: Judgement) -> None:
    it = circuit(minimum_calls=2, consecutive_failures=2)
    make(it, BAD, 0.0)
    make(it, judgement, 0.0, calls=100)
    assert it.failures() == 1
    make(it, GOOD, 0.0)
    make(it, judgement, 0.0, calls=100)
    assert it.state is CLOSED


def test_a_hanging_far_side_opens_it_although_cancellations_come_between() -> None:
    """A peer counts them as successes: a service that hangs under an outer timeout never trips it."""
    it = circuit(failure_ratio=1.0, minimum_calls=20)
    for _ in range(20):
        make(it, BAD, 0.0)
        if it.closed:
            make(it, NOTHING, 0.0, calls=5)
    assert it.state is OPEN


def test_below_the_minimum_of_calls_no_ratio_says_anything() -> None:
    it = circuit(minimum_calls=20)
    make(it, BAD, 0.0, calls=19)
    assert it.state is CLOSED
    make(it, BAD, 0.0)
    assert it.state is OPEN


@given(st.tuples(st.integers(1, 200), st.integers(1, 200)).map(sorted))
@example([11, 20])
def test_the_ratio_is_reached_exactly_there(counts: list[int]) -> None:
    """Also where `ratio * calls` is rounded up: 0.55 * 20 is more than 11."""
    failed, calls = counts
    it = circuit(failure_ratio=failed / calls, minimum_calls=calls)
    make(it, GOOD, 0.0, calls=calls - failed)
    make(it, BAD, 0.0, calls=failed - 1)
    assert it.state is CLOSED
    make(it, BAD, 0.0)
    assert it.state is OPEN


def test_a_quick_success_never_opens_it() -> None:
    it = circuit(minimum_calls=4)
    make(it, BAD, 0.0, calls=3)
    make(it, GOOD, 0.0)
    assert it.state is CLOSED


@pytest.mark.parametrize("window_calls", [None, 10])
def test_a_success_on_the_hot_path_counts_like_any_other(window_calls: int | None) -> None:
    it = circuit(minimum_calls=4, window_calls=window_calls)
    make(it, BAD, 0.0)
    for now in (0.0, 0.1, 0.2):
        it.succeed(call(it, now), now)
        assert it.failures() == 0
    make(it, BAD, 0.2)
    assert (it.state, it.changed) == (CLOSED, False)
    make(it, BAD, 0.2)
    assert (it.state, it.changed) == (OPEN, True)


def test_what_failed_long_ago_does_not_count() -> None:
    it = circuit(minimum_calls=2)
    make(it, BAD, 0.0)
    make(it, BAD, 30.0)
    assert it.state is CLOSED
    make(it, BAD, 30.0)
    assert it.state is OPEN


def test_a_window_of_calls_forgets_by_number_and_not_by_time() -> None:
    it = circuit(window_calls=4, minimum_calls=4, failure_ratio=0.75)
    make(it, BAD, 0.0, calls=2)
    make(it, GOOD, 1000.0, calls=2)
    make(it, BAD, 2000.0, calls=2)
    assert it.state is CLOSED
    make(it, BAD, 3000.0)
    assert it.state is OPEN


def test_consecutive_failures_open_it_whatever_the_window() -> None:
    it = circuit(minimum_calls=1000, consecutive_failures=3)
    make(it, BAD, 0.0, calls=2)
    make(it, GOOD, 0.0)
    make(it, BAD, 0.0)
    make(it, BAD, 60.0)
    assert (it.state, it.failures()) == (CLOSED, 2)
    make(it, BAD, 120.0)
    assert it.state is OPEN


def test_slow_calls_open_it_though_they_succeed() -> None:
    it = circuit(minimum_calls=4, slow_call=1.0, slow_ratio=0.5)
    make(it, GOOD, 0.0, latency=1.0, calls=2)
    make(it, GOOD, 0.0, latency=1.1)
    assert it.state is CLOSED
    make(it, GOOD, 0.0, latency=1.1)
    assert it.state is OPEN


def test_slow_failures_count_as_slow_too() -> None:
    it = circuit(minimum_calls=2, failure_ratio=1.0, slow_call=1.0, slow_ratio=0.5)
    make(it, GOOD, 0.0)
    make(it, BAD, 0.0, latency=2.0)
    assert it.state is OPEN


def test_a_slow_probe_opens_it_again() -> None:
    it = half_opened(slow_call=1.0)
    make(it, GOOD, 6.0, latency=1.5)
    assert it.state is OPEN


def next_cooldown(it: Circuit, chance: Callable[[], float]) -> float:
    """Let the probe of an open circuit fail."""
    probe = call(it, it.until)
    it.settle(probe, BAD, 0.0, it.until, chance)
    return it.take_changes()[-1].cooldown


def test_the_cooldown_doubles_up_to_a_minute_without_jitter_the_first_time() -> None:
    it = opened()
    assert it.take_changes() == [Transition(CLOSED, OPEN, COOLDOWN)]
    assert [next_cooldown(it, lambda: 0.0) for _ in range(6)] == [10.0, 20.0, 40.0, 60.0, 60.0, 60.0]


def test_jitter_comes_after_the_cap_so_circuits_do_not_try_again_together() -> None:
    random = Random(5).random
    it = opened()
    for _ in range(4):
        next_cooldown(it, random)
    cooldowns = [next_cooldown(it, random) for _ in range(1000)]
    assert 60.0 <= min(cooldowns) < 60.5
    assert 71.5 < max(cooldowns) < 72.0
    assert len(set(cooldowns)) == 1000


def test_a_cooldown_above_a_minute_is_kept_but_does_not_grow() -> None:
    it = opened(cooldown=300.0)
    assert [next_cooldown(it, lambda: 0.0) for _ in range(3)] == [300.0, 300.0, 300.0]


@pytest.mark.parametrize(("later", "cooldown"), [(0.0, 11.0), (WINDOW, 11.0), (WINDOW + 0.25, COOLDOWN)])
def test_the_cooldown_grows_until_it_was_closed_for_a_window(later: float, cooldown: float) -> None:
    it = half_opened()
    make(it, GOOD, 6.0)
    make(it, BAD, 6.0 + later)
    assert it.until == 6.0 + later + cooldown


def test_no_number_of_openings_is_too_large() -> None:
    it = opened()
    assert {next_cooldown(it, lambda: 0.0) for _ in range(2000)} == {10.0, 20.0, 40.0, 60.0}


def test_an_isolated_circuit_refuses_until_it_is_reset_whatever_its_calls_say() -> None:
    it = circuit()
    under_way = call(it, 0.0)
    it.isolate()
    settle(it, under_way, GOOD, 1.0)
    assert it.admit(1e6) is None
    assert it.retry_after(1e6) is None
    it.reset(1e6)
    make(it, GOOD, 1e6)
    assert it.state is CLOSED


def test_it_says_after_how_many_seconds_a_call_has_a_chance() -> None:
    it = circuit(probes=2)
    assert it.retry_after(0.0) == 0.0
    make(it, BAD, 0.0)
    assert (it.retry_after(1.0), it.retry_after(7.0)) == (4.0, 0.0)
    first = call(it, 7.0)
    assert it.retry_after(7.0) == 0.0
    call(it, 8.0)
    assert (it.retry_after(8.0), it.retry_after(12.0)) == (4.0, 0.0)
    settle(it, first, NOTHING, 9.0)
    assert it.retry_after(9.0) == 0.0


def test_a_reset_makes_it_as_if_new() -> None:
    it = opened()
    next_cooldown(it, middling)
    it.reset(20.0)
    make(it, BAD, 20.0)
    assert it.until == 20.0 + COOLDOWN


def test_a_reset_while_closed_forgets_but_is_no_transition() -> None:
    it = circuit(minimum_calls=2)
    make(it, BAD, 0.0)
    it.reset(0.0)
    make(it, BAD, 0.0)
    assert it.state is CLOSED
    assert it.take_changes() == []


def test_after_a_pause_the_open_circuit_probes_and_the_half_open_one_replaces_its_probe() -> None:
    it = opened()
    call(it, 86_400.0)
    assert it.state is HALF_OPEN
    make(it, GOOD, 2 * 86_400.0)
    assert it.state is CLOSED


def test_who_is_not_closed_cannot_be_tripped():
    it = circuit(consecutive_failures=1)
    it.trip(1.0, lambda: 0.0)
    era = it.era
    it.trip(2.0, lambda: 0.0)
    assert (it.state, it.era, it.until) == (CircuitState.OPEN, era, 1.0 + COOLDOWN)


def test_the_tally_counts_slow_calls_with_the_others():
    it = circuit(slow_call=1.0, minimum_calls=100)
    for judgement, latency in ((GOOD, 0.1), (GOOD, 2.0), (BAD, 0.1), (BAD, 2.0), (BAD, 2.0), (NOTHING, 0.1)):
        make(it, judgement, 0.0, latency=latency)
    assert it.tally(1.0) == (2, 3)
