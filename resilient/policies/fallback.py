"""Answer something else when a call fails."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar, cast, final, overload

__all__ = ["Fallback", "fallback"]

P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V")


@final
class Fallback(Generic[V]):
    """The decorator that `fallback` makes."""

    __slots__ = ("_answer", "_on")

    def __init__(self, answer: V | Callable[[Exception], V | Awaitable[V]], on: tuple[type[Exception], ...]) -> None:
        self._answer = answer
        self._on = on

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T | V]]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /) -> Callable[P, T | V]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Callable[..., Any]:
        """Decorate an async or a plain function."""
        on, answer = self._on, self._answer
        if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
            raise TypeError(f"{fn!r}: a generator has given out items before it fails, so nothing can take its place")
        if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None)):  # noqa: B004 - it is looked at, not called

            @functools.wraps(fn)
            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                error: Exception
                try:
                    return await fn(*args, **kwargs)
                except on as caught:
                    error = caught
                value = answer(error) if callable(answer) else answer
                return await cast("Awaitable[V]", value) if inspect.isawaitable(value) else value

            return wrapped
        if inspect.iscoroutinefunction(answer):
            raise TypeError(f"{answer!r}: a plain function cannot await its fallback")

        @functools.wraps(fn)
        def plain(*args: Any, **kwargs: Any) -> Any:
            error: Exception
            try:
                return fn(*args, **kwargs)
            except on as caught:
                error = caught
            return answer(error) if callable(answer) else answer

        return plain


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

    `answer` is a value, or a function (async for an async function) of the exception. The decorated function's
    result is then of either type, which is why this is a decorator of its own and not a policy in a pipeline:
    put it outside, so that policies see the failure::

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
