"""Policies that a scenario compares with the usual ones: one remedy alone, or the default with one part changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from resilient.balancing import Balance, Ejection, Filter, HealthCheck, Picker, Prequal, RoundRobin
from resilient.call import Policy
from resilient.discovery import Discovery
from resilient.lab.stacks import Setting, Stack
from resilient.policies.honoured import Honoured
from resilient.policies.timeout import Timeout
from resilient.service import Service
from resilient.stack import default_policies

__all__ = ["Pick", "by_name", "changed", "prequal", "single"]

Pick: TypeAlias = Picker | Callable[[Setting], Picker]
"""A picker, or what makes one in a setting."""


def prequal(setting: Setting) -> Picker:
    """The picker `Prequal`, which asks the setting's servers."""
    return Prequal(probe=setting.probe)


def _picker(pick: Pick | None, setting: Setting) -> Picker | None:
    return pick(setting) if callable(pick) else pick


def single(
    name: str,
    policies: Callable[[], Sequence[Policy]] = tuple,
    *,
    picker: Pick | None = None,
    ejection: Ejection | None = None,
    filters: Sequence[Filter] = (),
    tells: bool = False,
) -> Stack:
    """Return a stack with these `policies` and nothing else, between the timeout of a call and that of its attempts.

    They are made anew for each client, and repeat what may not run twice if they repeat anything. The instance is
    chosen by `picker` (in turn) among those that `filters` leave, and left out according to `ejection` (never). `tells`
    is whether servers are told the deadline.
    """

    def make(setting: Setting, discovery: Discovery) -> Service:
        rule = _picker(picker, setting) or RoundRobin()
        stack = [Timeout(setting.timeout), *policies(), Balance(), Timeout(setting.attempt_timeout)]
        return Service(
            setting.name,
            discovery,
            balancer=rule,
            ejection=ejection,
            filters=filters,
            policies=stack,
        )

    return Stack(name=name, make=make, reckless=True, tells=tells)


def changed(
    name: str,
    changes: Callable[[], Mapping[str, Any]] = dict,
    *,
    picker: Pick | None = None,
    ejection: Ejection | None = Ejection(),  # noqa: B008 - it is frozen
    edit: Callable[[list[Policy]], list[Policy]] = list,
    filters: Callable[[Setting], Sequence[Filter]] | None = None,
    health: Callable[[Setting], HealthCheck] | None = None,
) -> Stack:
    """Return the default stack with `changes`: arguments of `default_policies`, made anew for each client.

    `edit` is applied to the list of policies that comes of it, for what no argument changes. `filters` and `health` are
    made in the setting: where the caller is, and how an instance is asked whether it is there.
    """

    def make(setting: Setting, discovery: Discovery) -> Service:
        usual: dict[str, Any] = {
            "timeout": setting.timeout,
            "attempt_timeout": setting.attempt_timeout,
            "idempotency": Honoured() if setting.honours_keys else None,
        }
        policies = edit(default_policies(**(usual | dict(changes()))))
        return Service(
            setting.name,
            discovery,
            balancer=_picker(picker, setting),
            ejection=ejection,
            filters=() if filters is None else filters(setting),
            health=None if health is None else health(setting),
            policies=policies,
        )

    return Stack(name=name, make=make)


def by_name(*stacks: Stack) -> dict[str, Stack]:
    """The contenders of a scenario."""
    return {stack.name: stack for stack in stacks}
