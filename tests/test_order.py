"""An order that cannot work is refused where it is written, with what to swap and why."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from resilient.balancing import Balancer
from resilient.balancing.policy import Balance
from resilient.call import Call, Next, Policy
from resilient.pipeline import Pipeline
from resilient.policies.adaptive_throttle import AdaptiveThrottle
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.fallback import fallback
from resilient.policies.hedge import Hedge
from resilient.policies.honoured import Honoured
from resilient.policies.rate_limit import RateLimit
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout


async def foreign(call: Call, nxt: Next[Any]) -> Any:
    return await nxt(call)


@pytest.mark.parametrize(
    ("outer", "inner", "why"),
    [
        (Retry(), Honoured(), "every attempt must carry the same idempotency key, so it is minted outside of what"),
        (Hedge(0.1), Honoured(), "every attempt must carry the same idempotency key, so it is minted outside of what"),
        (Hedge(0.1), Retry(), "a hedge around retries would start a second series of them for every slow one"),
        (Balance(Balancer()), Retry(), "an instance picked outside of the retries would get every attempt"),
        (Balance(Balancer()), Hedge(0.1), "an instance picked outside of the hedge would get all attempts"),
    ],
)
def test_an_order_that_cannot_work_says_what_to_swap_and_why(outer: Policy, inner: Policy, why: str):
    first, second = type(outer).__name__, type(inner).__name__
    for between in ((), (Timeout(1.0), foreign)):
        with pytest.raises(ValueError, match=f"{first} stands outside of {second}. Put {second} before {first}: {why}"):
            Pipeline(Timeout(2.0), outer, *between, inner)
    Pipeline(inner, outer)


@pytest.mark.parametrize(
    "policy",
    [Retry(), CircuitBreaker(), Bulkhead(1), RateLimit("1/second"), AdaptiveThrottle()],
    ids=lambda policy: type(policy).__name__,
)
def test_the_same_stateful_policy_twice_is_refused(policy: Policy):
    with pytest.raises(ValueError, match=r"stands twice: it would admit and count every call twice. Make two of them"):
        Pipeline(policy, Timeout(1.0), policy)
    Pipeline(policy)
    Pipeline(policy, Timeout(1.0))  # in another pipeline it is shared


def test_what_has_no_state_may_stand_twice():
    timeout = Timeout(1.0)
    Pipeline(timeout, foreign, timeout, foreign)
    Pipeline(Timeout(0.05), Retry(), Timeout(5))


@pytest.mark.parametrize("kind", [CircuitBreaker, Timeout, Retry])
def test_a_class_instead_of_an_instance_is_refused(kind: Any):
    with pytest.raises(TypeError, match=rf"{kind.__name__}: a class; write {kind.__name__}\(...\)"):
        Pipeline(kind)


async def _takes_one(call: Call) -> None: ...
async def _takes_three(call: Call, nxt: Next[Any], more: int) -> None: ...
async def _takes_names(*, call: Call, nxt: Next[Any]) -> None: ...


@pytest.mark.parametrize(
    "wrong",
    [None, 2.0, "retry", _takes_one, _takes_three, _takes_names, Pipeline(Timeout(1.0)), fallback(None)],
    ids=lambda policy: type(policy).__name__ + getattr(policy, "__name__", ""),
)
def test_what_is_no_policy_is_refused(wrong: Any):
    with pytest.raises(TypeError, match=r"a policy is called as `await policy\(call, nxt\)`"):
        Pipeline(Timeout(1.0), wrong)


class _Counting:
    async def __call__(self, call: Call, nxt: Next[Any]) -> Any:
        return await nxt(call)

    async def method(self, call: Call, nxt: Next[Any]) -> Any:
        return await nxt(call)


async def _with_a_setting(setting: int, call: Call, nxt: Next[Any], note: str = "") -> Any:
    return await nxt(call)


@pytest.mark.parametrize("right", [foreign, _Counting(), _Counting().method, functools.partial(_with_a_setting, 3)])
def test_anything_that_can_be_called_so_is_one(right: Any):
    Pipeline(right)


def test_a_callable_whose_signature_nobody_knows_is_believed():
    unknown: Any = getattr  # a C function without a text signature
    Pipeline(unknown)
