"""Half of the fleet is down, and the other half can do the work."""

from __future__ import annotations

from typing import Literal

from resilient.balancing import HealthCheck
from resilient.lab.balancing import balancing_scenario
from resilient.lab.contenders import by_name, changed
from resilient.lab.faults import BlackHole, Crash, Fail, Fault
from resilient.lab.scenario import Band, Scenario
from resilient.lab.stacks import Setting

__all__ = ["scenario"]

_AT = 4.0


def scenario(
    *,
    load: float = 0.35,
    down: int = 5,
    kind: Literal["refuse", "fail", "hang"] = "refuse",
    outage: float = 8.0,
    duration: float = 20.0,
) -> Scenario:
    """`down` of ten instances refuse connections for `outage` seconds from second 4 on, or fail, or hang."""
    places = range(down)
    faults: dict[str, Fault] = {
        "refuse": Crash(at=_AT, seconds=outage, places=places),
        "fail": Fail(at=_AT, seconds=outage, places=places),
        "hang": BlackHole(at=_AT, seconds=outage, places=places),
    }
    return balancing_scenario(
        name="half-down",
        title="Half of the fleet is down",
        source="Envoy, panic threshold; Finagle, how often a pick is tried again",
        naive="Half of the calls fails; with retries still one in 2 ** attempts.",
        good=(
            "All that is down is ejected, which the cap just allows, and the rest serves everything. Where more than "
            "the cap is down, the picker's memory of failures and retries elsewhere have to do."
        ),
        load=load,
        duration=duration,
        warmup=2.0,
        faults=[faults[kind]],
        trigger=(_AT, _AT + outage),
        contenders=by_name(changed("checked", health=_checks)),
        policies=("none", "retry3", "least-request", "peak-ewma", "checked", "default"),
        calibration={"load": 0.02, "outage": 6.0, "duration": 15.0},
        primary=("success.during", "p99.during", "success.after", "recovery", "amplification"),
        bands=[
            Band(policy="none", metric="success.during", low=0.49, high=0.51),
            Band(
                policy="retry3",
                metric="success.during",
                low=0.965,
                high=0.985,
                why="1 - 5/10 * 4/9 * 3/8 * 2/7 = 0.976",
            ),
            Band(
                policy="least-request",
                metric="success.during",
                high=0.97,
                of="none",
                why="who fails at once is never busy",
            ),
            Band(policy="peak-ewma", metric="success.during", low=0.73, high=0.83),
            Band(policy="checked", metric="success.during", low=0.999),
            Band(policy="checked", metric="recovery", high=1),
            Band(policy="default", metric="success.during", low=0.998),
            Band(policy="default", metric="p99.during", high=0.075),
            Band(policy="default", metric="amplification", high=1.03),
            Band(policy="default", metric="recovery", high=1),
        ],
    )


def _checks(setting: Setting) -> HealthCheck:
    assert setting.check is not None
    return HealthCheck(setting.check, interval=1.0, timeout=0.5)
