"""Break calls on purpose, to see what becomes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, final

from resilient.call import Call, Next, Policy
from resilient.context import current_runtime
from resilient.deadline import no_time_left
from resilient.errors import DeadlineExceeded
from resilient.events import FaultInjected, send_event
from resilient.policies.base import OwnPolicy, Role
from resilient.waiting import pause

__all__ = ["Answer", "Chaos", "Delay", "Fail", "Fault", "LoseReply"]

_LONGEST = 3600.0
"""Seconds: a game day has hours, and each of them somebody who says that it goes on."""


class Fault(Protocol):
    """Something that goes wrong with a share of the calls."""

    @property
    def rate(self) -> float:
        """Which share of the calls, from 0 to 1."""
        ...

    def inject(self, call: Call, nxt: Next[Any]) -> Coroutine[Any, Any, Any]:
        """Return or raise what becomes of a call that it hits."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Delay:
    """Let a call take `seconds` longer, and no longer than its deadline: then it ends as an answer that never came."""

    seconds: float
    rate: float = field(kw_only=True)

    def __post_init__(self) -> None:
        _check_rate(self.rate)
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"seconds={self.seconds!r}: a finite number of seconds, more than 0")

    async def inject(self, call: Call, nxt: Next[Any]) -> Any:
        """Wait, then go on."""
        remaining = call.remaining
        if remaining is not None and remaining <= 0:
            raise no_time_left(call)
        if remaining is not None and remaining <= self.seconds:
            await pause(call, remaining)
            raise DeadlineExceeded(f"{call.name}: no answer within the deadline (a delay of chaos)")
        await pause(call, self.seconds)
        return await nxt(call)


@final
@dataclass(frozen=True, slots=True)
class Fail:
    """Let a call fail with `make()`, an exception, before anything is sent."""

    make: Callable[[], Exception]
    rate: float = field(kw_only=True)

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    async def inject(self, call: Call, nxt: Next[Any]) -> Any:
        """Raise."""
        del call, nxt
        raise self.make()


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """Answer a call with `make(call)` in place of the far side: a 503 that asks to wait, a 429, nonsense."""

    make: Callable[[Call], Any]
    rate: float = field(kw_only=True)

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    async def inject(self, call: Call, nxt: Next[Any]) -> Any:
        """Return the answer."""
        del nxt
        return self.make(call)


@final
@dataclass(frozen=True, slots=True)
class LoseReply:
    """Let a call take place, and fail with `make()` all the same: its reply got lost.

    The fault that exactly-once is for: what is sent again has happened already.
    """

    make: Callable[[], Exception]
    rate: float = field(kw_only=True)

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    async def inject(self, call: Call, nxt: Next[Any]) -> Any:
        """Go on, throw away what comes back, and raise."""
        result = await nxt(call)
        await call.classify.discard(result)
        raise self.make()


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False, init=False)
class Chaos(OwnPolicy):
    """Inject faults into a share of the calls, while somebody says so; otherwise let every call through.

    ```python
    from random import Random

    from resilient import Chaos, Pipeline, Retry
    from resilient.policies.chaos import Delay, Fail

    chaos = Chaos(Delay(0.5, rate=0.1), Fail(ConnectionError, rate=0.01), random=Random(7).random)
    api = Pipeline(Retry(on=ConnectionError), chaos)

    with chaos.unleashed(seconds=60):
        ...  # a test, or a game day
    ```

    It is the innermost policy, so that all others see its faults as the far side's own. Each fault draws for itself,
    and the first of those that are drawn hits the call.

    `when`
        Which calls may be hit: a predicate, such as that of a test account. By default all.
    `random`
        Draws, from 0 to 1; by default the runtime's. One that was seeded makes the faults repeatable.

    Nothing happens by itself, neither by being listed nor by an environment variable: only inside a block of
    `unleashed`, of one object of the program, and no longer than that block says, an hour at most, even if it hangs.
    """

    faults: tuple[Fault, ...]
    when: Callable[[Call], bool] | None
    random: Callable[[], float] | None
    _until: dict[object, float] = field(repr=False)
    """The second at which each block that is open ceases to count."""
    role: ClassVar[Role] = Role.ADMISSION

    def __init__(
        self, *faults: Fault, when: Callable[[Call], bool] | None = None, random: Callable[[], float] | None = None
    ) -> None:
        if not faults:
            raise ValueError("no faults: give at least one of Delay, Fail, Answer, LoseReply")
        object.__setattr__(self, "faults", faults)
        object.__setattr__(self, "when", when)
        object.__setattr__(self, "random", random)
        object.__setattr__(self, "_until", {})

    @contextmanager
    def unleashed(self, *, seconds: float) -> Generator[None]:
        """Inject faults during the block, at most for `seconds`, of which an hour has enough.

        Of every call that goes through this object, whoever makes it: from other tasks and threads, too.
        """
        if not 0 < seconds <= _LONGEST:
            raise ValueError(f"seconds={seconds!r}: more than 0, at most {_LONGEST:g}")
        block = object()
        self._until[block] = current_runtime().now() + seconds
        try:
            yield
        finally:
            del self._until[block]

    def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
        """Inject faults around `nxt`."""
        del below
        until = self._until

        async def layer(call: Call) -> Any:
            if not until:
                return await nxt(call)
            fault = self._draw(call)
            if fault is None:
                return await nxt(call)
            emit = call.runtime.emit
            if emit is not None:
                injected = FaultInjected(at=call.runtime.now(), name=call.name, fault=type(fault).__name__)
                send_event(emit, injected)
            return await fault.inject(call, nxt)

        return layer

    def _draw(self, call: Call) -> Fault | None:
        now = call.runtime.now()
        if not any(end > now for end in [*self._until.values()]) or (self.when is not None and not self.when(call)):
            return None
        random = self.random or call.runtime.random
        # All are drawn, so that what one of them is set to changes nothing for the others of the same seed.
        drawn = [fault for fault in self.faults if random() < fault.rate]
        return drawn[0] if drawn else None


def _check_rate(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"rate={rate!r}: a share of the calls, from 0 to 1")
