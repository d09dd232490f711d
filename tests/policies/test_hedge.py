"""Hedging: when a second attempt is sent, which one wins, and what becomes of the other."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import anyio
import pytest

from resilient.call import Call
from resilient.context import current_call, current_runtime, options
from resilient.errors import ConcurrencyExceeded, DeadlineExceeded, OutcomeUnknown
from resilient.events import Event, HedgeStarted
from resilient.pipeline import Pipeline
from resilient.policies.base import OwnPolicy
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.hedge import Hedge
from resilient.policies.honoured import Honoured
from resilient.policies.retry import Backoff, Retry, RetryBudget
from resilient.policies.timeout import Timeout
from resilient.testing import virtual_time
from resilient.verdict import Classifier, Verdict, classify_function


class Server:
    """Answers each attempt as it is told to: after so many seconds, with a value or an error."""

    def __init__(self, *answers: tuple[float, Any]) -> None:
        self.answers = list(answers)
        self.began: list[float] = []
        self.cancelled: list[tuple[int, float]] = []
        self.calls: list[Call] = []

    async def serve(self) -> Any:
        call = current_call()
        assert call is not None
        self.calls.append(call)
        self.began.append(current_runtime().now())
        number = len(self.began)
        seconds, answer = self.answers[number - 1]
        try:
            await anyio.sleep(seconds)
        except anyio.get_cancelled_exc_class():
            self.cancelled.append((number, current_runtime().now()))
            raise
        if isinstance(answer, BaseException):
            raise answer
        return answer


def run(server: Server, *policies: OwnPolicy, backend: str, idempotent: bool = True, **arguments: Any) -> Any:
    """What comes of a call, and when."""
    pipeline = Pipeline(*policies, classify=arguments.pop("classify", None))

    async def main() -> tuple[Any, float]:
        outcome: Any
        with options(idempotent=idempotent):
            try:
                outcome = await pipeline.run(server.serve)
            except Exception as error:
                outcome = error
        return outcome, current_runtime().now()

    return virtual_time.run(main, backend=backend, **arguments)


def test_a_fast_answer_needs_no_second_attempt(backend):
    server = Server((0.5, "first"))
    assert run(server, Hedge(1.0), backend=backend) == ("first", 0.5)
    assert server.began == [0.0]


def test_a_slow_one_is_sent_again_and_the_first_success_wins(backend):
    server = Server((10.0, "first"), (0.5, "second"))
    assert run(server, Hedge(1.0), backend=backend) == ("second", 1.5)
    assert server.began == [0.0, 1.0]
    assert server.cancelled == [(1, 1.5)]


def test_the_first_attempt_may_still_win(backend):
    server = Server((1.5, "first"), (5.0, "second"))
    assert run(server, Hedge(1.0), backend=backend) == ("first", 1.5)
    assert server.cancelled == [(2, 1.5)]


def test_a_fast_failure_does_not_beat_a_slow_success(backend):
    server = Server((3.0, "first"), (0.1, KeyError()))
    assert run(server, Hedge(1.0), backend=backend) == ("first", 3.0)
    server = Server((1.5, KeyError()), (5.0, "second"))
    assert run(server, Hedge(1.0), backend=backend) == ("second", 6.0)


def test_what_fails_before_the_delay_is_left_to_retry(backend):
    error = ConnectionResetError()
    server = Server((0.5, error))
    assert run(server, Hedge(1.0), backend=backend) == (error, 0.5)
    assert server.began == [0.0]


def test_only_repeatable_calls_are_hedged(backend):
    server = Server((10.0, "first"))
    assert run(server, Hedge(1.0), backend=backend, idempotent=False) == ("first", 10.0)
    assert server.began == [0.0]


def test_as_many_as_allowed_each_after_another_delay(backend):
    server = Server((10.0, "first"), (10.0, "second"), (0.5, "third"))
    assert run(server, Hedge(1.0, max_hedges=2), backend=backend) == ("third", 2.5)
    assert server.began == [0.0, 1.0, 2.0]
    assert sorted(server.cancelled) == [(1, 2.5), (2, 2.5)]


def test_no_more_are_started_once_one_has_ended(backend):
    server = Server((1.5, KeyError()), (2.0, "second"))
    assert run(server, Hedge(1.0, max_hedges=5), backend=backend) == ("second", 3.0)
    assert len(server.began) == 2


@pytest.mark.parametrize(
    ("first", "second", "surfaces"),
    [
        (ConnectionResetError(), ConnectionRefusedError(), 0),
        (ConnectionRefusedError(), ConnectionResetError(), 1),
        (ConnectionResetError(), ConcurrencyExceeded(), 0),
        (ConnectionRefusedError(), ConcurrencyExceeded(), 1),  # neither had an effect: the later one
    ],
)
def test_when_all_fail_the_attempt_that_may_have_had_an_effect_surfaces(backend, first, second, surfaces):
    server = Server((2.0, first), (2.0, second))
    assert run(server, Hedge(1.0), backend=backend) == ((first, second)[surfaces], 3.0)


def test_all_attempts_carry_the_same_key_and_numbers_of_their_own(backend):
    server = Server((10.0, "first"), (0.5, "second"))
    assert run(server, Honoured(), Hedge(1.0), backend=backend, idempotent=False) == ("second", 1.5)
    keys = {call.idempotency_key for call in server.calls}
    assert len(keys) == 1
    assert None not in keys
    assert [call.attempt for call in server.calls] == [1, 2]


def test_hedges_are_paid_from_the_budget_of_the_retries(backend):
    empty = RetryBudget(ratio=0.0, floor=0.0)
    server = Server((3.0, "first"))
    assert run(server, Retry(budget=empty), Hedge(1.0), backend=backend) == ("first", 3.0)
    assert server.began == [0.0]
    one = RetryBudget(ratio=1.0, floor=0.0)
    server = Server((2.0, KeyError()), (2.0, KeyError()))
    outcome, _ = run(server, Retry(budget=one, backoff=Backoff(base=0)), Hedge(1.0), backend=backend)
    assert outcome.__notes__ == ["resilient: not tried again: after attempt 1 the retry budget was empty"]


def test_the_deadline_ends_all_attempts(backend):
    server = Server((10.0, "first"), (10.0, "second"))
    outcome, now = run(server, Timeout(3.0), Hedge(1.0), backend=backend)
    assert isinstance(outcome, DeadlineExceeded)
    assert now == 3.0
    assert sorted(server.cancelled) == [(1, 3.0), (2, 3.0)]


def test_a_hang_is_the_instances_fault_and_a_lost_race_is_nobodys(backend):
    breaker = CircuitBreaker(minimum_calls=1)
    server = Server((10.0, "first"), (0.5, "second"))
    assert run(server, Hedge(1.0), breaker, backend=backend) == ("second", 1.5)
    assert breaker.state.value == "closed"
    server = Server((10.0, "first"), (10.0, "second"))
    run(server, Hedge(1.0), breaker, Timeout(2.0), backend=backend)
    assert breaker.state.value == "open"


def test_the_losers_have_left_before_the_call_returns(backend):
    bulkhead = Bulkhead(2)
    left: list[float] = []

    async def slow_to_leave() -> str:
        call = current_call()
        assert call is not None
        try:
            await anyio.sleep(10 if call.attempt == 1 else 0.5)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.25)
            left.append(current_runtime().now())
        return f"attempt {call.attempt}"

    async def main():
        with options(idempotent=True):
            assert await Pipeline(Hedge(1.0), bulkhead).run(slow_to_leave) == "attempt 2"
        assert bulkhead.in_flight == 0
        return current_runtime().now()

    assert virtual_time.run(main, backend=backend) == 2.0
    assert left == [1.75, 2.0]


class Opened:
    def __init__(self, verdict: Verdict = Verdict.OK) -> None:
        self.verdict = verdict
        self.closed_at: float | None = None


def closing(seconds: float = 0.0) -> Classifier:
    async def close(opened: Opened) -> bool:
        try:
            await anyio.sleep(seconds)
        finally:
            opened.closed_at = current_runtime().now()
        return True

    return Classifier(error=classify_function.error, result=lambda opened: opened.verdict, discard=close)


def test_what_a_loser_answered_is_closed(backend):
    first, second = Opened(Verdict.FAILED), Opened()
    server = Server((1.5, first), (1.0, second))
    assert run(server, Hedge(1.0), backend=backend, classify=closing()) == (second, 2.0)
    assert (first.closed_at, second.closed_at) == (2.0, None)


def test_of_two_successes_at_one_instant_one_is_returned_and_the_other_closed(backend):
    first, second = Opened(), Opened()
    server = Server((2.0, first), (1.0, second))
    winner, _ = run(server, Hedge(1.0), backend=backend, classify=closing())
    loser = second if winner is first else first
    assert winner in {first, second}
    assert winner.closed_at is None
    # A task that was only about to return may have been cancelled instead; what it returned is never left open.
    assert loser.closed_at == 2.0 or server.cancelled


def test_closing_a_loser_takes_a_second_at_most(backend):
    server = Server((1.5, Opened(Verdict.FAILED)), (1.0, Opened()))
    assert run(server, Hedge(1.0), backend=backend, classify=closing(100.0))[1] == 3.0


def test_a_scope_that_is_cancelled_waits_until_the_losers_are_closed(backend):
    closed: list[float] = []

    async def close(_: object) -> bool:
        await anyio.sleep(0.5)
        closed.append(current_runtime().now())
        return False

    async def main():
        classify = Classifier(error=classify_function.error, result=lambda opened: opened.verdict, discard=close)
        server = Server((1.5, Opened(Verdict.FAILED)), (1.0, Opened()))
        with options(idempotent=True), anyio.move_on_after(2.25):
            await Pipeline(Hedge(1.0), classify=classify).run(server.serve)
        assert closed == [2.5]

    virtual_time.run(main, backend=backend)


def test_an_answer_that_nobody_is_left_to_take_is_closed(backend):
    """The caller goes in the very moment between the success and its return: while a loser is being closed."""
    first, second = Opened(Verdict.FAILED), Opened()
    server = Server((1.5, first), (1.0, second))

    async def main():
        with options(idempotent=True):
            task = Pipeline(Hedge(1.0), classify=closing(0.5)).run(server.serve)
            if backend == "asyncio":  # a native cancellation pierces the shield around the closing
                native = asyncio.ensure_future(task)
                asyncio.get_running_loop().call_later(2.25, native.cancel)
                await asyncio.wait([native])
                assert native.cancelled()
            else:
                with anyio.move_on_after(2.25) as scope:
                    await task
                    await anyio.lowlevel.checkpoint()
                assert scope.cancelled_caught

    virtual_time.run(main, backend=backend)
    assert first.closed_at is not None
    if backend == "asyncio":
        assert second.closed_at is not None


@pytest.mark.parametrize("who", [1, 2])
def test_an_interpreter_that_goes_down_is_not_hidden_in_a_group(backend, who):
    """Not even in asyncio's way, out of the loop past whoever awaits the task: the caller sees it as its own."""
    cancelled: list[tuple[int, float]] = []

    async def exits() -> None:
        call = current_call()
        assert call is not None
        if call.attempt == who:
            await anyio.sleep(0.5)
            raise SystemExit(3)
        try:
            await anyio.sleep(100)
        finally:
            cancelled.append((call.attempt, current_runtime().now()))

    async def main():
        with options(idempotent=True), pytest.raises(SystemExit) as caught:
            await Pipeline(Hedge(0.25)).run(exits)
        assert caught.value.code == 3

    virtual_time.run(main, backend=backend)
    assert cancelled == [(2, 0.5)] if who == 1 else [(1, 0.75)]


def test_a_request_that_can_be_sent_only_once_is_not_hedged(backend):
    once = Classifier(error=classify_function.error, spent=lambda request: "its body was read")
    server = Server((3.0, "first"))
    assert run(server, Hedge(1.0), backend=backend, classify=once) == ("first", 3.0)
    assert server.began == [0.0]


def test_each_second_attempt_is_an_event(backend):
    events: list[Event] = []
    server = Server((10.0, "first"), (10.0, "second"), (0.5, "third"))
    run(server, Hedge(1.0, max_hedges=2), backend=backend, emit=events.append)
    assert [(event.at, event.attempt) for event in events if isinstance(event, HedgeStarted)] == [(1.0, 2), (2.0, 3)]


def test_retries_are_of_whole_races(backend):
    server = Server((2.0, OutcomeUnknown()), (2.0, KeyError()), (0.5, "third"))
    retry = Retry(on=(KeyError, OutcomeUnknown), backoff=Backoff(base=0))
    assert run(server, retry, Hedge(1.0), backend=backend) == ("third", 3.5)


def test_many_calls_at_once_are_races_of_their_own(backend):
    hedge = Hedge(1.0)

    async def main():
        async def one(number: int, results: list[Any]) -> None:
            server = Server((10.0, "slow"), (number / 100, number))
            with options(idempotent=True):
                results.append(await Pipeline(hedge).run(server.serve))

        results: list[Any] = []
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(one, number, results)
        assert sorted(results) == list(range(50))

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"delay": 0}, "delay=0: a finite number of seconds, more than 0"),
        ({"delay": math.inf}, "delay=inf"),
        ({"delay": math.nan}, "delay=nan"),
        ({"delay": 1.0, "max_hedges": 0}, "max_hedges=0: extra attempts a call, at least 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Hedge(**arguments)
