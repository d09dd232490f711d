"""One run of a relay: it claims, delivers, renews and settles, until it is told to stop."""

from __future__ import annotations

import inspect
import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import anyio
import anyio.abc
import anyio.to_thread

from resilient.backends.outbox import Claimed, Message, Settlement
from resilient.context import serving
from resilient.errors import Rejected
from resilient.events import DeliveryFailed, MessageParked, send_event
from resilient.idempotency.hosts import LoopHost
from resilient.machines.backoff import Backoff
from resilient.runtime import Runtime
from resilient.waiting import Waiter, loop_waiter

if TYPE_CHECKING:
    from resilient.idempotency.relay import Relay

__all__ = ["Shift"]

_log = logging.getLogger("resilient.idempotency")

_BEATS = 3
"""Renewals a lease: one may be lost, and another late, before the lease is."""
_OUTAGE = Backoff(base=0.2, cap=5.0)
"""Between attempts to reach a database that fails, but never less than `_SHORTEST_OUTAGE`."""
_SHORTEST_OUTAGE = 0.05
_HINT_JITTER = 0.1
_LAST_WORD = 1.0
"""Seconds to write down that messages are given back, when what was in flight had its time."""
_LONGEST_ERROR = 2000
"""Characters of an error that are kept with a message."""
_NO_SURVIVOR = "no relay that delivered it survived"


@dataclass(eq=False, slots=True)
class _Delivery:
    """A message that is leased to this relay, from its claim until its outcome is written down."""

    message: Message
    scope: anyio.CancelScope
    """Ends with the lease."""
    asked: float
    """When the lease was first asked for: what counts is when the question left, not when the answer came."""
    edge: float
    """The deadline of `scope` that belongs to `asked`, on the clock of the event loop."""
    until: float
    """When the lease is over, as far as is known here."""
    given_back: bool = False
    """It was ended on purpose, and may be another relay's at once."""


@final
@dataclass(eq=False, slots=True)
class Shift:
    """One run of a relay, in one event loop. `stop` and `wake` may be called in any thread."""

    relay: Relay
    runtime: Runtime
    until_idle: bool
    delivered: int = 0
    _host: LoopHost = field(default_factory=LoopHost)
    _owner: str = ""
    _held: dict[tuple[int, int], _Delivery] = field(default_factory=dict[tuple[int, int], _Delivery])
    """By id and fence: a message whose lease was lost may be claimed again before its delivery has ended."""
    _outcomes: list[Settlement] = field(default_factory=list[Settlement])
    _unwritten: anyio.Event = field(default_factory=anyio.Event)
    _limiter: anyio.CapacityLimiter | None = None
    _stopping: bool = False
    _woken: bool = False
    _waiter: Waiter | None = None
    _failure: Exception | None = None

    def stop(self) -> None:
        """Claim no more, and return when what has been begun has come to its end."""
        self._stopping = True
        self.wake()

    def wake(self) -> None:
        """Look whether there is something to claim."""
        self._woken = True
        waiter = self._waiter
        if waiter is not None:
            waiter.wake()

    async def run(self) -> None:
        """Deliver. A cancellation stops it, as `stop` does, and surfaces when all is at rest."""
        self._owner = self.runtime.new_id()
        async with anyio.create_task_group() as outside:
            outside.start_soon(self._watch)
            # A cancelled scope is noticed by `_watch` alone, so that deliveries may come to their end. A native
            # cancellation of asyncio pierces the shield: `_work` drains before it lets it through.
            with anyio.CancelScope(shield=True):
                await self._work()
            outside.cancel_scope.cancel()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    async def _watch(self) -> None:
        try:
            await anyio.Event().wait()
        finally:
            self.stop()

    async def _work(self) -> None:
        async with anyio.create_task_group() as group:
            background = anyio.CancelScope()
            group.start_soon(self._look_after, background)
            try:
                await self._feed(group)
            except Exception as error:  # noqa: BLE001 - raised again outside of the groups, as itself
                self._failure = error
            finally:
                self._stopping = True
                await self._drain()
                background.cancel()

    async def _look_after(self, until: anyio.CancelScope) -> None:
        with until:
            async with anyio.create_task_group() as group:
                group.start_soon(self._renew)
                group.start_soon(self._write)

    async def _feed(self, group: anyio.abc.TaskGroup) -> None:
        """Claim and begin, as long as there is room and something is due."""
        failures = 0
        while not self._stopping:
            self._woken = False
            room = self.relay.concurrency - len(self._held)
            if room == 0:
                await self._rest(math.inf)
                continue
            asked = self.runtime.now()
            claimed = await self._claim(room)
            if claimed is None:
                failures += 1
                await self._sit_out(failures)
                continue
            failures = 0
            for message in claimed.parked:
                self._tell_parked(message, _NO_SURVIVOR)
            for message in claimed.messages:
                self._begin(group, message, asked)
            if self.until_idle and not self._held:
                return
            if len(claimed.messages) < room:
                await self._rest(self.relay.poll)

    async def _claim(self, room: int) -> Claimed | None:
        """Claim as much as there is room for; None where the database fails."""
        relay = self.relay
        outbox = relay.outbox

        async def step() -> Claimed:
            return await outbox.run_blocking(
                outbox.blocking.claim,
                owner=self._owner,
                limit=room,
                lease=relay.lease,
                attempts=relay.attempts,
                topics=relay.topics,
            )

        async def undo(claimed: Claimed) -> None:
            back = [_give_back(message) for message in claimed.messages]
            await outbox.run_blocking(outbox.blocking.settle, back)

        try:
            return await self._host.shelter(step, undo)
        except Exception as error:
            if self.until_idle:
                raise
            _log.warning("%r: nothing could be claimed: %r", outbox, error)
            return None

    def _begin(self, group: anyio.abc.TaskGroup, message: Message, asked: float) -> None:
        late = self.runtime.now() - asked
        scope = anyio.move_on_after(self.relay.lease - late)
        delivery = _Delivery(message, scope, asked, scope.deadline, asked + self.relay.lease)
        self._held[message.id, message.fence] = delivery
        group.start_soon(self._deliver, delivery)

    async def _deliver(self, delivery: _Delivery) -> None:
        message = delivery.message
        outcome: Settlement | None = None
        try:
            with delivery.scope:
                if self.runtime.now() < delivery.until:  # this process may have stood still since it asked
                    outcome = await self._attempt(message)
            if outcome is None and delivery.given_back:
                outcome = _give_back(message)
        finally:
            if outcome is None:
                # The lease is over: whatever became of the message, another relay decides.
                self._let_go(message)
            else:
                self._outcomes.append(outcome)
                self._unwritten.set()

    def _let_go(self, message: Message) -> None:
        del self._held[message.id, message.fence]
        self.wake()

    async def _attempt(self, message: Message) -> Settlement:
        """Deliver once, and tell what came of it."""
        timeout = self.relay.timeout
        try:
            with anyio.fail_after(timeout), serving(deadline=self.runtime.now() + timeout):
                await self._call(message)
        except Exception as error:  # noqa: BLE001 - whatever a receiver comes to is written down
            return self._judge(message, error)
        return Settlement(message=message, state="delivered")

    async def _call(self, message: Message) -> None:
        deliver: Any = self.relay.deliver
        if inspect.iscoroutinefunction(deliver) or inspect.iscoroutinefunction(type(deliver).__call__):
            await deliver(message)
            return
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self.relay.concurrency)
        # In a list: trio refuses a coroutine, which a plain function may return as well.
        (result,) = await anyio.to_thread.run_sync(lambda: [deliver(message)], limiter=self._limiter)
        if inspect.isawaitable(result):
            await result

    def _judge(self, message: Message, error: Exception) -> Settlement:
        relay, random = self.relay, self.runtime.random
        text = f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]
        counted = not isinstance(error, Rejected)  # which was never attempted
        if isinstance(error, relay.park_on) or (counted and message.attempt >= relay.attempts):
            self._tell_parked(message, text)
            return Settlement(message=message, state="parked", error=text)
        delay = relay.backoff.delay(message.attempt, random)
        hint = getattr(error, "retry_after", None)
        if isinstance(hint, int | float) and hint > 0:
            delay = max(delay, min(hint, relay.backoff.cap) * (1.0 + _HINT_JITTER * random()))
        if self.runtime.emit is not None:
            event = DeliveryFailed(
                at=self.runtime.now(),
                name=message.topic,
                key=message.key,
                attempt=message.attempt,
                delay=delay,
                reason=text,
            )
            send_event(self.runtime.emit, event)
        return Settlement(message=message, state="failed", delay=delay, error=text, counted=counted)

    def _tell_parked(self, message: Message, reason: str) -> None:
        _log.warning("message %d of %r is parked: %s", message.id, message.topic, reason)
        if self.runtime.emit is not None:
            event = MessageParked(
                at=self.runtime.now(), name=message.topic, key=message.key, attempt=message.attempt, reason=reason
            )
            send_event(self.runtime.emit, event)

    async def _write(self) -> None:
        """Write outcomes down, all that came meanwhile in one commit."""
        while True:
            await self._unwritten.wait()
            self._unwritten = anyio.Event()
            batch, self._outcomes = self._outcomes, []
            await self._write_down(batch)

    async def _write_down(self, batch: list[Settlement]) -> None:
        outbox, began = self.relay.outbox, self.runtime.now()
        failures = 0
        mine: set[int] | None = None
        while mine is None:
            # As long as it takes: nobody can claim them while the database fails, and afterwards the fence decides.
            try:
                mine = await self._host.shelter(lambda: outbox.run_blocking(outbox.blocking.settle, batch))
            except Exception as error:  # noqa: BLE001 - stores are anybody's; what they raise is logged
                _log.warning("%r: outcomes could not be written down: %r", outbox, error)
                failures += 1
                if self.until_idle and self.runtime.now() - began >= self.relay.lease:
                    self._failure, mine = error, set()
                    self.stop()
            if mine is None:
                await self.runtime.sleep(self._outage(failures))
        for each in batch:
            if each.message.id in mine:
                self.delivered += each.state == "delivered"
            else:
                _log.warning("message %d of %r: the lease was lost", each.message.id, each.message.topic)
            self._let_go(each.message)

    async def _renew(self) -> None:
        """Let the leases begin anew, and end deliveries whose lease is another relay's."""
        outbox, lease = self.relay.outbox, self.relay.lease
        while True:
            await self.runtime.sleep(lease / _BEATS)
            held = list(self._held.values())
            if not held:
                continue
            asked = self.runtime.now()
            messages = [each.message for each in held]
            try:
                mine = await outbox.run_blocking(outbox.blocking.renew, messages, lease=lease)
            except Exception as error:  # noqa: BLE001 - likewise; the scope of each delivery ends with its lease
                _log.warning("%r: leases could not be renewed: %r", outbox, error)
                continue
            for each in held:
                if each.message.id in mine:
                    each.scope.deadline = each.edge + (asked - each.asked)
                    each.until = asked + lease
                else:
                    each.scope.cancel()

    async def _drain(self) -> None:
        """Let what has been begun come to its end, and give back what does not in time."""
        with anyio.move_on_after(self.relay.drain):
            await self._until_at_rest()
        for each in self._held.values():
            each.given_back = True
            each.scope.cancel()
        with anyio.move_on_after(_LAST_WORD):
            await self._until_at_rest()

    async def _until_at_rest(self) -> None:
        while self._held:
            self._woken = False
            await self._rest(math.inf)

    async def _rest(self, seconds: float) -> None:
        """Wait until woken, no longer than `seconds`."""
        waiter = self._waiter = loop_waiter()
        if not self._woken:
            await waiter.wait(seconds)
        self._waiter = None

    async def _sit_out(self, failures: int) -> None:
        """Wait until the database may be back, or until stopped: nothing else shortens it."""
        until = self.runtime.now() + self._outage(failures)
        while not self._stopping and (left := until - self.runtime.now()) > 0:
            self._woken = False
            await self._rest(left)

    def _outage(self, failures: int) -> float:
        return max(_SHORTEST_OUTAGE, _OUTAGE.delay(failures, self.runtime.random))


def _give_back(message: Message) -> Settlement:
    return Settlement(message=message, state="failed", counted=False, error="its relay was stopped")
