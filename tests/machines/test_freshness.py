"""What is kept for a while: by its age it is fresh, good enough meanwhile, better than an error, or gone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.machines.freshness import Freshness, Kept


@pytest.mark.parametrize(
    ("age", "fresh", "meanwhile", "fallback"),
    [
        (0.0, True, True, True),
        (9.9, True, True, True),
        (10.0, False, True, True),
        (11.9, False, True, True),
        (12.0, False, False, True),
        (14.9, False, False, True),
    ],
)
def test_what_it_is_good_for_follows_from_its_age(age, fresh, meanwhile, fallback):
    kept = Freshness(ttl=10.0, while_revalidating=2.0, if_error=5.0, most=3)
    kept.keep("a", "value", 0.0)
    assert kept.find("a", age) == Kept("value", age, fresh, meanwhile, fallback)


def test_what_is_good_for_nothing_is_forgotten():
    kept = Freshness(ttl=10.0, while_revalidating=2.0, if_error=5.0, most=3)
    kept.keep("a", "value", 0.0)
    assert kept.find("a", 15.0) is None
    assert len(kept) == 0
    assert kept.find("b", 0.0) is None


def test_without_a_time_to_live_nothing_is_ever_found():
    kept = Freshness(ttl=0.0, while_revalidating=0.0, if_error=0.0, most=3)
    kept.keep("a", "value", 0.0)
    assert kept.find("a", 0.0) is None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9))), st.integers(1, 4))
def test_the_keys_that_were_unused_for_longest_give_way(steps, most):
    kept = Freshness(ttl=1e9, while_revalidating=0.0, if_error=0.0, most=most)
    recent: list[int] = []
    for keeps, key in steps:
        found = kept.find(key, 0.0)
        assert (found is not None) == (key in recent)
        if keeps or key in recent:
            recent = [key, *(other for other in recent if other != key)][:most]
        if keeps:
            kept.keep(key, key, 0.0)
        assert len(kept) == len(recent)
