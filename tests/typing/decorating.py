"""What type checkers know of a decorated function: all that they knew before. Checked, never run."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar, assert_type

from resilient import Bulkhead, CircuitBreaker, Pipeline, RateLimit, Retry, Timeout

T = TypeVar("T")

pipeline = Pipeline(Timeout(2.0), Retry(on=OSError), CircuitBreaker(), RateLimit("10/second"), Bulkhead(3))


# Async functions


@pipeline
async def price(sku: str, /, count: int, *, net: bool = False) -> float:
    return 1.0


@pipeline
async def nothing() -> None: ...


@pipeline
async def same(value: T) -> T:
    return value


async def async_functions() -> None:
    assert_type(await price("a", 1, net=True), float)
    assert_type(await price("a", count=1), float)
    assert_type(await same(3), int)
    assert_type(await same("three"), str)
    coroutine: Coroutine[Any, Any, float] = price("a", 1)
    await coroutine
    await price(3, 1)  # type: ignore[arg-type]
    await price(sku="a", count=1)  # type: ignore[call-arg]
    await price("a", 1, gross=True)  # type: ignore[call-arg]
    await price("a")  # type: ignore[call-arg]
    price("a", 1) + 1.0  # type: ignore[operator]
    as_text: str = await price("a", 1)  # type: ignore[assignment]
    print(as_text)


# Async generator functions


@pipeline
async def echo(first: bytes) -> AsyncGenerator[bytes, str]:
    heard = yield first
    print(heard)


@pipeline
async def lines(count: int) -> AsyncIterator[str]:
    yield str(count)


async def streams() -> None:
    assert_type(echo(b"a"), AsyncGenerator[bytes, str])
    assert_type(await echo(b"a").asend("b"), bytes)
    assert_type(lines(3), AsyncGenerator[str, None])  # so that it can be closed
    await lines(3).aclose()
    async for line in lines(3):
        assert_type(line, str)
    lines("three")  # type: ignore[arg-type]
    await echo(b"a").asend(3)  # type: ignore[arg-type]


# Plain functions


@pipeline
def half(number: float, /, *, down: bool = False) -> int:
    return 1


def plain_functions() -> None:
    assert_type(half(3.0, down=True), int)
    half(number=3.0)  # type: ignore[call-arg]
    half("three")  # type: ignore[arg-type]


# Methods


class Client(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value

    @pipeline
    async def get(self, key: str) -> T:
        return self.value

    @pipeline
    async def watch(self, key: str) -> AsyncIterator[T]:
        yield self.value

    @pipeline
    def get_now(self, key: str) -> T:
        return self.value

    @staticmethod
    @pipeline
    async def parse(text: str) -> int:
        return 3

    @classmethod
    @pipeline
    async def named(cls, name: str) -> str:
        return name


async def methods(client: Client[bytes]) -> None:
    assert_type(await client.get("key"), bytes)
    assert_type(client.get_now("key"), bytes)
    assert_type(await Client.parse("3"), int)
    assert_type(await client.parse("3"), int)
    assert_type(await Client[int].named("a"), str)
    async for value in client.watch("key"):
        assert_type(value, bytes)
    await client.get(3)  # type: ignore[arg-type]


# Callable objects, partial functions, functions that are made elsewhere


class Caller:
    async def __call__(self, key: str) -> int:
        return 3


class PlainCaller:
    def __call__(self, key: str) -> int:
        return 3


async def three(key: str, count: int = 3) -> int:
    return count


def made_elsewhere(fn: Callable[[str], Coroutine[Any, Any, int]]) -> Callable[[str], Coroutine[Any, Any, int]]:
    return pipeline(fn)


async def callables() -> None:
    assert_type(await pipeline(Caller())("key"), int)
    assert_type(pipeline(PlainCaller())("key"), int)
    assert_type(await pipeline(functools.partial(three, count=4))("key"), int)
    assert_type(await made_elsewhere(three)("key"), int)
    await pipeline(Caller())(3)  # type: ignore[arg-type]


# Decorators upon each other


@Pipeline(Timeout(2.0))
@pipeline
async def twice(sku: str) -> float:
    return 1.0


async def stacked() -> None:
    assert_type(await twice("a"), float)


# Single calls


def later(sku: str) -> Awaitable[float]:
    return price(sku, 1)


async def single_calls() -> None:
    assert_type(await pipeline.run(three, "key", count=4), int)
    assert_type(await pipeline.run(later, "a"), float)
    assert_type(pipeline.call(len, "three"), int)
    await pipeline.run(three, 3)  # type: ignore[arg-type]
    await pipeline.run(len, "three")  # type: ignore[arg-type]
    pipeline.call(len, 3)  # type: ignore[arg-type]


# Blocks


async def blocks() -> int:
    guard: AbstractAsyncContextManager[None] = CircuitBreaker()
    async with guard, Bulkhead(3):
        return 3


def plain_blocks() -> int:
    with Bulkhead(3), RateLimit("1/second"):
        return 3
