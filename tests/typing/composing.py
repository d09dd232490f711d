"""What type checkers say of policies, options, fallbacks and events. Checked, never run."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import TypeVar, assert_type

import tenacity
from limits import RateLimitItemPerSecond
from pybreaker import CircuitBreakerListener

from resilient import (
    Attribute,
    Backoff,
    Call,
    CircuitBreaker,
    Hedge,
    Next,
    Pipeline,
    Policy,
    Priority,
    RateLimit,
    ResilienceError,
    Retry,
    Runtime,
    Timeout,
    current_call,
    fallback,
    options,
    serving,
)
from resilient.events import Event

T = TypeVar("T")


# Policies of one's own


async def timing(call: Call, nxt: Next[T]) -> T:
    return await nxt(call)


def direct(call: Call, nxt: Next[T]) -> object:
    return nxt(call)


class Counting:
    async def __call__(self, call: Call, nxt: Next[T], /) -> T:
        return await nxt(call.evolve(attempt=call.attempt + 1))


async def changes_the_type(call: Call, nxt: Next[T]) -> str:
    return str(await nxt(call))


async def takes_no_rest(call: Call) -> None: ...


policies: list[Policy] = [timing, Counting(), Timeout(1.0), Retry(), Hedge(0.1)]
Pipeline(timing, Counting(), *policies)
Pipeline(changes_the_type)  # type: ignore[arg-type]
Pipeline(takes_no_rest)  # type: ignore[arg-type]
Pipeline(direct)  # type: ignore[arg-type]
Pipeline(3)  # type: ignore[arg-type]
Timeout("1")  # type: ignore[arg-type]
Timeout(1.0, 2.0)  # type: ignore[call-arg]


# The words of other packages


def soon(state: tenacity.RetryCallState) -> float:
    return state.attempt_number / 2


async def wants(outcome: object) -> bool:
    return outcome is None


class Listener(CircuitBreakerListener):
    pass


Retry(on=OSError)
Retry(on=(OSError, KeyError))
Retry(on=lambda outcome: outcome is None)
Retry(on=wants)
Retry(on=tenacity.retry_if_exception_type(OSError) | tenacity.retry_if_result(lambda result: result is None))
Retry(backoff=tenacity.wait_fixed(1) + tenacity.wait_random(0, 1), stop=tenacity.stop_after_delay(5))
Retry(backoff=soon, before_sleep=tenacity.before_sleep_nothing)
Retry(backoff=Backoff(base=0.1, cap=2.0))
Retry.from_tenacity(tenacity.AsyncRetrying())
RateLimit("100/second")
RateLimit(RateLimitItemPerSecond(100))
CircuitBreaker(listeners=[Listener()])
Retry(on=3)  # type: ignore[arg-type]
Retry(on=BaseException)  # type: ignore[arg-type]
Retry(backoff=1.0)  # type: ignore[arg-type]
RateLimit(100)  # type: ignore[arg-type]


# Options and attributes

tenant = Attribute("tenant", "nobody")
shard = Attribute[int | None]("shard", None)


def surroundings() -> int:
    call = current_call()
    assert call is not None
    assert_type(call.get(tenant), str)
    assert_type(call.get(shard), int | None)
    with options(timeout=1.0, priority=Priority.SHEDDABLE, attributes={tenant: "a"}), serving(deadline=3.0):
        return 3
    # A block swallows nothing, so that a checker wants no return here.


def wrong_options() -> None:
    options(timeout="1")  # type: ignore[arg-type]
    options(retries=3)  # type: ignore[call-arg]

    @options(timeout=1.0)  # type: ignore[operator]
    async def decorated() -> None: ...

    print(decorated)


# Fallbacks


async def later(error: Exception) -> bytes:
    return b""


@fallback(None, on=ResilienceError)
@Pipeline(Timeout(1.0))
async def quote(sku: str) -> float:
    return 1.0


def as_text(error: Exception) -> str:
    return str(error)


@fallback(as_text)
def name(key: int) -> bytes:
    return b""


@fallback(later)
async def load(key: int) -> str:
    return ""


@fallback([])
async def names(key: int) -> list[str]:
    return [""]


async def fallbacks() -> None:
    assert_type(await quote("a"), float | None)
    assert_type(name(3), bytes | str)
    assert_type(await load(3), str | bytes)
    await quote(3)  # type: ignore[arg-type]
    fallback(None, on=BaseException)  # type: ignore[arg-type]


# The runtime


def listen(event: Event) -> None: ...


Runtime(emit=listen)
Runtime(listen)  # type: ignore[call-arg, arg-type]
