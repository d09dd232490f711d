"""A share of the calls for another version."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import NoInstance
from resilient.balancing import Balancer, LeastRequest, PeakEwma, PreferZone, RoundRobin, TrafficSplit
from resilient.call import Call
from resilient.discovery import Static
from resilient.instance import Instance
from resilient.service import Service
from resilient.testing import virtual_time
from tests.balancing.filters.fleets import balancing, counts, eject, member, pick
from tests.balancing.fleet import instance


def customer(call: Call) -> object:
    """The first argument of the function."""
    return call.request[0][0]


CANARY = TrafficSplit("version", {"v2": 5})


def versions(**count: int) -> list[Instance]:
    return [
        instance(f"{version}-{n}", metadata={} if version == "none" else {"version": version})
        for version, number in count.items()
        for n in range(number)
    ]


def shares(balancer, times: int = 4000, **arguments) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, count in counts(balancer, times=times, **arguments).items():
        version = name.partition("-")[0]
        found[version] = found.get(version, 0.0) + count / times
    return found


@pytest.mark.parametrize("picker", [RoundRobin(), LeastRequest(), PeakEwma()])
@pytest.mark.parametrize("canaries", [1, 5])
def test_the_share_is_exact_whatever_the_picker_and_the_number(picker, canaries: int) -> None:
    balancer = balancing(CANARY, instances=versions(v1=4, v2=canaries), picker=picker)
    assert shares(balancer)["v2"] == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize(
    ("split", "there", "expected", "note"),
    [
        ({"v2": 5}, {"v1": 2, "v2": 2}, {"v1": 0.95, "v2": 0.05}, "0.05 to v2, 0.95 to the rest"),
        ({"v2": 5}, {"v1": 2}, {"v1": 1.0}, "1 to the rest, nobody is v2"),
        ({"v2": 5}, {"v2": 2}, {"v2": 1.0}, "1 to v2"),
        ({"v2": 0}, {"v1": 2, "v2": 2}, {"v1": 1.0}, "1 to the rest"),
        ({"v1": 50, "v2": 50}, {"v1": 1, "v2": 3, "v3": 2}, {"v1": 0.5, "v2": 0.5}, "0.5 to v1, 0.5 to v2"),
        ({"v1": 60, "v2": 20}, {"v1": 1, "v2": 1}, {"v1": 0.75, "v2": 0.25}, "0.75 to v1, 0.25 to v2"),
        ({"v1": 60, "v2": 9}, {"v1": 1, "v3": 1}, {"v1": 0.6, "v3": 0.4}, "0.6 to v1, 0.4 to the rest, nobody is v2"),
        ({"v1": 33.3, "v2": 66.7}, {"v1": 1, "v2": 1, "v3": 1}, {"v1": 0.333, "v2": 0.667}, "0.333 to v1, 0.667 to v2"),
    ],
)  # fmt: skip
def test_who_gets_what(split: dict[str, float], there: dict[str, int], expected: dict[str, float], note: str) -> None:
    balancer = balancing(TrafficSplit("version", split), instances=versions(**there))
    found = shares(balancer)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=0.03)
    assert balancer.explain(0.0).notes == (f"split by version: {note}",)


def test_a_group_that_is_ejected_leaves_its_share_to_the_rest_until_it_is_back() -> None:
    balancer = balancing(TrafficSplit("version", {"v2": 50}), instances=versions(v1=3, v2=1))
    eject(balancer, "v2-0")
    assert shares(balancer) == {"v1": 1.0}
    assert balancer.explain(0.0).notes == ("split by version: 1 to the rest, nobody is v2",)
    assert pick(balancer, 6.0).reason == "trial"


def test_who_gets_nothing_is_filtered_and_is_nobody_to_fall_back_on() -> None:
    balancer = balancing(TrafficSplit("version", {"v2": 0}), instances=versions(v2=2))
    assert [one.detail for one in balancer.instances(0.0)] == ["filtered: split by version"] * 2
    with pytest.raises(NoInstance, match="0 of 2 instances are used: 2 filtered"):
        pick(balancer)


def test_retries_stay_in_their_group_and_then_go_elsewhere() -> None:
    balancer = balancing(TrafficSplit("version", {"v2": 99.999}), instances=versions(v1=2, v2=2))
    assert pick(balancer).reason == "split"
    assert {pick(balancer, tried=["v2-0"]).instance.id for _ in range(50)} == {"v2-1"}
    found = {pick(balancer, tried=["v2-0", "v2-1"]) for _ in range(50)}
    assert {one.instance.id for one in found} == {"v1-0", "v1-1"}
    assert {one.reason for one in found} == {"elsewhere"}
    again = pick(balancer, tried=["v2-0", "v2-1", "v1-0", "v1-1"])
    assert again.reason == "again"


def test_with_the_same_key_calls_go_to_the_same_group() -> None:
    sticky = TrafficSplit("version", {"v2": 30}, key=customer)
    balancer = balancing(sticky, instances=versions(v1=3, v2=3))
    groups = {key: shares(balancer, 20, key=key) for key in range(300)}
    assert all(len(found) == 1 for found in groups.values())
    canaries = {key for key, found in groups.items() if "v2" in found}
    assert len(canaries) / 300 == pytest.approx(0.3, abs=0.08)
    more = balancing(TrafficSplit("version", {"v2": 60}, key=customer), instances=versions(v1=1, v2=7))
    assert canaries < {key for key in range(300) if "v2" in shares(more, 5, key=key)}  # in another process, too
    assert len(shares(balancer, 200)) == 2  # without a key it is chance


def test_a_split_that_is_not_sticky_ignores_the_key() -> None:
    balancer = balancing(TrafficSplit("version", {"v2": 50}), instances=versions(v1=1, v2=1))
    assert len(shares(balancer, 200, key="customer")) == 2


def test_a_service_gives_each_call_its_key(backend):
    instances = Static(versions(v1=2, v2=2))
    service = Service("orders", instances, filters=[TrafficSplit("version", {"v2": 30}, key=customer)])

    @service
    async def order(instance: Instance, number: int) -> str:
        return instance.metadata["version"]

    async def main() -> None:
        async with service:
            groups = [{await order(number) for _ in range(10)} for number in range(50)]
        assert all(len(group) == 1 for group in groups)
        assert {"v1"} in groups
        assert {"v2"} in groups

    virtual_time.run(main, backend=backend)


def test_a_call_has_one_key() -> None:
    same = (TrafficSplit("version", {"v2": 5}, key=customer), TrafficSplit("colour", {"blue": 5}, key=customer))
    assert Balancer(filters=same).key is customer
    assert Balancer(filters=[CANARY]).key is None
    with pytest.raises(ValueError, match="a call has one key; give the same function"):
        Balancer(filters=[same[0], TrafficSplit("colour", {"blue": 5}, key=lambda call: call.name)])


def test_splits_combine_with_the_spill_of_a_zone() -> None:
    members = [
        instance(f"{version}-{zone}{n}", zone=zone, metadata={"version": version})
        for version in ("v1", "v2")
        for zone, number in (("a", 2), ("b", 6))
        for n in range(number)
    ]
    filters = (TrafficSplit("version", {"v2": 20}), PreferZone("a", clients=0.5))
    found = counts(balancing(*filters, instances=members), times=8000)
    canary = {name: count for name, count in found.items() if name.startswith("v2")}
    assert sum(canary.values()) / 8000 == pytest.approx(0.2, abs=0.02)
    near = sum(count for name, count in canary.items() if "-a" in name)
    assert near / sum(canary.values()) == pytest.approx(0.5, abs=0.05)  # 25 % of the capacity for 50 % of the clients


@given(
    st.dictionaries(st.sampled_from(["v1", "v2", "v3"]), st.integers(0, 33), min_size=1),
    st.lists(st.sampled_from(["v1", "v2", "v3", "v4"]), min_size=1),
)
def test_all_of_the_calls_go_to_those_that_are_there(split: dict[str, float], there: list[str]) -> None:
    members = [member(str(n), metadata={"version": version}) for n, version in enumerate(there)]
    rule = TrafficSplit("version", split)
    weights = rule.weigh(members, 0.0, lambda: 0.5)[0]
    members = [one for one, weight in zip(members, weights, strict=True) if weight > 0]
    if not members:
        return
    found = rule.split(members)
    assert found is not None
    assert sum(found.shares) == pytest.approx(1.0)
    assert all(found.groups)
    assert sorted(one.id for group in found.groups for one in group) == sorted(one.id for one in members)
    if any(one not in split for one in there):  # the rest is there, so all others have exactly their own
        for group, share in zip(found.groups, found.shares, strict=True):
            version = group[0].instance.metadata["version"]
            if version in split:
                assert share == pytest.approx(split[version] / 100)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrafficSplit("", {"v2": 5}), "metadata='': the name of the metadata"),
        (lambda: TrafficSplit("version", {"v2": 5}, key="customer"), "key='customer': a function of the call"),  # type: ignore[arg-type]  # that is the test
        (lambda: TrafficSplit("version", {}), "shares={}: percentages by value of 'version'"),
        (lambda: TrafficSplit("version", 5), "shares=5: percentages"),  # type: ignore[arg-type]  # that is the test
        (lambda: TrafficSplit("version", {"v2": -1}), r"shares\['v2'\]=-1: a percentage, from 0 to 100"),
        (lambda: TrafficSplit("version", {"v2": 101}), r"shares\['v2'\]=101"),
        (lambda: TrafficSplit("version", {"v2": 60, "v3": 41}), "more than 100 % of the calls"),
    ],
)
def test_arguments_that_cannot_work_are_refused(make, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()
