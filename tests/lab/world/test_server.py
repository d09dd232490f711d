"""What a server does with calls, and what can happen to it."""

from __future__ import annotations

import heapq
import math
from typing import Any

import anyio
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from resilient.lab.world.job import Reply
from resilient.lab.world.queues import Fifo
from resilient.lab.world.server import Records
from resilient.lab.world.service_times import Exponential
from resilient.testing import virtual_time
from tests.lab.virtual import in_virtual_time
from tests.lab.world.desk import open_desk

REFUSED, RESET = "ConnectionRefusedError", "ConnectionResetError"


# -- work -----------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_as_many_calls_are_worked_on_as_there_are_workers():
    async with open_desk(workers=2) as desk:
        for number in range(5):
            desk.send(number, at=0.25 * number)
        assert await desk.close() == [(1.0, 0, 200), (1.25, 1, 200), (2.0, 2, 200), (2.25, 3, 200), (3.0, 4, 200)]
        assert desk.server.served == desk.server.received == 5
        assert desk.server.load == 0


@settings(max_examples=30)
@given(
    workers=st.integers(1, 4),
    calls=st.lists(st.tuples(st.floats(0, 3), st.floats(0.001, 0.999)), max_size=40),
)
def test_a_line_of_any_calls_is_served_as_a_line_of_them_is_served(workers, calls):
    """The recursion of Kiefer and Wolfowitz: whoever comes first goes to the worker that is free first."""
    times = Exponential(1.0)
    arrivals, now = [], 0.0
    for gap, _ in calls:
        now += gap
        arrivals.append(now)

    expected = []
    free = [0.0] * workers
    for number, (arrival, (_, u)) in enumerate(zip(arrivals, calls, strict=True)):
        end = max(arrival, heapq.heappop(free)) + times.quantile(u)
        heapq.heappush(free, end)
        expected.append((end, number))

    async def main():
        async with open_desk(times, lambda call, _attempt: calls[call][1], workers=workers) as desk:
            for number, arrival in enumerate(arrivals):
                desk.send(number, at=arrival)
            return await desk.close()

    answers = virtual_time.run(main)
    assert sorted((number, end) for end, number, _ in answers) == [
        (number, pytest.approx(end)) for end, number in sorted(expected, key=lambda pair: pair[1])
    ]


@in_virtual_time
async def test_the_time_of_an_attempt_is_drawn_for_its_number():
    drawn = []

    def draw(call: int, attempt: int) -> float:
        drawn.append((call, attempt))
        return 0.5

    async with open_desk(draw=draw, workers=2) as desk:
        desk.send(7, attempt=2)
        desk.send(9)
        await desk.close()
    assert drawn == [(7, 2), (9, 0)]


@in_virtual_time
async def test_what_has_been_abandoned_is_worked_on():
    async with open_desk() as desk:
        abandoned = desk.send(0)
        desk.send(1)
        desk.engine.at(0.5, setattr, abandoned, "left", True)
        assert await desk.close() == [(1.0, 0, 200), (2.0, 1, 200)]
        assert (desk.server.served, desk.server.wasted) == (2, 1)


@in_virtual_time
async def test_a_full_queue_refuses():
    async with open_desk(queue=lambda: Fifo(limit=1)) as desk:
        for number in range(4):
            desk.send(number, at=0.1 * number)
        assert await desk.close() == [(0.2, 2, 503), (pytest.approx(0.3), 3, 503), (1.0, 0, 200), (2.0, 1, 200)]
        assert desk.server.served == 2


@in_virtual_time
async def test_partitions_have_workers_and_lines_of_their_own():
    async with open_desk(partition=lambda key: key % 2) as desk:
        for number, key in enumerate([1, 1, 3, 2]):
            desk.send(number, key=key)
        desk.engine.at(0.5, lambda: loads.append((desk.server.load, desk.server.queued)))
        loads: list[tuple[int, int]] = []
        assert await desk.close() == [(1.0, 0, 200), (1.0, 3, 200), (2.0, 1, 200), (3.0, 2, 200)]
        assert loads == [(4, 2)]


# -- standing still -------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_after_a_stop_exactly_what_was_left_is_done():
    async with open_desk(workers=2) as desk:
        desk.send(0, at=0.0)
        desk.send(1, at=0.25)
        desk.engine.at(0.5, desk.server.stop)
        desk.engine.at(0.75, desk.server.stop)  # it stands still already
        desk.engine.at(2.5, desk.server.go_on)
        desk.engine.at(2.75, desk.server.go_on)  # it goes on already
        assert await desk.close() == [(3.0, 0, 200), (3.25, 1, 200)]


@settings(max_examples=50)
@given(pauses=st.lists(st.tuples(st.floats(0.01, 0.6), st.floats(0.01, 5)), max_size=6), work=st.floats(0.01, 3))
def test_pauses_add_up(pauses, work):
    """A call ends when its work and all the pauses that began before that are over."""
    end, now = work, 0.0
    for runs, stands in pauses:
        assume(abs(now + runs - end) > 1e-6)  # at the same instant either may come first
        if now + runs < end:
            end += stands
        now += runs + stands

    async def main():
        async with open_desk(Exponential(1.0), lambda _call, _attempt: 1 - math.exp(-work)) as desk:
            desk.send(0)
            moment = 0.0
            for runs, stands in pauses:
                desk.engine.at(moment + runs, desk.server.stop)
                desk.engine.at(moment + runs + stands, desk.server.go_on)
                moment += runs + stands
            return await desk.close()

    ((answered, _, status),) = virtual_time.run(main)
    assert (answered, status) == (pytest.approx(end), 200)


@in_virtual_time
async def test_what_comes_while_it_stands_still_is_read_afterwards():
    async with open_desk(workers=2, queue=lambda: Fifo(limit=1), records=Records()) as desk:
        desk.send(0, idempotency_key="done")
        desk.engine.at(1.5, desk.server.stop)
        for number in range(1, 5):
            desk.send(number, at=2.0)
        desk.send(5, at=2.0, idempotency_key="done")
        desk.engine.at(3.0, lambda: loads.append((desk.server.load, desk.server.queued)))
        desk.engine.at(4.0, desk.server.go_on)
        loads: list[tuple[int, int]] = []
        # Not even a refusal or a known answer comes out of it before.
        assert await desk.close() == [
            (1.0, 0, 200),
            (4.0, 4, 503),
            (4.0, 5, 200),
            (5.0, 1, 200),
            (5.0, 2, 200),
            (6.0, 3, 200),
        ]
        assert loads == [(5, 5)]


@in_virtual_time
async def test_a_failing_server_that_stands_still_does_not_even_fail():
    async with open_desk() as desk:
        desk.server.failing = lambda _job: Reply(500)
        desk.engine.at(0.0, desk.server.stop)
        desk.send(0, at=1.0)
        desk.engine.at(2.0, desk.server.go_on)
        assert await desk.close() == [(2.001, 0, 500)]


@in_virtual_time
async def test_what_the_next_tier_answers_meanwhile_is_passed_on_afterwards():
    async def handler(_job):
        signal = desk.engine.signal()
        desk.engine.at(desk.engine.now() + 0.5, signal.set_result, Reply())
        return await signal

    async with open_desk(handler=handler) as desk:
        desk.send(0)
        desk.send(1)
        desk.engine.at(1.25, desk.server.stop)
        desk.engine.at(3.0, desk.server.go_on)
        assert await desk.close() == [(3.0, 0, 200), (4.5, 1, 200)]


@in_virtual_time
async def test_the_next_tier_is_called_once_even_if_a_stop_meets_the_end_of_the_work():
    handled = []

    async def handler(job):
        handled.append(job.errand.number)
        signal = desk.engine.signal()
        desk.engine.at(desk.engine.now() + 1.0, signal.set_result, Reply())
        return await signal

    async with open_desk(handler=handler) as desk:
        desk.send(0)
        desk.engine.at(0.0, lambda: desk.engine.at(1.0, desk.server.stop))  # after the work, at the same instant
        desk.engine.at(5.0, desk.server.go_on)
        assert await desk.close() == [(5.0, 0, 200)]
    assert handled == [0]


# -- death and other faults -----------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_server_that_dies_loses_everything_and_comes_back_empty():
    async with open_desk(workers=1) as desk:
        for number in range(3):
            desk.send(number)
        desk.engine.at(0.5, desk.server.die)
        desk.send(3, at=0.75)
        desk.engine.at(1.5, setattr, desk.server, "reachable", True)
        desk.send(4, at=2.0)
        assert await desk.close() == [
            (0.5, 0, RESET),
            (0.5, 1, RESET),
            (0.5, 2, RESET),
            (0.75, 3, REFUSED),
            (3.0, 4, 200),
        ]
        assert desk.server.served == 1


@in_virtual_time
async def test_whoever_dies_standing_still_comes_back_on_its_feet():
    async with open_desk() as desk:
        desk.send(0)
        desk.engine.at(0.25, desk.server.stop)
        desk.send(1, at=0.5)
        desk.engine.at(1.0, desk.server.die)
        desk.engine.at(2.0, setattr, desk.server, "reachable", True)
        desk.send(2, at=2.0)
        desk.engine.at(9.0, desk.server.go_on)
        assert await desk.close() == [(1.0, 0, RESET), (1.0, 1, RESET), (3.0, 2, 200)]


@in_virtual_time
async def test_the_answer_of_the_next_tier_comes_too_late_for_a_dead_server():
    async def handler(_job):
        signal = desk.engine.signal()
        desk.engine.at(desk.engine.now() + 1.0, signal.set_result, Reply())
        return await signal

    async with open_desk(handler=handler) as desk:
        desk.send(0)
        desk.engine.at(1.5, desk.server.die)
        assert await desk.close() == [(1.5, 0, RESET)]
        assert desk.server.served == 0


@in_virtual_time
async def test_a_black_hole_accepts_and_never_answers():
    async with open_desk() as desk:
        desk.server.answers = False
        desk.send(0)
        desk.engine.at(1.0, setattr, desk.server, "answers", True)
        desk.send(1, at=1.0)
        assert await desk.close() == [(2.0, 1, 200)]
        assert (desk.server.received, desk.server.served) == (2, 1)


@in_virtual_time
async def test_a_failure_needs_no_worker():
    async with open_desk() as desk:
        desk.server.failing = lambda job: Reply(500) if job.errand.number > 0 else None
        desk.server.failing_takes = 0.25
        for number in range(3):
            desk.send(number)
        assert await desk.close() == [(0.25, 1, 500), (0.25, 2, 500), (1.0, 0, 200)]


@in_virtual_time
async def test_a_slow_server_is_slow_for_what_it_begins():
    async with open_desk() as desk:
        desk.send(0)
        desk.send(1)
        desk.engine.at(0.5, setattr, desk.server, "slowness", 3.0)
        assert await desk.close() == [(1.0, 0, 200), (4.0, 1, 200)]


@in_virtual_time
async def test_workers_join_at_once_and_leave_when_they_have_finished():
    async with open_desk(workers=1) as desk:
        for number in range(6):
            desk.send(number)
        desk.engine.at(0.5, desk.server.resize, 3)
        desk.engine.at(0.75, desk.server.resize, 1)
        assert [(when, number) for when, number, _ in await desk.close()] == [
            (1.0, 0),
            (1.5, 1),
            (1.5, 2),
            (2.5, 3),
            (3.5, 4),
            (4.5, 5),
        ]


@in_virtual_time
async def test_the_reply_to_finished_work_may_be_lost():
    effects = []
    async with open_desk(effect=lambda job: effects.append(job.errand.number)) as desk:
        desk.server.silent = lambda job: job.errand.number == 0
        desk.send(0)
        desk.send(1)
        assert await desk.close() == [(2.0, 1, 200)]
    assert effects == [0, 1]


# -- idempotency keys -----------------------------------------------------------------------------------------------


@in_virtual_time
async def test_one_key_has_one_effect_and_is_pending_while_it_runs():
    effects = []
    options: dict[str, Any] = {"records": Records(), "effect": lambda job: effects.append(job.errand.number)}
    async with open_desk(**options) as desk:
        desk.send(0, idempotency_key="a")
        desk.send(0, at=0.5, attempt=1, idempotency_key="a")
        desk.send(0, at=1.5, attempt=2, idempotency_key="a")
        desk.send(1, at=1.5, idempotency_key="b")
        assert await desk.close() == [(0.5, 0, 409), (1.0, 0, 200), (1.5, 0, 200), (2.5, 1, 200)]
    assert effects == [0, 1]


@in_virtual_time
async def test_a_key_is_known_to_all_servers_of_a_tier():
    records = Records()
    async with open_desk(records=records) as one, open_desk(records=records) as other:
        one.send(0, idempotency_key="a")
        other.send(0, at=0.5, attempt=1, idempotency_key="a")
        other.send(0, at=2.0, attempt=2, idempotency_key="a")
        assert await one.close() == [(1.0, 0, 200)]
        assert other.answers == [(0.5, 0, 409), (2.0, 0, 200)]
        assert (one.server.served, other.server.served) == (1, 0)


@pytest.mark.parametrize("how", ["refused", "dead", "failed"])
@in_virtual_time
async def test_a_key_whose_work_was_not_done_is_free_again(how):
    async def handler(job):
        return Reply(500 if job.attempt == 0 else 200)

    options: dict[str, Any] = {"records": Records(), "queue": lambda: Fifo(limit=0 if how == "refused" else None)}
    async with open_desk(**options, handler=handler if how == "failed" else None) as desk:
        if how == "refused":
            desk.send(9)
        desk.send(0, at=0.1, idempotency_key="a")
        if how == "dead":
            desk.engine.at(0.5, desk.server.die)
            desk.engine.at(1.0, setattr, desk.server, "reachable", True)
        desk.send(0, at=5.0, attempt=1, idempotency_key="a")
        first, second = [(when, what) for when, number, what in await desk.close() if number == 0]
    assert first == {"refused": (0.1, 503), "dead": (0.5, RESET), "failed": (1.1, 500)}[how]
    assert second == (6.0, 200)


@in_virtual_time
async def test_without_records_every_attempt_is_work():
    async with open_desk() as desk:
        desk.send(0, idempotency_key="a")
        desk.send(0, attempt=1, idempotency_key="a")
        assert await desk.close() == [(1.0, 0, 200), (2.0, 0, 200)]


# -- Little's law ---------------------------------------------------------------------------------------------------

HAPPENINGS = st.one_of(
    st.tuples(st.just("call"), st.floats(0.01, 0.99)),
    st.tuples(st.sampled_from(["stop", "go_on", "die", "revive"]), st.none()),
    st.tuples(st.just("resize"), st.integers(1, 4)),
)


@settings(max_examples=60)
@given(script=st.lists(st.tuples(st.floats(0, 1), HAPPENINGS), max_size=60))
def test_every_call_is_inside_from_when_it_comes_until_it_is_answered(script):
    """Whatever happens, the time that calls spend inside is what their answers say."""
    values = [value for _, (_, value) in script]
    times = Exponential(1.0)

    async def main():
        async with open_desk(times, lambda call, _attempt: values[call], queue=lambda: Fifo(limit=3)) as desk:
            moment, sent, server = 0.0, {}, desk.server
            for number, (gap, (what, value)) in enumerate(script):
                moment += gap
                match what:
                    case "call":
                        desk.send(number, at=moment)
                        sent[number] = moment
                    case "resize":
                        desk.engine.at(moment, server.resize, value)
                    case "revive":
                        desk.engine.at(moment, setattr, server, "reachable", True)
                    case _:
                        desk.engine.at(moment, getattr(server, what))
            answers = await desk.close(100.0)
            now = desk.engine.now()
            ends = {number: when for when, number, _ in answers}
            assert len(ends) == len(answers)  # nobody is answered twice
            by_hand = math.fsum(ends.get(number, now) - at for number, at in sent.items())
            assert server.call_seconds(now) == (pytest.approx(by_hand, abs=1e-6), pytest.approx(by_hand, abs=1e-6))
            assert server.load == len(sent) - len(ends)

    virtual_time.run(main)


@in_virtual_time
async def test_whoever_wants_to_know_is_told_when_it_can_be_reached_and_when_not():
    async with open_desk() as desk:
        told: list[bool] = []
        desk.server.on_change = lambda: told.append(desk.server.reachable)
        desk.server.die()
        desk.server.die()
        desk.server.reachable = True
        desk.server.reachable = True
        assert told == [False, True]


# -- what it says of itself -----------------------------------------------------------------------------------------


@in_virtual_time
async def test_it_tells_how_many_are_there_and_how_long_it_took_those_that_found_so_many():
    async with open_desk(workers=1) as desk:
        assert desk.server.report().latency is None
        for number in range(3):
            desk.send(number)
        await anyio.sleep(0.5)
        assert desk.server.report().in_flight == 3
        await anyio.sleep(9.5)
        idle = desk.server.report()
        assert (idle.in_flight, idle.latency) == (0, 1.0)  # the first one found nobody; the others waited
        desk.send(3, at=10.0)
        desk.send(4, at=10.0)
        await anyio.sleep(0.5)
        assert desk.server.report().latency == 3.0  # of the one that found two
        assert desk.server.report().application_utilization == 1.0


@in_virtual_time
async def test_it_counts_those_that_were_there_before_anybody_asked_and_forgets_all_when_it_dies():
    async with open_desk(workers=1, queue=lambda: Fifo(limit=1)) as desk:
        for number in range(3):  # the last one is turned away
            desk.send(number)
        await anyio.sleep(0.5)
        assert desk.server.report().in_flight == 2
        desk.send(3, at=0.6)
        await anyio.sleep(0.5)  # the first one is done, and that one waits
        assert desk.server.report().in_flight == 2
        desk.server.die()
        assert desk.server.report().in_flight == 0
        assert desk.server.report().latency is None


@in_virtual_time
async def test_what_fails_and_what_is_refused_are_no_latencies():
    async with open_desk(workers=1, queue=lambda: Fifo(limit=1)) as desk:
        desk.server.report()
        for number in range(4):
            desk.send(number)
        await anyio.sleep(0.5)
        load = desk.server.report()
        assert load.in_flight == 2
        assert load.eps == load.rps
        assert load.latency is None


@in_virtual_time
async def test_a_reply_says_how_busy_the_server_is_where_anybody_goes_by_that():
    async with open_desk(workers=2) as desk:
        desk.send(0)
        await anyio.sleep(2.0)
        desk.server.reports = True
        desk.send(1, at=2.0)
        await anyio.sleep(2.0)
        silent, told = desk.loads
        assert silent is None
        assert (told.in_flight, told.application_utilization) == (1, 0.5)  # itself
