"""Health checks in virtual time: when they come, what they say, and that they end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import anyio
import pytest

from resilient.balancing import CheckFailed, Ejection, HealthCheck, RoundRobin
from resilient.context import current_runtime, use_runtime
from resilient.errors import NoInstance
from resilient.events import Event, InstanceHealthy, InstanceRestored, InstanceUnhealthy
from resilient.instance import Instance
from resilient.runtime import Runtime
from resilient.service import Service
from resilient.snapshot import Snapshot
from resilient.testing import virtual_time
from resilient.testing.cancellation import for_each_cancellation

ABCD = "abcd"


class Ward:
    """Instances that are well, ill, or silent; and when each was checked."""

    def __init__(self, **ill: str) -> None:
        self.ill: dict[str, str] = ill
        self.checked: list[tuple[float, str]] = []
        self.at_once = self.most_at_once = 0
        self.takes = 0.0

    async def __call__(self, instance: Instance) -> object:
        self.checked.append((current_runtime().now(), instance.id))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await anyio.sleep(self.takes)
            illness = self.ill.get(instance.id)
            if illness == "silent":
                await anyio.sleep_forever()
            elif illness == "certain":
                raise CheckFailed("503 from /health", certain=True)
            elif illness == "error":
                raise ConnectionResetError("reset")
            return illness != "false"
        finally:
            self.at_once -= 1

    def times(self, name: str) -> list[float]:
        return [at for at, checked in self.checked if checked == name]


class Changing:
    """Discovery that yields what it is given, and then waits for more."""

    def __init__(self, *names: str) -> None:
        self.version = 0
        self.snapshots: list[Snapshot] = []
        self.become(*(Instance(id=name, host=name, port=80) for name in names))

    def become(self, *instances: Instance) -> None:
        self.version += 1
        self.snapshots.append(Snapshot(version=self.version, instances=instances))

    async def watch(self) -> AsyncIterator[Snapshot]:
        yield self.snapshots[-1]
        while True:
            seen = self.version
            while self.version == seen:
                await anyio.sleep(0.1)
            yield self.snapshots[-1]


class Hospital:
    """An open service whose instances are checked."""

    def __init__(self, ward: Ward, names: Sequence[str] = ABCD, **rules: Any) -> None:
        self.ward = ward
        self.events: list[Event] = []
        self.discovery = Changing(*names)
        rules.setdefault("idle_interval", rules.get("interval", 10.0))
        ejection = rules.pop("ejection", Ejection())
        self.service = Service(
            "orders",
            self.discovery,
            balancer=RoundRobin(),
            ejection=ejection,
            health=HealthCheck(ward, **rules),
            policies=[],
        )

    def run(self, backend: str, main: Callable[[], Awaitable[Any]], seed: int = 0) -> Any:
        async def within() -> Any:
            here = current_runtime()
            runtime = Runtime(
                now=here.now, wall=here.wall, sleep=here.sleep, random=here.random, emit=self.events.append
            )
            with use_runtime(runtime):
                async with self.service:
                    return await main()

        return virtual_time.run(within, backend=backend, seed=seed)

    def states(self) -> dict[str, str]:
        return {one.instance.id: one.state for one in self.service.instances()}

    def told(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def test_each_is_checked_after_a_part_of_the_interval_and_then_every_interval_and_a_bit(backend):
    ward = Ward()
    hospital = Hospital(ward)
    hospital.run(backend, lambda: anyio.sleep(200.0))
    first = [ward.times(name)[0] for name in ABCD]
    assert all(0.0 <= at < 10.0 for at in first)
    assert len({round(at, 3) for at in first}) == 4
    gaps = [later - at for name in ABCD for at, later in zip(ward.times(name), ward.times(name)[1:], strict=False)]
    assert min(gaps) >= 10.0
    assert max(gaps) < 12.1
    assert max(gaps) - min(gaps) > 1.0


@pytest.mark.parametrize(
    ("illness", "checks", "reason"),
    [
        ("silent", 3, "no answer within 1 s"),
        ("error", 3, "ConnectionResetError: reset"),
        ("false", 3, "its check returned False"),
        ("certain", 1, "503 from /health"),
    ],
)
def test_an_instance_that_fails_its_checks_gets_no_calls(backend, illness: str, checks: int, reason: str):
    ward = Ward(b=illness)
    hospital = Hospital(ward)

    async def main():
        while "unhealthy" not in hospital.states().values():
            await anyio.sleep(0.1)
        assert len(ward.times("b")) == checks
        standing = hospital.service.instances()[1]
        assert (standing.state, standing.detail, standing.candidate) == ("unhealthy", reason, False)
        assert reason in str(hospital.service.explain())

        @hospital.service
        async def ask(instance: Instance) -> str:
            return instance.id

        assert {await ask() for _ in range(20)} == {"a", "c", "d"}

    hospital.run(backend, main)
    assert [(event.name, event.instance, event.reason) for event in hospital.told(InstanceUnhealthy)] == [
        ("orders", "b", reason)
    ]


def test_one_that_was_healthy_has_to_succeed_twice_and_one_that_starts_once(backend):
    ward = Ward(b="certain")
    hospital = Hospital(ward)

    async def until(state: str) -> int:
        checks = len(ward.times("b"))
        while hospital.states()["b"] != state:
            await anyio.sleep(0.1)
        return len(ward.times("b")) - checks

    async def main():
        await until("unhealthy")
        ward.ill = {}
        assert await until("healthy") == 1
        ward.ill = {"b": "error"}
        assert await until("unhealthy") == 3
        ward.ill = {}
        assert await until("healthy") == 2
        assert hospital.service.balancer.instances(0.0)[1].detail == ""

    hospital.run(backend, main)
    assert len(hospital.told(InstanceHealthy)) == 2


def test_if_too_few_are_healthy_all_are_used(backend):
    hospital = Hospital(Ward(a="certain", b="certain", c="certain"))

    async def main():
        await anyio.sleep(20.0)
        assert hospital.service.explain().panic

        @hospital.service
        async def ask(instance: Instance) -> str:
            return instance.id

        assert {await ask() for _ in range(20)} == {*ABCD}

    hospital.run(backend, main)


def test_without_panic_there_is_nobody_to_call(backend):
    hospital = Hospital(Ward(a="certain"), "a", ejection=Ejection(panic=0.0))

    async def main():
        await anyio.sleep(20.0)
        with pytest.raises(NoInstance, match="0 of 1 instances are used: 1 unhealthy") as caught:
            hospital.service.balancer.pick(20.0, lambda: 0.5)
        assert caught.value.retry_after is None

    hospital.run(backend, main)


def test_who_is_unhealthy_counts_for_the_cap_of_the_ejection(backend):
    hospital = Hospital(Ward(a="certain", b="certain"))

    async def main():
        await anyio.sleep(15.0)

        @hospital.service
        async def fail(instance: Instance) -> None:
            raise ConnectionResetError

        for _ in range(40):
            with pytest.raises(ConnectionResetError):
                await fail()
        assert hospital.states() == {"a": "unhealthy", "b": "unhealthy", "c": "healthy", "d": "healthy"}

    hospital.run(backend, main)


async def eject(hospital: Hospital, name: str) -> None:
    @hospital.service
    async def ask(instance: Instance) -> None:
        if instance.id == name:
            raise ConnectionResetError

    for _ in range(40):
        with suppress(ConnectionResetError):
            await ask()
    assert hospital.states()[name] == "ejected"


@pytest.mark.parametrize("restores", [False, True])
def test_a_check_ends_an_ejection_only_if_it_is_said_to_exercise_what_calls_need(backend, restores: bool):
    hospital = Hospital(Ward(), restores=restores, ejection=Ejection(duration=50.0))

    async def main():
        await eject(hospital, "b")
        await anyio.sleep(12.0)
        return hospital.states()["b"]

    assert hospital.run(backend, main) == ("healthy" if restores else "ejected")
    assert len(hospital.told(InstanceRestored)) == restores


def test_a_check_that_began_before_the_ejection_does_not_end_it(backend):
    ward = Ward()
    ward.takes = 0.9
    hospital = Hospital(ward, restores=True, ejection=Ejection(duration=50.0))

    async def main():
        while not ward.at_once or ward.checked[-1][1] != "b":
            await anyio.sleep(0.1)
        await eject(hospital, "b")
        await anyio.sleep(1.0)
        assert hospital.states()["b"] == "ejected"
        await anyio.sleep(13.0)
        assert hospital.states()["b"] == "healthy"

    hospital.run(backend, main)


def test_nobody_on_trial_is_called_while_his_checks_fail(backend):
    ward = Ward()
    hospital = Hospital(ward)

    async def main():
        await eject(hospital, "b")
        ward.ill = {"b": "certain"}
        await anyio.sleep(12.0)  # its ejection is over

        @hospital.service
        async def ask(instance: Instance) -> str:
            return instance.id

        assert {await ask() for _ in range(20)} == {"a", "c", "d"}
        ward.ill = {}
        await anyio.sleep(26.0)
        assert "b" in {await ask() for _ in range(20)}

    hospital.run(backend, main)


def test_without_calls_the_checks_are_rare_and_soon_usual_when_there_are_some(backend):
    ward = Ward()
    hospital = Hospital(ward, idle_interval=60.0)

    async def main():
        @hospital.service
        async def ask(instance: Instance) -> None:
            pass

        await anyio.sleep(300.0)
        idle = len(ward.times("a"))
        assert 4 <= idle <= 6
        for _ in range(300):
            await ask()
            await anyio.sleep(1.0)
        assert len(ward.times("a")) - idle >= 24

    hospital.run(backend, main)


def test_no_more_run_at_once_than_allowed_and_waiting_is_not_the_instances_fault(backend):
    ward = Ward()
    ward.takes = 0.8
    names = [f"i{number}" for number in range(40)]
    hospital = Hospital(ward, names, concurrency=3, interval=10.0)
    hospital.run(backend, lambda: anyio.sleep(60.0))
    assert ward.most_at_once == 3
    assert hospital.told(InstanceUnhealthy) == []
    assert {name for _, name in ward.checked} == {*names}


def test_who_leaves_is_not_checked_any_more_and_who_comes_is(backend):
    ward = Ward(b="silent")
    hospital = Hospital(ward, timeout=5.0)

    async def main():
        while not ward.times("b"):
            await anyio.sleep(0.1)
        hospital.discovery.become(*(Instance(id=name, host=name, port=80) for name in "acde"))
        await anyio.sleep(0.3)
        assert ward.at_once == 0  # not even the check that was under way
        gone = len(ward.times("b"))
        await anyio.sleep(30.0)
        assert len(ward.times("b")) == gone
        assert ward.times("e")

    hospital.run(backend, main)


def test_who_is_elsewhere_now_is_checked_anew_and_used_meanwhile(backend):
    ward = Ward(b="certain")
    hospital = Hospital(ward)

    async def main():
        await anyio.sleep(15.0)
        assert hospital.states()["b"] == "unhealthy"
        ward.ill = {}
        moved = [Instance(id=name, host=name, port=81 if name == "b" else 80) for name in ABCD]
        hospital.discovery.become(*moved)
        await anyio.sleep(0.3)
        assert hospital.states()["b"] == "healthy"

    hospital.run(backend, main)


def test_calls_never_wait_for_a_check(backend):
    hospital = Hospital(Ward(a="silent", b="silent", c="silent", d="silent"), timeout=9.0)

    async def main():
        @hospital.service
        async def ask(instance: Instance) -> float:
            return current_runtime().now()

        before = current_runtime().now()
        for _ in range(20):
            assert await ask() == before

    hospital.run(backend, main)


def test_when_the_service_is_closed_no_check_is_left_and_nothing_that_it_found(backend):
    ward = Ward(a="silent", b="certain")
    hospital = Hospital(ward, timeout=30.0, interval=10.0)

    async def main():
        async with hospital.service:
            await anyio.sleep(15.0)
            assert ward.at_once > 0
            assert hospital.states()["b"] == "unhealthy"
        assert ward.at_once == 0
        assert hospital.states()["b"] == "healthy"
        checks = len(ward.checked)
        await anyio.sleep(60.0)
        assert len(ward.checked) == checks
        async with hospital.service:  # and again
            await anyio.sleep(15.0)
            assert hospital.states()["b"] == "unhealthy"

    virtual_time.run(main, backend=backend)


def test_an_answer_that_comes_too_late_is_not_told(backend):
    async def main():
        async def check(_instance: Instance) -> bool:
            assert service._checking is not None
            service._checking.stop()
            return False

        rule = HealthCheck(check, unhealthy_after=1)
        service = Service("orders", Changing("a"), health=rule)
        async with service:
            await anyio.sleep(100.0)
            assert service.instances()[0].state == "healthy"

    virtual_time.run(main, backend=backend)


def test_a_cancellation_anywhere_leaves_no_check_behind(backend):
    async def scenario(hospital: Hospital) -> None:
        async with hospital.service:
            await anyio.sleep(0.5)

    def check(hospital: Hospital) -> None:
        assert hospital.ward.at_once == 0
        assert "unhealthy" not in hospital.states().values()

    def fresh() -> Hospital:
        ward = Ward(b="certain")
        ward.takes = 0.05
        return Hospital(ward, "ab", interval=0.2, timeout=0.1)

    assert for_each_cancellation(fresh, scenario=scenario, check=check, backend=backend) > 20
