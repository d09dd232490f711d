"""Numbers of calls, and up to which one everything can be forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resilient.machines.outstanding import Outstanding


def test_calls_are_acknowledged_in_order_whatever_the_order_in_which_they_end():
    calls = Outstanding(window=10)
    assert [calls.begin() for _ in range(4)] == [1, 2, 3, 4]
    assert not calls.end(3)
    assert not calls.end(2)
    assert (calls.acknowledged, calls.under_way) == (0, 2)
    assert calls.end(1)
    assert (calls.acknowledged, calls.under_way) == (3, 1)
    assert calls.end(4)
    assert (calls.acknowledged, calls.under_way, calls.last) == (4, 0, 4)


def test_a_call_that_takes_long_fills_the_window():
    calls = Outstanding(window=3)
    assert [calls.begin() for _ in range(4)] == [1, 2, 3, None]
    calls.end(2)
    calls.end(3)
    assert calls.begin() is None
    calls.end(1)
    assert calls.begin() == 4


@given(st.lists(st.integers(0, 7), max_size=60), st.integers(1, 6))
def test_what_is_acknowledged_is_over_and_the_next_one_is_not(steps, window):
    calls, under_way, given_out = Outstanding(window), [], 0
    for step in steps:
        if step < 4:
            number = calls.begin()
            assert (number is None) == (given_out - calls.acknowledged >= window)
            if number is not None:
                given_out += 1
                assert number == given_out
                under_way.append(number)
        elif under_way:
            before = calls.acknowledged
            moved = calls.end(under_way.pop(step % len(under_way)))
            assert moved == (calls.acknowledged > before)
        assert calls.under_way == len(under_way)
        assert calls.acknowledged == min(under_way, default=given_out + 1) - 1
