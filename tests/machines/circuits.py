"""What the tests of the circuit share: to build one, to call through it, to bring it into a state."""

from __future__ import annotations

from typing import Any

from resilient.machines.circuit import Circuit, CircuitState, Judgement, Permit

CLOSED, OPEN, HALF_OPEN, ISOLATED = CircuitState
GOOD, BAD, TURNED_AWAY, NOTHING = Judgement
WINDOW, COOLDOWN = 10.0, 5.0


def circuit(**changes: Any) -> Circuit:
    """One that opens at the first failure, unless changed."""
    arguments: dict[str, Any] = {
        "failure_ratio": 0.5,
        "minimum_calls": 1,
        "window": WINDOW,
        "window_calls": None,
        "consecutive_failures": None,
        "slow_call": None,
        "slow_ratio": 1.0,
        "cooldown": COOLDOWN,
        "probes": 1,
        "lease": COOLDOWN,
    }
    return Circuit(**(arguments | changes))


def middling() -> float:
    return 0.5


def call(it: Circuit, now: float) -> Permit:
    permit = it.admit(now)
    assert permit is not None
    return permit


def settle(it: Circuit, permit: Permit, judgement: Judgement, now: float, latency: float = 0.0) -> None:
    it.settle(permit, judgement, latency, now, middling)


def make(it: Circuit, judgement: Judgement, now: float, *, calls: int = 1, latency: float = 0.0) -> None:
    """Make calls that end at once."""
    for _ in range(calls):
        settle(it, call(it, now), judgement, now, latency)


def opened(now: float = 0.0, **changes: Any) -> Circuit:
    it = circuit(**changes)
    while it.state is CLOSED:
        make(it, BAD, now)
    return it


def half_opened(**changes: Any) -> Circuit:
    """Open since 0.0, half-open since 5.0, with all places for probes free."""
    it = opened(**changes)
    make(it, NOTHING, COOLDOWN)
    assert it.state is HALF_OPEN
    return it
