"""Answering something else when a call fails: what, to whom, and what is never answered."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import weakref
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient.errors import CircuitOpen, ResilienceError
from resilient.pipeline import Pipeline
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.fallback import fallback
from resilient.testing import virtual_time


async def fails(error: BaseException | None = None, result: str = "result") -> str:
    """Fail, or answer."""
    await anyio.lowlevel.checkpoint()
    if error is not None:
        raise error
    return result


def fails_now(error: BaseException | None = None, result: str = "result") -> str:
    """Fail, or answer, without an event loop."""
    if error is not None:
        raise error
    return result


async def soon(error: Exception) -> str:
    await anyio.sleep(1)
    return f"later, after {error!r}"


def now(error: Exception) -> str:
    return f"after {error!r}"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("value", "value"), (None, None), (now, "after KeyError()"), (soon, "later, after KeyError()")],
)
def test_an_async_function_is_answered_with_a_value_or_what_a_function_makes_of_the_error(backend, answer, expected):
    async def main():
        decorated: Any = fallback(answer)(fails)
        assert await decorated() == "result"
        assert await decorated(KeyError()) == expected

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize(("answer", "expected"), [("value", "value"), (None, None), (now, "after KeyError()")])
def test_a_plain_function_is_answered_likewise(answer, expected):
    decorated: Any = fallback(answer)(fails_now)
    assert decorated() == "result"
    assert decorated(KeyError()) == expected


def test_only_the_named_errors_are_answered(backend):
    guarded = fallback("value", on=(KeyError, ResilienceError))(fails)

    async def main():
        assert await guarded(KeyError()) == "value"
        assert await guarded(CircuitOpen()) == "value"
        with pytest.raises(ZeroDivisionError):
            await guarded(ZeroDivisionError())

    virtual_time.run(main, backend=backend)


def test_what_policies_see_is_the_failure(backend):
    breaker = CircuitBreaker(minimum_calls=1)
    guarded = fallback("value")(Pipeline(breaker)(fails))

    async def main():
        assert await guarded(KeyError()) == "value"
        assert breaker.state.value == "open"
        assert await guarded() == "value"

    virtual_time.run(main, backend=backend)


def test_a_cancellation_is_never_answered(backend):
    async def main():
        with anyio.move_on_after(1) as scope:
            await fallback("value")(anyio.sleep)(10)
        assert scope.cancelled_caught
        for error in (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
            with pytest.raises(error):
                await fallback("value")(fails)(error())

    virtual_time.run(main, backend=backend)


def test_what_the_answer_raises_surfaces():
    def breaks(error: Exception) -> str:
        raise LookupError("no answer") from error

    with pytest.raises(LookupError, match="no answer") as caught:
        fallback(breaks)(fails_now)(ZeroDivisionError())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("answer", [[1], {1: 2}, {1}])
def test_each_caller_gets_a_container_of_its_own(answer):
    decorated: Any = fallback(answer)(fails_now)
    one, two = decorated(KeyError()), decorated(KeyError())
    assert one == two == answer
    assert one is not two
    one.clear()
    assert decorated(KeyError()) == two == answer


def test_any_other_value_is_what_was_given():
    class Answer:
        pass

    answer = Answer()
    assert fallback(answer)(fails_now)(KeyError()) is answer


def test_a_decorated_function_looks_like_the_function():
    for fn in (fails, fails_now):
        decorated: Any = fallback(None)(fn)
        assert (decorated.__name__, decorated.__doc__, decorated.__wrapped__) == (fn.__name__, fn.__doc__, fn)
        assert inspect.iscoroutinefunction(decorated) == inspect.iscoroutinefunction(fn)


class Failing:
    async def __call__(self) -> str:
        raise KeyError


def test_callable_objects_and_partial_functions_are_decorated(backend):
    async def main():
        assert await fallback("value")(Failing())() == "value"
        assert await fallback("value")(functools.partial(fails, KeyError()))() == "value"

    virtual_time.run(main, backend=backend)
    assert fallback("value")(functools.partial(fails_now, KeyError()))() == "value"


def test_the_error_is_not_kept_alive():
    class Heavy(Exception):
        pass

    gone: list[weakref.ref[Heavy]] = []

    def breaks_now() -> str:
        error = Heavy()
        gone.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    async def breaks() -> str:
        return breaks_now()

    async def main():
        gc.disable()
        try:
            assert await fallback("value")(breaks)() == "value"
            assert await fallback(soon)(breaks)() != "value"
            assert fallback("value")(breaks_now)() == "value"
            assert [ref() for ref in gone] == [None] * 3
        finally:
            gc.enable()

    virtual_time.run(main)


# What is refused


async def stream() -> Any:
    yield 1


def generator() -> Any:
    yield 1


@pytest.mark.parametrize("fn", [stream, generator, functools.partial(stream)])
def test_a_generator_is_refused(fn):
    with pytest.raises(TypeError, match="a generator has given out items before it fails"):
        fallback(None)(fn)


def test_a_plain_function_with_an_answer_that_has_to_be_awaited_is_refused():
    with pytest.raises(TypeError, match="a plain function cannot await its fallback"):
        fallback(soon)(fails_now)

    def hides_it(error: Exception) -> Any:
        return soon(error)

    hidden: Any = fallback(hides_it)(fails_now)
    with pytest.raises(TypeError, match="a plain function cannot await its fallback"):
        hidden(KeyError())


@pytest.mark.parametrize("fn", [lambda: fails(KeyError()), lambda: (item for item in "ab"), lambda: aiter(stream())])
def test_a_plain_function_whose_result_is_still_to_be_run_is_refused_not_bypassed(fn):
    """It would fail later, when nobody answers for it any more."""
    decorated: Any = fallback("value")(fn)
    with pytest.raises(TypeError, match="is a plain function, but its result is awaitable, or a generator"):
        decorated()


@pytest.mark.parametrize(
    "on", [BaseException, asyncio.CancelledError, (KeyError, KeyboardInterrupt), (), "KeyError", 3]
)
def test_only_types_of_exception_can_be_answered(on: Any):
    with pytest.raises(TypeError, match=r"^on=.*types of Exception"):
        fallback(None, on=on)
