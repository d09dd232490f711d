"""What the library's own policies have in common."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from resilient.call import Call, End, Next, Policy, new_call
from resilient.context import apply_ambient, surroundings
from resilient.errors import Rejected
from resilient.events import CallRejected, send_event
from resilient.verdict import classify_function
from resilient.waiting import drive

__all__ = ["Holder", "OwnPolicy", "Role", "has_foreign", "of_kind", "refuse"]

T = TypeVar("T")


class Role(enum.Enum):
    """What a policy is for, as far as its place in the order matters."""

    TIMEOUT = "timeout"
    KEY = "idempotency key"
    RETRY = "retry"
    HEDGE = "hedge"
    ADMISSION = "admission"
    BALANCE = "balance"


class OwnPolicy(ABC):
    """The marker and the link of the library's own policies; anything else in a pipeline is foreign.

    A pipeline links each policy once, at construction: the result is a plain function of the call, so that a
    layer costs one frame and no attribute look-ups.
    """

    __slots__ = ()
    role: ClassVar[Role]
    stateful: ClassVar[bool] = True
    """Whether one object may stand only once in a pipeline."""
    needs_loop: ClassVar[str | None] = None
    """Why it cannot serve plain functions; None: it can."""
    moves_tasks: ClassVar[bool] = False
    """Whether an attempt may run in another task than its caller, which no async generator survives."""

    @abstractmethod
    def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
        """Return the layer that runs this policy around `nxt`, which is made of the policies `below`."""

    def refusing(self, call: Call) -> bool:
        """Whether it turns calls like this one away at the moment, or some of them: no time to send more than one."""
        del call
        return False

    def __call__(self, call: Call, nxt: Next[T], /) -> Awaitable[T]:
        """Run one call, as a policy of somebody else's does that is made of ours."""
        return self.link(nxt, (_UNKNOWN,))(call)


_UNKNOWN: Any = object()
"""What stands for the policies below where nobody says which they are: it is none of ours."""


def has_foreign(policies: Sequence[Policy]) -> bool:
    """Whether one of them is not the library's own: it may wait for something that no deadline of ours reaches."""
    return any(not isinstance(policy, OwnPolicy) for policy in policies)


def of_kind(kind: Callable[[object], bool], fn: object) -> bool:
    """Whether `fn` is a function of this kind (`inspect.iscoroutinefunction`), or an object whose `__call__` is one."""
    return kind(fn) or kind(getattr(fn, "__call__", None))  # noqa: B004 - looked at, not called


def refuse(call: Call, rejection: Rejected) -> Rejected:
    """Announce that the call was refused, and return the rejection to raise."""
    emit = call.runtime.emit
    if emit is not None:
        policy = type(rejection.policy).__name__
        send_event(
            emit, CallRejected(at=call.runtime.now(), name=call.name, policy=policy, retry_after=rejection.retry_after)
        )
    return rejection


_held: ContextVar[tuple[tuple[Holder, End], ...]] = ContextVar("resilient.held", default=())


class Holder(OwnPolicy):
    """A policy that admits a call and settles it afterwards: it also serves a block.

    `async with policy:` and `with policy:` admit the block like a call, and judge it by the exception that leaves it.
    """

    __slots__ = ()

    @abstractmethod
    async def hold(self, call: Call) -> End:
        """Admit the call, or raise a `Rejected`; return what settles it, to be called exactly once."""

    def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
        """Hold the call around `nxt`."""
        del below
        return lambda call: self.around(call, nxt)

    async def around(self, call: Call, nxt: Next[Any]) -> Any:
        """Run `nxt` held by this policy: until it returns, or until its stream is over."""
        settle = await self.hold(call)
        try:
            result = await nxt(call)
        except BaseException as error:
            settle(error)
            raise
        if call.ends is None:
            settle(None)
        else:
            call.ends.append(settle)
        return result

    async def __aenter__(self) -> None:
        await self._enter(blocking=False)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)

    def __enter__(self) -> None:
        drive(self._enter(blocking=True))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)

    async def _enter(self, *, blocking: bool) -> None:
        here = surroundings()
        call = new_call(f"a block of {type(self).__name__}", _no_step, ((), {}), here.runtime, classify_function, here)
        call.blocking = blocking
        apply_ambient(call, here)
        settle = await self.hold(call)
        # One object serves many blocks at once; which of them ends is told by the context it runs in.
        _held.set((*_held.get(), (self, settle)))

    def _leave(self, error: BaseException | None) -> None:
        held = _held.get()
        for index in reversed(range(len(held))):
            holder, settle = held[index]
            if holder is self:
                _held.set(held[:index] + held[index + 1 :])
                settle(error)
                return
        raise RuntimeError(f"{self!r}: the block was left in another context than it was entered in")


async def _no_step(call: Call) -> None:
    """What a block invokes: nothing, the block itself is the step."""
