"""Refuse an order of policies that cannot work, and say what to swap and why."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from resilient.call import Policy
from resilient.policies.base import OwnPolicy, Role

__all__ = ["check_order"]

_SAME_KEY = "every attempt must carry the same idempotency key, so it is minted outside of what repeats"

_OUTER_INNER_WHY = (
    (Role.KEY, Role.RETRY, _SAME_KEY),
    (Role.KEY, Role.HEDGE, _SAME_KEY),
    (Role.RETRY, Role.HEDGE, "a hedge around retries would start a second series of them for every slow one"),
    (Role.RETRY, Role.BALANCE, "an instance picked outside of the retries would get every attempt, even when down"),
    (Role.HEDGE, Role.BALANCE, "an instance picked outside of the hedge would get all attempts"),
)


def check_order(policies: Sequence[Policy]) -> None:
    """Raise `ValueError` for an order that cannot work, `TypeError` for what is no policy."""
    for policy in policies:
        _check_policy(policy)
    own = [policy for policy in policies if isinstance(policy, OwnPolicy)]
    for index, policy in enumerate(own):
        for outer in own[:index]:
            if outer is policy and policy.stateful:
                raise ValueError(
                    f"{policy!r} stands twice: it would admit and count every call twice. Make two of them."
                )
            _check_pair(outer, policy)


def _check_policy(policy: Any) -> None:
    if isinstance(policy, type):
        raise TypeError(f"{policy.__name__}: a class; write {policy.__name__}(...)")
    if not callable(policy) or not _takes_two(policy):
        raise TypeError(f"{policy!r}: a policy is called as `await policy(call, nxt)`")


def _takes_two(policy: Callable[..., object]) -> bool:
    try:
        signature = inspect.signature(policy)
    except ValueError:  # nobody can tell
        return True
    try:
        signature.bind(None, None)
    except TypeError:
        return False
    return True


def _check_pair(outer: OwnPolicy, inner: OwnPolicy) -> None:
    for first, second, why in _OUTER_INNER_WHY:
        if inner.role is first and outer.role is second:
            name, other = type(inner).__name__, type(outer).__name__
            raise ValueError(f"{other} stands outside of {name}. Put {name} before {other}: {why}.")
