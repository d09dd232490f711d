"""Lots that are the same in every process."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.machines.lots import lot


def test_a_lot_never_changes() -> None:
    """If it did, a new release would move every subset and every sticky call."""
    assert lot("client", "instance") == 0.5263220796552303
    assert lot(7, ("customer", 42)) == lot(7, ("customer", 42))


@given(st.text(), st.text())
def test_it_is_a_fraction(seed: str, name: str) -> None:
    assert 0.0 <= lot(seed, name) < 1.0


def test_lots_are_spread_evenly_over_names_and_over_seeds() -> None:
    for lots in ([lot("x", n) for n in range(10_000)], [lot(n, "x") for n in range(10_000)]):
        for tenth in range(10):
            assert sum(tenth / 10 <= one < (tenth + 1) / 10 for one in lots) == pytest.approx(1000, abs=120)


def test_what_is_written_differently_draws_another_lot() -> None:
    assert len({lot("a", 1), lot("a", "1"), lot("a", b"1"), lot("b", 1), lot(1, "a")}) == 5
