"""Servers whose work is divided by keys."""

from __future__ import annotations

from functools import partial

import pytest

from resilient.instance import Instance
from resilient.lab.engine import Engine, open_engine
from resilient.lab.world.job import Errand, Job, Reply
from resilient.lab.world.queues import Fifo
from resilient.lab.world.server import Server
from resilient.lab.world.service_times import Constant
from resilient.testing import virtual_time


def parity(key: int) -> int:
    return key % 2


class Bench:
    """A server of two partitions with a worker each, who takes a second a call, and what it answers, and when."""

    def __init__(self, engine: Engine, *, limit: int | None = None) -> None:
        self.answers: list[tuple[float, int, object]] = []
        self._engine = engine
        self.server = Server(
            Instance(id="a", host="a", port=80),
            engine,
            lambda _call, _attempt: 0.5,
            workers=1,
            service_time=Constant(1.0),
            queue=partial(Fifo, limit=limit),
            partition=parity,
        )

    def ask(self, *keys: int) -> None:
        for key in keys:
            job = Job(
                Errand(0, key=key), 0, self._note, deadline=None, priority=Errand(0).priority, idempotency_key=None
            )
            self.server.receive(job)

    def _note(self, job: Job, reply: Reply | Exception) -> None:
        what = reply.status if isinstance(reply, Reply) else type(reply).__name__
        self.answers.append((self._engine.now(), job.errand.key, what))

    async def until(self, second: float) -> None:
        signal = self._engine.signal()
        self._engine.at(second, signal.set_result, None)
        await signal


def test_a_hot_partition_does_not_delay_the_other(backend):
    async def main():
        async with open_engine() as engine:
            bench = Bench(engine)
            bench.ask(0, 2, 4, 1)
            assert (bench.server.load, bench.server.queued) == (4, 2)
            await bench.until(5.0)
            assert sorted(bench.answers) == [(1.0, 0, 200), (1.0, 1, 200), (2.0, 2, 200), (3.0, 4, 200)]
            assert (bench.server.load, bench.server.queued) == (0, 0)

    virtual_time.run(main, backend=backend)


def test_each_partition_has_a_bound_of_its_own(backend):
    async def main():
        async with open_engine() as engine:
            bench = Bench(engine, limit=1)
            bench.ask(0, 2, 4, 1, 3)
            assert bench.answers == [(0.0, 4, 503)]
            await bench.until(5.0)
            assert [answer for answer in bench.answers if answer[2] == 503] == [(0.0, 4, 503)]

    virtual_time.run(main, backend=backend)


def test_after_a_pause_both_go_on(backend):
    async def main():
        async with open_engine() as engine:
            bench = Bench(engine)
            bench.server.stop()
            bench.ask(0, 1, 2)
            await bench.until(10.0)
            assert bench.answers == []
            bench.server.go_on()
            await bench.until(20.0)
            assert sorted(bench.answers) == [(11.0, 0, 200), (11.0, 1, 200), (12.0, 2, 200)]

    virtual_time.run(main, backend=backend)


def test_more_workers_are_more_in_each(backend):
    async def main():
        async with open_engine() as engine:
            bench = Bench(engine)
            bench.ask(0, 2, 4, 1, 3)
            bench.server.resize(2)
            await bench.until(5.0)
            assert sorted(bench.answers) == [*((1.0, key, 200) for key in range(4)), (2.0, 4, 200)]

    virtual_time.run(main, backend=backend)


def test_what_dies_loses_both_and_comes_back_empty(backend):
    async def main():
        async with open_engine() as engine:
            bench = Bench(engine)
            bench.ask(0, 2, 1, 3)
            bench.server.die()
            assert {(key, what) for _, key, what in bench.answers} == {
                (key, "ConnectionResetError") for key in range(4)
            }
            bench.server.reachable = True
            bench.ask(0, 1)
            await bench.until(5.0)
            assert sorted(bench.answers[4:]) == [(1.0, 0, 200), (1.0, 1, 200)]

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_calls_that_a_server_makes_for_one_have_numbers_of_their_own(steps):
    numbers = {
        Errand(number).onward(attempt, step, None).number
        for number in range(5)
        for attempt in range(4)
        for step in range(steps)
    }
    assert len(numbers) == 5 * 4 * steps
