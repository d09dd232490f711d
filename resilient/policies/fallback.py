"""Answer something else when a call fails."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from copy import copy
from typing import Any, Generic, ParamSpec, TypeVar, final, overload

from resilient.policies.base import of_kind

__all__ = ["Fallback", "fallback"]

P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V")

_CONTAINERS = (list, dict, set)


@final
class Fallback(Generic[V]):
    """The decorator that `fallback` makes."""

    __slots__ = ("_answer", "_on")

    def __init__(self, answer: V | Callable[[Exception], V | Awaitable[V]], on: tuple[type[Exception], ...]) -> None:
        self._answer: Any = answer
        self._on = on

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T | V]]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /) -> Callable[P, T | V]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Callable[..., Any]:
        """Decorate an async or a plain function.

        Raises `TypeError` for a generator function of either kind, and for a plain function that could not await its
        fallback. A plain function whose result is still to be run (a coroutine, a generator) is a `TypeError` when
        called: it would bypass the fallback.
        """
        if of_kind(inspect.isasyncgenfunction, fn) or of_kind(inspect.isgeneratorfunction, fn):
            raise TypeError(f"{fn!r}: a generator has given out items before it fails, so nothing can take its place")
        on, answer_to = self._on, self._answer_to
        if of_kind(inspect.iscoroutinefunction, fn):

            @functools.wraps(fn)
            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                try:
                    return await fn(*args, **kwargs)
                except on as caught:
                    error = caught
                try:
                    value = answer_to(error)
                    return await value if inspect.isawaitable(value) else value
                finally:
                    del error  # this frame is in its traceback: the two would keep each other alive

            return wrapped
        if of_kind(inspect.iscoroutinefunction, self._answer):
            raise TypeError(f"{self._answer!r}: a plain function cannot await its fallback")

        @functools.wraps(fn)
        def plain(*args: Any, **kwargs: Any) -> Any:
            try:
                result = fn(*args, **kwargs)
            except on as caught:
                error = caught
            else:
                if hasattr(result, "__await__") or inspect.isgenerator(result) or inspect.isasyncgen(result):
                    # Returned as it is, it would run, and fail, where nobody answers.
                    if inspect.iscoroutine(result):
                        result.close()
                    raise TypeError(f"{fn!r} is a plain function, but its result is awaitable, or a generator")
                return result
            try:
                value = answer_to(error)
            finally:
                del error  # likewise
            if inspect.iscoroutine(value):
                value.close()
                raise TypeError(f"{self._answer!r}: a plain function cannot await its fallback")
            return value

        return plain

    def _answer_to(self, error: Exception) -> Any:
        answer = self._answer
        if callable(answer):
            return answer(error)
        # What one caller does to its answer is not what the next one gets.
        return copy(answer) if type(answer) in _CONTAINERS else answer


@overload
def fallback(
    answer: Callable[[Exception], Coroutine[Any, Any, V]],
    *,
    on: type[Exception] | tuple[type[Exception], ...] = Exception,
) -> Fallback[V]: ...
@overload
def fallback(
    answer: Callable[[Exception], V], *, on: type[Exception] | tuple[type[Exception], ...] = Exception
) -> Fallback[V]: ...
@overload
def fallback(answer: V, *, on: type[Exception] | tuple[type[Exception], ...] = Exception) -> Fallback[V]: ...
def fallback(answer: Any, *, on: type[Exception] | tuple[type[Exception], ...] = Exception) -> Fallback[Any]:
    """Answer with `answer` when the decorated function raises one of `on`.

    `answer` is a value, or a function (async for an async function) of the exception. Of a list, dict or set each
    caller gets its own copy. The decorated function's result is then of either type, which is why this is a decorator
    of its own and not a policy in a pipeline: put it outside, so that policies see the failure::

        @fallback([], on=resilient.ResilienceError)
        @pipeline
        async def recommendations(user: str) -> list[str]: ...

    A cancellation is never answered, and what `answer` itself raises surfaces. Raises `TypeError` where `on` names
    anything but types of `Exception`.
    """
    types = on if isinstance(on, tuple) else (on,)
    if not types or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in types):
        raise TypeError(f"on={on!r}: types of Exception (never of BaseException: a cancellation is not answered)")
    return Fallback(answer, types)
