"""The policies that are compared, by name.

`none`
    An attempt timeout, round robin, and nothing else.
`retry1`, `retry3`, `retryN`
    N retries after a first attempt, with exponential backoff and full jitter, of whatever fails: what most programs
    have. No budget, no regard for whether a call may run twice, round robin.
`default`
    What a `Service` has if one says nothing else, with an idempotency key where the far side honours it.
`module:factory`
    Your own: a function that returns a `Service`, a `Pipeline` or a list of policies. It is called once for each
    client, with a `Setting` if it needs an argument, and may be the very function that production uses: only where the
    instances are found is replaced. A `Stack` (see `resilient.lab.contenders`) may stand there instead.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, TypeAlias, cast, final

from resilient.balancing import Balance, Check, Probe, RoundRobin
from resilient.call import Policy
from resilient.discovery import Discovery
from resilient.pipeline import Pipeline
from resilient.policies.honoured import Honoured
from resilient.policies.retry import Backoff, Retry
from resilient.policies.timeout import Timeout
from resilient.service import Service
from resilient.stack import default_policies

__all__ = ["Factory", "Maker", "Setting", "Stack", "made_by", "stack"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a scenario asks of the policies that it tries: what a caller of this service would know of it."""

    name: str
    """Of the service."""
    timeout: float
    """Seconds that the whole call may take."""
    attempt_timeout: float
    """Seconds that one attempt may take."""
    honours_keys: bool = False
    """Whether the service honours idempotency keys."""
    zone: str | None = None
    """Where the caller is."""
    check: Check | None = None
    """Asks an instance whether it is there, for `HealthCheck(setting.check)`."""
    probe: Probe | None = None
    """Asks an instance how busy it is, for `Prequal(probe=setting.probe)`."""


Maker: TypeAlias = Callable[[Setting, Discovery], Service]
Factory: TypeAlias = "Callable[[], Made] | Callable[[Setting], Made]"
Made: TypeAlias = Service | Pipeline | Sequence[Policy]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Policies by name, and what a caller that has them is like."""

    name: str
    make: Maker
    reckless: bool = False
    """Whether it repeats what may not run twice."""
    tells: bool = True
    """Whether it tells servers its deadline, as resilient's HTTP client does and other clients do not."""


def _none(setting: Setting, discovery: Discovery) -> Service:
    return _naive(setting, discovery, ())


def _naive(setting: Setting, discovery: Discovery, policies: Sequence[Policy]) -> Service:
    stack = [*policies, Balance(), Timeout(setting.attempt_timeout)]
    return Service(setting.name, discovery, balancer=RoundRobin(), ejection=None, policies=stack)


def _retries(number: int) -> Maker:
    def make(setting: Setting, discovery: Discovery) -> Service:
        retry = Retry(attempts=number + 1, backoff=Backoff(), budget=None)
        return _naive(setting, discovery, (Timeout(setting.timeout), retry))

    return make


def _default(setting: Setting, discovery: Discovery) -> Service:
    policies = default_policies(
        timeout=setting.timeout,
        attempt_timeout=setting.attempt_timeout,
        idempotency=Honoured() if setting.honours_keys else None,
    )
    return Service(setting.name, discovery, policies=policies)


_RETRIES = re.compile(r"retry([1-9]\d?)")


def stack(name: str) -> Stack:
    """Return the policies of that name; see this module for the names that there are.

    Raises `ValueError` for a name that is none and for a factory that cannot be imported, and `TypeError` for one that
    is no function.
    """
    if name == "none":
        return Stack(name=name, make=_none, reckless=True, tells=False)
    if (retries := _RETRIES.fullmatch(name)) is not None:
        return Stack(name=name, make=_retries(int(retries[1])), reckless=True, tells=False)
    if name == "default":
        return Stack(name=name, make=_default)
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise ValueError(f"policy {name!r}: one of none, retry1, retry3 (retryN), default, or module:factory")
    found = _find(name, module, path)
    return replace(found, name=name) if isinstance(found, Stack) else Stack(name=name, make=made_by(found))


def _find(name: str, module: str, path: str) -> Factory | Stack:
    try:
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # the last two for names like `.x` and `..`
        raise ValueError(f"policy {name!r}: {error}") from error
    if isinstance(found, Stack):
        return found
    if not callable(found):
        raise TypeError(f"policy {name!r}: expected a function that returns policies, got {found!r}")
    return cast("Factory", found)


def made_by(factory: Factory) -> Maker:
    """Make services of what the factory returns, whichever form that has.

    Raises `TypeError` for a factory that needs other arguments than a `Setting`; the maker does so for one that returns
    something else, and `ValueError` for one whose runtime is pinned.
    """
    wants_setting = _wants_setting(factory)

    def make(setting: Setting, discovery: Discovery) -> Service:
        made: object = cast("Any", factory)(setting) if wants_setting else cast("Any", factory)()
        pipeline = made.pipeline if isinstance(made, Service) else made
        if isinstance(pipeline, Pipeline) and pipeline.runtime is not None:
            raise ValueError(f"{made!r}: has a runtime of its own, so it would not live in virtual time; leave it out")
        if isinstance(made, Service):
            made.discovery = discovery
            return made
        if isinstance(made, Pipeline):  # it balances nothing: its client takes what a name server gives it, in turn
            return Service(setting.name, discovery, balancer=RoundRobin(), ejection=None, policies=[*made])
        if isinstance(made, Sequence) and not isinstance(made, str):
            return Service(setting.name, discovery, policies=cast("Sequence[Policy]", made))
        if inspect.iscoroutine(made):
            made.close()
        raise TypeError(f"{_called(factory)}: returned {made!r}; expected a Service, a Pipeline or a list of policies")

    return make


def _wants_setting(factory: Factory) -> bool:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # some functions written in C do not tell
        return False
    several = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    needed = [one for one in parameters if one.default is one.empty and one.kind not in several]
    if len(needed) > 1 or any(one.kind is one.KEYWORD_ONLY for one in needed):
        names = ", ".join(one.name for one in needed)
        raise TypeError(f"{_called(factory)}: needs {names}; a factory of policies takes nothing, or a Setting")
    return bool(needed)


def _called(factory: Factory) -> str:
    return getattr(factory, "__qualname__", repr(factory))
