"""Histories of one key, made by hand: good ones have an order, bad ones have none."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.torture.register import NEVER, Op, Outcome, linearizable


def ran(name: str, invoked: int, returned: int, payload: str = "p") -> Op:
    """Executed, and was told its own reply."""
    return Op(invoked, returned, payload, "ok", reply=name, by=name, began=frozenset({name}))


def got(name: str, invoked: int, returned: int, payload: str = "p") -> Op:
    """Was told the reply of `name`."""
    return Op(invoked, returned, payload, "ok", reply=name, by=name)


def lost(name: str, invoked: int, payload: str = "p") -> Op:
    """Began, and was never heard of again."""
    return Op(invoked, payload=payload, began=frozenset({name}))


def busy(invoked: int, returned: int) -> Op:
    return Op(invoked, returned, "p", "busy")


def refused(invoked: int, returned: int, payload: str) -> Op:
    return Op(invoked, returned, payload, "refused")


GOOD = {
    "nothing happened": [],
    "one after the other": [ran("a", 0, 1), got("a", 2, 3), got("a", 4, 5)],
    "the reply of somebody who has not returned yet": [ran("a", 0, 9), got("a", 1, 2)],
    "the reply of somebody who died": [lost("a", 0), got("a", 1, 2), got("a", 3, 4)],
    "followed after a death": [lost("a", 0), ran("b", 1, 2), got("b", 3, 4)],
    "an execution that took effect late": [lost("a", 0), busy(1, 2), busy(3, 4), got("a", 5, 6)],
    "busy before, and during": [ran("a", 0, 5), busy(1, 2), busy(3, 9)],
    "another payload was refused": [ran("a", 0, 1), refused(2, 3, "q")],
    "the right payload is refused while another one runs": [refused(0, 5, "p"), lost("a", 1, "q")],
    "nobody was told of anything": [lost("a", 0), lost("b", 1), busy(2, 3)],
    "two hundred at once": [ran("a", 0, 1000), *(busy(1 + n, 300 + n) for n in range(100)),
                            *(got("a", 150 + n, 500 + n) for n in range(100))],
}  # fmt: skip

BAD = {
    "two different replies": [ran("a", 0, 1), ran("b", 2, 3)],
    "two executions at once, both told": [ran("a", 0, 5), ran("b", 1, 4)],
    "a reply from the future": [got("a", 0, 1), ran("a", 2, 3)],
    "a reply of nobody": [got("a", 0, 1)],
    "busy after it was done": [ran("a", 0, 1), busy(2, 3)],
    "done, busy, and done again": [lost("a", 0), got("a", 1, 2), busy(3, 4), got("a", 5, 6)],
    "the reply of another payload": [ran("a", 0, 1, "p"), got("a", 2, 3, "q")],
    "refused with the payload of the reply": [ran("a", 0, 1), refused(2, 3, "p")],
    "first one reply, then that of a late executor": [lost("a", 0), ran("b", 1, 2), got("a", 3, 4)],
    "the same executor, another reply": [ran("a", 0, 1), Op(2, 3, "p", "ok", reply="other", by="a")],
}  # fmt: skip


@pytest.mark.parametrize("ops", GOOD.values(), ids=GOOD.keys())
def test_a_good_history_has_an_order(ops: list[Op]) -> None:
    assert linearizable(ops)
    assert linearizable(reversed(ops))


@pytest.mark.parametrize("ops", BAD.values(), ids=BAD.keys())
def test_a_bad_history_has_none(ops: list[Op]) -> None:
    assert not linearizable(ops)
    assert not linearizable(reversed(ops))


def explained(order: Sequence[Op]) -> bool:
    """Whether a register that is written once answers like this, in this very order."""
    done: Op | None = None
    for op in order:
        executes = done is None and (op.by in op.began if op.outcome == "ok" else op.outcome == "unknown")
        if executes:
            done = op
        elif op.outcome == "ok":
            same_payload = done is not None and done.payload == op.payload and op.by in done.began
            if not same_payload or (done is not None and done.outcome == "ok" and done.reply != op.reply):
                return False
        elif done is not None and (op.outcome == "busy" or (op.outcome == "refused" and done.payload == op.payload)):
            return False
    return True


def in_time(order: Sequence[Op]) -> bool:
    """Whether nobody comes before somebody who had returned before it was invoked."""
    return all(later.returned >= op.invoked for place, op in enumerate(order) for later in order[place:])


def by_brute_force(ops: Sequence[Op]) -> bool:
    """All orders of all calls, with and without those that may never have taken place."""
    certain = [op for op in ops if op.outcome != "unknown"]
    # At most one of those that were never heard of can be needed: whose reply the others got.
    unheard = [op for op in ops if op.outcome == "unknown" and op.began]
    return any(
        explained(order)
        for extra in ([], *([op] for op in unheard))
        for order in permutations([*certain, *extra])
        if in_time(order)
    )


@st.composite
def histories(draw: st.DrawFn) -> list[Op]:
    """A few calls, whose answers need not make sense."""
    number = draw(st.integers(0, 5))
    moments = iter(draw(st.permutations(range(2 * number))))
    ops = []
    for name in "abcde"[:number]:
        invoked, returned = sorted((next(moments), next(moments)))
        outcome: Outcome = draw(st.sampled_from(["ok", "ok", "ok", "busy", "refused", "unknown"]))
        by = draw(st.sampled_from("abc")) if outcome == "ok" else ""
        began = frozenset(name if outcome == "unknown" or by == name else "")
        payload = draw(st.sampled_from("pppq"))
        returned = NEVER if outcome == "unknown" else returned
        ops.append(Op(invoked, returned, payload, outcome, reply=by or None, by=by, began=began))
    return ops


@settings(max_examples=500)
@given(histories())
def test_it_agrees_with_trying_all_orders(ops: list[Op]) -> None:
    assert linearizable(ops) == by_brute_force(ops)
