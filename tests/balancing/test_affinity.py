"""Where calls that belong together go."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator
from random import Random

import httpx
import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.balancing import (
    Balance,
    Balancer,
    Ejection,
    Maglev,
    Rendezvous,
    RingHash,
    TrafficSplit,
    by_argument,
    by_header,
)
from resilient.balancing import Random as Randomly
from resilient.call import Call
from resilient.events import Event, InstancePicked
from resilient.http import Transport
from resilient.instance import Instance
from resilient.pipeline import Pipeline
from resilient.policies.retry import Retry
from resilient.service import Service
from resilient.testing import virtual_time
from resilient.verdict import Verdict
from tests.balancing.fleet import instance, snapshot

FIVE = "static://10.0.0.1:80,10.0.0.2:80,10.0.0.3:80,10.0.0.4:80,10.0.0.5:80"
RANDOM = Random(0).random
RULES = pytest.mark.parametrize("rule", [Rendezvous, RingHash, Maglev])


def nothing(call: Call) -> None:
    """No key."""


def balancing(rule, *names: str, **arguments) -> Balancer:
    balancer = Balancer(rule(nothing, **arguments), ejection=Ejection(consecutive_failures=3))
    balancer.apply(snapshot(*names), 0.0, RANDOM)
    return balancer


def at_once(balancer: Balancer, key: str) -> tuple[str, str]:
    """Pick, and settle."""
    pick = balancer.pick(0.0, RANDOM, None, key)
    balancer.settle(pick, Verdict.OK, 0.01, 0.0, RANDOM)
    return pick.instance.id, pick.reason


@RULES
def test_two_clients_choose_the_same(rule) -> None:
    one, other = balancing(rule, *"abcdef"), balancing(rule, *"fbdcea")
    keys = [f"user-{number}" for number in range(200)]
    assert [at_once(one, key) for key in keys] == [at_once(other, key) for key in keys]


@RULES
def test_a_replacement_takes_over_the_keys_of_its_hash_key(rule) -> None:
    balancer = Balancer(rule(nothing))
    ordinals = [instance(f"pod-{n}", metadata={"hash_key": f"orders-{n}"}) for n in range(4)]
    balancer.apply(snapshot(*ordinals), 0.0, RANDOM)
    keys = [f"user-{number}" for number in range(200)]
    before = [at_once(balancer, key)[0] for key in keys]
    new = instance("pod-new", metadata={"hash_key": "orders-3"})
    balancer.apply(snapshot(*ordinals[:3], new, version=2), 0.0, RANDOM)
    after = [at_once(balancer, key)[0] for key in keys]
    assert after == ["pod-new" if one == "pod-3" else one for one in before]


@RULES
def test_keys_come_back_to_an_instance_that_was_ejected(rule) -> None:
    balancer = balancing(rule, *"abcd")
    home, _ = at_once(balancer, "ann")
    for _ in range(3):
        balancer.settle(balancer.pick(0.0, RANDOM, None, "ann"), Verdict.FAILED, 0.01, 0.0, RANDOM)
    elsewhere = {at_once(balancer, "ann")[0] for _ in range(20)}
    assert len(elsewhere) == 1
    assert home not in elsewhere
    trial = balancer.pick(60.0, RANDOM, None, "whoever")
    assert (trial.instance.id, trial.reason) == (home, "trial")
    balancer.settle(trial, Verdict.OK, 0.01, 60.0, RANDOM)
    assert balancer.pick(60.0, RANDOM, None, "ann").instance.id == home


@RULES
def test_a_retry_goes_to_another_one_and_always_the_same(rule) -> None:
    balancer = balancing(rule, *"abcdef")
    home, _ = at_once(balancer, "ann")
    picks = [balancer.pick(0.0, RANDOM, [instance(home)], "ann") for _ in range(1)]
    assert picks[0].reason == "elsewhere"
    assert picks[0].instance.id != home
    balancer.settle(picks[0], Verdict.OK, 0.01, 0.0, RANDOM)
    again = balancer.pick(0.0, RANDOM, [instance(home)], "ann")
    assert again.instance.id == picks[0].instance.id


@RULES
@given(ends=st.lists(st.integers(0, 30), max_size=60), names=st.integers(1, 8))
@settings(max_examples=25)
def test_nobody_has_more_than_its_bound(rule, ends: list[int], names: int) -> None:
    """Calls of one key come, end, and meanwhile instances leave and come back."""
    everybody = [f"i{number}" for number in range(names)]
    balancer = balancing(rule, *everybody)
    held = []
    for turn, end in enumerate(ends):
        pick = balancer.pick(0.0, RANDOM, None, "everybody's")
        held.append(pick)
        staying = {standing.instance.id: standing for standing in balancer.instances(0.0)}
        total = sum(standing.active for standing in staying.values())
        assert staying[pick.instance.id].active <= math.ceil(1.25 * total / len(staying))
        if end < len(held):
            balancer.settle(held.pop(end), Verdict.OK, 0.01, 0.0, RANDOM)
        if end == 13:
            balancer.apply(snapshot(*everybody[: max(1, names // 2)], version=turn + 2), 0.0, RANDOM)
        if end == 17:
            balancer.apply(snapshot(*everybody, version=turn + 2), 0.0, RANDOM)
    while held:
        balancer.settle(held.pop(), Verdict.OK, 0.01, 0.0, RANDOM)
    assert balancer._bounding is not None
    assert balancer._bounding.in_flight == 0


@RULES
def test_it_says_when_it_overflows_and_when_there_is_no_key(rule) -> None:
    balancer = balancing(rule, *"abcd")
    reasons = [balancer.pick(0.0, RANDOM, None, "everybody's").reason for _ in range(12)]
    assert reasons[0] == "balanced"
    assert "bounded" in reasons
    assert balancer.pick(0.0, RANDOM).reason == "fallback"


@RULES
def test_one_or_two_instances_are_no_special_case(rule) -> None:
    one = balancing(rule, "a")
    assert at_once(one, "ann") == ("a", "only")
    two = balancing(rule, "a", "b")
    assert {at_once(two, f"user-{number}")[0] for number in range(50)} == {"a", "b"}


def test_the_key_is_an_argument_by_name_or_position(backend) -> None:
    service = Service("carts", FIVE, balancer=Rendezvous(by_argument("user", 0)))

    @service
    async def cart(instance: Instance, user: str, extra: int = 0) -> str:
        return instance.id

    async def main():
        async with service:
            return {await cart("ann", number) for number in range(9)} | {await cart(user="ann") for _ in range(9)}

    assert len(virtual_time.run(main, backend=backend)) == 1


def test_a_call_without_the_argument_goes_anywhere(backend) -> None:
    events: list[Event] = []
    service = Service("carts", FIVE, balancer=RingHash(by_argument("user")))

    @service
    async def cart(instance: Instance, user: str = "") -> str:
        return instance.id

    async def main():
        async with service:
            return Counter([await cart() for _ in range(40)])

    assert len(virtual_time.run(main, backend=backend, emit=events.append)) > 1
    assert {event.reason for event in events if isinstance(event, InstancePicked)} == {"fallback"}


def test_the_key_is_a_header_and_a_retry_goes_on_to_the_next(backend) -> None:
    asked: list[tuple[str | None, str]] = []

    class Inner(httpx.AsyncBaseTransport):
        def __init__(self, instance: Instance) -> None:
            self.instance = instance

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            asked.append((request.headers.get("x-user"), self.instance.id))
            return httpx.Response(503 if len(asked) == 1 else 200)

    service = Service("carts", FIVE, balancer=Maglev(by_header("X-User")))

    async def main():
        transport = Transport(service, Inner)
        async with service, httpx.AsyncClient(transport=transport, base_url="http://carts") as client:
            for user in ("ann", "bob") * 10:
                await client.get("/", headers={"X-User": user})

    virtual_time.run(main, backend=backend)
    assert len({where for user, where in asked[2:] if user == "ann"}) == 1
    assert asked[1][0] == "ann"
    assert asked[0][1] != asked[1][1]


@pytest.mark.parametrize("package", [httpx, httpx2])
def test_headers_of_both_packages_and_of_none(package) -> None:
    key = by_header("X-User")
    call = Call()
    call.request = package.Request("GET", "http://carts/", headers={"x-user": "ann"})
    assert key(call) == "ann"
    call.request = package.Request("GET", "http://carts/")
    assert key(call) is None
    call.request = ((), {})
    assert key(call) is None


def test_any_function_of_the_call_gives_a_key_in_a_pipeline_of_ones_own(backend) -> None:
    balancer = Balancer(Rendezvous(lambda call: call.name))
    balancer.apply(snapshot(*"abcdef"), 0.0, RANDOM)
    seen: set[str] = set()

    async def look(call, nxt):
        seen.add(call.instance.id)
        return await nxt(call)

    @Pipeline(Retry(), Balance(balancer), look)
    async def read() -> None:
        pass

    async def main():
        for _ in range(10):
            await read()

    virtual_time.run(main, backend=backend)
    assert len(seen) == 1


def test_streams_have_keys_too(backend) -> None:
    service = Service("carts", FIVE, balancer=Rendezvous(by_argument("user", 0)))

    @service
    async def lines(instance: Instance, user: str) -> AsyncIterator[str]:
        yield instance.id

    async def main():
        async with service:
            return {one for _ in range(9) async for one in lines("ann")}

    assert len(virtual_time.run(main, backend=backend)) == 1


def test_what_has_no_key_is_not_asked_for_one() -> None:
    assert Balancer(Randomly()).key is None
    assert Balancer(Rendezvous(nothing)).key is nothing


@RULES
@pytest.mark.parametrize("bound", [0.9, 0.0, -1.0, math.inf, math.nan])
def test_a_bound_below_a_fair_share_is_refused(rule, bound: float) -> None:
    with pytest.raises(ValueError, match=f"bound={bound}: a finite number, at least 1"):
        rule(nothing, bound=bound)


@RULES
def test_a_name_is_no_key(rule) -> None:
    with pytest.raises(TypeError, match="key='X-User': a function of the call, as by_header"):
        rule("X-User")


@pytest.mark.parametrize(("least", "most"), [(0, 10), (11, 10), (1, 10**8)])
def test_a_ring_that_cannot_be_is_refused(least: int, most: int) -> None:
    with pytest.raises(ValueError, match=f"least={least}, most={most}: numbers of points"):
        RingHash(nothing, least=least, most=most)


@pytest.mark.parametrize("size", [0, 1, 65536, 8_388_617])
def test_a_table_whose_size_is_no_prime_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size={size}: a prime number"):
        Maglev(nothing, size=size)


def test_helpers_refuse_what_names_nothing() -> None:
    with pytest.raises(ValueError, match="name='': the name of a header"):
        by_header("")
    with pytest.raises(ValueError, match="position=-1: at least 0"):
        by_argument("user", -1)


def test_filters_and_a_picker_go_by_the_same_key() -> None:
    def other(call: Call) -> str:
        return call.name

    split = TrafficSplit("version", {"v2": 5}, key=nothing)
    assert Balancer(Rendezvous(nothing), filters=[split]).key is nothing
    with pytest.raises(ValueError, match="it goes by another key than the filters"):
        Balancer(Rendezvous(other), filters=[split])
