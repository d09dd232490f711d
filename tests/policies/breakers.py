"""Breakers in every state, and callers that call through them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import anyio
import pytest

from resilient.context import current_runtime
from resilient.machines.circuit import CircuitState
from resilient.policies.circuit_breaker import CircuitBreaker

CLOSED, OPEN, HALF_OPEN, ISOLATED = CircuitState
COOLDOWN = 5.0

Ending = Literal["well", "badly", "never"]
Guarded = Callable[..., Coroutine[Any, Any, Any]]


async def remote(ending: Ending = "well", after: float = 0.0) -> str:
    await anyio.sleep(after)
    if ending == "badly":
        raise OSError("it failed")
    if ending == "never":
        await anyio.sleep_forever()
    return "an answer"


def sensitive(**changes: Any) -> CircuitBreaker:
    """A breaker that one failure opens."""
    return CircuitBreaker(consecutive_failures=1, cooldown=COOLDOWN, **changes)


def opened(**changes: Any) -> CircuitBreaker:
    breaker = sensitive(**changes)
    with pytest.raises(OSError, match="it failed"), breaker:
        raise OSError("it failed")
    assert breaker.state is OPEN
    return breaker


def ready_to_probe(**changes: Any) -> CircuitBreaker:
    breaker = opened(**changes)
    current_runtime().pause(COOLDOWN)
    return breaker


async def outcome_of(guarded: Guarded, *args: Any) -> str:
    """The answer, or the name of the error."""
    try:
        answer: str = await guarded(*args)
    except Exception as error:
        return type(error).__name__
    return answer


async def outcomes_of(callers: int, guarded: Guarded, *args: Any) -> Counter[str]:
    """What becomes of that many who call at once."""
    outcomes: Counter[str] = Counter()

    async def one() -> None:
        outcomes[await outcome_of(guarded, *args)] += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(callers):
            tasks.start_soon(one)
    return outcomes
