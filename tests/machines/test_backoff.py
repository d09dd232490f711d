"""How long to wait: exponentially longer, capped, then jittered."""

from __future__ import annotations

import dataclasses
import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.machines.backoff import Backoff

ALMOST_ONE = math.nextafter(1.0, 0.0)
"""The largest number that a random source draws."""


def test_the_ceiling_doubles_from_50_ms_to_5_s() -> None:
    ceilings = [Backoff().delay(attempt, lambda: 1.0) for attempt in range(1, 10)]
    assert ceilings == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])


@given(
    base=st.floats(0, 1e6),
    cap=st.floats(0, 1e6),
    multiplier=st.floats(1, 1e6),
    attempt=st.integers(1, 10_000),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_the_wait_is_the_drawn_share_of_the_capped_ceiling(
    base: float, cap: float, multiplier: float, attempt: int, chance: float
) -> None:
    backoff = Backoff(base=base, cap=cap, multiplier=multiplier)
    ceiling = backoff.delay(attempt, lambda: 1.0)
    assert backoff.delay(attempt, lambda: chance) == chance * ceiling
    assert 0 <= ceiling <= cap
    assert ceiling >= min(base, cap)
    assert backoff.delay(attempt + 1, lambda: 1.0) >= ceiling


def test_jitter_comes_after_the_cap_so_late_retries_do_not_meet_at_it() -> None:
    """A cap on the jittered wait sends 97 of 100 eighth retries at exactly the cap."""
    backoff, random = Backoff(base=2.0, cap=30.0), Random(8).random
    waits = [backoff.delay(8, random) for _ in range(10_000)]
    assert max(waits) < 30.0
    assert len(set(waits)) == len(waits)
    assert sum(waits) / len(waits) == pytest.approx(15.0, rel=0.02)
    assert sum(wait < 3.0 for wait in waits) == pytest.approx(1000, rel=0.1)


@given(cap=st.floats(1e-300, 1e300))
def test_even_the_largest_draw_stays_below_the_cap(cap: float) -> None:
    assert Backoff(base=cap, cap=cap).delay(1, lambda: ALMOST_ONE) < cap


@pytest.mark.parametrize("multiplier", [3, 3.0, 1e300])
def test_no_number_of_attempts_is_too_large(multiplier: float) -> None:
    assert Backoff(multiplier=multiplier).delay(10**9, lambda: 1.0) == 5.0


def test_no_base_means_no_wait_however_often() -> None:
    assert Backoff(base=0).delay(10**6, lambda: ALMOST_ONE) == 0.0


def test_a_multiplier_of_one_keeps_the_wait_as_it_is() -> None:
    assert Backoff(base=0.3, multiplier=1).delay(10**6, lambda: 0.5) == 0.15


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("base", "cap") for value in (-0.1, math.inf, -math.inf, math.nan)],
        *[("multiplier", value) for value in (0.99, 0, -2, math.inf, math.nan)],
    ],
)
def test_a_bad_argument_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name}={value!r}: a finite number.*, at least"):
        Backoff(**{name: value})


def test_it_is_a_value() -> None:
    assert Backoff(base=0.1) == Backoff(base=0.1)
    assert len({Backoff(), Backoff()}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        Backoff().cap = 1.0  # type: ignore[misc]  # the mistake is the test
