"""Means, intervals and paired differences: what they are, and how far they can be trusted."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from statistics import NormalDist, fmean, median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.lab.reporting.measures import NEVER, measure_of
from resilient.lab.reporting.statistics import LEAST, _tail, bootstrap, difference, estimate, paired_values
from tests.lab.samples import made, run

finite = st.floats(-1e6, 1e6)
times = st.floats(0, 1e6) | st.just(NEVER)


def of(metric, values, policy="default"):
    """Runs of one policy with these values, seed by seed."""
    return [run("outage", policy, seed, **{metric: value}) for seed, value in enumerate(values)]


# Estimates


def test_a_metric_is_its_mean_with_an_interval_around_it():
    values = [1.0, 1.1, 0.9, 1.2, 0.8, 1.05, 0.95, 1.0, 1.1, 0.9]
    found: Any = estimate(made(of("p99", values)), "outage", "default", "p99")
    assert found.centre == fmean(values)
    assert min(values) < found.low < found.centre < found.high < max(values)
    assert (found.seeds, found.missing, found.never) == (10, 0, 0)
    assert str(found) == "1.00 s [0.92, 1.09]"


def test_an_interval_of_normal_values_is_about_as_long_as_that_of_student():
    chance = random.Random(5)
    values = [chance.gauss(10, 1) for _ in range(10)]
    low, high = bootstrap(values, fmean)
    deviation = math.sqrt(sum((value - fmean(values)) ** 2 for value in values) / 9)
    assert high - low == pytest.approx(2 * 2.262 * deviation / math.sqrt(10), rel=0.12)


@pytest.mark.parametrize(("freedom", "t"), [(2, 4.303), (4, 2.776), (9, 2.262), (19, 2.093), (49, 2.010)])
def test_the_quantiles_are_taken_as_far_out_as_student_says(freedom, t):
    size = freedom + 1
    assert _tail(size) == pytest.approx(NormalDist().cdf(-t * math.sqrt(size / freedom)), rel=0.03, abs=1e-5)


def test_a_value_that_is_missing_is_left_out_and_said_so():
    found: Any = estimate(made(of("p99", [0.1, None, 0.3, None])), "outage", "default", "p99")
    assert (found.centre, found.seeds, found.missing) == (0.2, 2, 2)
    assert found.remark == "only 2 of 4 seeds"


def test_what_no_seed_has_a_value_of_is_a_dash():
    found: Any = estimate(made(of("p99", [None, None])), "outage", "default", "p99")
    assert (found.centre, found.low, found.high, str(found)) == (None, None, None, "\N{EN DASH}")
    assert estimate(made([run()]), "outage", "default", "p99").centre is None


@given(finite, st.integers(1, 12))
def test_the_mean_of_equal_values_is_that_value(value, seeds):
    found: Any = estimate(made(of("p99", [value] * seeds)), "outage", "default", "p99")
    assert found.centre == value
    assert {found.low, found.high} <= {value, None}


def test_one_seed_has_no_interval():
    found: Any = estimate(made(of("p99", [0.1])), "outage", "default", "p99")
    assert (found.centre, found.low, found.high, str(found)) == (0.1, None, None, "100 ms")


@pytest.mark.parametrize(
    ("values", "centre", "never", "text"),
    [
        ([1.0, 3.0, 2.0], 2.0, 0, "2 s [1, 3]"),
        ([1.0, None, 2.0], 2.0, 1, "2.0 s [1.0, never] (1 of 3 seeds never)"),
        ([1.0, None], NEVER, 1, "never [1.0 s, never] (1 of 2 seeds)"),
        ([None, None, 5.0], NEVER, 2, "never [5.0 s, never] (2 of 3 seeds)"),
        ([None, None], NEVER, 2, "never"),
        ([1.0, 1.0, 1.0], 1.0, 0, "1 s"),
    ],
)
def test_recovery_is_a_median_in_which_never_is_later_than_anything(values, centre, never, text):
    found: Any = estimate(made(of("recovery", values)), "outage", "default", "recovery")
    assert (found.centre, found.never, str(found)) == (centre, never, text)


def test_a_run_without_the_metric_did_not_fail_to_recover():
    found: Any = estimate(made([run("outage", "default", 0, recovery=None), run("outage", "default", 1)]), *KEY)
    assert (found.never, found.seeds, found.missing) == (1, 1, 1)


KEY = ("outage", "default", "recovery")


# Differences


def test_policies_are_compared_seed_by_seed():
    chance = random.Random(1)
    weather = [chance.gauss(100, 50) for _ in range(10)]
    runs = of("goodput", weather, "a") + of("goodput", [value + chance.gauss(2, 1) for value in weather], "b")
    found: Any = difference(made(runs), "outage", "goodput", "b", "a")
    assert 1 < found.low < found.centre < found.high < 3  # though each of them varies by 50
    assert found.clear
    assert found.better
    assert not found.worse
    back: Any = difference(made(runs), "outage", "goodput", "a", "b")
    assert (back.centre, back.better, back.worse) == (-found.centre, False, True)


def test_only_seeds_that_both_have_count():
    runs = [run("outage", "a", seed, p99=1.0) for seed in (0, 1, 2)] + [run("outage", "b", 2, p99=3.0)]
    found: Any = difference(made(runs), "outage", "p99", "b", "a")
    assert (found.centre, found.low, found.seeds, found.text) == (2.0, None, 1, "+2 s")
    nothing = difference(made(runs[:2]), "outage", "p99", "b", "a")
    assert (nothing.centre, nothing.seeds, nothing.text) == (None, 0, "\N{EN DASH}")


@pytest.mark.parametrize(
    ("ours", "theirs", "centre"),
    [
        ([1.0] * 7, [None] * 7, -NEVER),
        ([None] * 7, [None] * 7, 0.0),
        ([None] * 7, [5.0] * 7, NEVER),
        ([1.0, None], [None, 1.0], 0.0),
        ([1.0] * 7, [3.0] * 7, -2.0),
    ],
)
def test_never_is_compared_with_never_and_with_a_time(ours, theirs, centre):
    found: Any = difference(
        made(of("recovery", ours, "a") + of("recovery", theirs, "b")), "outage", "recovery", "a", "b"
    )
    assert found.centre == centre
    assert found.clear == (centre != 0)
    assert found.better == (centre < 0)


@pytest.mark.parametrize("seeds", [1, 2, LEAST - 1, LEAST])
def test_few_seeds_show_nothing_clearly(seeds):
    measure = measure_of("p99")
    found = paired_values(measure, dict.fromkeys(range(seeds), 2.0), dict.fromkeys(range(seeds), 1.0))
    assert found.centre == 1.0
    assert found.clear == found.worse == (seeds >= LEAST)


def test_a_direction_that_is_neither_is_clear_and_not_better():
    measure = measure_of("share.db-0")
    found = paired_values(measure, dict.fromkeys(range(9), 0.2), dict.fromkeys(range(9), 0.1))
    assert (found.clear, found.better, found.worse) == (True, False, False)


# What holds of any values


@given(st.lists(finite, min_size=2, max_size=12))
def test_an_interval_lies_within_the_values(values):
    low, high = bootstrap(values, fmean)
    slack = 1e-9 * max(map(abs, values))
    assert min(values) - slack <= low <= high <= max(values) + slack


@given(st.lists(times, min_size=2, max_size=12))
def test_a_median_is_that_of_the_standard_library_as_far_as_that_knows(values):
    runs = of("recovery", [None if value == NEVER else value for value in values])
    found: Any = estimate(made(runs), *KEY)
    assert found.centre == median(values)
    assert found.low <= found.centre <= found.high
    assert not math.isnan(found.low + found.high)


@given(st.lists(st.tuples(times, times), min_size=1, max_size=12))
def test_differences_turn_round_with_the_pair(pairs):
    measure = measure_of("recovery")
    ours, theirs = ({seed: pair[side] for seed, pair in enumerate(pairs)} for side in (0, 1))
    one: Any = paired_values(measure, ours, theirs)
    other: Any = paired_values(measure, theirs, ours)
    assert one.centre == -other.centre
    assert one.clear == other.clear
    assert one.better == other.worse


@given(st.lists(finite, min_size=2, max_size=12), st.randoms())
def test_the_same_values_give_the_same_interval(values, chance):
    before = chance.getstate()
    assert bootstrap(values, fmean) == bootstrap(list(values), fmean)
    assert chance.getstate() == before


def test_another_process_finds_the_same_intervals():
    """Whatever its hash seed is."""
    code = (
        "from resilient.lab.reporting.statistics import bootstrap\n"
        "print(bootstrap([3, 1, 4, 1, 5], lambda values: sum(values) / 5))"
    )
    found = {
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env).stdout.strip()
        for env in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"})
    }
    assert found == {"(1.0, 4.8)"}


# How far it can be trusted: the figures that the docstring gives


@pytest.mark.parametrize(
    ("draw", "true", "seeds", "least", "most"),
    [
        (lambda chance: chance.gauss(0, 1), 0.0, 10, 0.92, 0.96),
        (lambda chance: chance.expovariate(1), 1.0, 10, 0.87, 0.93),
        (lambda chance: chance.gauss(0, 1), 0.0, 3, 0.70, 0.78),
    ],
    ids=["normal", "skewed", "three seeds"],
)
def test_how_often_an_interval_holds_the_true_mean(draw, true, seeds, least, most):
    chance = random.Random(1993)
    hits = 0
    for _ in range(1500):
        low, high = bootstrap([draw(chance) for _ in range(seeds)], fmean)
        hits += low <= true <= high
    assert least < hits / 1500 < most


def test_how_often_a_difference_is_found():
    chance = random.Random(1993)
    measure = measure_of("p99")
    zeros = dict.fromkeys(range(10), 0.0)

    def found(shift: float) -> float:
        draws = ({seed: chance.gauss(shift, 1) for seed in range(10)} for _ in range(600))
        return sum(paired_values(measure, drawn, zeros).clear for drawn in draws) / 600

    assert 0.88 < found(1.2) < 0.97
    assert 0.03 < found(0.0) < 0.08
