"""One instance of ten fails everything within a millisecond, and so looks like the fastest and the idlest."""

from __future__ import annotations

from resilient.balancing import Ejection, LeastRequest, PeakEwma
from resilient.lab.arrivals import poisson
from resilient.lab.contenders import by_name, prequal, single
from resilient.lab.faults import Fail
from resilient.lab.scenario import Band, OpenLoop, Scenario, Tier
from resilient.lab.world.service_times import Exponential

__all__ = ["scenario"]

_WORK = 0.05


def scenario(*, clients: int = 2, load: float = 480.0, duration: float = 40.0) -> Scenario:
    """Let one of ten instances fail always; `clients` share the `load`, in calls a second.

    The fewer clients, the more each sees in flight, and the more attractive an instance is that has nothing to do.
    """
    return Scenario(
        name="sinkhole",
        title="A sinkhole",
        source="the scenario fast_503s in the simulations of Palantir's dialogue, a client library",
        naive=(
            "In turn, it fails its tenth of the calls. The choice of the less busy one of two sends it nearly twice as "
            "many: it never has anything to do. One that went by latency alone would send it most."
        ),
        good=(
            "A failure counts as a very slow answer, so the picker avoids what fails; a row of failures ejects it from "
            "any picker; and a retry goes elsewhere."
        ),
        tiers=[Tier(name="app", instances=10, workers=8, service_time=Exponential(_WORK))],
        load=OpenLoop(arrivals=lambda random: poisson(load, random, duration=duration)),
        duration=duration,
        timeout=5.0,
        attempt_timeout=1.0,
        clients=clients,
        faults=[Fail(takes=0.001, places=[0])],
        policies=("none", "least-request", "least-request-ejection", "peak-ewma", "prequal", "default"),
        contenders=by_name(
            single("least-request", picker=LeastRequest()),
            single("least-request-ejection", picker=LeastRequest(), ejection=Ejection()),
            single("peak-ewma", picker=PeakEwma()),
            single("prequal", picker=prequal),
            single("prequal-ejection", picker=prequal, ejection=Ejection()),
        ),
        calibration={"load": 80.0, "clients": 1, "duration": 12.0},
        primary=("success", "share.app-0", "amplification"),
        bands=[
            Band(policy="none", metric="share.app-0", low=0.095, high=0.105, why="a tenth"),
            Band(
                policy="least-request",
                metric="share.app-0",
                low=0.15,
                high=0.21,
                why="theory: at most 0.2, whenever it is one of the two that are drawn",
            ),
            Band(policy="least-request", metric="success", high=0.85),
            Band(policy="least-request-ejection", metric="success", low=0.995, why="a row of five, and a few trials"),
            Band(policy="peak-ewma", metric="success", low=0.995, why="without ejection: failures count as slow"),
            Band(
                policy="prequal",
                metric="success",
                low=0.998,
                why="without ejection: what fails is not believed, first after five in a row, for a second and longer",
            ),
            Band(policy="default", metric="success", low=0.9999),
            Band(policy="default", metric="share.app-0", high=0.005),
        ],
    )
