"""One of three zones falls silent, and discovery lists it until its leases run out."""

from __future__ import annotations

from collections.abc import Sequence

from resilient.balancing import Filter, HealthCheck, PreferZone
from resilient.lab.balancing import balancing_scenario
from resilient.lab.contenders import by_name, changed
from resilient.lab.faults import BlackHole, Fault, Partition
from resilient.lab.membership import Delisting
from resilient.lab.scenario import Band, Scenario
from resilient.lab.stacks import Setting
from resilient.lab.world.job import Errand

__all__ = ["scenario"]

_ZONES = ("a", "b", "c")
_LOST = "c"
_AT = 8.0


def scenario(
    *,
    load: float = 0.6,
    ttl: float = 5.0,
    outage: float = 12.0,
    partition: bool = False,
    duration: float = 32.0,
    scale: float = 4.0,
) -> Scenario:
    """Zone c answers nothing for `outage` seconds from second 8 on; discovery knows it `ttl` seconds later.

    With `partition` it is cut off instead, its callers too, and discovery is not told at all.
    """
    faults: Sequence[Fault] = (
        [Partition(at=_AT, seconds=outage, zone=_LOST)]
        if partition
        else [
            BlackHole(at=_AT, seconds=outage, zone=_LOST),
            Delisting(at=_AT + ttl, seconds=outage, zone=_LOST),
        ]
    )
    return balancing_scenario(
        name="zonal-outage",
        title="Zonal outage",
        source="Weiss, Furr: Static stability using Availability Zones (Amazon Builders' Library)",
        naive="A third of the calls goes into silence, each for a whole timeout, until discovery takes the zone away.",
        good=(
            "Silent instances are left out after a handful of timeouts, seconds before discovery knows; what they held "
            "up is sent again elsewhere. The survivors have to carry half as much again, which is what spare capacity "
            "is for."
        ),
        instances=9,
        clients=9,
        zones=_ZONES,
        client_zones=_ZONES,
        group=_zone,
        load=load,
        scale=scale,
        duration=duration,
        warmup=2.0,
        faults=faults,
        trigger=(_AT, _AT + outage),
        contenders=by_name(
            changed("own-zone", filters=_own_zone),
            changed("checked", health=_checks),
        ),
        policies=("none", "retry3", "least-request", "peak-ewma", "own-zone", "checked", "default"),
        primary=("success.during", "goodput.during", "p99.during", "amplification"),
        bands=[
            Band(
                policy="none", metric="success.during", low=0.85, high=0.872, why="theory: 1 - 1/3 * 5 s / 12 s = 0.861"
            ),
            Band(policy="retry3", metric="success.during", low=0.99),
            Band(policy="retry3", metric="p99.during", low=2.0, why="a ninth of the calls is in silence twice"),
            Band(policy="retry3", metric="amplification", low=1.04, high=1.09),
            Band(policy="least-request", metric="success.during", low=0.93, high=0.97),
            Band(policy="peak-ewma", metric="success.during", low=0.945, high=0.975),
            Band(
                policy="own-zone",
                metric="success.during",
                low=0.995,
                high=0.9985,
                why="the lost zone's callers pay for its outage, since all their first attempts go there at first",
            ),
            Band(policy="own-zone", metric="success.during.zone-a", low=1.0, why="the others do not notice it"),
            Band(policy="own-zone", metric="success.during.zone-b", low=1.0),
            Band(policy="checked", metric="success.during", low=0.9995),
            Band(policy="default", metric="success.during", low=0.999),
            Band(policy="default", metric="goodput.during", low=1.12, of="none", why="1 / 0.861, less what waits"),
            Band(policy="default", metric="p99.during", low=1.0, high=1.4, why="one timeout, and then elsewhere"),
            Band(policy="default", metric="amplification", high=1.02),
        ],
    )


def _own_zone(setting: Setting) -> Sequence[Filter]:
    return [PreferZone(setting.zone or "nowhere")]


def _checks(setting: Setting) -> HealthCheck:
    assert setting.check is not None
    return HealthCheck(setting.check, interval=1.0, timeout=0.5)


def _zone(errand: Errand) -> str:
    return f"zone-{errand.zone}"
