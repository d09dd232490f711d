"""The pipeline: what it decorates, how it runs it, and what it refuses."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Generator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient.call import Call, Next
from resilient.context import current_call, current_runtime, options, serving, use_runtime
from resilient.errors import DeadlineExceeded
from resilient.events import CallRejected, Event, RetriesExhausted, RetryScheduled
from resilient.pipeline import Pipeline, bind_nothing, decorate
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.hedge import Hedge
from resilient.policies.retry import Backoff, Retry
from resilient.policies.timeout import Timeout
from resilient.runtime import Runtime
from resilient.testing import virtual_time
from resilient.verdict import Classifier, Verdict, classify_function


def logging_as(name: str, log: list[str]) -> Any:
    async def policy(call: Call, nxt: Next[Any]) -> Any:
        log.append(f"{name} in")
        result = await nxt(call)
        log.append(f"{name} out")
        return result

    return policy


# What can be decorated

PIPELINE = Pipeline(Timeout(5.0), Retry(budget=None), Bulkhead(2))  # nothing that remembers a clock


async def double(number: int, *, plus: int = 0) -> int:
    """Twice the number."""
    await anyio.lowlevel.checkpoint()
    return 2 * number + plus


def double_now(number: int, *, plus: int = 0) -> int:
    """Twice the number, without an event loop."""
    return 2 * number + plus


async def count(to: int) -> AsyncGenerator[int, None]:
    """Count up to a number."""
    for number in range(to):
        yield number


class Doubling:
    async def __call__(self, number: int, *, plus: int = 0) -> int:
        return await double(number, plus=plus)


class DoublingNow:
    def __call__(self, number: int, *, plus: int = 0) -> int:
        return double_now(number, plus=plus)


class Counting:
    async def __call__(self, to: int) -> AsyncGenerator[int, None]:
        for number in range(to):
            yield number


class Client:
    api = PIPELINE

    @api
    async def double(self, number: int, *, plus: int = 0) -> int:
        return await double(number, plus=plus)

    @staticmethod
    @api
    async def static(number: int, *, plus: int = 0) -> int:
        return await double(number, plus=plus)

    @classmethod
    @api
    async def of_class(cls, number: int, *, plus: int = 0) -> int:
        assert cls is Client
        return await double(number, plus=plus)

    @api
    def now(self, number: int, *, plus: int = 0) -> int:
        return double_now(number, plus=plus)

    @api
    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number


@pytest.mark.parametrize(
    "decorated",
    [
        PIPELINE(double),
        PIPELINE(Doubling()),
        PIPELINE(Doubling().__call__),
        PIPELINE(functools.partial(double)),
        Client().double,
        Client.static,
        Client.of_class,
    ],
)
def test_async_functions_of_every_make_are_decorated(backend, decorated):
    async def main():
        assert await decorated(4, plus=1) == 9

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize(
    "decorated",
    [PIPELINE(double_now), PIPELINE(DoublingNow()), PIPELINE(functools.partial(double_now)), Client().now],
)
def test_plain_functions_of_every_make_are_decorated(decorated):
    assert decorated(4, plus=1) == 9


def test_a_plain_function_runs_inside_an_event_loop_too(backend):
    async def main():
        return PIPELINE(double_now)(4)

    assert virtual_time.run(main, backend=backend) == 8


@pytest.mark.parametrize("decorated", [PIPELINE(count), PIPELINE(Counting()), Client().count])
def test_async_generator_functions_of_every_make_are_decorated(backend, decorated):
    async def main():
        assert [number async for number in decorated(4)] == [0, 1, 2, 3]

    virtual_time.run(main, backend=backend)


def test_a_decorated_function_looks_like_the_function():
    for fn in (double, double_now, count):
        decorated: Any = PIPELINE(fn)
        assert (decorated.__name__, decorated.__doc__, decorated.__wrapped__) == (fn.__name__, fn.__doc__, fn)
        assert inspect.signature(decorated) == inspect.signature(fn)
        assert inspect.iscoroutinefunction(decorated) == inspect.iscoroutinefunction(fn)
        assert inspect.isasyncgenfunction(decorated) == inspect.isasyncgenfunction(fn)


def name_of_this_call() -> str:
    call = current_call()
    assert call is not None
    return call.name


def test_calls_are_named_after_the_function():
    class Naming:
        def __call__(self) -> str:
            return name_of_this_call()

    assert PIPELINE(name_of_this_call)() == "name_of_this_call"
    assert PIPELINE(functools.partial(functools.partial(name_of_this_call)))() == "name_of_this_call"
    assert PIPELINE(Naming())().endswith("Naming")


def test_run_and_call_are_for_single_calls(backend):
    async def main():
        assert await PIPELINE.run(double, 4, plus=1) == 9
        assert PIPELINE.call(double_now, 4, plus=1) == 9

    virtual_time.run(main, backend=backend)


def test_run_awaits_whatever_is_awaitable():
    def soon(number: int) -> Awaitable[int]:
        return asyncio.ensure_future(double(number))

    async def main():
        return await PIPELINE.run(soon, 4)

    assert virtual_time.run(main) == 8


# What is refused


def generator(to: int) -> Generator[int, None, None]:
    yield from range(to)


class Generating:
    def __call__(self) -> Generator[int, None, None]:
        yield 1


@pytest.mark.parametrize("fn", [generator, Generating(), functools.partial(generator, 2)])
def test_a_generator_function_is_refused(fn):
    with pytest.raises(TypeError, match=r"(generator|Generating): a generator function; only async generators can be"):
        PIPELINE(fn)
    with pytest.raises(TypeError, match="a generator function"):
        PIPELINE.call(fn)


async def refused() -> None:
    raise AssertionError("it ran outside of the policies")


async def refused_stream() -> AsyncIterator[int]:
    raise AssertionError("it ran outside of the policies")
    yield


@pytest.mark.parametrize("fn", [refused, refused_stream, functools.partial(generator, 2)])
def test_a_plain_function_whose_result_is_still_to_be_run_is_refused_not_bypassed(fn):
    def wrapper_that_hides_what_it_wraps() -> Any:
        return fn()

    with pytest.raises(TypeError, match=r"hides_what_it_wraps is a plain function, but its result is awaitable, or a"):
        Pipeline()(wrapper_that_hides_what_it_wraps)()


def test_call_refuses_an_async_function():
    with pytest.raises(TypeError, match="refused is a plain function, but its result is awaitable"):
        _ = PIPELINE.call(refused)


def test_a_plain_function_where_a_policy_needs_a_loop_is_refused_at_decoration():
    with pytest.raises(
        TypeError, match=r"double_now is a plain function, and Hedge\(.*needs an event loop: it runs at"
    ):
        Pipeline(Hedge(0.1))(double_now)
    with pytest.raises(TypeError, match="needs an event loop"):
        Pipeline(Hedge(0.1)).call(double_now, 1)


def test_an_async_generator_where_a_policy_moves_tasks_is_refused_at_decoration():
    with pytest.raises(TypeError, match=r"count is an async generator, which cannot move between tasks, as Hedge\("):
        Pipeline(Hedge(0.1))(count)


def test_what_is_no_function_is_refused():
    async def of_class(cls: type) -> None: ...

    some: list[Any] = [3, None, classmethod(of_class), staticmethod(of_class)]
    for wrong in some:
        with pytest.raises(TypeError, match="a pipeline decorates functions; @classmethod and @staticmethod go above"):
            PIPELINE(wrong)


def test_a_foreign_policy_that_waits_for_a_loop_is_refused_in_a_plain_function():
    async def sleepy(call: Call, nxt: Next[Any]) -> Any:
        await asyncio.sleep(0)
        return await nxt(call)

    bulkhead = Bulkhead(1)
    with pytest.raises(RuntimeError, match="waits for an event loop, and a plain function has none"):
        Pipeline(bulkhead, sleepy)(double_now)(1)
    assert bulkhead.in_flight == 0


# How it runs


def test_the_first_policy_listed_is_the_outermost(backend):
    log: list[str] = []
    pipeline = Pipeline(logging_as("a", log), Timeout(1.0), logging_as("b", log))

    async def main():
        await pipeline.run(double, 1)

    virtual_time.run(main, backend=backend)
    assert log == ["a in", "b in", "b out", "a out"]


def test_a_pipeline_builds_on_another_and_shows_its_stack():
    base = Pipeline(Timeout(2.0), Bulkhead(3))
    more = Pipeline(*base, Timeout(1.0))
    assert [type(policy).__name__ for policy in more] == ["Timeout", "Bulkhead", "Timeout"]
    assert repr(more) == (
        "Pipeline(Timeout(seconds=2.0), Bulkhead(limit=3, max_queue=0, max_wait=1.0, order='fifo'), "
        "Timeout(seconds=1.0))"
    )


def test_an_empty_pipeline_changes_nothing(backend):
    async def main():
        assert await Pipeline()(double)(2) == 4
        assert Pipeline()(double_now)(2) == 4
        assert [item async for item in Pipeline()(count)(2)] == [0, 1]

    virtual_time.run(main, backend=backend)


def test_a_foreign_policy_is_a_plain_async_function_and_may_call_on_as_often_as_it_likes(backend):
    tried: list[int] = []

    async def three_times(call: Call, nxt: Next[Any]) -> Any:
        for attempt in (1, 2):
            try:
                return await nxt(call.evolve(attempt=attempt))
            except OSError:
                tried.append(attempt)
        return await nxt(call.evolve(attempt=3))

    @Pipeline(Timeout(5.0), three_times, CircuitBreaker())
    async def work() -> int:
        call = current_call()
        assert call is not None
        if call.attempt < 3:
            raise OSError
        return call.attempt

    assert virtual_time.run(work, backend=backend) == 3
    assert tried == [1, 2]


def test_a_foreign_policy_may_be_made_of_ours(backend):
    bulkhead = Bulkhead(1)
    breaker = CircuitBreaker(minimum_calls=1)

    async def guarded(call: Call, nxt: Next[Any]) -> Any:
        async def inside(call: Call) -> Any:
            assert bulkhead.in_flight == 1
            return await nxt(call)

        return await bulkhead(call, inside)

    async def limited_and_watched(call: Call, nxt: Next[Any]) -> Any:
        return await Timeout(1.0)(call, lambda call: breaker(call, nxt))

    async def hangs(call: Call, nxt: Next[Any]) -> Any:
        await anyio.sleep(100)

    async def main():
        assert await Pipeline(guarded, limited_and_watched).run(double, 1) == 2
        with pytest.raises(DeadlineExceeded):
            await Pipeline(limited_and_watched, hangs).run(double, 1)
        return current_runtime().now()

    assert virtual_time.run(main, backend=backend) == 1.0
    assert bulkhead.in_flight == 0


def test_its_own_classifier_judges_its_calls():
    breaker = CircuitBreaker(minimum_calls=1)
    bad_below_zero = Classifier(
        error=classify_function.error, result=lambda value: Verdict.FAILED if value < 0 else Verdict.OK
    )
    halve = Pipeline(breaker, classify=bad_below_zero)(lambda number: number / 2)
    assert halve(4) == 2
    assert breaker.state.value == "closed"
    assert halve(-4) == -2
    assert breaker.state.value == "open"


def test_its_own_runtime_replaces_the_ambient_one():
    events: list[Event] = []
    ours = virtual_time.runtime(emit=events.append)

    @Pipeline(Retry(on=KeyError, attempts=2, backoff=Backoff(base=8, cap=8)), runtime=ours)
    def work() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        work()
    assert ours.now() > 0
    assert [type(event) for event in events] == [RetryScheduled, RetriesExhausted]


def test_arguments_can_be_bound_for_each_attempt_and_calls_be_prepared():
    prepared: list[Call] = []

    def attempt_first(call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = call.arguments
        return (call.attempt, *args), kwargs

    def fails_twice(attempt: int, what: str) -> str:
        if attempt < 3:
            raise KeyError
        return f"{what} {attempt}"

    retry = Pipeline(Retry(on=KeyError, backoff=Backoff(base=0)))
    assert decorate(retry, fails_twice, attempt_first, prepared.append)("try") == "try 3"
    assert [call.name.rpartition(".")[2] for call in prepared] == ["fails_twice"]

    async def async_work(what: str) -> str:
        return what

    async def async_attempt(attempt: int, what: str) -> str:
        return fails_twice(attempt, what)

    async def stream(what: str) -> AsyncIterator[str]:
        yield what

    async def main():
        assert await decorate(retry, async_attempt, attempt_first)("again") == "again 3"
        assert await decorate(retry, async_work, bind_nothing, prepared.append)("one") == "one"
        assert [item async for item in decorate(retry, stream, bind_nothing, prepared.append)("two")] == ["two"]

    virtual_time.run(main)
    assert len(prepared) == 3


def test_an_adapter_begins_a_call_and_runs_it_through_the_chain(backend):
    pipeline = Pipeline(Timeout(5.0), Retry())
    tries: list[float | None] = []

    async def request(call: Call) -> str:
        tries.append(call.remaining)
        if len(tries) < 2:
            raise ConnectionRefusedError
        return "answer"

    async def main():
        with serving(deadline=3.0):
            call = pipeline.begin("GET orders", request, "the request", repeatable=True)
        assert (call.request, call.repeatable, call.deadline) == ("the request", True, 3.0)
        assert await pipeline.chain(call) == "answer"

    virtual_time.run(main, backend=backend)
    assert tries[0] == 3.0


def test_what_a_policy_of_others_does_to_the_surroundings_does_not_reach_the_function(backend):
    async def meddler(call: Call, nxt: Next[Any]) -> Any:
        with options(timeout=9.0, idempotent=False):
            return await nxt(call)

    async def inner() -> tuple[float | None, bool | None]:
        call = current_call()
        assert call is not None
        return call.remaining, call.repeatable

    @Pipeline(meddler)
    async def outer() -> tuple[str, tuple[float | None, bool | None]]:
        call = current_call()
        assert call is not None
        return call.name.rpartition(".")[2], await Pipeline().run(inner)

    virtual_time.run(lambda: _is(outer(), ("outer", (None, None))), backend=backend)


async def _is(answer: Awaitable[object], expected: object) -> None:
    assert await answer == expected


# Events


class _Unbuilt:
    """Stands for an event class where none may be built."""

    def __init__(self, **_: object) -> None:
        raise AssertionError("an event was built that nobody listens for")


def _make_trouble() -> None:
    """Retries, an exhausted retry, a rejection and a circuit's transitions."""

    @Pipeline(Retry(on=KeyError, attempts=2), CircuitBreaker(minimum_calls=2))
    def fails() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        fails()
    with pytest.raises(Exception, match="the circuit is open"):
        fails()


def test_events_tell_what_happened():
    events: list[Event] = []
    with use_runtime(virtual_time.runtime(emit=events.append)):
        _make_trouble()
    assert [type(event).__name__ for event in events] == [
        "RetryScheduled",
        "CircuitOpened",
        "RetriesExhausted",
        "CallRejected",
    ]
    scheduled, _, exhausted, rejected = events
    assert isinstance(scheduled, RetryScheduled)
    assert (scheduled.attempt, scheduled.reason, scheduled.name) == (1, "KeyError()", "_make_trouble.<locals>.fails")
    assert 0 < scheduled.delay <= 0.05
    assert isinstance(exhausted, RetriesExhausted)
    assert (exhausted.attempt, exhausted.reason) == (2, "all 2 attempts were made")
    assert isinstance(rejected, CallRejected)
    assert (rejected.policy, rejected.retry_after) == ("CircuitBreaker", 5.0)


def test_none_is_built_when_nobody_listens(monkeypatch: pytest.MonkeyPatch):
    for module, name in (
        ("resilient.policies.retry", "RetryScheduled"),
        ("resilient.policies.retry", "RetriesExhausted"),
        ("resilient.policies.circuit_breaker", "CircuitOpened"),
        ("resilient.policies.base", "CallRejected"),
    ):
        monkeypatch.setattr(f"{module}.{name}", _Unbuilt)
    with use_runtime(virtual_time.runtime()):
        _make_trouble()
    with use_runtime(virtual_time.runtime(emit=lambda event: None)), pytest.raises(AssertionError, match="was built"):
        _make_trouble()


def test_a_listener_that_fails_does_not_fail_the_call(caplog: pytest.LogCaptureFixture):
    def broken(event: Event) -> None:
        raise RuntimeError("broken")

    with use_runtime(virtual_time.runtime(emit=broken)):
        _make_trouble()
    assert "an event listener failed on RetryScheduled" in caplog.text


def test_a_call_that_is_not_repeatable_says_so_by_options():
    tries: list[int] = []

    @Pipeline(Retry(on=KeyError, backoff=Backoff(base=0)))
    def work() -> None:
        tries.append(1)
        raise KeyError

    with options(idempotent=False), pytest.raises(KeyError):
        work()
    assert len(tries) == 1
    with pytest.raises(KeyError):
        work()
    assert len(tries) == 4


def test_the_default_runtime_is_real_time():
    assert isinstance(current_runtime(), Runtime)
    assert current_runtime().emit is None
