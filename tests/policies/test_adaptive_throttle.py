"""Adaptive throttling: the share that is rejected here follows the share that is refused there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import anyio
import httpx
import pytest

from resilient.call import Priority
from resilient.context import current_call, current_runtime, options, use_runtime
from resilient.errors import Overloaded
from resilient.events import CallRejected, Event
from resilient.http import classify_http
from resilient.pipeline import Pipeline
from resilient.policies.adaptive_throttle import AdaptiveThrottle
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.runtime import Runtime
from resilient.testing import virtual_time
from resilient.testing.cancellation import for_each_cancellation
from resilient.verdict import Classifier, Verdict, classify_function
from tests.policies.breakers import CLOSED, outcome_of, outcomes_of

Ask = Callable[[], Awaitable[httpx.Response]]


class Server:
    """Answers as many requests a second as it can, and turns the rest away."""

    def __init__(self, capacity: float, refusal: int = 503) -> None:
        self.capacity = capacity
        self.refusal = refusal
        self._second = -1
        self._received = 0

    async def __call__(self) -> httpx.Response:
        second = int(current_runtime().now())
        if second != self._second:
            self._second, self._received = second, 0
        self._received += 1
        return httpx.Response(200 if self._received <= self.capacity else self.refusal)


async def load(ask: Ask, seconds: int, a_second: int = 50) -> Counter[object]:
    """Call at a steady rate; what became of the calls: their status, or "rejected"."""
    outcomes: Counter[object] = Counter()
    for _ in range(seconds * a_second):
        try:
            outcomes[(await ask()).status_code] += 1
        except Overloaded:
            outcomes["rejected"] += 1
        await anyio.sleep(1 / a_second)
    return outcomes


async def respond(status: int) -> httpx.Response:
    return httpx.Response(status)


def throttled(throttle: AdaptiveThrottle, server: Server) -> Ask:
    return Pipeline(throttle, classify=classify_http)(server)


def refuse_often(throttle: AdaptiveThrottle, times: int = 20) -> float:
    """Have that many calls refused by the far side; return the share of calls that is rejected then."""
    for _ in range(times):
        throttle._machines[Priority.CRITICAL].refused(current_runtime().now())
    return throttle.probability(current_runtime().now())


# It follows


@pytest.mark.parametrize(("k", "capacity", "refusal"), [(2.0, 5, 503), (2.0, 10, 429), (1.25, 10, 503)])
def test_about_k_times_what_the_far_side_accepts_is_sent(backend, k, capacity, refusal):
    async def main():
        ask = throttled(AdaptiveThrottle(k=k, window=10.0), Server(capacity, refusal))
        await load(ask, 20)
        outcomes = await load(ask, 40)
        accepted, sent = outcomes[200], outcomes[200] + outcomes[refusal]
        assert accepted == pytest.approx(40 * capacity, rel=0.15)
        assert sent == pytest.approx(k * accepted, rel=0.2)  # and the one a second that always goes through
        assert outcomes["rejected"] == 2000 - sent

    virtual_time.run(main, backend=backend)


def test_while_everything_is_refused_about_one_call_a_second_is_sent(backend):
    async def main():
        ask = throttled(AdaptiveThrottle(window=10.0), Server(0))
        await load(ask, 10)
        outcomes = await load(ask, 30)
        assert 30 <= outcomes[503] <= 35

    virtual_time.run(main, backend=backend)


def test_it_recovers_with_the_far_side(backend):
    async def main():
        throttle, server = AdaptiveThrottle(window=10.0), Server(0)
        ask = throttled(throttle, server)
        await load(ask, 20)
        assert throttle.probability(current_runtime().now()) > 0.99
        server.capacity = 1000
        await load(ask, 30)
        assert throttle.probability(current_runtime().now()) == 0.0
        assert await load(ask, 10) == {200: 500}

    virtual_time.run(main, backend=backend)


def test_the_seed_decides_who_is_rejected(backend):
    async def main() -> list[str]:
        guarded = Pipeline(AdaptiveThrottle(), classify=classify_http)(respond)
        await guarded(200)
        statuses = [503, 200, 503, 503] * 25
        return [outcome if isinstance(outcome := await outcome_of(guarded, status), str) else "" for status in statuses]

    runs = [virtual_time.run(main, backend=backend, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert all({"Overloaded", ""} == set(run) for run in runs)


def test_each_priority_is_throttled_by_what_is_refused_of_it(backend):
    async def serve() -> httpx.Response:
        call = current_call()
        return httpx.Response(503 if call is not None and call.priority is Priority.SHEDDABLE else 200)

    async def main():
        throttle = AdaptiveThrottle()
        ask = Pipeline(throttle, classify=classify_http)(serve)
        for priority in Priority:
            with options(priority=priority):
                outcomes = await load(ask, 20)
            now = current_runtime().now()
            if priority is Priority.SHEDDABLE:
                assert outcomes["rejected"] > 900
                assert throttle.probability(now, priority) > 0.95
            else:
                assert outcomes == {200: 1000}
                assert throttle.probability(now, priority) == 0.0

    virtual_time.run(main, backend=backend)


# What counts, and what does not


def test_without_refusals_nothing_is_rejected(backend):
    async def main():
        throttle = AdaptiveThrottle(k=1.0)

        async def slow(status: int) -> int:
            await anyio.sleep(60.0)
            return (await Pipeline(throttle, classify=classify_http).run(respond, status)).status_code

        assert await outcomes_of(500, slow, 200) == {200: 500}
        assert await outcomes_of(500, slow, 404) == {404: 500}
        assert throttle.probability(current_runtime().now()) == 0.0

    virtual_time.run(main, backend=backend)


def test_calls_in_flight_are_no_refusals(backend):
    async def main():
        throttle = AdaptiveThrottle(k=1.0)

        async def hang() -> str:
            await anyio.sleep(60.0)
            return "an answer"

        assert await outcomes_of(500, Pipeline(throttle)(hang)) == {"an answer": 500}

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("status", [400, 404, 408, 500, 502])
def test_an_error_of_the_application_is_an_accept(backend, status):
    async def main():
        throttle = AdaptiveThrottle(k=1.0)
        guarded = Pipeline(throttle, classify=classify_http)(respond)
        for _ in range(100):
            assert (await guarded(status)).status_code == status
        assert throttle.probability(current_runtime().now()) == 0.0

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("error", [OSError, httpx.ReadTimeout])
def test_an_exception_is_an_accept_unless_it_is_a_refusal(backend, error):
    class TurnedAway(Exception):
        pass

    def judge(caught: BaseException) -> Verdict:
        return Verdict.REFUSED if isinstance(caught, TurnedAway) else classify_function.error(caught)

    async def fail(kind: type[Exception]) -> str:
        raise kind("no answer")

    async def main():
        throttle = AdaptiveThrottle(k=1.0)
        guarded = Pipeline(throttle, classify=Classifier(error=judge))(fail)
        assert await outcomes_of(100, guarded, error) == {error.__name__: 100}
        assert throttle.probability(current_runtime().now()) == 0.0
        outcomes = await outcomes_of(300, guarded, TurnedAway)
        assert outcomes["TurnedAway"] + outcomes["Overloaded"] == 300
        assert throttle.probability(current_runtime().now()) > 0.5

    virtual_time.run(main, backend=backend)


def test_rejections_of_our_own_below_and_cancellations_change_nothing(backend):
    async def hang() -> None:
        await anyio.sleep(60.0)

    async def main():
        throttle, full, broken = AdaptiveThrottle(k=1.0), Bulkhead(1), CircuitBreaker()
        broken.isolate()
        for times in (0, 1):  # without any refusal, and with one
            before = refuse_often(throttle, times)
            async with full:
                for policy in (full, broken):
                    # One goes through each second, whatever the odds.
                    assert set(await outcomes_of(1, Pipeline(throttle, policy)(hang))) <= {
                        "ConcurrencyExceeded",
                        "CircuitOpen",
                    }
                    await anyio.sleep(1.0)
            with anyio.move_on_after(1.0):
                await Pipeline(throttle).run(hang)
            assert throttle.probability(current_runtime().now()) == before

    virtual_time.run(main, backend=backend)


def test_wherever_a_call_is_cancelled_it_counts_at_most_once(backend):
    async def scenario(throttle: AdaptiveThrottle) -> None:
        for _ in range(3):
            await Pipeline(throttle).run(anyio.sleep, 1.0)

    def check(throttle: AdaptiveThrottle) -> None:
        requests, accepts = throttle._machines[Priority.CRITICAL].window.totals(current_runtime().now())
        began = int(current_runtime().now())
        assert requests == accepts
        assert accepts in (began - 1, began)  # one may be cancelled as it ends

    assert for_each_cancellation(AdaptiveThrottle, scenario=scenario, check=check, backend=backend) > 3


# What it tells


def test_a_rejection_is_fresh_an_event_and_nobody_elses_failure(backend):
    events: list[Event] = []

    async def main():
        throttle = AdaptiveThrottle()
        breaker = CircuitBreaker(consecutive_failures=1)
        assert refuse_often(throttle, 10_000) > 0.999
        guarded = Pipeline(breaker, throttle, classify=classify_http)(respond)
        await guarded(200)  # the one a second
        caught = []
        for _ in range(3):
            with pytest.raises(Overloaded, match=r"^respond: not sent, the far side refuses most calls$") as rejected:
                await guarded(200)
            assert rejected.value.policy is throttle
            assert rejected.value.retry_after is None
            caught.append(rejected.value)
        assert len(set(caught)) == 3
        assert breaker.state is CLOSED

    virtual_time.run(main, backend=backend, emit=events.append)
    assert events == [CallRejected(at=0.0, name="respond", policy="AdaptiveThrottle", retry_after=None)] * 3


# Plain functions and threads


def test_plain_functions_are_throttled_without_an_event_loop():
    with use_runtime(virtual_time.runtime()):
        guarded = Pipeline(AdaptiveThrottle(), classify=classify_http)(httpx.Response)
        sent = 0
        for _ in range(1000):
            try:
                guarded(429)
            except Overloaded:
                current_runtime().pause(0.01)
            else:
                sent += 1
        assert sent < 50


def test_threads_lose_no_count(restless):
    throttle = AdaptiveThrottle(k=1000.0)
    guarded = Pipeline(throttle, classify=classify_http, runtime=Runtime(now=lambda: 0.0))(httpx.Response)

    guarded(200)

    def call_often(number: int) -> None:
        for _ in range(100):
            guarded(503 if number % 4 == 0 else 200)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(call_often, range(16)))
    assert throttle._machines[Priority.CRITICAL].window.totals(0.0) == [1601, 1201]


def test_by_default_nothing_is_rejected_a_dozen_seconds_after_the_last_refusal():
    throttle = AdaptiveThrottle()
    for _ in range(100):
        throttle._machines[Priority.CRITICAL].refused(0.0)
    assert throttle.probability(5.0) > 0.9
    assert throttle.probability(12.0) == 0.0


# Arguments


@pytest.mark.parametrize(
    ("argument", "value"),
    [*(("k", value) for value in (0.99, 0.0, float("inf"), float("nan"))), ("window", 0.0), ("window", float("inf"))],
)
def test_an_argument_out_of_its_range_is_refused_by_name(argument, value):
    with pytest.raises(ValueError, match=f"^{argument}={value}: "):
        AdaptiveThrottle(**{argument: value})
