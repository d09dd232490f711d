"""Stop calling what fails."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

from resilient.call import Call, End, Next, Policy
from resilient.context import current_runtime
from resilient.errors import CircuitOpen
from resilient.events import CircuitClosed, CircuitHalfOpened, CircuitIsolated, CircuitOpened, Event, send_event
from resilient.machines.circuit import GOOD, Circuit, CircuitState, Judgement, Permit, Transition
from resilient.policies.base import Holder, Role, refuse
from resilient.policies.listening import LISTENED, Listeners
from resilient.runtime import Runtime
from resilient.verdict import Verdict

if TYPE_CHECKING:
    from pybreaker import CircuitBreakerListener

__all__ = ["CircuitBreaker"]


def _judge(verdict: Verdict) -> Judgement:
    if verdict.good:
        return Judgement.GOOD
    if verdict.bad:
        return Judgement.BAD
    return Judgement.TURNED_AWAY if verdict.refusal else Judgement.NOTHING


_JUDGEMENTS = {verdict: _judge(verdict) for verdict in Verdict}
_HEALTHY = Verdict.OK


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CircuitBreaker(Holder):
    """Refuse calls with `CircuitOpen` while the far side fails, and find out carefully when it works again.

    It opens when, of at least `minimum_calls` (20) calls in the window, the share `failure_ratio` (0.5) failed,
    or `slow_ratio` (1.0) took longer than `slow_call` seconds (None: no call is slow), or when
    `consecutive_failures` (None: off) calls failed in a row. The window is the last `window` seconds (10.0), or
    the last `window_calls` calls. A ratio over a window is the default because a row of failures says little
    about a busy service: at a thousand calls a second, one in ten failing produces rows of five all day.

    After `cooldown` seconds (5.0; doubled, with jitter, each time it opens again soon, up to a minute) at most
    `probes` (1) calls at a time are let through; as many successes close it, one failure opens it. A result
    counts only in the state that its call was admitted in, a cancelled probe decides nothing and gives its
    place back, and a probe that hangs is replaced after `cooldown` seconds: it is never stuck.

    Failures are what the classifier blames on the far side (`Verdict.bad`): cancellations by the caller,
    rejections of our own and a 429 are not. `listeners` take any `pybreaker.CircuitBreakerListener`. Use one
    breaker for each thing that can fail by itself; a `Service` keeps one an instance already. Thread-safe.

    Raises `ValueError` for an argument out of its range, `TypeError` for a listener that is none.
    """

    failure_ratio: float = 0.5
    minimum_calls: int = 20
    window: float = 10.0
    window_calls: int | None = None
    consecutive_failures: int | None = None
    slow_call: float | None = None
    slow_ratio: float = 1.0
    cooldown: float = 5.0
    probes: int = 1
    listeners: Sequence[CircuitBreakerListener] = ()
    name: str = "circuit breaker"
    _machine: Circuit = field(init=False, repr=False)
    _lock: threading.Lock = field(init=False, repr=False, default_factory=threading.Lock)
    _listeners: Listeners | None = field(init=False, repr=False, default=None)
    role: ClassVar[Role] = Role.ADMISSION

    def __post_init__(self) -> None:
        self._validate()
        machine = Circuit(
            failure_ratio=self.failure_ratio,
            minimum_calls=self.minimum_calls,
            window=self.window,
            window_calls=self.window_calls,
            consecutive_failures=self.consecutive_failures,
            slow_call=self.slow_call,
            slow_ratio=self.slow_ratio,
            cooldown=self.cooldown,
            probes=self.probes,
            lease=self.cooldown,
        )
        object.__setattr__(self, "_machine", machine)
        for listener in self.listeners:
            if isinstance(listener, type) or not all(hasattr(listener, name) for name in LISTENED):
                raise TypeError(f"listeners: {listener!r} is no pybreaker.CircuitBreakerListener")
        if self.listeners:
            object.__setattr__(self, "_listeners", Listeners(self, tuple(self.listeners)))

    def _validate(self) -> None:
        for name, ratio in (("failure_ratio", self.failure_ratio), ("slow_ratio", self.slow_ratio)):
            if not 0 < ratio <= 1:
                raise ValueError(f"{name}={ratio!r}: a share of the calls, above 0 and at most 1")
        for name, count in (
            ("minimum_calls", self.minimum_calls),
            ("window_calls", self.window_calls),
            ("consecutive_failures", self.consecutive_failures),
            ("probes", self.probes),
        ):
            if count is not None and count < 1:
                raise ValueError(f"{name}={count!r}: a number of calls, at least 1")
        for name, seconds in (("window", self.window), ("slow_call", self.slow_call), ("cooldown", self.cooldown)):
            if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"{name}={seconds!r}: a finite number of seconds, more than 0")
        if self.window_calls is not None and self.window_calls < self.minimum_calls:
            raise ValueError(
                f"window_calls={self.window_calls!r}: at least minimum_calls={self.minimum_calls!r}, "
                "or no ratio is ever looked at"
            )

    @property
    def state(self) -> CircuitState:
        """Where the circuit stands. An open one turns half-open with the first call after its cool-down."""
        return self._machine.state

    @property
    def consecutive(self) -> int:
        """How many calls failed in a row in the present state."""
        return self._machine.failures()

    def refusing(self, call: Call) -> bool:
        """Whether the circuit is not closed."""
        del call
        return self._machine.closed is None

    def isolate(self) -> None:
        """Refuse every call until `reset`: to take a dependency out of use by hand."""
        with self._lock:
            self._machine.isolate()
        self._announce(current_runtime())

    def reset(self) -> None:
        """Close the circuit, as if new, whatever its state."""
        runtime = current_runtime()
        with self._lock:
            self._machine.reset(runtime.now())
        self._announce(runtime)

    def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
        """Admit a call and settle it around `nxt`."""
        if self._listeners is not None or self.slow_call is not None:
            return Holder.link(self, nxt, below)
        machine, times, settle, around = self._machine, self._machine.times, self._settle, self.around
        lock = self._lock

        async def layer(call: Call) -> Any:
            # The closed circuit, and a call whose every result is a success: no lock, and no clock before the call.
            # A read without the lock is enough: a permit of an era that ends meanwhile counts for nothing.
            permit = machine.closed
            judge = call.classify.result
            if permit is None or call.ends is not None:
                return await around(call, nxt)
            try:
                result = await nxt(call)
            except BaseException as error:
                settle(call, permit, call.classify.error(error), 0.0, error)
                raise
            if judge is not None and (verdict := judge(result)) is not _HEALTHY:
                settle(call, permit, verdict, 0.0)
                return result
            now = call.runtime.now()
            if times is not None and now < times.edge and permit is machine.closed:
                # What `succeed` does, in this frame and without the lock: see TimeWindow.
                machine.row = 0
                times.counts[GOOD] += 1
            else:
                with lock:
                    machine.succeed(permit, now)
            return result

        return layer

    async def around(self, call: Call, nxt: Next[Any]) -> Any:
        """Admit the call, run it, and settle it: with its result where that can be a failure."""
        started = call.runtime.now()
        permit = self._admit(call, started)
        try:
            result = await nxt(call)
        except BaseException as error:
            self._settle(call, permit, call.classify.error(error), call.runtime.now() - started, error)
            raise
        judge = call.classify.result
        verdict = _HEALTHY if judge is None else judge(result)
        # What is slow is the answer, not the reading of its body: the latency of a stream ends here.
        latency = call.runtime.now() - started
        if call.ends is None:
            self._settle(call, permit, verdict, latency)
        else:
            call.ends.append(self._end(call, permit, verdict, latency))
        return result

    async def hold(self, call: Call) -> End:
        """Admit a block."""
        started = call.runtime.now()
        permit = self._admit(call, started)

        def settle(error: BaseException | None) -> None:
            verdict = _HEALTHY if error is None else call.classify.error(error)
            self._settle(call, permit, verdict, call.runtime.now() - started, error)

        return settle

    def _end(self, call: Call, permit: Permit, verdict: Verdict, latency: float) -> End:
        def settle(error: BaseException | None) -> None:
            self._settle(call, permit, verdict if error is None else call.classify.error(error), latency, error)

        return settle

    def _admit(self, call: Call, now: float) -> Permit:
        with self._lock:
            permit = self._machine.admit(now)
            retry_after = None if permit is not None else self._machine.retry_after(now)
        if self._machine.changed:
            self._announce(call.runtime)
        if permit is None:
            when = "" if retry_after is None else f" for {retry_after:.3g} s more"
            message = f"{call.name}: the circuit is {self.state.value}{when}"
            raise refuse(call, CircuitOpen(message, policy=self, retry_after=retry_after))
        if self._listeners is not None:
            self._listeners.before_call(call)
        return permit

    def _settle(
        self, call: Call, permit: Permit, verdict: Verdict, latency: float, error: BaseException | None = None
    ) -> None:
        runtime = call.runtime
        now = runtime.now()
        judgement = _JUDGEMENTS[verdict]
        with self._lock:
            self._machine.settle(permit, judgement, latency, now, runtime.random)
        listeners = self._listeners
        # A failure before the transition that it brings about, a success after it: as pybreaker tells them.
        if listeners is not None and judgement is Judgement.BAD:
            listeners.failure(error)
        if self._machine.changed:
            self._announce(runtime)
        if listeners is not None and judgement is Judgement.GOOD:
            listeners.success()

    def _announce(self, runtime: Runtime) -> None:
        """Tell of the transitions: after they are in force, outside the lock."""
        with self._lock:
            changes = self._machine.take_changes()
        for change in changes:
            if runtime.emit is not None:
                send_event(runtime.emit, self._event(change, runtime.now()))
            if self._listeners is not None:
                self._listeners.changed(change)

    def _event(self, change: Transition, now: float) -> Event:
        match change.new:
            case CircuitState.OPEN:
                return CircuitOpened(at=now, name=self.name, cooldown=change.cooldown)
            case CircuitState.HALF_OPEN:
                return CircuitHalfOpened(at=now, name=self.name)
            case CircuitState.CLOSED:
                return CircuitClosed(at=now, name=self.name)
            case CircuitState.ISOLATED:
                return CircuitIsolated(at=now, name=self.name)
