"""Chaos: faults at the rate that was asked for, of the calls that were meant, and only while somebody says so."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import anyio
import httpx
import pytest

from resilient.call import Call, Priority
from resilient.context import options, use_runtime
from resilient.errors import DeadlineExceeded, Overloaded
from resilient.events import Event, FaultInjected
from resilient.http import classify_http
from resilient.pipeline import Pipeline
from resilient.policies.adaptive_throttle import AdaptiveThrottle
from resilient.policies.chaos import Answer, Chaos, Delay, Fail, LoseReply
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.runtime import Runtime
from resilient.testing import virtual_time
from resilient.verdict import classify_function
from tests.policies.breakers import outcome_of


async def work() -> str:
    return "done"


def lost() -> OSError:
    return OSError("lost")


ALWAYS = 1.0


def test_nothing_happens_outside_of_a_block_that_says_so(backend):
    chaos = Chaos(Fail(lost, rate=ALWAYS))

    async def main():
        guarded = Pipeline(chaos)(work)
        assert await guarded() == "done"
        with chaos.unleashed(seconds=10), pytest.raises(OSError, match="lost"):
            await guarded()
        assert await guarded() == "done"

    virtual_time.run(main, backend=backend)


def test_a_block_that_hangs_ends_its_faults_in_time(backend):
    chaos = Chaos(Fail(lost, rate=ALWAYS))

    async def main():
        guarded = Pipeline(chaos)(work)
        with chaos.unleashed(seconds=10):
            await anyio.sleep(9.9)
            with pytest.raises(OSError, match="lost"):
                await guarded()
            await anyio.sleep(0.1)
            assert await guarded() == "done"
            with chaos.unleashed(seconds=1), pytest.raises(OSError, match="lost"):
                await guarded()
            assert await guarded() == "done"

    virtual_time.run(main, backend=backend)


def test_faults_hit_their_share_of_the_calls_and_the_same_ones_under_the_same_seed(backend):
    def outcomes(*rates: float) -> list[object]:
        chaos = Chaos(
            Fail(lost, rate=rates[0]), Answer(lambda call: "nonsense", rate=rates[1]), random=Random(7).random
        )

        async def main() -> list[object]:
            guarded = Pipeline(chaos)(work)
            with chaos.unleashed(seconds=10):
                return [await outcome_of(guarded) for _ in range(5000)]

        return virtual_time.run(main, backend=backend)

    found = outcomes(0.2, 0.1)
    counts = Counter(map(str, found))
    assert sorted(count / 5000 for count in counts.values()) == pytest.approx([0.08, 0.2, 0.72], abs=0.02)
    assert found == outcomes(0.2, 0.1)
    # What one fault is set to moves no other one.
    without = outcomes(0.0, 0.1)
    assert [one == "nonsense" for one in found] == [
        late == "nonsense" and one != "OSError" for one, late in zip(found, without, strict=True)
    ]


def test_only_calls_that_are_meant_are_hit(backend):
    chaos = Chaos(Fail(lost, rate=ALWAYS), when=lambda call: call.priority is Priority.SHEDDABLE)

    async def main():
        guarded = Pipeline(chaos)(work)
        with chaos.unleashed(seconds=10):
            assert await guarded() == "done"
            with options(priority=Priority.SHEDDABLE), pytest.raises(OSError, match="lost"):
                await guarded()

    virtual_time.run(main, backend=backend)


def test_a_delay_lasts_as_long_as_it_says_and_no_longer_than_the_deadline(backend):
    chaos = Chaos(Delay(0.5, rate=ALWAYS))

    async def main():
        guarded = Pipeline(chaos)(work)
        hurried = Pipeline(Timeout(0.3), chaos)(work)
        with chaos.unleashed(seconds=10):
            assert await guarded() == "done"
            assert anyio.current_time() == 0.5
            with pytest.raises(DeadlineExceeded) as caught:
                await hurried()
            assert caught.value.sent
            assert anyio.current_time() == pytest.approx(0.8)
            with options(deadline=0.0), pytest.raises(DeadlineExceeded) as caught:
                await guarded()
            assert not caught.value.sent

    virtual_time.run(main, backend=backend)


def test_a_reply_that_is_lost_has_happened(backend):
    chaos = Chaos(LoseReply(lost, rate=ALWAYS))
    done: list[int] = []

    async def main():
        @Pipeline(Retry(on=OSError, attempts=3), chaos)
        async def effect() -> None:
            done.append(1)

        with chaos.unleashed(seconds=100), pytest.raises(OSError, match="lost"):
            await effect()
        assert len(done) == 3

    virtual_time.run(main, backend=backend)


def test_what_comes_back_of_a_lost_reply_is_thrown_away(backend):
    chaos = Chaos(LoseReply(lost, rate=ALWAYS))
    thrown: list[object] = []

    async def discard(result: object) -> bool:
        thrown.append(result)
        return True

    async def main():
        pipeline = Pipeline(chaos, classify=replace(classify_function, discard=discard))
        with chaos.unleashed(seconds=10), pytest.raises(OSError, match="lost"):
            await pipeline.run(work)

    virtual_time.run(main, backend=backend)
    assert thrown == ["done"]


def test_refusals_of_chaos_are_the_far_sides(backend):
    chaos = Chaos(Answer(lambda call: httpx.Response(503, headers={"retry-after": "1"}), rate=ALWAYS))
    events: list[Event] = []

    async def main():
        async def get() -> httpx.Response:
            return httpx.Response(200)

        throttle = AdaptiveThrottle()
        pipeline = Pipeline(throttle, chaos, classify=classify_http)
        outcomes: Counter[object] = Counter()
        with chaos.unleashed(seconds=10):
            for _ in range(100):
                try:
                    outcomes[(await pipeline.run(get)).status_code] += 1
                except Overloaded:
                    outcomes["rejected"] += 1
        assert outcomes["rejected"] > 50

    virtual_time.run(main, backend=backend, emit=events.append)
    assert {event.fault for event in events if isinstance(event, FaultInjected)} == {"Answer"}


def test_plain_functions_suffer_too():
    chaos = Chaos(Delay(0.5, rate=ALWAYS))
    slept: list[float] = []

    def pause(seconds: float) -> None:
        slept.append(seconds)

    with use_runtime(Runtime(pause=pause)), chaos.unleashed(seconds=10):
        assert Pipeline(chaos).call(lambda: 7) == 7
    assert slept == [0.5]


def test_a_breaker_opens_by_the_faults_of_chaos(backend):
    chaos = Chaos(Fail(lost, rate=ALWAYS))

    async def main():
        breaker = CircuitBreaker(consecutive_failures=3)
        with chaos.unleashed(seconds=10):
            for _ in range(3):
                await outcome_of(Pipeline(breaker, chaos)(work))
        assert breaker.state.value == "open"

    virtual_time.run(main, backend=backend)


def a_call(call: Call) -> str:
    return call.name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Chaos, "no faults: give at least one of Delay, Fail, Answer, LoseReply"),
        (lambda: Delay(0.0, rate=0.1), "seconds=0.0"),
        (lambda: Delay(float("inf"), rate=0.1), "seconds=inf"),
        (lambda: Delay(1.0, rate=1.1), "rate=1.1: a share of the calls, from 0 to 1"),
        (lambda: Fail(lost, rate=-0.1), "rate=-0.1"),
        (lambda: Answer(a_call, rate=float("nan")), "rate=nan"),
        (lambda: LoseReply(lost, rate=2), "rate=2"),
    ],
)
def test_bad_settings_are_refused_with_what_is_allowed(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("seconds", [0.0, -1.0, 3601.0, float("inf"), float("nan")])
def test_a_block_says_how_long_and_no_longer_than_an_hour(seconds):
    with (
        pytest.raises(ValueError, match="more than 0, at most 3600"),
        Chaos(Delay(1, rate=1)).unleashed(seconds=seconds),
    ):
        pass
