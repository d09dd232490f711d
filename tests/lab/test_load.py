"""The open-loop load generator, in virtual time."""

from __future__ import annotations

import itertools
import math
import random

import anyio
import anyio.lowlevel
import pytest

from resilient.context import current_runtime
from resilient.lab.arrivals import constant, poisson
from resilient.lab.load import DROPPED, OK, UNFINISHED, Record, current_request, drive
from resilient.testing import virtual_time


def run(backend, call, arrivals, **options) -> list[Record]:
    async def main():
        await anyio.sleep(5)  # the load's second 0 is not the clock's
        return await drive(call, arrivals, **options)

    return virtual_time.run(main, backend=backend)


async def quick(_request):
    await anyio.sleep(0.1)


def test_calls_begin_when_they_are_due_and_last_as_long_as_they_last(backend):
    records = run(backend, quick, [0.0, 1.0, 1.0, 2.5])
    assert [(r.intended, r.ok, r.outcome, r.attempts) for r in records] == [
        (due, True, OK, 1) for due in (0.0, 1.0, 1.0, 2.5)
    ]
    assert all(r.started == r.intended for r in records)
    assert [r.latency for r in records] == pytest.approx([0.1] * 4)


def test_a_slow_answer_does_not_hold_up_the_next_call(backend):
    async def slow(_request):
        await anyio.sleep(10)

    records = run(backend, slow, constant(10, duration=1))
    assert [r.started for r in records] == pytest.approx([n / 10 for n in range(10)])
    assert records[-1].finished == pytest.approx(10.9)


def test_latency_counts_from_the_intended_beginning(backend):
    async def blocks(_request):
        current_runtime().pause(1.0)  # holds up the whole loop, the generator too

    records = run(backend, blocks, constant(10, duration=0.3))
    assert [r.intended for r in records] == pytest.approx([0.0, 0.1, 0.2])
    assert sorted(r.started for r in records) == pytest.approx([0.0, 1.0, 2.0])  # on trio in any order
    assert sum(r.latency for r in records) == pytest.approx(1.0 + 1.9 + 2.8)


def test_a_failure_is_recorded_under_its_name_and_ends_nothing(backend):
    async def fails(request):
        if request.number == 1:
            raise ConnectionRefusedError
        return request.number

    records = run(backend, fails, [0, 1, 2], judge=lambda number: "odd" if number == 2 else OK)
    assert [(r.ok, r.outcome) for r in records] == [(True, OK), (False, "ConnectionRefusedError"), (False, "odd")]


def test_a_judge_that_fails_ends_the_run(backend):
    def judge(_):
        raise LookupError("a mistake in the judge is no failed call")

    with pytest.raises(LookupError, match="a mistake in the judge"):
        run(backend, quick, [0], judge=judge)


def test_calls_beyond_the_number_in_flight_are_dropped_and_not_queued(backend):
    async def slow(_request):
        await anyio.sleep(1)

    records = run(backend, slow, [0.0, 0.1, 0.2, 0.3, 1.05], max_in_flight=2)
    assert [r.outcome for r in records] == [OK, OK, DROPPED, DROPPED, OK]
    dropped = records[2]
    assert (dropped.ok, dropped.attempts) == (False, 0)
    assert dropped.latency == pytest.approx(0.0)


def test_what_still_runs_after_the_drain_is_unfinished(backend):
    async def hangs(request):
        if request.number == 0:
            await anyio.sleep_forever()

    records = run(backend, hangs, [0, 1], drain=10)
    assert [(r.outcome, r.finished) for r in records] == [(UNFINISHED, 11.0), (OK, 1.0)]


def test_endless_arrivals_end(backend):
    assert len(run(backend, quick, constant(100), max_calls=50)) == 50
    assert len(run(backend, quick, constant(100), max_seconds=0.995)) == 100


def test_attempts_are_counted_by_whoever_makes_them(backend):
    async def transport():
        request = current_request()
        assert request is not None
        request.attempts += 1

    async def retries(request):
        async with anyio.create_task_group() as tasks:  # a hedge runs in a task of its own
            for _ in range(request.number + 1):
                tasks.start_soon(transport)

    assert [r.attempts for r in run(backend, retries, [0, 0.1, 0.2])] == [1, 2, 3]
    assert current_request() is None


def test_each_record_is_passed_on_as_it_comes(backend):
    seen: list[Record] = []

    async def call(request):
        await anyio.sleep(3 - request.number)

    records = run(backend, call, [0.0, 0.5, 1.0], on_record=seen.append)
    assert [r.intended for r in seen] == [1.0, 0.5, 0.0]
    assert sorted(seen) == records


def test_it_runs_in_real_time_too(backend):
    async def main():
        return await drive(lambda _request: anyio.lowlevel.checkpoint(), [0.0, 0.001, 0.002])

    records = anyio.run(main, backend=backend)
    assert [r.intended for r in records] == [0.0, 0.001, 0.002]
    assert all(r.ok and r.intended <= r.started <= r.finished < 30 for r in records)


def test_constant_arrivals_are_evenly_spaced():
    assert list(constant(4, duration=1, start=10)) == [10.0, 10.25, 10.5, 10.75]
    assert list(itertools.islice(constant(2), 3)) == [0.0, 0.5, 1.0]


def test_poisson_arrivals_have_the_rate_and_the_spread_of_a_poisson_process():
    instants = list(poisson(50, random.Random(1).random, duration=400, start=7))
    assert instants == sorted(instants)
    assert 7 < instants[0] < instants[-1] < 407
    assert len(instants) == pytest.approx(20_000, abs=3 * math.sqrt(20_000))
    gaps = [after - before for before, after in itertools.pairwise(instants)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert deviation == pytest.approx(mean, rel=0.05)  # as for an exponential distribution
    assert instants == list(poisson(50, random.Random(1).random, duration=400, start=7))


@pytest.mark.parametrize("rate", [0, -1, math.inf, math.nan])
def test_a_rate_is_checked_at_once(rate):
    with pytest.raises(ValueError, match=f"rate={rate!r}"):
        constant(rate)
    with pytest.raises(ValueError, match=f"rate={rate!r}"):
        poisson(rate, random.random)


def test_a_duration_is_checked_at_once():
    with pytest.raises(ValueError, match="duration=-1"):
        constant(1, duration=-1)
