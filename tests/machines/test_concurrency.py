"""Rules by which a limit of concurrency moves: what each makes of a sample, and where it comes to rest."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.machines.concurrency import (
    AimdRule,
    ConcurrencyLimit,
    CorrelatedRule,
    Gradient2Rule,
    LimitRule,
    Sample,
    VegasRule,
)
from resilient.machines.concurrency.baseline import Baseline
from resilient.machines.concurrency.correlated import Correlation
from resilient.machines.concurrency.sample import Sampler, step

RULES: dict[str, Callable[[], LimitRule]] = {
    "aimd": lambda: AimdRule(backoff=0.9, slow=5.0),
    "correlated": lambda: CorrelatedRule(most=5.0),
    "gradient2": lambda: Gradient2Rule(tolerance=1.5, queue=4.0, smoothing=0.2),
    "vegas": lambda: VegasRule(probe=30),
}


def half() -> float:
    return 0.5


def sample(latency: float = 0.1, in_flight: int = 20, throughput: float = 100.0, *, dropped: bool = False) -> Sample:
    return Sample(latency, latency, in_flight, throughput, dropped)


def sampler(least: int = 5) -> Sampler:
    return Sampler(quantile=None, shortest=1.0, longest=30.0, least=least, now=0.0)


# Samples


def test_a_sample_takes_a_window_and_enough_calls():
    few = sampler()
    assert [few.answered(0.1, 3, now) for now in (0.2, 0.9, 1.5, 7.0)] == [None] * 4
    found = few.answered(0.3, 2, 8.0)
    assert found is not None
    assert found[2:] == (3, 5 / 8, False)
    assert found[:2] == pytest.approx((0.14, 0.14))
    early = sampler()
    assert [early.answered(0.1, 1, 0.1) for _ in range(10)] == [None] * 10
    assert early.answered(0.1, 1, 1.0) is not None


def test_a_window_outlasts_two_of_its_quickest_calls():
    slow = sampler()
    assert [slow.answered(2.0, 1, 2.0) for _ in range(10)] == [None] * 10
    assert slow.answered(2.0, 1, 4.0) is not None


def test_a_window_ends_with_few_calls_and_counts_unless_they_are_too_few():
    some, none = sampler(least=50), sampler(least=50)
    assert [some.answered(0.1, 1, now) for now in range(20)] == [None] * 20
    assert some.answered(0.1, 1, 30.0) is not None
    assert none.answered(0.1, 1, 1.0) is None
    assert none.answered(0.1, 1, 40.0) is None
    assert [none.answered(0.1, 1, 41.0) for _ in range(49)] == [None] * 49, "the window of two calls was thrown away"


def test_one_drop_in_twenty_is_chance_and_more_is_too_much():
    def window(drops: int) -> Sample | None:
        calls = sampler(least=40)
        for number in range(39):
            (calls.dropped if number < drops else lambda *_: calls.answered(0.1, 1, 0.5))(1, 0.5)
        return calls.answered(0.1, 1, 1.0)

    assert [found.dropped for drops in (0, 2, 3) if (found := window(drops))] == [False, False, True]


def test_what_took_no_time_was_answered_by_something_nearer():
    calls = sampler(least=2)
    calls.answered(5e-5, 99, 0.5)
    calls.answered(0.1, 2, 0.5)
    found = calls.answered(0.1, 2, 1.0)
    assert found is not None
    assert found[2:] == (2, 2.0, False)
    assert found[:2] == pytest.approx((0.1, 0.1))


def test_a_rule_may_look_at_a_quantile():
    calls = Sampler(quantile=0.9, shortest=1.0, longest=30.0, least=5, now=0.0)
    for number in range(1, 11):
        calls.answered(number / 10, 1, 0.9)
    found = calls.answered(0.1, 1, 1.0)
    assert found is not None
    assert found.latency == pytest.approx(0.9, rel=0.02)
    assert found.mean == pytest.approx(5.6 / 11)


# What each rule makes of them


@pytest.mark.parametrize("name", RULES)
def test_drops_make_the_limit_smaller(name):
    rule = RULES[name]()
    assert rule.next(20.0, sample(dropped=True), half) < 20.0
    assert rule.next(20.0, sample(dropped=True, latency=0.0, throughput=0.0), half) < 20.0


@pytest.mark.parametrize("name", RULES)
def test_a_limit_that_is_not_half_used_does_not_grow(name):
    rule = RULES[name]()
    limit = 20.0
    for _ in range(100):
        limit = rule.next(limit, sample(in_flight=9), half)
    assert limit == 20.0


@pytest.mark.parametrize("name", RULES)
def test_a_limit_that_is_used_grows_while_latency_stays(name):
    rule = RULES[name]()
    limit = 20.0
    for _ in range(200):
        limit = rule.next(limit, sample(in_flight=int(limit), throughput=limit / 0.1), half)
    assert limit > 100


@pytest.mark.parametrize("name", ["correlated", "gradient2", "vegas"])
def test_latency_that_rises_makes_it_smaller(name):
    rule = RULES[name]()
    limit = 20.0
    for _ in range(20):
        limit = rule.next(limit, sample(in_flight=int(limit)), half)
    before = limit
    for window in range(10):
        limit = rule.next(limit, sample(in_flight=int(limit), latency=0.1 * 1.5**window), half)
    assert limit < before


def test_vegas_looks_anew_for_the_shortest_latency():
    rule = VegasRule(probe=1)
    rule.next(20.0, sample(latency=0.1), half)
    # After 0.75 times 20 windows whatever is seen is the shortest, and the limit grows in spite of it.
    moves = [rule.next(20.0, sample(latency=0.4), half) - 20.0 for _ in range(20)]
    assert moves[:13] == [-1.0] * 13
    assert moves[13:] == [0.0, *[6.0] * 6]


def test_vegas_lets_a_few_wait():
    rule = VegasRule(probe=1000)
    rule.next(20.0, sample(latency=0.1), half)
    queues = [0.04, 0.09, 0.2, 0.4]  # the share of the calls in flight that waits
    assert [rule.next(20.0, sample(latency=0.1 / (1 - share)), half) for share in queues] == [26.0, 21.0, 20.0, 19.0]


def test_gradient2_forgets_a_long_average_of_worse_times_quickly():
    rule = Gradient2Rule(tolerance=1.5, queue=4.0, smoothing=0.2)
    for _ in range(50):
        rule.next(20.0, sample(latency=1.0), half)
    for _ in range(60):
        rule.next(20.0, sample(latency=0.1), half)
    assert rule._long.value < 0.25, "twice what it is now, and not a tenth of the way there"


def test_aimd_takes_a_slow_answer_for_none():
    assert AimdRule(backoff=0.5, slow=1.0).next(20.0, sample(latency=1.1), half) == 10.0


def test_after_drops_correlated_does_not_grow_for_ten_windows():
    rule = CorrelatedRule(most=5.0)
    limits = [rule.next(20.0, sample(dropped=True), half)]
    for _ in range(11):
        limits.append(rule.next(limits[-1], sample(in_flight=int(limits[-1])), half))
    assert limits == [18.0] * 10 + [19.0, 20.0]


def test_correlated_gives_up_what_nobody_needs():
    rule = CorrelatedRule(most=5.0)
    limit = 100.0
    for _ in range(200):
        limit = rule.next(limit, sample(in_flight=2), half)
    assert limit == pytest.approx(10.0, abs=2)


def served(limit: float, workers: int = 10, seconds: float = 0.1) -> Sample:
    """What a server with that many workers makes of a limit that is used up: the law of Little."""
    in_flight = int(limit)
    throughput = min(in_flight, workers) / seconds
    return Sample(in_flight / throughput, in_flight / throughput, in_flight, throughput, dropped=False)


@pytest.mark.parametrize("name", ["correlated", "vegas"])
def test_under_an_overload_that_lasts_it_comes_to_rest_near_the_capacity(name):
    rule = RULES[name]()
    limit = 5.0
    for window in range(2000):
        limit = max(1.0, rule.next(limit, served(limit), half))
        if window > 200:
            assert 10 <= limit <= 75, "ten workers"


def test_correlated_does_not_starve_what_has_become_slower():
    rule = CorrelatedRule(most=5.0)
    limit = 5.0
    for window in range(3000):
        limit = max(1.0, rule.next(limit, served(limit, seconds=0.1 if window < 500 else 1.0), half))
        if window > 1000:
            assert 10 <= limit <= 75


def test_gradient2_gets_used_to_an_overload_that_lasts():
    rule = Gradient2Rule(tolerance=1.5, queue=4.0, smoothing=0.2)
    limits = [20.0]
    for _ in range(2000):
        limits.append(rule.next(limits[-1], served(limits[-1]), half))
    assert limits[-1] > 1.2 * limits[500], "the docstring says so"


def test_a_step_is_the_decimal_logarithm():
    assert [step(limit) for limit in (1.0, 5.0, 99.9, 100.0, 1000.0)] == [1, 1, 1, 2, 3]


def test_a_baseline_is_the_plain_mean_of_ten_and_then_follows_slowly():
    baseline = Baseline(19)
    assert [baseline.add(value) for value in (1.0, 2.0, 3.0)] == [1.0, 1.5, 2.0]
    for _ in range(7):
        baseline.add(2.0)
    assert baseline.value == pytest.approx(2.0)
    assert baseline.add(12.0) == pytest.approx(3.0)
    baseline.scale(0.5)
    assert baseline.value == pytest.approx(1.5)


def test_what_goes_together_is_told_from_what_does_not():
    together, apart, still = Correlation(), Correlation(), Correlation()
    rising = [together.add(number, 3 * number) for number in range(1, 21)]
    falling = [apart.add(number, 100 - number) for number in range(1, 21)]
    steady = [still.add(number, 5.0) for number in range(1, 21)]
    assert rising == [0.0] * 9 + [pytest.approx(1.0)] * 11, "ten pairs say something"
    assert falling == [0.0] * 9 + [pytest.approx(-1.0)] * 11
    assert steady == [0.0] * 20
    assert still.spread == 0.0
    assert together.spread == pytest.approx(0.549, abs=0.01)
    assert Correlation().spread == 1.0


# The limit


@pytest.mark.parametrize("name", RULES)
@given(calls=st.lists(st.tuples(st.booleans(), st.floats(0.0, 20.0), st.integers(1, 300), st.floats(0.0, 5.0))))
def test_the_limit_stays_within_its_bounds_whatever_happens(name, calls):
    limit = ConcurrencyLimit(
        RULES[name](), initial=20, lowest=2, highest=50, window=0.5, least=2, longest=30.0, now=0.0
    )
    now = 0.0
    for answered, latency, in_flight, later in calls:
        now += later
        before = limit.limit
        moved = limit.answered(latency, in_flight, now, half) if answered else limit.dropped(in_flight, now, half)
        assert moved == (limit.limit != before)
        assert 2 <= limit.limit <= 50
        assert math.isfinite(limit.limit)
