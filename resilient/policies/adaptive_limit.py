"""Find out how many calls at once are good for the far side, and send no more."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

from resilient.call import Call, End, Next, Policy
from resilient.errors import ConcurrencyExceeded, DeadlineExceeded
from resilient.events import LimitChanged, send_event
from resilient.machines.concurrency import ConcurrencyLimit
from resilient.machines.keyed import Keyed
from resilient.policies.base import Holder, Role
from resilient.policies.limit_rules import Correlated, Limiter
from resilient.policies.line import Line, Order
from resilient.turn import Turn
from resilient.verdict import Verdict

__all__ = ["AdaptiveLimit", "Place"]

_MAX_KEYS = 1000


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdaptiveLimit(Holder):
    """Let as many calls be in flight at once as the far side can take; refuse the rest with `ConcurrencyExceeded`.

    Nobody knows that number, and it changes with every deployment and every slow neighbour. Whatever is in flight
    beyond it only waits at the far side; so the limit follows the latency of calls, and goes down when more than one in
    twenty are turned away or get no answer in time.

    `limiter`
        The rule by which the limit moves: `Correlated()` by default, or `Gradient2`, `Vegas`, `Aimd`.
    `initial`, `lowest`, `highest`
        Where the limit begins (20), and between what it stays (1 and 200).
    `max_queue`, `max_wait`, `order`
        How many calls may wait for a place (0), how long (1.0 s), and who is next (`"fifo"`): as for a `Bulkhead`.
    `window`, `least`
        The limit moves once a window, which lasts `window` seconds (1.0), twice the quickest call if that is
        longer, and until `least` calls (50) are over. Where calls are rare it hardly moves, and need not. After 30
        seconds a fifth of `least` is enough.
    `key`
        Separate limits for each value of `key(call)`, at most 1,000 of them. By default for each instance, in a
        stack below `Balance()`, and one for all elsewhere.

    A limit that is not half used does not grow: what nobody needed says nothing about what the far side can take.
    Calls that are cancelled, fail, or never arrive say nothing about it, either. A place is held until the call is
    over: for a stream, until the stream is; the latency is that to its beginning.

    Thread-safe. Raises `ValueError` for values that are out of range.
    """

    limiter: Limiter = field(kw_only=False, default=Correlated())
    initial: int = 20
    lowest: int = 1
    highest: int = 200
    max_queue: int = 0
    max_wait: float = 1.0
    order: Order = "fifo"
    window: float = 1.0
    least: int = 50
    key: Callable[[Call], Hashable] | None = None
    _keyed: Keyed[_Limited] = field(init=False, repr=False)
    _turn: Turn = field(init=False, repr=False, default_factory=Turn)
    role: ClassVar[Role] = Role.ADMISSION

    def __post_init__(self) -> None:
        if not 1 <= self.lowest <= self.initial <= self.highest:
            raise ValueError(
                f"lowest={self.lowest!r}, initial={self.initial!r}, highest={self.highest!r}: "
                "how many calls may be in flight, at least 1, in this order"
            )
        if self.max_queue < 0:
            raise ValueError(f"max_queue={self.max_queue!r}: how many calls may wait, at least 0")
        for name, seconds, least in (("max_wait", self.max_wait, 0.0), ("window", self.window, 1e-3)):
            if not (math.isfinite(seconds) and seconds >= least):
                raise ValueError(f"{name}={seconds!r}: a finite number of seconds, at least {least:g}")
        if self.least < 1:
            raise ValueError(f"least={self.least!r}: calls of a window, at least 1")
        object.__setattr__(self, "_keyed", Keyed(self._make, _MAX_KEYS))
        self._make()  # it finds what is wrong with the order

    def _make(self) -> _Limited:
        return _Limited(self)

    def limit(self, key: Hashable = None) -> int:
        """How many calls may be in flight now: of `key`, such as an instance's id."""
        return self._find(key).slots.limit

    def in_flight(self, key: Hashable = None) -> int:
        """How many calls hold a place now."""
        return self._find(key).slots.held

    def queued(self, key: Hashable = None) -> int:
        """How many calls wait for a place now."""
        return len(self._find(key).slots.waiters)

    def _find(self, key: Hashable) -> _Limited:
        with self._turn:
            return self._keyed[key]

    def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
        """Hold a place around `nxt`."""
        del below

        async def layer(call: Call) -> Any:
            place = await self.take(call)
            try:
                result = await nxt(call)
            except BaseException as error:
                place.give_back()  # first: a classifier is somebody else's, and may fail
                place.learn(call.classify.error(error), error)
                raise
            if call.ends is None:
                place.give_back()
            else:
                call.ends.append(lambda _error: place.give_back())
            judge = call.classify.result
            place.learn(Verdict.OK if judge is None else judge(result), None)
            return result

        return layer

    async def hold(self, call: Call) -> End:
        """Take a place, now or from the queue."""
        place = await self.take(call)

        def settle(error: BaseException | None) -> None:
            place.give_back()
            place.learn(Verdict.OK if error is None else call.classify.error(error), error)

        return settle

    async def take(self, call: Call) -> Place:
        """Take a place for a call, now or from the queue: for adapters whose calls are no functions."""
        limited = self._limited(call)
        in_flight = await limited.admit(call)
        return Place(limited, call, in_flight)

    def _limited(self, call: Call) -> _Limited:
        return self._find((self.key or _instance)(call))


def _instance(call: Call) -> Hashable:
    return None if call.instance is None else call.instance.id


@final
class Place:
    """What a call holds while it is in flight: to be given back exactly once, whatever becomes of it."""

    __slots__ = ("_began", "_call", "_in_flight", "_limited")

    def __init__(self, limited: _Limited, call: Call, in_flight: int) -> None:
        self._limited = limited
        self._call = call
        self._in_flight = in_flight
        self._began = call.runtime.now()

    def learn(self, verdict: Verdict, error: BaseException | None) -> None:
        """Tell what came of the call, at the beginning of its answer."""
        self._limited.learn(self._call, verdict, error, self._began, self._in_flight)

    def give_back(self) -> None:
        """Let the next one have it."""
        self._limited.give_back()


@final
class _Limited:
    """The places of one key, and the limit that they follow."""

    __slots__ = ("line", "machine", "policy", "slots", "turn")

    def __init__(self, policy: AdaptiveLimit) -> None:
        self.policy = policy
        self.line = Line(
            policy.initial,
            max_queue=policy.max_queue,
            max_wait=policy.max_wait,
            order=policy.order,
            give_back=self.give_back,
            rejection=self._rejection,
        )
        self.slots = self.line.slots
        self.machine: ConcurrencyLimit | None = None
        """None before the first call, which brings the time."""
        self.turn = Turn()

    async def admit(self, call: Call) -> int:
        """Take a place, now or from the queue, and tell how many are held."""
        if self.slots.waiters or not self.slots.take():
            await self.line.wait(call)
        return self.slots.held

    def give_back(self) -> None:
        """Give a place back."""
        with self.turn:
            self.slots.give()
        if self.slots.waiters:
            self.line.hand_over()

    def learn(self, call: Call, verdict: Verdict, error: BaseException | None, began: float, in_flight: int) -> None:
        """Draw what a call that ended says about the limit."""
        dropped = verdict.refusal or (isinstance(error, DeadlineExceeded) and error.sent and not error.overslept)
        if not (dropped or verdict.good):
            return
        runtime = call.runtime
        now = runtime.now()
        with self.turn:
            self.slots.took(now - began)
            machine = self.machine
            if machine is None:
                machine = self.machine = self._begin(began)
            before = machine.limit
            if dropped:
                moved = machine.dropped(in_flight, now, runtime.random)
            else:
                moved = machine.answered(now - began, in_flight, now, runtime.random)
            if moved:
                self.slots.resize(machine.limit)
        if not moved:
            return
        if self.slots.waiters:
            self.line.hand_over()
        if runtime.emit is not None:
            changed = LimitChanged(at=now, name=call.name, before=before, limit=machine.limit)
            send_event(runtime.emit, changed)

    def _begin(self, now: float) -> ConcurrencyLimit:
        policy = self.policy
        return ConcurrencyLimit(
            policy.limiter.rule(),
            initial=policy.initial,
            lowest=policy.lowest,
            highest=policy.highest,
            window=policy.window,
            least=policy.least,
            longest=max(30.0, policy.window),
            now=now,
        )

    def _rejection(self, call: Call, why: str) -> ConcurrencyExceeded:
        message = f"{call.name}: {self.slots.limit} calls are in flight, as many as are good for it, and {why}"
        return ConcurrencyExceeded(message, policy=self.policy)
