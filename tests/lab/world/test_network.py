"""What lies between callers and servers."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest

from resilient.instance import Instance
from resilient.lab.engine import open_engine
from resilient.lab.world.chance import Chance
from resilient.lab.world.job import Errand, Reply
from resilient.lab.world.network import CorruptReply, Network
from resilient.lab.world.queues import Fifo
from resilient.lab.world.server import Server
from resilient.lab.world.service_times import Constant, Exponential
from tests.lab.virtual import in_virtual_time


class Wire:
    """A network with one server at its end, and the calls that are made over it."""

    def __init__(self, engine, network, server):
        self.engine = engine
        self.network = network
        self.server = server
        self.answers = []
        self.effects = []

    async def call(self, number=0, *, patience=100.0, zone=None, deadline=None, key=None):
        """Make a call; return what comes back, and after how many seconds."""
        began = self.engine.now()
        what: object = "nothing"
        with anyio.move_on_after(patience):
            try:
                reply = await self.network.send(Errand(number, zone=zone), self.server, deadline, key)
                what = reply.status
            except OSError as error:
                what = type(error).__name__
        return what, self.engine.now() - began

    async def calls(self, count, **options):
        """Make many at once, and return what comes of them in their order."""
        outcomes = [None] * count

        async def one(number):
            outcomes[number] = (await self.call(number, **options))[0]

        async with anyio.create_task_group() as tasks:
            for number in range(count):
                tasks.start_soon(one, number)
        return outcomes


@asynccontextmanager
async def open_wire(*, seed=0, work=1.0, workers=1000, zone=None, **options):
    async with open_engine() as engine:
        chance = Chance(seed)
        network = Network(engine, chance, **options)
        wire = Wire(engine, network, None)
        wire.server = Server(
            Instance(id="it", host="it", port=80, zone=zone),
            engine,
            chance.of_call("service"),
            workers=workers,
            service_time=Constant(work),
            queue=Fifo,
            effect=lambda job: wire.effects.append((job.errand.number, job.attempt)),
        )
        yield wire


@in_virtual_time
async def test_without_a_latency_it_takes_no_time():
    async with open_wire() as wire:
        assert await wire.call() == (200, 1.0)


@in_virtual_time
async def test_the_latency_is_that_of_one_way():
    async with open_wire(latency=Constant(0.25)) as wire:
        assert await wire.call() == (200, 1.5)
        wire.server.die()
        assert await wire.call() == ("ConnectionRefusedError", 0.5)


@in_virtual_time
async def test_both_ways_are_drawn_apart_and_for_each_attempt():
    latency = Exponential(0.1)
    async with open_wire(latency=latency) as wire:
        took = {number: (await wire.call(number))[1] for number in (1, 2)}
        errand = Errand(1)
        for _ in range(2):
            await wire.network.send(errand, wire.server, None, None)
    out, back = Chance(0).of_call("network, out"), Chance(0).of_call("network, back")
    for number, seconds in took.items():
        assert seconds == pytest.approx(1.0 + latency.quantile(out(number, 0)) + latency.quantile(back(number, 0)))
    assert len({out(1, 0), back(1, 0), out(1, 1), back(1, 1), out(2, 0)}) == 5
    assert wire.effects == [(1, 0), (2, 0), (1, 0), (1, 1)]


@in_virtual_time
async def test_a_lost_request_never_arrives_and_nobody_says_so():
    async with open_wire(lose_request=0.3) as wire:
        outcomes = await wire.calls(1000, patience=50.0)
        assert outcomes.count("nothing") == pytest.approx(300, abs=45)
        assert outcomes.count(200) == len(wire.effects) == wire.server.received == 1000 - outcomes.count("nothing")


@in_virtual_time
async def test_a_lost_reply_leaves_the_work_done():
    async with open_wire(lose_reply=0.3) as wire:
        outcomes = await wire.calls(1000, patience=50.0)
        assert outcomes.count("nothing") == pytest.approx(300, abs=45)
        assert outcomes.count(200) == 1000 - outcomes.count("nothing")
        assert len(wire.effects) == 1000
        assert wire.server.wasted == 0  # they all waited still, when it was done


@pytest.mark.parametrize("latency", [None, Constant(0.25)])
@in_virtual_time
async def test_a_repeated_request_is_worked_on_twice_for_one_answer(latency):
    async with open_wire(repeat=0.3, workers=1, work=0.001, latency=latency) as wire:
        assert await wire.calls(1000) == [200] * 1000
        await anyio.sleep(10)
        twice = len(wire.effects) - 1000
        assert twice == pytest.approx(300, abs=45)
        # Whoever has an answer does not wait for another one; here and there the answer is still on its way.
        assert wire.server.wasted == (twice if latency is None else 0)


@in_virtual_time
async def test_a_changed_reply_does_not_pass_for_a_right_one():
    async with open_wire(corrupt=0.3) as wire:
        outcomes = await wire.calls(1000)
        assert outcomes.count("CorruptReply") == pytest.approx(300, abs=45)
        assert outcomes.count(200) == 1000 - outcomes.count("CorruptReply")
        wire.network.corrupt = 1.0
        with pytest.raises(CorruptReply, match="it: the checksum"):
            await wire.network.send(Errand(0), wire.server, None, None)


@in_virtual_time
async def test_what_happens_to_a_call_does_not_depend_on_what_happens_to_others():
    async with open_wire(lose_request=0.3) as wire:
        alone = [(await wire.call(number, patience=5.0))[0] for number in range(20)]
        assert await wire.calls(20, patience=5.0) == alone


@pytest.mark.parametrize("cut", ["a", "b"])
@in_virtual_time
async def test_nothing_crosses_the_border_of_a_zone_that_is_cut_off(cut):
    async with open_wire(zone="a") as wire:
        wire.network.cut.add(cut)
        assert await wire.call(zone="a") == (200, 1.0)
        assert await wire.call(zone="b", patience=5.0) == ("nothing", 5.0)
        wire.network.cut.discard(cut)
        assert await wire.call(zone="b") == (200, 1.0)


@in_virtual_time
async def test_a_cut_keeps_back_the_reply_to_what_arrived_before():
    async with open_wire(zone="a") as wire:
        wire.engine.at(0.5, wire.network.cut.add, "a")
        wire.engine.at(1.5, wire.network.cut.discard, "a")
        assert await wire.call(zone="b", patience=5.0) == ("nothing", 5.0)
        assert len(wire.effects) == 1


@in_virtual_time
async def test_a_connection_breaks_when_the_server_dies():
    async with open_wire() as wire:
        wire.engine.at(0.5, wire.server.die)
        assert await wire.call() == ("ConnectionResetError", 0.5)


@in_virtual_time
async def test_whoever_has_gone_is_not_told_and_its_work_is_wasted():
    async with open_wire() as wire:
        assert await wire.call(patience=0.5) == ("nothing", 0.5)
        await anyio.sleep(5)
        assert (wire.server.served, wire.server.wasted) == (1, 1)
        assert await wire.call(1) == (200, 1.0)
        assert (wire.server.served, wire.server.wasted) == (2, 1)


@in_virtual_time
async def test_a_server_is_told_what_the_caller_tells():
    seen = []

    def failing(job):
        seen.append((job.deadline, job.idempotency_key, job.errand.number, job.attempt))
        return Reply(500)

    async with open_wire() as wire:
        wire.server.failing = failing
        await wire.call(7, deadline=3.0, key="k")
        await wire.call(8)
    assert seen == [(3.0, "k", 7, 0), (None, None, 8, 0)]


@in_virtual_time
async def test_a_health_check_is_answered_beside_the_calls():
    async def check(wire, zone="a"):
        try:
            with anyio.move_on_after(1.0):
                await wire.network.check(wire.server, zone)
                return "well"
        except ConnectionRefusedError:
            return "refused"
        return "silent"

    async with open_wire(zone="a", workers=1, work=50.0) as wire:
        assert await check(wire) == "well"
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(wire.call, number)
            await anyio.sleep(0.1)
            before = wire.engine.now()
            assert await check(wire) == "well"  # at once, whoever waits
            assert wire.engine.now() == before
            wire.server.answers = False
            assert await check(wire) == "silent"
            wire.server.answers = True
            wire.server.stop()
            assert await check(wire) == "silent"
            wire.server.go_on()
            wire.network.cut.add("a")
            assert (await check(wire), await check(wire, "b")) == ("well", "silent")
            wire.network.cut.clear()
            wire.server.die()
            assert await check(wire) == "refused"
            tasks.cancel_scope.cancel()


async def asked(wire, patience=100.0):
    """What comes of a probe, and after how many seconds."""
    began = wire.engine.now()
    what: object = "nothing"
    with anyio.move_on_after(patience):
        try:
            what = (await wire.network.probe(wire.server)).in_flight
        except OSError as error:
            what = type(error).__name__
    return what, wire.engine.now() - began


@in_virtual_time
async def test_a_probe_takes_the_way_there_and_back_and_no_work():
    async with open_wire() as wire:
        assert await asked(wire) == (0, 0.0)
    async with open_wire(latency=Constant(0.25)) as wire:
        assert await asked(wire) == (0, 0.5)


@in_virtual_time
async def test_a_probe_of_who_is_down_fails_and_of_who_does_not_answer_is_lost():
    async with open_wire(zone="a") as wire:
        wire.server.stop()
        assert await asked(wire, patience=3.0) == ("nothing", 3.0)
        wire.server.go_on()
        wire.server.answers = False
        assert await asked(wire, patience=3.0) == ("nothing", 3.0)
        wire.server.answers = True
        wire.network.cut.add("a")
        assert await asked(wire, patience=3.0) == ("nothing", 3.0)
        wire.server.die()
        assert await asked(wire) == ("ConnectionRefusedError", 0.0)
