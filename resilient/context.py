"""What a call takes from its surroundings: the runtime, the server's deadline and priority, options.

One context variable holds all of it. Outside any attempt its value is an `Ambient`; inside an attempt it is the
`Call` itself, so that marking an attempt costs a single `set`. Options are for the calls made directly in their
block: what such a call runs inside does not see them, or an idempotency key would leak into the calls that a
service makes to others. A server's deadline and priority reach all the way down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, final

from resilient.call import Attribute, Call, Priority
from resilient.runtime import Runtime

__all__ = [
    "Ambient",
    "Options",
    "ambient",
    "apply_ambient",
    "current_call",
    "current_runtime",
    "detached",
    "options",
    "serving",
    "surroundings",
    "use_runtime",
]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Per-call settings; each is None where it was not given. See `options`."""

    timeout: float | None = None
    deadline: float | None = None
    priority: Priority | None = None
    idempotency_key: str | None = None
    idempotent: bool | None = None
    attributes: Mapping[Attribute[Any], Any] | None = None

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout={self.timeout!r}: a timeout is more than 0 seconds")
        key = self.idempotency_key
        if key is not None and not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):  # noqa: PLR2004 - the wire's limit
            raise ValueError(f"idempotency_key={key!r}: a key is 1 to 255 printable ASCII characters")

    def over(self, outer: Options | None) -> Options:
        """These options, and the outer ones where these say nothing."""
        if outer is None:
            return self
        given = {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}
        if self.attributes is not None and outer.attributes is not None:
            given["attributes"] = {**outer.attributes, **self.attributes}
        return replace(outer, **given)

    def apply(self, call: Call) -> None:
        """Write these options into a call that begins."""
        deadline = self.deadline
        if self.timeout is not None:
            mine = call.runtime.now() + self.timeout
            deadline = mine if deadline is None else min(deadline, mine)
        if deadline is not None and (call.deadline is None or deadline < call.deadline):
            call.deadline = deadline
        if self.priority is not None:
            call.priority = self.priority
        if self.idempotency_key is not None:
            call.idempotency_key = self.idempotency_key
        if self.idempotent is not None:
            call.repeatable = self.idempotent
        if self.attributes is not None:
            call.attributes = {**(call.attributes or {}), **self.attributes}


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ambient:
    """The surroundings of the calls made here."""

    runtime: Runtime
    deadline: float | None = None
    priority: Priority = Priority.CRITICAL
    options: Options | None = None
    call: Call | None = None
    """The attempt that this code runs in, where there is one."""
    plain: bool = True
    """Nothing but a runtime and the default priority: a call that begins here has nothing to copy."""


ambient: ContextVar[Ambient | Call] = ContextVar("resilient", default=Ambient(runtime=Runtime()))


def surroundings() -> Ambient:
    """The ambient in force here, in the form that calls begin with."""
    here = ambient.get()
    if isinstance(here, Ambient):
        return here
    outer = here.ambient
    # Inside an attempt: its server's deadline and priority go on, its options do not.
    return Ambient(
        runtime=outer.runtime,
        deadline=outer.deadline,
        priority=outer.priority,
        call=here,
        plain=outer.deadline is None,
    )


def apply_ambient(call: Call, here: Ambient) -> None:
    """Give a call that begins what its surroundings hold for it."""
    if here.deadline is not None and (call.deadline is None or here.deadline < call.deadline):
        call.deadline = here.deadline
    if here.options is not None:
        here.options.apply(call)


def current_runtime() -> Runtime:
    """Return the ambient runtime: real time, unless a test or a simulation set another."""
    here = ambient.get()
    return here.runtime


def current_call() -> Call | None:
    """Return the attempt that this code runs in: its key, number, instance and remaining time.

    None outside a decorated function and outside a request that goes through a service.
    """
    here = ambient.get()
    return here if isinstance(here, Call) else here.call


@contextmanager
def _enter(new: Ambient) -> Iterator[None]:
    token = ambient.set(new)
    try:
        yield
    finally:
        ambient.reset(token)


@contextmanager
def options(
    *,
    timeout: float | None = None,
    deadline: float | None = None,
    priority: Priority | None = None,
    idempotency_key: str | None = None,
    idempotent: bool | None = None,
    attributes: Mapping[Attribute[Any], Any] | None = None,
) -> Iterator[None]:
    """Set options for the calls made directly in this block.

    `timeout`
        Seconds for each call, from its own beginning. Never widens a deadline that is already there.
    `deadline`
        An absolute second on the ambient runtime's scale, for all calls together.
    `priority`
        How much the calls matter; see `Priority`.
    `idempotency_key`
        The key of the *one* logical call in this block, instead of a minted one. Two different calls under
        one key are refused by the server, so use it around a single call.
    `idempotent`
        Declares that the calls may run twice (or, with False, that they may not).
    `attributes`
        Typed values for policies of your own.

    Nested blocks add up; the inner one wins where both speak. Raises `ValueError` for a timeout that is not
    positive or a key that HTTP could not carry.
    """
    given = Options(
        timeout=timeout,
        deadline=deadline,
        priority=priority,
        idempotency_key=idempotency_key,
        idempotent=idempotent,
        attributes=attributes,
    )
    here = surroundings()
    with _enter(replace(here, options=given.over(here.options), plain=False)):
        yield


@contextmanager
def serving(*, deadline: float | None = None, priority: Priority | None = None) -> Iterator[None]:
    """Let every call in this block inherit the deadline and priority of the work that is being served.

    The ASGI middleware enters it for each request; a worker does so for each message. A deadline is never
    widened. Unlike `options` it reaches the calls that calls make.
    """
    here = surroundings()
    if deadline is not None and (here.deadline is None or deadline < here.deadline):
        here = replace(here, deadline=deadline, plain=False)
    if priority is not None:
        here = replace(here, priority=priority)
    with _enter(here):
        yield


@contextmanager
def detached() -> Iterator[None]:
    """Forget the caller: its deadline, priority, options and current call.

    For background work that outlives the request that started it.
    """
    with _enter(Ambient(runtime=current_runtime())):
        yield


@contextmanager
def use_runtime(runtime: Runtime) -> Iterator[None]:
    """Make `runtime` the ambient one in this block: virtual time, a seeded source of chance, an event sink."""
    with _enter(Ambient(runtime=runtime)):
        yield
