"""Is the history of one key the history of a register that is written once? After Wing and Gong (1993).

The register of a key is *not done*, or *done* by one executor, with its payload and its reply. Somebody looks for an
order of all calls in which each takes place at one moment between its invocation and its return, and the register
answers what was answered:

- `ok`: the caller executed and was the first, or it got the reply of whoever did, under the same payload;
- `busy`: it was not done yet;
- `refused`: it was not done with this payload;
- no answer (the caller died, or was told of an error): it may have taken place at any time after its invocation, also
  after its error, or never; only a caller that began to execute can have executed.

Keys do not touch each other, so a history is linearizable if that of each key is (Herlihy and Wing, 1990, locality).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["ok", "busy", "refused", "unknown"]

NEVER = 2**62


@dataclass(frozen=True)
class Op:
    """One call. `invoked` and `returned` are places in the history."""

    invoked: int
    returned: int = NEVER
    payload: str = ""
    outcome: Outcome = "unknown"
    reply: Any = None
    """What was answered, if it was `ok`."""
    by: str = ""
    """The executor that the reply names."""
    began: frozenset[str] = frozenset()
    """As which executors this call began."""


def linearizable(ops: Iterable[Op]) -> bool:
    """Whether there is an order."""
    left = [op for op in ops if op.outcome != "unknown" or op.began]
    return _from(left, None)


def _from(left: Sequence[Op], done: Op | None) -> bool:
    # A call that is possible now and changes nothing may as well take place now: whatever order there is from here is
    # still one with it moved to the front. So only those that execute are tried in turn.
    rest = list(left)
    while True:
        now = next((op for op in _possible_next(rest) if _reads(op, done)), None)
        if now is None:
            break
        rest.remove(now)
    if all(op.outcome == "unknown" for op in rest):
        return True
    if done is not None:
        return False
    return any(_from([other for other in rest if other is not op], op) for op in _possible_next(rest) if _executes(op))


def _possible_next(left: Sequence[Op]) -> Iterator[Op]:
    """Those that nobody's return comes before."""
    first_return = min((op.returned for op in left), default=NEVER)
    return (op for op in left if op.invoked < first_return)


def _executes(op: Op) -> bool:
    if op.outcome == "ok":
        return op.by in op.began
    return op.outcome == "unknown" and bool(op.began)


def _reads(op: Op, done: Op | None) -> bool:
    match op.outcome:
        case "ok":
            return done is not None and _repeats(op, done)
        case "busy":
            return done is None
        case "refused":
            return done is None or done.payload != op.payload
        case "unknown":
            return False  # it need not take place, and nothing is gained if it does


def _repeats(op: Op, done: Op) -> bool:
    if op.payload != done.payload or op.by not in done.began:
        return False
    return done.outcome != "ok" or (op.by == done.by and op.reply == done.reply)
