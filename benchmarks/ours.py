"""Our own subjects: each policy alone, and stacks of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import TypeVar

from benchmarks.measuring import Make, Slice, Subject, Work, each
from resilient import (
    AdaptiveThrottle,
    Bulkhead,
    Call,
    CircuitBreaker,
    Hedge,
    Next,
    Pipeline,
    Policy,
    RateLimit,
    Retry,
    Runtime,
    Timeout,
    fallback,
    options,
)
from resilient.events import CallRejected, Event, send_event
from resilient.policies.base import Holder

__all__ = ["HOOK", "OURS", "STACK"]

T = TypeVar("T")

HOOK = "resilient unused event hook"
STACK = "resilient Retry + CircuitBreaker + RateLimit + Bulkhead"

_UNLIMITED = "1000000000/second"
_LOOP = "resilient policy that loops"
_TIMES = 20


def _through(*policies: Callable[[], Policy], runtime: Runtime | None = None) -> Make:
    """A pipeline of fresh policies."""

    def make(work: Work) -> Slice:
        return each(Pipeline(*[policy() for policy in policies], runtime=runtime)(work))

    return make


def _block(holder: Callable[[], Holder]) -> Make:
    """A policy that serves a block."""

    def make(work: Work) -> Slice:
        policy = holder()

        async def run(calls: int) -> None:
            for _ in repeat(None, calls):
                async with policy:
                    await work()

        return run

    return make


def _timeout() -> Timeout:
    return Timeout(60.0)


def _rate_limit() -> RateLimit:
    return RateLimit(_UNLIMITED)


def _bulkhead() -> Bulkhead:
    return Bulkhead(100)


def _hedged(work: Work) -> Slice:
    run = each(Pipeline(Hedge(60.0))(work))

    async def run_repeatable(calls: int) -> None:
        with options(idempotent=True):
            await run(calls)

    return run_repeatable


def _with_fallback(work: Work) -> Slice:
    return each(fallback(None)(work))


async def _pass_on(call: Call, nxt: Next[T]) -> T:
    return await nxt(call)


async def _loop(call: Call, nxt: Next[T]) -> T:
    for _ in repeat(None, _TIMES):
        pass
    return await nxt(call)


async def _loop_with_hooks(call: Call, nxt: Next[T]) -> T:
    for _ in repeat(None, _TIMES):
        emit = call.runtime.emit  # what our policies do where something happens that could be announced
        if emit is not None:
            send_event(emit, CallRejected(at=call.runtime.now(), name=call.name, policy="", retry_after=None))
    return await nxt(call)


def _listen(event: Event) -> None:
    """Hears nothing: calls that succeed are no event."""


_FOUR = (Retry, CircuitBreaker, _rate_limit, _bulkhead)

OURS = (
    Subject("resilient Timeout", "deadline", _through(_timeout)),
    Subject("resilient Retry", "retry", _through(Retry)),
    Subject("resilient CircuitBreaker", "circuit breaker", _through(CircuitBreaker)),
    Subject("resilient async with CircuitBreaker", "circuit breaker", _block(CircuitBreaker)),
    Subject("resilient RateLimit", "rate limit", _through(_rate_limit)),
    Subject("resilient Bulkhead", "bulkhead", _through(_bulkhead)),
    Subject("resilient async with Bulkhead", "bulkhead", _block(_bulkhead)),
    Subject("resilient AdaptiveThrottle", "others", _through(AdaptiveThrottle)),
    Subject("resilient Hedge, hedgeable call", "others", _hedged),
    Subject("resilient fallback", "others", _with_fallback),
    Subject(STACK, "stack", _through(*_FOUR)),
    Subject("resilient the same four, somebody listening", "stack", _through(*_FOUR, runtime=Runtime(emit=_listen))),
    Subject("resilient Timeout + the same four", "stack", _through(_timeout, *_FOUR)),
    Subject("resilient Pipeline()", "pipeline", _through()),
    Subject("resilient policy of one's own", "pipeline", _through(lambda: _pass_on)),
    Subject(_LOOP, "pipeline", _through(lambda: _loop)),
    Subject(HOOK, "pipeline", _through(lambda: _loop_with_hooks), baseline=_LOOP, times=_TIMES),
)
