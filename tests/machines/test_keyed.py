"""A bounded table of machines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resilient.machines.keyed import Keyed


class Machine:
    """Any machine: only its identity matters here."""


@given(limit=st.integers(1, 5), asked=st.lists(st.integers(0, 8), max_size=60))
def test_the_keys_used_last_keep_their_machine_and_all_others_are_forgotten(limit: int, asked: list[int]) -> None:
    keyed = Keyed(Machine, limit)
    given_out: dict[int, Machine] = {}
    for number, key in enumerate(asked):
        used_last = list(dict.fromkeys(reversed(asked[:number])))[:limit]
        machine = keyed[key]
        assert (machine is given_out.get(key)) == (key in used_last)
        given_out[key] = machine
        assert len(keyed) == min(limit, len(used_last) + (key not in used_last))


def test_who_holds_a_forgotten_machine_does_not_share_it_with_the_next() -> None:
    keyed = Keyed(Machine, 1)
    held = keyed["a"]
    other = keyed["b"]
    assert keyed["b"] is other
    assert keyed["a"] is not held


def test_a_flood_of_keys_is_bounded() -> None:
    keyed = Keyed(Machine, 100)
    for key in range(10_000):
        assert keyed[key] is keyed[key]
    assert len(keyed) == 100
