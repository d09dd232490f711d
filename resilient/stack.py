"""The policies of a service: those that it has by default, and where key, balancer and budget have their place."""

from __future__ import annotations

from collections.abc import Sequence

from resilient.balancing import Balancer
from resilient.balancing.policy import Balance
from resilient.budget import RetryBudget
from resilient.call import Policy
from resilient.policies.adaptive_throttle import AdaptiveThrottle
from resilient.policies.base import OwnPolicy, Role
from resilient.policies.hedge import Hedge
from resilient.policies.honoured import Honoured
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout

__all__ = ["budget_of", "default_policies", "with_balance", "with_key"]

_TOTAL = 10.0
_ATTEMPT = 2.5


def default_policies(
    *,
    timeout: float | None = _TOTAL,
    idempotency: Honoured | None = None,
    retry: Retry | None = None,
    hedge: Hedge | None = None,
    throttle: AdaptiveThrottle | None = None,
    attempt_timeout: float | None = _ATTEMPT,
) -> list[Policy]:
    """Return the stack of policies that a `Service` has by default, outermost first, for editing.

    `timeout` bounds the whole call (10 s), `attempt_timeout` one attempt (2.5 s, so that three attempts and the
    waits between them fit in). Either may be None. `retry` and `throttle` replace `Retry()` and
    `AdaptiveThrottle()`; `hedge` is off unless given.
    """
    stack: list[Policy | None] = [
        # The total deadline: everything below must fit in it, the waits between attempts included.
        None if timeout is None else Timeout(timeout),
        # The idempotency key: minted once, above everything that repeats the call.
        idempotency,
        # Retry, paid from the destination's budget: the only layer that repeats in time.
        Retry() if retry is None else retry,
        # Hedge: the only layer that repeats in parallel; below retry, or each slow call would start a second series.
        hedge,
        # Adaptive throttle: below retry and hedge, because it counts attempts; above balance, because what it counts
        # is how the far side as a whole takes them.
        AdaptiveThrottle() if throttle is None else throttle,
        # Balance: below everything that repeats, so that each attempt gets an instance of its own; it sees each
        # attempt's end, and holds each instance's breaker.
        Balance(),
        # The attempt's timeout: below balance, so that it is the instance that counts as slow.
        None if attempt_timeout is None else Timeout(attempt_timeout),
        # Below all of them the call is sent, within the deadline that the timeouts have lowered.
    ]
    return [policy for policy in stack if policy is not None]


def _role(policy: Policy) -> Role | None:
    return policy.role if isinstance(policy, OwnPolicy) else None


def with_key(stack: list[Policy], idempotency: Honoured | None) -> list[Policy]:
    """Put the key just outside of what repeats, unless the stack has one."""
    if idempotency is None or any(_role(policy) is Role.KEY for policy in stack):
        return stack
    repeating = (index for index, policy in enumerate(stack) if _role(policy) in {Role.RETRY, Role.HEDGE})
    stack.insert(next(repeating, 0), idempotency)
    return stack


def with_balance(stack: list[Policy], balancer: Balancer) -> list[Policy]:
    """Put the balancer where `Balance()` marks its place, or just outside of the attempt's timeout."""
    places = [index for index, policy in enumerate(stack) if isinstance(policy, Balance)]
    if len(places) > 1:
        raise ValueError("policies: Balance() stands twice; an attempt goes to one instance")
    if places:
        marked = stack[places[0]]
        if isinstance(marked, Balance) and marked.balancer not in {None, balancer}:
            raise ValueError(f"{marked!r}: it has a balancer of its own; give that to the service: balancer=...")
        stack[places[0]] = Balance(balancer)
        return stack
    inside = len(stack)
    repeating = max((i for i, policy in enumerate(stack) if _role(policy) in {Role.RETRY, Role.HEDGE}), default=-1)
    for index in range(inside - 1, repeating, -1):
        if _role(stack[index]) is Role.TIMEOUT and index > 0:
            inside = index
            break
    stack.insert(inside, Balance(balancer))
    return stack


def budget_of(policies: Sequence[Policy]) -> RetryBudget | None:
    """The destination's budget: that of its retries, or one for the hedges alone."""
    for policy in policies:
        if isinstance(policy, Retry):
            return policy.budget
    return RetryBudget() if any(isinstance(policy, Hedge) for policy in policies) else None
