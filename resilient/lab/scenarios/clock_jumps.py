"""Somebody sets the clock, and sets it back; later the whole machine is suspended for half a minute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from resilient.call import Policy
from resilient.lab.arrivals import poisson
from resilient.lab.faults import Suspension, WallClockShift
from resilient.lab.limiters import FixedWindow, TokenBucket
from resilient.lab.metrics import most_within
from resilient.lab.scenario import Band, OpenLoop, Scenario, Tier
from resilient.lab.stacks import Setting, Stack, made_by
from resilient.lab.world.service_times import Lognormal
from resilient.policies.rate_limit import RateLimit
from resilient.policies.retry import Retry
from resilient.stack import default_policies

if TYPE_CHECKING:
    from resilient.lab.simulation.world import World

__all__ = ["scenario"]


_WAKES = 120


def scenario(*, load: float = 100.0, limit: int = 50, by: float = 3600.0) -> Scenario:
    """`load` calls a second, of which `limit` may be sent; from second 45 to 65 the wall clock is `by` seconds off.

    From second 90 to 120 everything stands still, and what was due meanwhile comes at once: answers, timeouts, calls.
    """
    return Scenario(
        name="clock-jumps",
        title="Clock jumps",
        source="IEEE Std 1003.1 (POSIX), clock_gettime: CLOCK_REALTIME may be set, CLOCK_MONOTONIC may not",
        naive=(
            "A limiter on the wall clock takes a clock that is set for time that passed. A window begins anew, and "
            "admits its limit twice; a bucket whose clock is set back owes tokens for an hour, and nothing is sent. "
            "After a suspension a window lets out ten seconds' worth at once."
        ),
        good=(
            "Durations by the monotonic clock, and a silence that earns one burst, however long. What was under way "
            "when everything was suspended has timed out when it wakes, so late that the caller must have stood still "
            "itself: no instance is blamed, and none ejected."
        ),
        tiers=[Tier(name="service", instances=3, workers=50, service_time=Lognormal(0.5), log=True)],
        load=OpenLoop(arrivals=lambda random: poisson(load, random, duration=160.0)),
        duration=160.0,
        timeout=10.0,
        attempt_timeout=2.5,
        faults=[WallClockShift(at=45.0, seconds=20.0, by=by), Suspension(at=90.0, seconds=_WAKES - 90.0)],
        trigger=(45.0, _WAKES),
        policies=("wall-window", "wall-bucket", "default-limited"),
        contenders={
            "wall-window": _by("wall-window", lambda: FixedWindow(10 * limit, 10.0, wall=True)),
            "wall-bucket": _by("wall-bucket", lambda: TokenBucket(limit, 1.0, wall=True)),
            "default-limited": Stack(name="default-limited", make=made_by(_default_limited(limit))),
        },
        primary=("admitted.1s", "admitted.10s", "goodput.after", "lost"),
        measure=_measure,
        bands=[
            Band(
                policy="wall-window", metric="admitted.10s", low=950, high=1060, why="a set clock begins a new window"
            ),
            Band(policy="wall-window", metric="admitted.1s", low=490, why="on waking, the whole window at once"),
            Band(policy="wall-bucket", metric="goodput.after", high=0.0, why="set back: it owes an hour of tokens"),
            Band(policy="default-limited", metric="admitted.1s", high=55, why="burst + rate * W = 5 + 50"),
            Band(policy="default-limited", metric="admitted.10s", high=505, why="burst + rate * W = 5 + 500"),
            Band(
                policy="default-limited", metric="goodput.after", low=47, high=51, why="all that may be sent succeeds"
            ),
            Band(policy="default-limited", metric="recovery", high=3, why="nothing has to be waited for"),
            Band(policy="default-limited", metric="lost", low=10, high=40, why="under way: 50 a second for 0.5 s"),
            Band(policy="default-limited", metric="ejected", high=0.0, why="its own standstill is no instance's fault"),
        ],
    )


def _by(name: str, limiter: Callable[[], Policy]) -> Stack:
    return Stack(name=name, make=made_by(lambda: [limiter()]))


def _default_limited(limit: int) -> Callable[[Setting], list[Policy]]:
    """The default stack, with the limit where each attempt counts."""

    def make(setting: Setting) -> list[Policy]:
        stack = default_policies(timeout=setting.timeout, attempt_timeout=setting.attempt_timeout)
        below_retry = next(place for place, policy in enumerate(stack) if isinstance(policy, Retry)) + 1
        return [*stack[:below_retry], RateLimit(f"{limit}/second"), *stack[below_retry:]]

    return make


def _measure(world: World) -> Mapping[str, float | None]:
    """`admitted.1s` and `.10s`: the most attempts sent in any such span; `lost`: those that nobody got an answer to.

    `ejected`: the most instances that are out of use at once.
    """
    log = world.fleet().log
    found = world.recording.metrics()
    answered = round((found["calls"] or 0) * (found["success"] or 0))
    return {
        "admitted.1s": float(most_within(log, 1.0)),
        "admitted.10s": float(most_within(log, 10.0)),
        "lost": len(log) - answered,
        "ejected": max(number or 0.0 for number in world.series["ejected"]),
    }
