"""Members in every state, as filters see them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from resilient.balancing import Ejection, Filter, Member, PeakEwma, Pick, Picker
from resilient.balancing.balancer import Balancer
from resilient.verdict import Verdict
from tests.balancing.fleet import instance, snapshot

RANDOM = Random(0).random


def member(name: str, *, healthy: bool = True, weight: float = 1.0, since: float = 0.0, **fields: object) -> Member:
    """One instance; `fields` are those of the instance."""
    made = Member(instance(name, weight=weight, **fields), Ejection().circuit(), since)
    if not healthy:
        made.circuit.trip(0.0, RANDOM)
    return made


def weights(one: Filter, members: Sequence[Member], now: float = 0.0) -> list[float]:
    return [*one.filtering().weigh(members, now, RANDOM)[0]]


def kept(one: Filter, members: Sequence[Member]) -> list[str]:
    return [made.id for made, weight in zip(members, weights(one, members), strict=True) if weight > 0]


def balancing(*filters: Filter, instances: Sequence[object], picker: Picker | None = None) -> Balancer:
    made = Balancer(picker or PeakEwma(), filters=filters, ejection=Ejection(duration=5.0))
    made.apply(snapshot(*instances), 0.0, RANDOM)  # type: ignore[arg-type]  # as given
    return made


def pick(balancer: Balancer, now: float = 0.0, key: object = None, tried: Sequence[str] = ()) -> Pick:
    return balancer.pick(now, RANDOM, [instance(name) for name in tried], key)


def counts(balancer: Balancer, now: float = 0.0, times: int = 1000, key: object = None) -> dict[str, int]:
    """How often each is picked by calls that end at once and say nothing."""
    found: dict[str, int] = {}
    for _ in range(times):
        one = pick(balancer, now, key)
        found[one.instance.id] = found.get(one.instance.id, 0) + 1
        balancer.settle(one, Verdict.LOCAL, 0.0, now, RANDOM)
    return found


def eject(balancer: Balancer, *names: str, now: float = 0.0) -> None:
    """Let each fail until it is out."""
    for name in names:
        failed = 0
        while failed < 5:
            one = pick(balancer, now)
            bad = one.instance.id == name
            failed += bad
            balancer.settle(one, Verdict.FAILED if bad else Verdict.LOCAL, 0.0, now, RANDOM)
    states = {one.instance.id: one.state for one in balancer.instances(now)}
    assert {states[name] for name in names} <= {"ejected", "trial"}
