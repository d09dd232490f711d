"""The default stack of a service with one thing changed, and how the values of settings are written."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from resilient.balancing import Ejection, PeakEwma, Picker, Prequal
from resilient.call import Policy
from resilient.lab.contenders import changed, prequal
from resilient.lab.stacks import Stack
from resilient.policies.adaptive_throttle import AdaptiveThrottle
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.retry import Backoff, Retry, RetryBudget
from resilient.stack import default_policies

__all__ = [
    "argument_of",
    "class_name",
    "in_percent",
    "in_seconds",
    "or_text",
    "with_attempt_timeout",
    "with_backoff",
    "with_breaker",
    "with_budget",
    "with_ejection",
    "with_ejection_or_none",
    "with_peak_ewma",
    "with_picker",
    "with_policies",
    "with_retry",
    "with_throttle",
    "with_timeout",
]


def in_seconds(value: float) -> str:
    """Write seconds."""
    return f"{value * 1000:g} ms" if value < 1 else f"{value:g} s"


def in_percent(value: float) -> str:
    """Write a share."""
    return f"{value * 100:g} %"


def or_text(nothing: str, text: Callable[[Any], str]) -> Callable[[Any], str]:
    """Write None as `nothing`, and whatever else as `text` does."""
    return lambda value: nothing if value is None else text(value)


def class_name(value: object) -> str:
    """Write an object by its class."""
    return type(value).__name__


def argument_of(function: Callable[..., object], name: str) -> Any:
    """The default of an argument."""
    return inspect.signature(function).parameters[name].default


def with_policies(changes: Callable[[], Mapping[str, Any]], **others: Any) -> Stack:
    """With other arguments of `default_policies`; `others` are those of `changed`."""
    return changed("changed", changes, **others)


def with_timeout(total: float | None) -> Stack:
    """With another total timeout; that of an attempt is the default's, whatever a scenario says."""
    return with_policies(
        lambda: {"timeout": total, "attempt_timeout": argument_of(default_policies, "attempt_timeout")}
    )


def with_attempt_timeout(seconds: float) -> Stack:
    """With another timeout of an attempt; the total one is the default's, whatever a scenario says."""
    return with_policies(lambda: {"timeout": argument_of(default_policies, "timeout"), "attempt_timeout": seconds})


def with_retry(**arguments: Any) -> Stack:
    """With another `Retry`."""
    return with_policies(lambda: {"retry": Retry(**arguments)})


def with_backoff(name: str, value: float) -> Stack:
    """With one argument of `Backoff` changed."""
    return with_retry(backoff=Backoff(**{name: value}))


def with_budget(name: str, value: float | None) -> Stack:
    """With one argument of `RetryBudget` changed; None: without a budget."""
    return with_policies(lambda: {"retry": Retry(budget=None if value is None else RetryBudget(**{name: value}))})


def _without_throttle(stack: list[Policy]) -> list[Policy]:
    return [policy for policy in stack if not isinstance(policy, AdaptiveThrottle)]


def with_throttle(name: str, value: float | None) -> Stack:
    """With one argument of `AdaptiveThrottle` changed; None: without it."""
    if value is None:
        return changed("changed", edit=_without_throttle)
    return with_policies(lambda: {"throttle": AdaptiveThrottle(**{name: value})})


def with_breaker(wanted: bool) -> Stack:
    """One breaker for all instances, just below the retries."""

    def edit(stack: list[Policy]) -> list[Policy]:
        below_retry = next(place for place, policy in enumerate(stack) if isinstance(policy, Retry)) + 1
        return [*stack[:below_retry], CircuitBreaker(), *stack[below_retry:]]

    return changed("changed", edit=edit if wanted else list)


def with_ejection(name: str, value: Any) -> Stack:
    """With one argument of `Ejection` changed."""
    return changed("changed", ejection=Ejection(**{name: value}))


def with_ejection_or_none(name: str, value: float | None) -> Stack:
    """Like `with_ejection`; None: without ejection."""
    return changed("changed", ejection=None) if value is None else with_ejection(name, value)


def with_picker(picker: Picker) -> Stack:
    """With another picker; one that asks instances asks those of the lab."""
    return changed("changed", picker=prequal if picker == Prequal() else picker)


def with_peak_ewma(name: str, value: float) -> Stack:
    """With one argument of `PeakEwma` changed."""
    return changed("changed", picker=PeakEwma(**{name: value}))
