"""The subjects that we are measured beside, each used as its own documentation does.

A peer is imported where it is measured, so that the others can be measured without it.
"""

from __future__ import annotations

import asyncio
from itertools import repeat

from benchmarks.measuring import Slice, Subject, Work, each

__all__ = ["ASYNCIO_TIMEOUT", "PEERS", "PEERS_STACK"]

ASYNCIO_TIMEOUT = "asyncio.timeout"
PEERS_STACK = "tenacity + pybreaker + limits + anyio.fail_after"

_LONG = 60.0  # seconds: no timeout expires
_RATE = 1_000_000_000  # a second: nobody is made to wait
_MANY = 100  # in flight


def asyncio_timeout(work: Work) -> Slice:
    async def run(calls: int) -> None:
        for _ in repeat(None, calls):
            async with asyncio.timeout(_LONG):
                await work()

    return run


def asyncio_wait_for(work: Work) -> Slice:
    async def run(calls: int) -> None:
        for _ in repeat(None, calls):
            await asyncio.wait_for(work(), _LONG)

    return run


def asyncio_semaphore(work: Work) -> Slice:
    semaphore = asyncio.Semaphore(_MANY)

    async def run(calls: int) -> None:
        for _ in repeat(None, calls):
            async with semaphore:
                await work()

    return run


def anyio_fail_after(work: Work) -> Slice:
    import anyio

    async def run(calls: int) -> None:
        for _ in repeat(None, calls):
            with anyio.fail_after(_LONG):
                await work()

    return run


def anyio_capacity_limiter(work: Work) -> Slice:
    import anyio

    limiter = anyio.CapacityLimiter(_MANY)

    async def run(calls: int) -> None:
        for _ in repeat(None, calls):
            async with limiter:
                await work()

    return run


def tenacity_decorator(work: Work) -> Slice:
    import tenacity

    retry = tenacity.retry(
        retry=tenacity.retry_if_exception_type(OSError),
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_random_exponential(),
        reraise=True,
    )
    return each(retry(work))


def tenacity_prebuilt(work: Work) -> Slice:
    import tenacity

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(OSError),
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_random_exponential(),
        reraise=True,
    )
    return each(lambda: retrying(work))


def stamina_retry(work: Work) -> Slice:
    import stamina

    return each(stamina.retry(on=OSError, attempts=3)(work))


def backoff_retry(work: Work) -> Slice:
    import backoff

    return each(backoff.on_exception(backoff.expo, OSError, max_tries=3)(work))


def pybreaker_calling(work: Work) -> Slice:
    import pybreaker

    breaker = pybreaker.CircuitBreaker()

    async def run(calls: int) -> None:
        for _ in repeat(None, calls):
            with breaker.calling():
                await work()

    return run


def aiobreaker_decorator(work: Work) -> Slice:
    import aiobreaker

    return each(aiobreaker.CircuitBreaker()(work))


def purgatory_decorator(work: Work) -> Slice:
    import purgatory

    return each(purgatory.AsyncCircuitBreakerFactory()("benchmark")(work))


def purgatory_held(work: Work) -> Slice:
    import purgatory

    factory = purgatory.AsyncCircuitBreakerFactory()

    async def run(calls: int) -> None:
        breaker = await factory.get_breaker("benchmark")
        for _ in repeat(None, calls):
            async with breaker:
                await work()

    return run


def circuitbreaker_decorator(work: Work) -> Slice:
    import circuitbreaker

    return each(circuitbreaker.CircuitBreaker()(work))


def aiolimiter_block(work: Work) -> Slice:
    import aiolimiter

    limiter = aiolimiter.AsyncLimiter(_RATE, 1)

    async def run(calls: int) -> None:
        for _ in repeat(None, calls):
            async with limiter:
                await work()

    return run


def limits_fixed_window(work: Work) -> Slice:
    import limits.aio

    limiter = limits.aio.strategies.FixedWindowRateLimiter(limits.aio.storage.MemoryStorage())
    item = limits.RateLimitItemPerSecond(_RATE)

    async def run(calls: int) -> None:
        for _ in repeat(None, calls):
            if await limiter.hit(item, "benchmark"):
                await work()

    return run


def limits_sliding_window(work: Work) -> Slice:
    import limits.aio

    limiter = limits.aio.strategies.SlidingWindowCounterRateLimiter(limits.aio.storage.MemoryStorage())
    item = limits.RateLimitItemPerSecond(_RATE)

    async def run(calls: int) -> None:
        for _ in repeat(None, calls):
            if await limiter.hit(item, "benchmark"):
                await work()

    return run


def pyrate_limiter_async(work: Work) -> Slice:
    import pyrate_limiter

    limiter = pyrate_limiter.Limiter(pyrate_limiter.Rate(_RATE, pyrate_limiter.Duration.SECOND))

    async def run(calls: int) -> None:
        for _ in repeat(None, calls):
            if await limiter.try_acquire_async("benchmark"):
                await work()

    return run


def hyx_timeout(work: Work) -> Slice:
    from hyx.timeout import timeout

    return each(timeout(_LONG)(work))


def hyx_retry(work: Work) -> Slice:
    from hyx.retry import retry

    return each(retry(on=OSError, attempts=3)(work))


def hyx_breaker(work: Work) -> Slice:
    from hyx.circuitbreaker import consecutive_breaker

    return each(consecutive_breaker()(work))


def hyx_token_bucket(work: Work) -> Slice:
    from hyx.ratelimit import tokenbucket

    return each(tokenbucket(_RATE, 1, _RATE)(work))


def hyx_bulkhead(work: Work) -> Slice:
    from hyx.bulkhead import bulkhead

    return each(bulkhead(_MANY, _MANY)(work))


def hyx_fallback(work: Work) -> Slice:
    from hyx.fallback import fallback

    async def answer(*_: object) -> None:
        """Never needed."""

    return each(fallback(answer)(work))


def nopanic_timeout(work: Work) -> Slice:
    import nopanic

    return each(nopanic.timeout(_LONG)(work))


def nopanic_retry(work: Work) -> Slice:
    import nopanic

    return each(nopanic.retry(attempts=3, on=OSError, budget=nopanic.RetryBudget())(work))


def nopanic_breaker(work: Work) -> Slice:
    import nopanic

    return each(nopanic.circuit_breaker()(work))


def nopanic_rate_limit(work: Work) -> Slice:
    import nopanic

    return each(nopanic.rate_limit(_RATE)(work))


def nopanic_bulkhead(work: Work) -> Slice:
    import nopanic

    return each(nopanic.bulkhead(_MANY)(work))


def nopanic_hedge(work: Work) -> Slice:
    import nopanic

    return each(nopanic.hedge(delay=_LONG)(work))


def nopanic_fallback(work: Work) -> Slice:
    import nopanic

    return each(nopanic.fallback(lambda _: None)(work))


def nopanic_stack(work: Work) -> Slice:
    import nopanic

    retry = nopanic.retry(attempts=3, on=OSError, budget=nopanic.RetryBudget())
    stack = nopanic.compose(retry, nopanic.circuit_breaker(), nopanic.rate_limit(_RATE), nopanic.bulkhead(_MANY))
    return each(stack(work))


def peers_stack(work: Work) -> Slice:
    """The stack that is assembled today, from the packages most people use."""
    import anyio
    import limits.aio
    import pybreaker
    import tenacity

    breaker = pybreaker.CircuitBreaker()
    limiter = limits.aio.strategies.FixedWindowRateLimiter(limits.aio.storage.MemoryStorage())
    item = limits.RateLimitItemPerSecond(_RATE)

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(OSError),
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_random_exponential(),
        reraise=True,
    )
    async def attempt() -> None:
        if await limiter.hit(item, "benchmark"):
            with breaker.calling(), anyio.fail_after(_LONG):
                await work()

    return each(attempt)


PEERS = (
    Subject(ASYNCIO_TIMEOUT, "deadline", asyncio_timeout),
    Subject("asyncio.wait_for", "deadline", asyncio_wait_for),
    Subject("anyio.fail_after", "deadline", anyio_fail_after, ["anyio"]),
    Subject("hyx timeout", "deadline", hyx_timeout, ["hyx"]),
    Subject("nopanic timeout", "deadline", nopanic_timeout, ["nopanic"]),
    Subject("tenacity @retry", "retry", tenacity_decorator, ["tenacity"]),
    Subject("tenacity AsyncRetrying, built before", "retry", tenacity_prebuilt, ["tenacity"]),
    Subject("stamina @retry", "retry", stamina_retry, ["stamina"]),
    Subject("backoff @on_exception", "retry", backoff_retry, ["backoff"]),
    Subject("hyx retry", "retry", hyx_retry, ["hyx"]),
    Subject("nopanic retry", "retry", nopanic_retry, ["nopanic"]),
    Subject("pybreaker calling()", "circuit breaker", pybreaker_calling, ["pybreaker"]),
    Subject("aiobreaker", "circuit breaker", aiobreaker_decorator, ["aiobreaker"]),
    Subject("purgatory", "circuit breaker", purgatory_decorator, ["purgatory"]),
    Subject("purgatory, breaker held", "circuit breaker", purgatory_held, ["purgatory"]),
    Subject("circuitbreaker", "circuit breaker", circuitbreaker_decorator, ["circuitbreaker"]),
    Subject("hyx consecutive_breaker", "circuit breaker", hyx_breaker, ["hyx"]),
    Subject("nopanic circuit_breaker", "circuit breaker", nopanic_breaker, ["nopanic"]),
    Subject("aiolimiter", "rate limit", aiolimiter_block, ["aiolimiter"]),
    Subject("limits.aio fixed window", "rate limit", limits_fixed_window, ["limits"]),
    Subject("limits.aio sliding window", "rate limit", limits_sliding_window, ["limits"]),
    Subject("pyrate-limiter", "rate limit", pyrate_limiter_async, ["pyrate-limiter"]),
    Subject("hyx tokenbucket", "rate limit", hyx_token_bucket, ["hyx"]),
    Subject("nopanic rate_limit", "rate limit", nopanic_rate_limit, ["nopanic"]),
    Subject("asyncio.Semaphore", "bulkhead", asyncio_semaphore),
    Subject("anyio.CapacityLimiter", "bulkhead", anyio_capacity_limiter, ["anyio"]),
    Subject("hyx bulkhead", "bulkhead", hyx_bulkhead, ["hyx"]),
    Subject("nopanic bulkhead", "bulkhead", nopanic_bulkhead, ["nopanic"]),
    Subject("nopanic hedge", "others", nopanic_hedge, ["nopanic"]),
    Subject("hyx fallback", "others", hyx_fallback, ["hyx"]),
    Subject("nopanic fallback", "others", nopanic_fallback, ["nopanic"]),
    Subject(PEERS_STACK, "stack", peers_stack, ["tenacity", "pybreaker", "limits", "anyio"]),
    Subject("nopanic compose() of the same four", "stack", nopanic_stack, ["nopanic"]),
)
