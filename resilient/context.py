"""What a call takes from its surroundings: the runtime, the server's deadline and priority, options.

One context variable holds all of it. Outside any attempt its value is an `Ambient`; inside an attempt it is the
`Call` itself, so that marking an attempt costs a single `set`. Options are for the calls made directly in their
block: what such a call runs inside does not see them, or an idempotency key would leak into the calls that a
service makes to others. Deadlines and the server's priority reach all the way down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field, replace
from typing import Any, final

from resilient.call import Attribute, Call, Priority
from resilient.runtime import Runtime

__all__ = [
    "Ambient",
    "Block",
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

_LONGEST_KEY = 255  # what servers commonly store


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
            raise ValueError(f"timeout={self.timeout!r}: a number of seconds, more than 0")
        _check_deadline(self.deadline)
        _check_priority(self.priority)
        key = self.idempotency_key
        if key is not None and not (0 < len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()):
            raise ValueError(f"idempotency_key={key!r}: a key is 1 to {_LONGEST_KEY} printable ASCII characters")

    def over(self, outer: Options | None) -> Options:
        """These options, and the outer ones where these say nothing."""
        if outer is None:
            return self
        given = {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}
        if self.deadline is not None and outer.deadline is not None:
            given["deadline"] = min(self.deadline, outer.deadline)
        if self.attributes is not None and outer.attributes is not None:
            given["attributes"] = {**outer.attributes, **self.attributes}
        return replace(outer, **given)

    def apply(self, call: Call) -> None:
        """Write these options into a call that begins. They never widen its deadline."""
        ends = [end for end in (call.deadline, self.deadline) if end is not None]
        if self.timeout is not None:
            ends.append(call.runtime.now() + self.timeout)
        call.deadline = min(ends, default=None)
        if self.priority is not None:
            call.priority = self.priority
        if self.idempotency_key is not None:
            call.idempotency_key = self.idempotency_key
        if self.idempotent is not None:
            call.repeatable = self.idempotent
        if self.attributes is not None:
            call.attributes = {**(call.attributes or {}), **self.attributes}


def _check_deadline(deadline: float | None) -> None:
    if deadline is not None and math.isnan(deadline):
        raise ValueError(f"deadline={deadline!r}: a second on the scale of the ambient runtime")


def _check_priority(priority: object) -> None:
    if priority is not None and not isinstance(priority, Priority):
        raise TypeError(
            f"priority={priority!r}: one of {', '.join(map(str, Priority.__members__))}, of resilient.Priority"
        )


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
    plain: bool = field(init=False)
    """No deadline, no options, the usual priority: for a call that begins here, its constructor does it all."""

    def __post_init__(self) -> None:
        plain = self.deadline is None and self.options is None and self.priority is Priority.CRITICAL
        object.__setattr__(self, "plain", plain)


ambient: ContextVar[Ambient | Call] = ContextVar("resilient", default=Ambient(runtime=Runtime()))


def surroundings() -> Ambient:
    """The ambient in force here, in the form that calls begin with."""
    here = ambient.get()
    return here if isinstance(here, Ambient) else _inside(here)


def _inside(call: Call) -> Ambient:
    """What a call begins with inside the attempt `call`: its deadline, its server's priority, none of its options."""
    outer, runtime, deadline = call.ambient, call.runtime, call.deadline
    if deadline is not None and not call.blocking and deadline <= runtime.now():
        # The attempt has been ended: what still runs is its clean-up, or work that it left behind.
        deadline = _on_the_scale_of(runtime, outer)
    return Ambient(runtime=runtime, deadline=deadline, priority=outer.priority, call=call)


def _on_the_scale_of(runtime: Runtime, here: Ambient) -> float | None:
    if here.deadline is None or runtime.now is here.runtime.now:
        return here.deadline
    return runtime.now() + (here.deadline - here.runtime.now())


def apply_ambient(call: Call, here: Ambient) -> None:
    """Give a call that begins what its surroundings hold for it."""
    deadline = _on_the_scale_of(call.runtime, here)
    if deadline is not None and (call.deadline is None or deadline < call.deadline):
        call.deadline = deadline
    if here.priority is not Priority.CRITICAL:
        call.priority = here.priority
    if here.options is not None:
        here.options.apply(call)


def current_runtime() -> Runtime:
    """Return the ambient runtime: real time, unless a test or a simulation set another."""
    return ambient.get().runtime


def current_call() -> Call | None:
    """Return the attempt that this code runs in: its key, number, instance and remaining time.

    None outside a decorated function and outside a request that goes through a service.
    """
    here = ambient.get()
    return here if isinstance(here, Call) else here.call


@final
class Block:
    """A `with` block of other surroundings. It is entered once at a time; each task makes its own."""

    # A generator-based context manager would also be a decorator, and one that does nothing for an async function.
    __slots__ = ("_change", "_token")

    def __init__(self, change: Callable[[Ambient], Ambient]) -> None:
        self._change = change
        self._token: Token[Ambient | Call] | None = None

    def __enter__(self) -> None:
        if self._token is not None:
            raise RuntimeError("this block is in use already; make one for each `with`")
        self._token = ambient.set(self._change(surroundings()))

    def __exit__(self, *_: object) -> None:
        token, self._token = self._token, None
        assert token is not None
        ambient.reset(token)


def options(
    *,
    timeout: float | None = None,
    deadline: float | None = None,
    priority: Priority | None = None,
    idempotency_key: str | None = None,
    idempotent: bool | None = None,
    attributes: Mapping[Attribute[Any], Any] | None = None,
) -> Block:
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
        Declares that the calls may run twice (or, with False, that they may not, unless under an honoured key).
    `attributes`
        Typed values for policies of your own.

    Nested blocks add up; the inner one wins where both speak, but a deadline is never widened. Raises `ValueError` for
    a timeout that is not positive, a deadline that is no number, or a key that HTTP could not carry, `TypeError` for a
    priority that is none.
    """
    given = Options(
        timeout=timeout,
        deadline=deadline,
        priority=priority,
        idempotency_key=idempotency_key,
        idempotent=idempotent,
        attributes=attributes,
    )
    return Block(lambda here: replace(here, options=given.over(here.options)))


def serving(*, deadline: float | None = None, priority: Priority | None = None) -> Block:
    """Let every call in this block inherit the deadline and priority of the work that is being served.

    The ASGI middleware enters it for each request; a worker does so for each message. `deadline` is a second on the
    ambient runtime's scale, and is never widened. Unlike `options` it reaches the calls that calls make.

    Raises `ValueError` for a deadline that is no number, `TypeError` for a priority that is none.
    """
    _check_deadline(deadline)
    _check_priority(priority)

    def change(here: Ambient) -> Ambient:
        ends = [end for end in (here.deadline, deadline) if end is not None]
        return replace(
            here,
            deadline=min(ends, default=None),
            priority=here.priority if priority is None else priority,
        )

    return Block(change)


def detached() -> Block:
    """Forget the caller: its deadline, priority, options and current call.

    For background work that outlives the request that started it.
    """
    return Block(lambda here: Ambient(runtime=here.runtime))


def use_runtime(runtime: Runtime) -> Block:
    """Make `runtime` the ambient one in this block: virtual time, a seeded source of chance, an event sink.

    The caller's deadline, options and current call are forgotten, since they are on another clock.
    """
    return Block(lambda _: Ambient(runtime=runtime))
