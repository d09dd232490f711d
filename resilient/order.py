"""Refuse an order of policies that cannot work, and say what to swap and why."""

from __future__ import annotations

from collections.abc import Sequence

from resilient.call import Policy
from resilient.policies.base import OwnPolicy, Role

__all__ = ["check_order"]

_MUST_BE_OUTSIDE: dict[tuple[Role, Role], str] = {
    (
        Role.KEY,
        Role.RETRY,
    ): "every attempt must carry the same idempotency key, so it is minted outside of what repeats",
    (
        Role.KEY,
        Role.HEDGE,
    ): "both attempts must carry the same idempotency key, so it is minted outside of what repeats",
    (Role.RETRY, Role.HEDGE): "a hedge around retries would start a second series of them for every slow one",
    (
        Role.RETRY,
        Role.BALANCE,
    ): "an instance picked outside of the retries would get every attempt, also when it is down",
    (Role.HEDGE, Role.BALANCE): "an instance picked outside of the hedge would get both attempts",
}


def check_order(policies: Sequence[Policy]) -> None:
    """Raise `ValueError` for an order that cannot work, `TypeError` for what is no policy."""
    seen: list[OwnPolicy] = []
    for policy in policies:
        if not callable(policy):
            raise TypeError(f"{policy!r}: a policy is called as `await policy(call, nxt)`")
        if isinstance(policy, type):
            raise TypeError(f"{policy.__name__}: a class; write {policy.__name__}(...)")
        if not isinstance(policy, OwnPolicy):
            continue
        for outer in seen:
            if outer is policy and policy.stateful:
                raise ValueError(
                    f"{policy!r} stands twice: it would admit and count every call twice. Make two of them."
                )
            why = _MUST_BE_OUTSIDE.get((policy.role, outer.role))
            if why is not None:
                name, other = type(policy).__name__, type(outer).__name__
                raise ValueError(f"{other} stands outside of {name}. Put {name} before {other}: {why}.")
        seen.append(policy)
