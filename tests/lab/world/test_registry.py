"""What callers know of the servers, and when."""

from __future__ import annotations

import anyio

from resilient.balancing import RoundRobin
from resilient.instance import Instance
from resilient.lab.engine import open_engine
from resilient.lab.world.registry import Registry
from resilient.service import Service
from tests.lab.virtual import in_virtual_time

Seen = tuple[float, int, list[str]]


def instances(*names):
    return [Instance(id=name, host=name, port=80) for name in names]


async def watch(registry, engine, seen):
    async for snapshot in registry.watch():
        seen.append((engine.now(), snapshot.version, [instance.id for instance in snapshot.instances]))


@in_virtual_time
async def test_a_change_is_known_after_the_lag():
    seen: list[Seen] = []
    async with open_engine() as engine:
        registry = Registry(engine, instances("a"), lag=2.0)
        engine.spawn(watch, registry, engine, seen)
        engine.at(1.0, registry.change, instances("a", "b"))
        engine.at(2.0, registry.change, instances("b"))
        await anyio.sleep(10)
    assert seen == [(0.0, 1, ["a"]), (3.0, 2, ["a", "b"]), (4.0, 3, ["b"])]


@in_virtual_time
async def test_of_changes_at_one_instant_the_last_one_holds():
    seen: list[Seen] = []
    async with open_engine() as engine:
        registry = Registry(engine, instances("a"), lag=1.0)
        engine.spawn(watch, registry, engine, seen)
        for number in range(50):
            engine.at(1.0, registry.change, instances(f"b{number}"))
        await anyio.sleep(10)
    assert seen[0] == (0.0, 1, ["a"])
    assert seen[-1] == (2.0, 51, ["b49"])
    versions = [version for _, version, _ in seen]
    assert versions == sorted(set(versions))


@in_virtual_time
async def test_all_watchers_learn_it_and_those_who_come_late_begin_with_the_present():
    early: list[Seen] = []
    late: list[Seen] = []
    async with open_engine() as engine:
        registry = Registry(engine, instances("a"))
        engine.spawn(watch, registry, engine, early)
        engine.at(1.0, registry.change, instances("b"))
        await anyio.sleep(2)
        engine.spawn(watch, registry, engine, late)
        engine.at(3.0, registry.change, instances("c"))
        await anyio.sleep(10)
    assert early == [(0.0, 1, ["a"]), (1.0, 2, ["b"]), (3.0, 3, ["c"])]
    assert late == [(2.0, 2, ["b"]), (3.0, 3, ["c"])]


@in_virtual_time
async def test_a_watcher_that_has_gone_is_not_told():
    seen: list[Seen] = []
    async with open_engine() as engine:
        registry = Registry(engine, instances("a"))
        with anyio.move_on_after(1):
            await watch(registry, engine, seen)
        registry.change(instances("b"))
        await anyio.sleep(1)
        assert (await registry.after(1)).instances == tuple(instances("b"))
    assert seen == [(0.0, 1, ["a"])]


@in_virtual_time
async def test_it_remembers_when_callers_were_told_that_somebody_has_gone():
    async with open_engine() as engine:
        registry = Registry(engine, instances("a", "b"), lag=1.0)
        engine.at(1.0, registry.change, instances("b", "c"))
        engine.at(2.0, registry.change, instances("c"))
        engine.at(3.0, registry.change, instances("a", "c"))  # it is back
        await anyio.sleep(1.9)
        assert registry.gone == {}
        await anyio.sleep(1.2)
        assert registry.gone == {"a": 2.0, "b": 3.0}
        await anyio.sleep(10)
        assert registry.gone == {"b": 3.0}


@in_virtual_time
async def test_a_service_follows_it():
    async with open_engine() as engine:
        registry = Registry(engine, instances("a"), lag=1.0)
        async with Service("it", registry, balancer=RoundRobin()) as service:
            assert [one.instance.id for one in service.instances()] == ["a"]
            registry.change(instances("b", "c"))
            await anyio.sleep(0.999)
            assert [one.instance.id for one in service.instances()] == ["a"]
            await anyio.sleep(0.002)
            assert [one.instance.id for one in service.instances()] == ["b", "c"]


def test_it_says_who_is_there():
    registry = Registry(None, instances("a", "b"), lag=2.0)  # type: ignore[arg-type] # it has no time for anything else
    assert repr(registry) == "Registry(['a', 'b'], lag=2.0)"
