"""The only door to time, chance, names and telemetry."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from resilient.events import Event

__all__ = ["Runtime"]


def _new_id() -> str:
    from uuid import uuid4  # a third of the time that importing anyio takes, for what not everybody needs

    return str(uuid4())


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Everything that a policy may know of the world around it, replaceable as a whole.

    Nothing else in the library reads a clock or draws a random number, so a test, a simulation or
    virtual time replaces one object and everything follows.

    `now`
        Monotonic seconds. All durations and deadlines are on this scale.
    `wall`
        Seconds since the epoch. Only for dates on the wire and in the stores of others; never for a
        duration, because it jumps.
    `sleep`, `pause`
        Wait for seconds: in a coroutine, and in a plain function.
    `random`
        A float in [0, 1): jitter, sampling, choices.
    `new_id`
        A fresh unique name: idempotency keys, owners of leases. UUID version 4, as the IETF draft on
        the Idempotency-Key header recommends.
    `emit`
        Receives every event. None, the default, costs nothing: events are then not even built. It is
        called on the call's own path, so it must be quick; what it raises is logged and dropped.
    """

    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    pause: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random
    new_id: Callable[[], str] = _new_id
    emit: Callable[[Event], None] | None = None
