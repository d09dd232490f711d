"""Retries: what is repeated, when it stops, and what surfaces."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import math
import pickle
import weakref
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import tenacity

from resilient.call import Call, Next
from resilient.context import current_call, current_runtime, options, serving, use_runtime
from resilient.errors import (
    CircuitOpen,
    ConcurrencyExceeded,
    DeadlineExceeded,
    OutcomeUnknown,
    RateLimited,
)
from resilient.pipeline import Pipeline
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.honoured import Honoured
from resilient.policies.retry import Backoff, Retry, RetryBudget
from resilient.policies.timeout import Timeout
from resilient.testing import virtual_time
from resilient.verdict import Classifier, Verdict, classify_function
from resilient.waiting import drive

AT_ONCE = Backoff(base=0)


class Failing:
    """A function that fails with one exception after the other, and then answers."""

    def __init__(self, *errors: BaseException, answer: Any = "answer") -> None:
        self.errors = list(errors)
        self.answer = answer
        self.calls: list[Call] = []
        self.times: list[float] = []

    def now(self) -> Any:
        call = current_call()
        assert call is not None
        self.calls.append(call)
        self.times.append(current_runtime().now())
        if self.errors:
            raise self.errors.pop(0)
        return self.answer

    async def soon(self) -> Any:
        return self.now()


def many(error: type[BaseException], times: int = 100) -> Failing:
    return Failing(*(error() for _ in range(times)))


def notes_of(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", []))


# What is repeated


@pytest.mark.parametrize(
    ("error", "repeatable", "attempts"),
    [
        (ConnectionRefusedError, None, 3),  # it certainly did not run
        (ConnectionResetError, None, 1),  # it may have run
        (ConnectionResetError, False, 1),
        (ConnectionResetError, True, 3),
        (KeyError, True, 3),
        (RateLimited, True, 1),  # a rejection of our own
        (CircuitOpen, True, 1),
    ],
)
def test_by_default_the_verdict_decides(backend, error, repeatable, attempts):
    work = many(error)

    async def main():
        with options(idempotent=repeatable), pytest.raises(error):
            await Pipeline(Retry(backoff=AT_ONCE)).run(work.soon)

    virtual_time.run(main, backend=backend)
    assert len(work.times) == attempts


@pytest.mark.parametrize(
    ("on", "error", "attempts"),
    [
        (OSError, ConnectionResetError, 3),
        (OSError, KeyError, 1),
        ((KeyError, OSError), KeyError, 3),
        ((), OSError, 1),
        (KeyError, ConnectionRefusedError, 1),  # only what is named
        (lambda outcome: isinstance(outcome, KeyError), KeyError, 3),
        (lambda outcome: isinstance(outcome, KeyError), OSError, 1),
        (Exception, CircuitOpen, 1),  # a rejection of our own never
        (Exception, ConcurrencyExceeded, 1),
    ],
)
def test_on_declares_for_a_function_what_it_may_run_again_after(on, error, attempts):
    work = many(error)
    with pytest.raises(error):
        Pipeline(Retry(on=on, backoff=AT_ONCE)).call(work.now)
    assert len(work.times) == attempts


def test_on_declares_nothing_for_a_protocol_that_knows_better():
    strict = dataclasses.replace(classify_function, on_declares=False)
    for error, repeatable, attempts in (
        (ConnectionResetError, None, 1),
        (ConnectionResetError, True, 3),
        (ConnectionRefusedError, None, 3),
    ):
        work = many(error)
        with options(idempotent=repeatable), pytest.raises(error):
            Pipeline(Retry(on=OSError, backoff=AT_ONCE), classify=strict).call(work.now)
        assert len(work.times) == attempts


def test_a_call_that_was_declared_to_run_only_once_runs_once_whatever_on_says():
    work = many(ConnectionResetError)
    with options(idempotent=False), pytest.raises(ConnectionResetError):
        Pipeline(Retry(on=OSError, backoff=AT_ONCE)).call(work.now)
    assert len(work.times) == 1


def test_a_predicate_may_want_a_result_tried_again(backend):
    results = iter([None, None, "ready"])

    async def poll() -> str | None:
        return next(results)

    async def main():
        assert await Pipeline(Retry(on=lambda outcome: outcome is None, backoff=AT_ONCE)).run(poll) == "ready"

    virtual_time.run(main, backend=backend)


def test_a_predicate_may_be_asynchronous(backend):
    work = many(KeyError)

    async def wants(outcome: object) -> bool:
        await anyio.sleep(1)
        return isinstance(outcome, KeyError) and len(work.times) < 2

    async def main():
        with pytest.raises(KeyError):
            await Pipeline(Retry(on=wants, backoff=AT_ONCE)).run(work.soon)
        return current_runtime().now()

    assert virtual_time.run(main, backend=backend) == 2.0
    assert len(work.times) == 2


def test_a_result_that_is_still_bad_in_the_end_is_returned():
    assert Pipeline(Retry(on=lambda outcome: outcome is None, attempts=2)).call(lambda: None) is None


def test_the_verdict_on_a_result_counts_too():
    judging = Classifier(
        error=classify_function.error, result=lambda value: Verdict.REFUSED if value < 3 else Verdict.OK
    )
    values = iter(range(10))
    assert Pipeline(Retry(backoff=AT_ONCE, attempts=9), classify=judging).call(lambda: next(values)) == 3


def test_a_cancellation_is_never_repeated_and_no_predicate_sees_it(backend):
    asked: list[object] = []

    def always(outcome: object) -> bool:
        asked.append(outcome)
        return True

    async def main():
        with anyio.move_on_after(1) as scope:
            await Pipeline(Retry(on=always)).run(anyio.sleep, 10)
        assert scope.cancelled_caught

    virtual_time.run(main, backend=backend)
    assert asked == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
def test_what_is_no_exception_passes_at_once(error):
    work = many(error)
    with pytest.raises(error):
        Pipeline(Retry(on=lambda outcome: True)).call(work.now)
    assert len(work.times) == 1


# When, and how often


def test_the_wait_is_a_backoff_with_full_jitter(backend):
    work = many(KeyError)

    async def main():
        with pytest.raises(KeyError):
            await Pipeline(Retry(on=KeyError, attempts=8, backoff=Backoff(base=1.0, cap=5.0), budget=None)).run(
                work.soon
            )

    virtual_time.run(main, backend=backend, seed=1)
    waits = [later - earlier for earlier, later in zip(work.times, work.times[1:], strict=False)]
    assert all(0 <= wait <= ceiling for wait, ceiling in zip(waits, [1, 2, 4, 5, 5, 5, 5], strict=True))
    assert max(waits) > 1.0
    virtual_time.run(main, backend=backend, seed=1)
    assert work.times[8:] == work.times[:8]


def test_what_the_far_side_asks_for_is_a_lower_bound_jittered_and_capped():
    class Busy(Exception):
        def __init__(self, retry_after: Any) -> None:
            self.retry_after = retry_after

    def waits(hint: Any, seed: int) -> float:
        with use_runtime(virtual_time.runtime(seed)):
            work = Failing(Busy(hint))
            Pipeline(Retry(on=Busy, backoff=Backoff(base=0.1))).call(work.now)
            return work.times[1]

    for seed in range(20):
        assert 2.0 <= waits(2.0, seed) <= 2.2
        assert 60.0 <= waits(86_400.0, seed) <= 66.0
        assert 60.0 <= waits(math.inf, seed) <= 66.0
        for nonsense in (0, -3, math.nan, None, "soon"):
            assert waits(nonsense, seed) <= 0.1
    assert len({waits(2.0, seed) for seed in range(20)}) == 20
    assert max(waits(0.01, seed) for seed in range(20)) > 0.02  # our own wait was longer


def test_attempts_of_one_never_repeat_and_do_not_keep_an_outer_retry_from_it():
    work = many(KeyError)
    with pytest.raises(KeyError) as caught:
        Pipeline(Retry(on=KeyError, backoff=AT_ONCE), Retry(on=KeyError, attempts=1)).call(work.now)
    assert len(work.times) == 3
    assert notes_of(caught.value) == ["resilient: not tried again: all 3 attempts were made"]


def test_it_gives_up_at_once_when_the_wait_would_reach_the_deadline(backend):
    work = many(KeyError)

    async def main():
        with pytest.raises(KeyError) as caught:
            await Pipeline(Timeout(2.0), Retry(on=KeyError, attempts=9, backoff=lambda state: 0.75)).run(work.soon)
        assert current_runtime().now() == 1.5
        assert notes_of(caught.value) == [
            "resilient: not tried again: after attempt 3 the deadline left no time for another"
        ]

    virtual_time.run(main, backend=backend)
    assert work.times == [0.0, 0.75, 1.5]


def test_a_negative_wait_is_none():
    work = Failing(KeyError())
    with use_runtime(virtual_time.runtime()):
        assert Pipeline(Retry(on=KeyError, backoff=lambda state: -1.0)).call(work.now) == "answer"


def test_what_cannot_be_made_again_is_not(backend):
    once = dataclasses.replace(classify_function, spent=lambda request: "its body was read")
    work = many(KeyError)
    with pytest.raises(KeyError) as caught:
        Pipeline(Retry(on=KeyError), classify=once).call(work.now)
    assert notes_of(caught.value) == ["resilient: not tried again: after attempt 1, because its body was read"]


# The budget


def test_an_empty_budget_means_fail_now(backend):
    budget = RetryBudget(ratio=0.0, floor=0.1, ttl=10.0)  # one
    work = many(KeyError)

    async def main():
        pipeline = Pipeline(Retry(on=KeyError, attempts=9, budget=budget))
        with pytest.raises(KeyError) as caught:
            await pipeline.run(work.soon)
        assert notes_of(caught.value) == ["resilient: not tried again: after attempt 2 the retry budget was empty"]
        with pytest.raises(KeyError):
            await pipeline.run(work.soon)

    virtual_time.run(main, backend=backend)
    assert len(work.times) == 3


def test_a_call_deposits_once_and_nothing_is_withdrawn_for_what_is_not_made():
    budget = RetryBudget(ratio=1.0, floor=0.0, ttl=10.0)
    with use_runtime(virtual_time.runtime()):
        retry = Pipeline(Retry(on=KeyError, attempts=3, backoff=AT_ONCE, budget=budget))
        assert retry.call(Failing().now) == "answer"
        assert budget.balance(0.0) == 1.0
        assert retry.call(Failing(KeyError()).now) == "answer"
        assert budget.balance(0.0) == 1.0
        with pytest.raises(ConnectionResetError):
            retry.call(Failing(ConnectionResetError()).now)
        assert budget.balance(0.0) == 2.0
        nested = Pipeline(Retry(on=KeyError, budget=budget), Retry(on=KeyError, budget=RetryBudget()))
        assert nested.call(Failing().now) == "answer"
        assert budget.balance(0.0) == 3.0
        with serving(deadline=0.01), pytest.raises(KeyError):
            Pipeline(Retry(on=KeyError, backoff=lambda state: 1.0, budget=budget)).call(many(KeyError).now)
        assert budget.balance(0.0) == 4.0


def test_under_a_destination_the_destinations_budget_pays():
    own, destination = RetryBudget(floor=100.0), RetryBudget(ratio=0.0, floor=0.0)
    work = many(KeyError)

    async def with_destination(call: Call, nxt: Next[Any]) -> Any:
        call.budget = destination
        return await nxt(call)

    for budget in (own, None):
        with pytest.raises(KeyError) as caught:
            Pipeline(with_destination, Retry(on=KeyError, budget=budget)).call(work.now)
        assert notes_of(caught.value) == ["resilient: not tried again: after attempt 1 the retry budget was empty"]


def test_without_any_budget_nothing_bounds_the_retries_but_their_number():
    work = many(KeyError)
    with pytest.raises(KeyError):
        Pipeline(Retry(on=KeyError, attempts=50, backoff=AT_ONCE, budget=None)).call(work.now)
    assert len(work.times) == 50


# What surfaces


def test_the_callers_own_exception_surfaces_with_a_note_of_what_was_tried(backend):
    last = KeyError("last")
    work = Failing(KeyError("first"), KeyError("second"), last)

    async def main():
        with pytest.raises(KeyError) as caught:
            await Pipeline(Retry(on=KeyError, backoff=AT_ONCE)).run(work.soon)
        assert caught.value is last
        assert notes_of(last) == ["resilient: not tried again: all 3 attempts were made"]
        assert last.__context__ is None

    virtual_time.run(main, backend=backend)


def test_an_error_that_is_not_for_repeating_has_no_note():
    with pytest.raises(ZeroDivisionError) as caught:
        Pipeline(Retry(on=KeyError)).call(many(ZeroDivisionError).now)
    assert notes_of(caught.value) == []


def test_an_ambiguous_attempt_followed_by_an_open_circuit_surfaces_as_ambiguous(backend):
    """`CircuitOpen` would tell an outer layer that nothing happened."""
    breaker = CircuitBreaker(minimum_calls=1)
    work = many(ConnectionResetError)

    async def main():
        with pytest.raises(ConnectionResetError) as caught:
            await Pipeline(Retry(on=OSError, backoff=AT_ONCE), breaker).run(work.soon)
        assert len(notes_of(caught.value)) == 1
        assert notes_of(caught.value)[0].startswith("resilient: a later attempt had no effect: CircuitOpen(")
        assert classify_function.error(caught.value) is Verdict.FAILED

    virtual_time.run(main, backend=backend)
    assert len(work.times) == 1


def test_an_attempt_of_no_effect_never_replaces_one_of_unknown_effect_and_one_that_is_done_does():
    reset, refused, again = ConnectionResetError(), ConnectionRefusedError(), ConnectionResetError()
    for errors, surfaces in (
        ([refused, reset], reset),
        ([reset, refused], reset),
        ([reset, again], again),
        ([reset, refused, again], again),
        ([refused, reset, refused], reset),
    ):
        with pytest.raises(ConnectionError) as caught:
            Pipeline(Retry(on=OSError, attempts=len(errors), backoff=AT_ONCE)).call(Failing(*errors).now)
        assert caught.value is surfaces
    assert Pipeline(Retry(on=OSError, backoff=AT_ONCE)).call(Failing(reset, refused).now) == "answer"


def test_a_late_deadline_does_not_hide_the_attempt_that_may_have_run(backend):
    work = many(ConnectionResetError)

    async def sleeps_first(call: Call, nxt: Next[Any]) -> Any:
        if call.attempt == 2:
            await anyio.sleep(5)
        return await nxt(call)

    async def main():
        with serving(deadline=3.0), pytest.raises(ConnectionResetError):
            await Pipeline(Retry(on=OSError, backoff=AT_ONCE), sleeps_first).run(work.soon)

    virtual_time.run(main, backend=backend)
    assert len(work.times) == 1


class Opened:
    """A result that has to be closed, and of which not every kind can be read afterwards."""

    def __init__(self, verdict: Verdict, *, readable: bool = True) -> None:
        self.verdict = verdict
        self.readable = readable
        self.closed = 0


async def _close(opened: Opened) -> bool:
    opened.closed += 1
    return opened.readable


JUDGING = Classifier(
    error=classify_function.error, result=lambda opened: opened.verdict, on_declares=False, discard=_close
)


def outcome_of(*opened: Opened) -> Any:
    results = iter(opened)
    with options(idempotent=True):
        retry = Pipeline(Retry(attempts=len(opened), backoff=AT_ONCE), classify=JUDGING)
        return retry.call(lambda: next(results))


def test_a_result_that_another_attempt_replaces_is_closed_and_the_last_one_is_not():
    first, second, last = Opened(Verdict.FAILED), Opened(Verdict.OVERLOADED), Opened(Verdict.FAILED)
    assert outcome_of(first, second, last) is last
    assert (first.closed, second.closed, last.closed) == (1, 1, 0)


def test_a_result_of_no_effect_gives_way_to_the_ambiguous_one_and_is_closed():
    first, last = Opened(Verdict.FAILED), Opened(Verdict.REFUSED)
    assert outcome_of(first, last) is first
    assert (first.closed, last.closed) == (1, 1)


def test_an_error_of_no_effect_gives_way_to_the_ambiguous_result():
    first = Opened(Verdict.FAILED)
    answers = iter([first])

    def answer() -> Opened:
        for opened in answers:
            return opened
        raise ConnectionRefusedError

    with options(idempotent=True):
        assert Pipeline(Retry(attempts=2, backoff=AT_ONCE), classify=JUDGING).call(answer) is first


def test_a_good_result_is_returned_as_it_is():
    first = Opened(Verdict.OK)
    assert outcome_of(first, Opened(Verdict.OK)) is first
    assert first.closed == 0


def test_an_ambiguous_result_that_is_gone_surfaces_as_outcome_unknown():
    first, last = Opened(Verdict.FAILED, readable=False), Opened(Verdict.REFUSED)
    with pytest.raises(OutcomeUnknown, match=r"attempt 1 may have run, and its answer was given up"):
        outcome_of(first, last)
    assert last.closed == 1


# One retry in another


def test_an_outer_retry_does_not_multiply_an_exhausted_error(backend):
    work = many(KeyError)
    inner = Pipeline(Retry(on=KeyError, attempts=3, backoff=AT_ONCE))(work.soon)

    async def elsewhere() -> Any:
        return await inner()

    async def main():
        outer = Retry(on=KeyError, attempts=3, backoff=AT_ONCE)
        with pytest.raises(KeyError):
            await Pipeline(outer, Retry(on=KeyError, attempts=3, backoff=AT_ONCE)).run(work.soon)
        assert len(work.times) == 3
        with pytest.raises(KeyError):
            await Pipeline(outer, Timeout(9.0)).run(elsewhere)
        assert len(work.times) == 6

    virtual_time.run(main, backend=backend)


def test_an_outer_retry_finds_the_mark_across_the_children_of_its_attempt():
    """A timeout around a foreign policy makes a child of the call."""

    async def foreign(call: Call, nxt: Next[Any]) -> Any:
        return await nxt(call)

    work, retry = many(KeyError), Retry(on=KeyError, backoff=AT_ONCE)
    with pytest.raises(KeyError):
        Pipeline(Retry(on=KeyError, backoff=AT_ONCE), Timeout(9.0), foreign, retry).call(work.now)
    assert len(work.times) == 3


def test_an_ambiguous_error_that_outlived_a_retry_is_not_for_an_outer_one_to_repeat():
    """It surfaces instead of the `CircuitOpen` that ended the inner series, and was tried twice already."""
    work = many(ConnectionResetError)
    series: list[Call] = []

    async def count(call: Call, nxt: Next[Any]) -> Any:
        series.append(call)
        return await nxt(call)

    outer, inner = Retry(on=OSError, backoff=AT_ONCE), Retry(on=OSError, backoff=AT_ONCE)
    with pytest.raises(ConnectionResetError):
        Pipeline(outer, count, inner, CircuitBreaker(minimum_calls=2)).call(work.now)
    assert (len(series), len(work.times)) == (1, 2)


def test_an_error_that_the_inner_retry_never_repeated_is_the_outer_ones_to_repeat():
    work = many(KeyError)
    with pytest.raises(KeyError):
        Pipeline(Retry(on=KeyError, backoff=AT_ONCE), Retry(on=OSError, backoff=AT_ONCE)).call(work.now)
    assert len(work.times) == 3


def test_the_inner_of_two_retries_has_all_its_attempts_in_each_attempt_of_the_outer():
    numbers: list[int] = []
    inner_only = [KeyError(), KeyError(), OSError(), KeyError(), KeyError()]

    def work() -> str:
        call = current_call()
        assert call is not None
        numbers.append(call.attempt)
        if inner_only:
            raise inner_only.pop(0)
        return "answer"

    stack = Pipeline(Retry(on=OSError, backoff=AT_ONCE), Retry(on=KeyError, backoff=AT_ONCE))
    assert stack.call(work) == "answer"
    assert numbers == [1, 2, 3, 2, 3, 4]


def test_the_attempts_of_a_stream_are_numbered_alike(backend):
    numbers: list[int] = []
    errors = [KeyError(), OSError(), KeyError()]

    async def work() -> AsyncIterator[str]:
        call = current_call()
        assert call is not None
        numbers.append(call.attempt)
        if errors:
            raise errors.pop(0)
        yield "item"

    async def main():
        stack = Pipeline(Retry(on=OSError, backoff=AT_ONCE), Retry(on=KeyError, backoff=AT_ONCE))
        assert [item async for item in stack(work)()] == ["item"]

    virtual_time.run(main, backend=backend)
    assert numbers == [1, 2, 2, 3]


def test_a_singleton_exception_that_is_raised_again_later_is_retried_afresh():
    """At the very same instant, too: it is not time that tells the two apart."""
    singleton = KeyError("the only one")
    work = Failing(*[singleton] * 100)
    nested = Pipeline(Retry(on=KeyError, backoff=AT_ONCE), Retry(on=KeyError, backoff=AT_ONCE))
    with use_runtime(virtual_time.runtime()):
        for _ in range(5):
            with pytest.raises(KeyError):
                nested.call(work.now)
            with pytest.raises(KeyError):
                Pipeline(Retry(on=KeyError, backoff=AT_ONCE)).call(work.now)
    assert len(work.times) == 30
    assert notes_of(singleton) == ["resilient: not tried again: all 3 attempts were made"]  # and not thirty of them


def test_an_exception_that_was_given_up_can_still_be_pickled():
    with pytest.raises(KeyError) as caught:
        Pipeline(Retry(on=KeyError, backoff=AT_ONCE)).call(many(KeyError).now)
    there = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert notes_of(there) == notes_of(caught.value)
    work = Failing(*[there] * 9)
    with pytest.raises(KeyError):
        Pipeline(Retry(on=KeyError, backoff=AT_ONCE)).call(work.now)
    assert len(work.times) == 3


def test_an_exception_that_does_not_let_itself_be_written_to_is_no_obstacle():
    @dataclasses.dataclass(frozen=True)
    class Frozen(Exception):
        code: int

    work = Failing(*(Frozen(1) for _ in range(9)))
    with pytest.raises(Frozen) as caught:
        Pipeline(Retry(on=Frozen, backoff=AT_ONCE), Retry(on=Frozen, backoff=AT_ONCE)).call(work.now)
    assert len(work.times) == 3
    assert notes_of(caught.value) == ["resilient: not tried again: all 3 attempts were made"]


# What attempts share, and what is left behind


def test_every_attempt_carries_the_same_key(backend):
    work = many(KeyError, 2)

    async def main():
        assert await Pipeline(Honoured(), Retry(backoff=AT_ONCE)).run(work.soon) == "answer"

    virtual_time.run(main, backend=backend)
    keys = {call.idempotency_key for call in work.calls}
    assert len(keys) == 1
    assert None not in keys
    assert [call.attempt for call in work.calls] == [1, 2, 3]


def test_errors_are_not_kept_alive_by_the_retry_that_raised_them(backend):
    class Heavy(Exception):
        pass

    gone: list[weakref.ref[Heavy]] = []

    async def fails() -> None:
        error = Heavy()
        gone.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    async def main():
        gc.collect()
        gc.disable()
        try:
            for retry in (
                Retry(on=Heavy, backoff=AT_ONCE),
                Retry(on=KeyError),
                Retry(on=Heavy, stop=lambda state: True),
            ):
                try:
                    await Pipeline(retry).run(fails)
                except Heavy:
                    pass
                else:
                    raise AssertionError
        finally:
            gc.enable()

    virtual_time.run(main, backend=backend)
    assert len(gone) == 5
    assert [ref() for ref in gone] == [None] * 5


def test_a_stream_of_results_that_a_predicate_fails_on_is_settled(backend):
    settled: list[str] = []

    async def log(call: Call, nxt: Next[Any]) -> Any:
        result = await nxt(call)
        assert call.ends is not None
        call.ends.append(lambda error: settled.append(repr(error)))
        return result

    async def stream() -> AsyncIterator[int]:
        yield 1

    def breaks(outcome: object) -> bool:
        raise ZeroDivisionError

    async def main():
        pipeline = Pipeline(Retry(on=breaks), log)
        assert [item async for item in pipeline(stream)()] == [1]  # it is not asked of a stream
        adapter = pipeline.begin("GET", lambda call: anyio.lowlevel.checkpoint(), None)
        adapter.ends = []
        adapter.classify = JUDGING
        with pytest.raises(AttributeError):
            await pipeline.chain(adapter)

    virtual_time.run(main, backend=backend)
    assert settled[0] == "None"
    assert settled[1].startswith("AttributeError")


@pytest.mark.parametrize("last", [1, 2])
def test_an_attempt_that_is_cancelled_after_it_was_answered_is_settled(backend, last):
    """As an adapter's are, whose results nobody else keeps."""
    settled: list[str] = []

    async def sleeps_afterwards(call: Call, nxt: Next[Any]) -> Any:
        await nxt(call)
        assert call.ends is not None
        call.ends.append(lambda error: settled.append(type(error).__name__))
        if call.attempt == last:
            await anyio.sleep(10)
        raise ConnectionRefusedError

    async def answer(call: Call) -> str:
        return "answer"

    async def main():
        pipeline = Pipeline(Retry(backoff=AT_ONCE), sleeps_afterwards)
        call = pipeline.begin("GET", answer, None)
        call.ends = []
        with anyio.move_on_after(1):
            await pipeline.chain(call)

    virtual_time.run(main, backend=backend)
    assert settled[:-1] == ["ConnectionRefusedError"] * (last - 1)
    assert "Cancelled" in settled[-1]


@pytest.mark.parametrize("errors", [[ConnectionRefusedError] * 3, [KeyError]])
def test_an_attempt_that_fails_after_it_was_answered_is_settled_when_its_error_surfaces(errors):
    settled: list[str] = []

    async def fails_afterwards(call: Call, nxt: Next[Any]) -> Any:
        await nxt(call)
        assert call.ends is not None
        call.ends.append(lambda error: settled.append(type(error).__name__))
        raise errors[call.attempt - 1]

    async def answer(call: Call) -> str:
        return "answer"

    pipeline = Pipeline(Retry(backoff=AT_ONCE), fails_afterwards)
    call = pipeline.begin("GET", answer, None)
    call.ends, call.blocking = [], True
    with pytest.raises(errors[-1]):
        drive(pipeline.chain(call))
    assert settled == [error.__name__ for error in errors]


def test_a_failure_that_is_repeated_costs_no_more_than_the_wait(backend):
    """In virtual time: nothing but the backoff passes."""

    async def main():
        work = Failing(DeadlineExceeded(), TimeoutError())
        retry = Retry(on=OSError, backoff=lambda state: 1.0)  # TimeoutError is an OSError
        assert await Pipeline(retry).run(work.soon) == "answer"
        return current_runtime().now()

    assert virtual_time.run(main, backend=backend) == 2.0


# Wrong arguments


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"attempts": 0}, ValueError, "attempts=0: how often a call is made, at least 1"),
        ({"on": asyncio.CancelledError}, TypeError, "on=<class 'asyncio.*types of Exception"),
        ({"on": BaseException}, TypeError, "a cancellation is not retried"),
        ({"on": (KeyError, "OSError")}, TypeError, "on=.*types of Exception"),
        ({"on": [KeyError]}, TypeError, "on=.*exception types, a predicate, or a retry_"),
        ({"on": 3}, TypeError, "on=3"),
        ({"backoff": 1.0}, TypeError, "backoff=1.0: a Backoff, or a wait_"),
        ({"backoff": tenacity.wait_fixed}, TypeError, "backoff=<class .*: a Backoff, or a wait_"),
        ({"stop": tenacity.stop_after_attempt}, TypeError, "stop=<class .*: a function of tenacity's state"),
        ({"on": tenacity.retry_if_result}, TypeError, "on=<class .*types of Exception"),
        ({"stop": 3}, TypeError, "stop=3: a function of tenacity's state"),
        ({"before_sleep": "log"}, TypeError, "before_sleep='log'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=f"^.*{message}"):
        Retry(**arguments)


def test_attempts_are_three_unless_something_else_stops_it():
    assert Retry().attempts == 3
    assert Retry(stop=lambda state: False).attempts is None
    assert Retry(stop=lambda state: False, attempts=5).attempts == 5
