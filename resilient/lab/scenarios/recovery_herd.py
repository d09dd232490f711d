"""A server dies under a thousand clients, all of which are at its door when it comes back."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import merge
from typing import TYPE_CHECKING

from resilient.call import Policy
from resilient.context import current_runtime
from resilient.lab.arrivals import poisson
from resilient.lab.contenders import by_name, single
from resilient.lab.faults import Crash
from resilient.lab.scenario import Band, OpenLoop, Scenario, Tier
from resilient.lab.world.queues import Fifo
from resilient.lab.world.service_times import Exponential
from resilient.policies.retry import Backoff, Retry

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from resilient.lab.simulation.world import World

__all__ = ["scenario"]

_AT = 10.0
_TOGETHER = 0.05
_BASE, _CAP = 0.1, 20.0


def _ceiling(state: RetryCallState) -> float:
    return min(_CAP, _BASE * 2.0 ** (state.attempt_number - 1))


def _upper_half(state: RetryCallState) -> float:
    return _ceiling(state) * (0.5 + 0.5 * current_runtime().random())


def _patient(backoff: Backoff | Callable[[RetryCallState], float]) -> Callable[[], Sequence[Policy]]:
    return lambda: [Retry(attempts=60, backoff=backoff, budget=None)]


def scenario(
    *, clients: int = 1000, outage: float = 10.0, background: float = 20.0, duration: float = 250.0
) -> Scenario:
    """Let a server die at second 10, and be back `outage` seconds later.

    It breaks the connection of `clients` at the same moment, and each makes a call to resume. Besides they make
    `background` calls a second. The server does 100 a second, and lets as many wait.
    """
    back = _AT + outage

    def arrivals(random: Callable[[], float]) -> Iterator[float]:
        herd = sorted(_AT + _TOGETHER * random() for _ in range(clients))
        return merge(herd, poisson(background, random, duration=duration))

    def measure(world: World) -> Mapping[str, float | None]:
        """How long the last call takes once the server is back, and the most attempts in any tenth of a second."""
        metrics = world.recording.metrics()
        knocks = [sent for sent in world.fleet().log if sent >= world.began + back]
        slowest = metrics["max"] if metrics["success"] == 1 else None
        return {
            "completion": None if slowest is None else max(0.0, slowest - outage),
            "peak.100ms": max((bisect_left(knocks, at + 0.1) - place for place, at in enumerate(knocks)), default=0),
        }

    return Scenario(
        name="recovery-herd",
        title="The herd at the door",
        source="Brooker: Exponential Backoff And Jitter (AWS, 2015)",
        naive=(
            "All clients back off by the same formula, and so stay together: the server that is back gets a thousand "
            "calls within a tenth of a second, refuses most, and gets the rest again twenty seconds later. The usual "
            "three attempts have failed long before."
        ),
        good=(
            "Jitter spreads them over the interval in which they wait; which kind of jitter matters little. The server "
            "is busy at once, refuses little, and is done about as soon as it can be."
        ),
        tiers=[Tier(name="feed", workers=10, service_time=Exponential(0.1), queue=lambda: Fifo(100), log=True)],
        load=OpenLoop(arrivals=arrivals),
        duration=duration,
        warmup=5.0,
        timeout=duration,
        attempt_timeout=5.0,
        clients=clients,
        faults=[Crash(at=_AT, seconds=outage)],
        trigger=(_AT, back),
        policies=("none", "default", "no-jitter", "equal-jitter", "full-jitter"),
        contenders=by_name(
            single("no-jitter", _patient(_ceiling)),
            single("equal-jitter", _patient(_upper_half)),
            single("full-jitter", _patient(Backoff(base=_BASE, cap=_CAP))),
        ),
        primary=("completion", "peak.100ms", "amplification", "success"),
        measure=measure,
        bands=[
            Band(policy="default", metric="success", high=0.83, why="three attempts are over before it is back"),
            Band(policy="no-jitter", metric="peak.100ms", low=900, why="all at once"),
            Band(policy="no-jitter", metric="completion", low=120, why="theory: 110 a wave, and a wave every 20 s"),
            Band(policy="equal-jitter", metric="peak.100ms", high=90),
            Band(policy="equal-jitter", metric="completion", low=10, high=45),
            Band(policy="full-jitter", metric="peak.100ms", high=60),
            Band(
                policy="full-jitter",
                metric="completion",
                low=10,
                high=45,
                why="theory: 12 s of work, and up to 20 s until the last one asks",
            ),
            Band(policy="full-jitter", metric="success", low=0.999),
        ],
    )
