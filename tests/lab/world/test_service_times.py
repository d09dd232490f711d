"""Distributions of the seconds of work."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.lab.world.service_times import Bimodal, Constant, Empirical, Exponential, Lognormal

TIMES = [
    Constant(0.1),
    Exponential(0.1),
    Lognormal(0.1),
    Lognormal(0.1, sigma=1.0),
    Bimodal(0.01, 1.0, slow_share=0.1),
    Empirical([0.3, 0.1, 0.2, 0.2, 0.9]),
    Empirical([0.1]),
]


@pytest.mark.parametrize("times", TIMES, ids=repr)
def test_the_mean_is_that_of_what_is_drawn(times):
    count = 50_000
    drawn = math.fsum(times.quantile((number + 0.5) / count) for number in range(count)) / count
    assert drawn == pytest.approx(times.mean, rel=2e-3)


@pytest.mark.parametrize("times", TIMES, ids=repr)
@given(low=st.floats(2.0**-53, 1 - 2.0**-53), high=st.floats(2.0**-53, 1 - 2.0**-53))
def test_a_quantile_is_finite_and_rises(times, low, high):
    low, high = min(low, high), max(low, high)
    assert 0 <= times.quantile(low) < math.inf
    # The modes of a bimodal time overlap by a hair at their edge.
    assert isinstance(times, Bimodal) or times.quantile(low) <= times.quantile(high)


@given(share=st.floats(0.0, 1.0, exclude_min=True, exclude_max=True), u=st.sampled_from([2.0**-53, 1 - 2.0**-53]))
def test_a_bimodal_time_has_both_ends(share, u):
    assert 0 < Bimodal(0.01, 1.0, slow_share=share).quantile(u) < math.inf


def test_the_tails_are_what_they_are_said_to_be():
    assert Lognormal(1.0).quantile(0.99) == pytest.approx(2.8, abs=0.05)
    assert Lognormal(1.0, sigma=1.0).quantile(0.99) == pytest.approx(6.2, abs=0.05)
    assert Exponential(1.0).quantile(0.99) == pytest.approx(-math.log(0.01))
    bimodal = Bimodal(0.01, 1.0, slow_share=0.1)
    assert bimodal.quantile(0.89) < 0.03
    assert bimodal.quantile(0.91) > 0.4


def test_what_was_measured_has_its_own_quantiles():
    times = Empirical([3.0, 1.0, 2.0])
    assert [times.quantile(u) for u in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert [times.cdf(seconds) for seconds in (0.5, 1.0, 2.5, 3.0)] == [0.0, 1 / 3, 2 / 3, 1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(0.0), "mean=0.0"),
        (lambda: Exponential(-1.0), "mean=-1.0"),
        (lambda: Lognormal(math.inf), "mean=inf"),
        (lambda: Lognormal(1.0, sigma=0.0), "sigma=0.0"),
        (lambda: Bimodal(0.0, 1.0), "fast=0.0"),
        (lambda: Bimodal(1.0, math.nan), "slow=nan"),
        (lambda: Bimodal(1.0, 2.0, slow_share=1.0), "slow_share=1.0"),
        (lambda: Empirical([]), "samples: at least one"),
        (lambda: Empirical([1.0, -0.1]), "samples: at least one"),
        (lambda: Empirical([1.0, math.nan, 2.0]), "samples: at least one"),
        (lambda: Empirical([math.inf]), "samples: at least one"),
    ],
)
def test_what_is_no_time_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
