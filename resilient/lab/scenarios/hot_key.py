"""A few keys are asked for far too often, and their shard is full: what becomes of all the other keys?"""

from __future__ import annotations

from resilient.balancing import Balance
from resilient.call import Policy
from resilient.lab.arrivals import poisson
from resilient.lab.contenders import changed
from resilient.lab.scenario import Band, OpenLoop, Scenario, Tier, Zipf
from resilient.lab.stacks import Setting, Stack, made_by
from resilient.lab.world.job import Errand
from resilient.lab.world.queues import Fifo
from resilient.lab.world.service_times import Exponential
from resilient.policies.adaptive_throttle import AdaptiveThrottle
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.timeout import Timeout

__all__ = ["scenario"]

_RANGE = 100
"""Keys in a shard."""


def scenario(*, load: float = 400.0, duration: float = 60.0) -> Scenario:
    """`load` calls a second for a thousand keys in ten shards, each of which can do 110 a second.

    Keys are asked for by a Zipf distribution with the exponent 1.2 and are divided into ranges, so that 83 % of the
    calls are for the first shard: three times what it can do. The others are idle for the most part.
    """
    return Scenario(
        name="hot-key",
        title="Hot key",
        source="Brooker: Will circuit breakers solve my problems? (2022)",
        naive=(
            "One circuit breaker for the whole service sees that most calls fail, and opens: the calls for the idle "
            "shards, which would all succeed, fail too."
        ),
        good=(
            "Whatever judges a service judges each key, or each shard, by itself, and refuses only what is full. That "
            "goes for an adaptive throttle too: ours counts priorities apart, but not keys, and rejects a quarter of "
            "the cold calls for what is refused of the hot ones. Without it the server alone refuses, which is exact."
        ),
        tiers=[
            Tier(
                name="table",
                workers=11,
                service_time=Exponential(0.1),
                queue=lambda: Fifo(limit=40),
                partition=_shard,
            )
        ],
        load=OpenLoop(arrivals=lambda random: poisson(load, random, duration=duration), keys=Zipf(1000, 1.2)),
        duration=duration,
        warmup=10.0,
        timeout=3.0,
        attempt_timeout=1.0,
        group=_temperature,
        policies=("none", "retry3", "default", "shared-breaker", "no-throttle"),
        contenders={
            "shared-breaker": Stack(name="shared-breaker", make=made_by(_shared_breaker)),
            "no-throttle": changed("no-throttle", edit=_without_throttle),
        },
        primary=("success.cold", "success.hot", "amplification"),
        bands=[
            Band(policy="none", metric="success.cold", low=0.999, why="the server refuses shard by shard"),
            Band(policy="none", metric="success.hot", low=0.3, high=0.36, why="theory: capacity / load = 110/332"),
            Band(policy="retry3", metric="success.cold", low=0.999, why="retries take no room from other shards"),
            Band(policy="retry3", metric="amplification", low=2.5, why="whatever is refused is sent four times"),
            Band(policy="shared-breaker", metric="success.cold", high=0.15, why="it opens for all: 56 % fail"),
            Band(policy="shared-breaker", metric="success.hot", high=0.15, why="and leaves the hot shard idle too"),
            Band(policy="default", metric="success.cold", low=0.6, high=0.85, why="one throttle for all keys"),
            Band(policy="default", metric="success.hot", low=0.3, high=0.36, why="the shard is full, and no more"),
            Band(policy="no-throttle", metric="success.cold", low=0.999, why="nothing judges the service as a whole"),
            Band(policy="no-throttle", metric="amplification", high=1.12, why="what bounds retries is the budget"),
        ],
    )


def _shard(key: int) -> int:
    return key // _RANGE


def _temperature(errand: Errand) -> str:
    return "hot" if _shard(errand.key) == 0 else "cold"


def _without_throttle(stack: list[Policy]) -> list[Policy]:
    return [policy for policy in stack if not isinstance(policy, AdaptiveThrottle)]


def _shared_breaker(setting: Setting) -> list[Policy]:
    """One breaker for the service, as most programs have it."""
    return [CircuitBreaker(), Balance(), Timeout(setting.attempt_timeout)]
