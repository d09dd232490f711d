"""Levels of instances, and calls that spill over to the next one."""

from __future__ import annotations

import math

import pytest

from resilient.balancing import Balancer, Ejection, Member, Priorities, RoundRobin
from resilient.discovery import connect
from resilient.discovery.dns import DnsSrv
from resilient.instance import Instance
from resilient.service import Service
from resilient.verdict import Verdict
from tests.balancing.filters.fleets import RANDOM, balancing, counts, eject, member, pick
from tests.balancing.fleet import instance, snapshot


def fleet(spec: str) -> list[Instance]:
    """`a0 b0 c1`: two of level 0, and one of level 1."""
    return [instance(name, metadata={"priority": name[1:]}) for name in spec.split()]


def levels(spec: str) -> Balancer:
    return balancing(Priorities(), instances=fleet(spec), picker=RoundRobin())


def members(spec: str) -> list[Member]:
    """`0 0- 1`: two of level 0, of which one is ejected, and one of level 1."""
    return [
        member(f"{one}/{n}", metadata={"priority": one.rstrip("-")}, healthy=not one.endswith("-"))
        for n, one in enumerate(spec.split())
    ]


def shares(rule: Priorities, spec: str) -> dict[str, float]:
    """What each level gets; nothing, where nothing is divided."""
    machine, known = rule.filtering(), members(spec)
    weights, _ = machine.weigh(known, 0.0, RANDOM)
    left = [one for one, weight in zip(known, weights, strict=True) if weight > 0 and one.healthy]
    split = machine.split(left or known)
    if split is None:
        return {}
    names = [group[0].instance.metadata["priority"] for group in split.groups]
    return dict(zip(names, split.shares, strict=True))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("0 0 1", {"0": 1.0, "1": 0.0}),
        ("0 0 0- 1", {"0": 2 / 3 * 1.4, "1": 1 - 2 / 3 * 1.4}),
        ("0 0 0 0- 1", {"0": 1.0, "1": 0.0}),  # 75 %, and 1.4 times that is more than enough
        ("0 0- 1", {"0": 0.7, "1": 0.3}),
        ("0 0- 5 9", {"0": 0.7, "5": 0.3, "9": 0.0}),
        ("0 0- 5 5- 5- 5- 9", {"0": 0.7, "5": 0.3, "9": 0.0}),
        ("0 0- 0- 0- 5 5- 5- 9", {"0": 0.35, "5": 1.4 / 3, "9": 1 - 0.35 - 1.4 / 3}),
        ("0 0- 0- 0- 1 1- 1- 1-", {"0": 0.5, "1": 0.5}),  # together they cannot do all, and do what they can
        ("0- 0- 1- 1-", {"0": 1.0, "1": 0.0}),  # nobody can, so the first are tried
        ("10 20", {"10": 1.0, "20": 0.0}),
        ("9 10", {"9": 1.0, "10": 0.0}),  # by number, not by letters
        ("0 0 0-", {}),
    ],
)
def test_a_level_takes_what_it_can_do_and_the_next_one_the_rest(spec: str, expected: dict[str, float]) -> None:
    assert shares(Priorities(), spec) == pytest.approx(expected)


def test_to_the_letter_of_the_rfc_one_that_can_be_reached_takes_all() -> None:
    assert shares(Priorities(overprovision=math.inf), "0 0- 0- 0- 1") == {"0": 1.0, "1": 0.0}


def test_weights_say_how_much_of_a_level_is_healthy() -> None:
    known = [
        member("a", metadata={"priority": "0"}, weight=3.0, healthy=False),
        member("b", metadata={"priority": "0"}),
        member("c", metadata={"priority": "1"}),
    ]
    machine = Priorities().filtering()
    machine.weigh(known, 0.0, RANDOM)
    split = machine.split(known[1:])
    assert split is not None
    assert split.shares == pytest.approx((0.35, 0.65))
    assert split.note == "priority: 35% at 0, 65% at 1"


@pytest.mark.parametrize("metadata", [{}, {"priority": "high"}])
def test_who_has_no_number_is_of_the_first_level(metadata: dict[str, str]) -> None:
    instances = [instance("a", metadata=metadata), instance("b", metadata={"priority": "1"})]
    assert set(counts(balancing(Priorities(), instances=instances))) == {"a"}


def test_backups_get_nothing_while_the_others_are_well() -> None:
    balancer = levels("a0 b0 c1")
    assert set(counts(balancer)) == {"a0", "b0"}
    assert "100% at 0" in str(balancer.explain(0.0))


def test_what_spills_over_is_an_exact_share() -> None:
    balancer = levels("a0 b0 c1 d1")
    eject(balancer, "a0")
    found = counts(balancer)
    assert "a0" not in found
    assert found["b0"] == pytest.approx(700, abs=60)
    assert found["c1"] == pytest.approx(150, abs=60)


@pytest.mark.parametrize("spec", ["a0 z1", "a0 b0 z1", "a0 b0 c0 d0 e0 z1", "a0 b1 z2", "a0 b0 c1 d1 e1 z2"])
def test_where_nobody_of_the_upper_levels_can_be_reached_the_last_one_takes_all(spec: str) -> None:
    """Neither the cap of the ejection nor the panic brings the dead back: there is somebody to go to."""
    balancer = levels(spec)
    for level in "01":
        for one in [one.id for one in fleet(spec) if one.metadata["priority"] == level and one.id != "z1"]:
            eject(balancer, one)
    assert set(counts(balancer)) == {spec.rsplit(maxsplit=1)[-1]}
    assert not balancer.explain(0.0).panic
    assert pick(balancer).reason == "only"


def test_they_are_tried_again_one_after_the_other_and_have_their_calls_back() -> None:
    balancer = levels("a0 b0 c0 z1")
    eject(balancer, "a0", "b0", "c0")
    trials: list[str] = []
    for _ in range(3):  # each is due after 5 s, and fails
        one = pick(balancer, 5.5)
        assert (one.reason, pick(balancer, 5.5).instance.id) == ("trial", "z1")
        trials.append(one.instance.id)
        balancer.settle(one, Verdict.UNREACHABLE, 0.0, 5.5, RANDOM)
    assert sorted(trials) == ["a0", "b0", "c0"]
    assert set(counts(balancer, 5.6)) == {"z1"}

    one = pick(balancer, 30.0)
    assert one.reason == "trial"
    balancer.settle(one, Verdict.OK, 0.01, 30.0, RANDOM)
    for _ in range(2):
        another = pick(balancer, 30.0)
        assert another.reason == "trial"
        balancer.settle(another, Verdict.OK, 0.01, 30.0, RANDOM)
    assert set(counts(balancer, 30.0)) == {"a0", "b0", "c0"}


def test_one_that_is_on_trial_makes_nobody_panic_where_backups_fail_too() -> None:
    balancer = levels("a0 y1 z1")
    eject(balancer, "a0")
    eject(balancer, "y1", now=3.0)
    assert set(counts(balancer, 4.0)) == {"z1"}
    one = pick(balancer, 5.5)
    assert (one.instance.id, one.reason) == ("a0", "trial")
    assert set(counts(balancer, 5.6)) == {"z1"}
    assert not balancer.explain(5.6).panic
    balancer.settle(one, Verdict.OK, 0.01, 5.7, RANDOM)
    assert set(counts(balancer, 5.7)) == {"a0"}


def test_who_waits_for_the_trial_of_a_backup_is_next() -> None:
    balancer = levels("a0 y1 z1")
    eject(balancer, "a0", "y1")
    first = pick(balancer, 5.5)
    assert (first.instance.id, first.reason) == ("y1", "trial")
    assert set(counts(balancer, 5.6)) == {"z1"}
    balancer.settle(first, Verdict.UNREACHABLE, 0.0, 5.7, RANDOM)
    second = pick(balancer, 5.8)
    assert (second.instance.id, second.reason) == ("a0", "trial")


def test_the_last_level_keeps_its_cap() -> None:
    """If most of what is left fails, it is not the instances."""
    balancer = levels("a0 w1 x1 y1 z1")
    eject(balancer, "a0", "w1", "x1")
    for _ in range(100):
        balancer.settle(pick(balancer), Verdict.FAILED, 0.0, 0.0, RANDOM)
    assert set(counts(balancer)) == {"y1", "z1"}


def test_where_no_level_is_well_all_are_used() -> None:
    balancer = levels("a0 b0 c0 x1 y1 z1")
    for name in ("a0", "b0", "x1", "y1"):
        balancer.check(name, "it fails its checks", 0.0, RANDOM)
    assert balancer.explain(0.0).panic
    assert set(counts(balancer)) == {"a0", "b0", "c0", "x1", "y1", "z1"}


def test_who_fails_its_checks_is_out_of_use_until_it_passes_them() -> None:
    balancer = levels("a0 z1")
    balancer.check("a0", "it fails its checks", 0.0, RANDOM)
    assert set(counts(balancer, 100.0)) == {"z1"}
    balancer.check("a0", None, 100.0, RANDOM)
    assert set(counts(balancer, 100.0)) == {"a0"}


def test_an_attempt_that_follows_a_failed_one_stays_at_the_level_as_long_as_there_is_somebody() -> None:
    balancer = levels("a0 b0 z1")
    assert {pick(balancer, tried=["a0"]).instance.id for _ in range(50)} == {"b0"}
    assert {pick(balancer, tried=["a0", "b0"]).instance.id for _ in range(50)} == {"z1"}


def test_a_set_of_one_level_is_as_without_it() -> None:
    balancer = levels("a7 b7 c7 d7")
    eject(balancer, "a7", "b7")
    assert set(counts(balancer)) == {"c7", "d7"}
    assert pick(balancer).reason == "balanced"
    assert balancer.explain(0.0).notes == ()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"metadata": ""}, "metadata=''"),
        ({"overprovision": 0.9}, "overprovision=0.9: a factor, at least 1"),
        ({"overprovision": math.nan}, "overprovision=nan"),
        ({"panic": 1.1}, "panic=1.1: a share"),
    ],
)
def test_what_cannot_work_is_refused(arguments: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Priorities(**arguments)  # type: ignore[arg-type]  # as given


SRV = "dns+srv://_http._tcp.orders.test"


@pytest.mark.parametrize("source", [SRV, connect(SRV), f"failover://?a={SRV}&b=static://b:80", f"union://?a={SRV}"])
def test_a_service_whose_discovery_lists_backups_has_it_of_itself(source: object) -> None:
    assert Service("orders", source).balancer.filters == (Priorities(),)  # type: ignore[arg-type]  # as given
    strict = Priorities(overprovision=math.inf)
    assert Service("orders", source, filters=[strict]).balancer.filters == (strict,)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", [f"{SRV}?backups=no", "static://b:80", f"failover://?a={SRV}?backups=no"])
def test_others_have_not(source: str) -> None:
    assert Service("orders", source).balancer.filters == ()
    Service("orders", source, balancer=Balancer())


def test_a_balancer_of_ones_own_must_know_what_to_do_with_backups() -> None:
    with pytest.raises(ValueError, match=r"lists backups, and Balancer.*filters=\[Priorities\(\)\].*backups=no"):
        Service("orders", SRV, balancer=Balancer(RoundRobin()))
    Service("orders", SRV, balancer=Balancer(filters=[Priorities()]))
    Service("orders", DnsSrv("_http._tcp.orders.test", backups=False), balancer=Balancer())


def test_levels_that_come_and_go() -> None:
    balancer = Balancer(ejection=Ejection(), filters=[Priorities()])
    for spec, used in (("z1", {"z1"}), ("a0 z1", {"a0"}), ("y2 z1", {"z1"}), ("y2", {"y2"})):
        balancer.apply(snapshot(*fleet(spec)), 0.0, RANDOM)
        assert set(counts(balancer)) == used
