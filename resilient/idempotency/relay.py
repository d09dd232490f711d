"""Who delivers what lies in an outbox."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, final

from resilient.backends.outbox import Message
from resilient.context import current_runtime, detached
from resilient.idempotency.outbox import Outbox, check_name
from resilient.idempotency.shift import Shift
from resilient.machines.backoff import Backoff
from resilient.runtime import Runtime

__all__ = ["Deliver", "Relay"]

Deliver: TypeAlias = "Callable[[Message], Awaitable[object]] | Callable[[Message], object]"


@final
class Relay:
    """Deliver the messages of an outbox: each at least once, until it is delivered or given up.

    ```python
    import anyio

    from resilient.idempotency import Message, Outbox, Relay

    async def deliver(message: Message) -> None:
        print(message.key, message.json())  # or: client.post(..., headers={"Idempotency-Key": format_key(message.key)})

    relay = Relay(Outbox("sqlite:///shop.db"), deliver)
    assert anyio.run(relay.flush) == 0  # nothing was added; `relay.run` goes on for ever
    ```

    `outbox`
        Where the messages are. As many relays as you like, in as many processes, may share one.
    `deliver`
        A coroutine function, or a plain one, which is run in a worker thread. It sends `message.key` along, so that
        the receiver recognises a message that it has seen. To return is to have delivered.
    `topics`
        Deliver these only; everything by default.
    `concurrency`
        Deliveries at a time (8), and so messages claimed at a time: a message is claimed when it can be begun.
    `lease`
        Seconds after which the messages of a relay that died are another one's (30.0). It is renewed three times in
        that span.
    `timeout`
        Seconds for one delivery (10.0), which then counts as failed: deliveries inherit the deadline. A plain function
        is told by its deadline only; it cannot be ended.
    `attempts`
        After how many attempts a message is parked (20: about an hour with the default backoff). What a policy of ours
        rejected (an open circuit, a full bulkhead) was not attempted and does not count: put a `CircuitBreaker` around
        the delivery, and no outage of the receiver parks a message.
    `backoff`
        The wait after a failure (full jitter, from 1 second doubling up to 5 minutes). A `retry_after` of the exception
        is a lower bound.
    `park_on`
        Exceptions that no repetition will change (none): the message is parked at once.
    `poll`
        Seconds between two looks into an outbox in which nothing is due (0.5): how late a new message may be noticed.
    `drain`
        Seconds for which deliveries may still go on when the relay is stopped or cancelled (5.0).
    `runtime`
        Replaces the ambient one.

    A relay that loses its lease (its process stood still for longer) cancels the delivery as soon as it notices.
    Until then another one may have begun: what makes the effect happen once is the key.

    A database that fails is tried again with a backoff, for ever; a delivery whose outcome cannot be written down is
    repeated, under the same key. Raises `ValueError` or `TypeError` for an argument that is none of the above.
    """

    def __init__(
        self,
        outbox: Outbox,
        deliver: Deliver,
        *,
        topics: Sequence[str] | None = None,
        concurrency: int = 8,
        lease: float = 30.0,
        timeout: float = 10.0,
        attempts: int = 20,
        backoff: Backoff | None = None,
        park_on: tuple[type[Exception], ...] = (),
        poll: float = 0.5,
        drain: float = 5.0,
        runtime: Runtime | None = None,
    ) -> None:
        if not callable(deliver):
            raise TypeError(f"deliver={deliver!r}: a function of the message")
        if topics is not None:
            if isinstance(topics, str) or not topics:
                raise ValueError(f"topics={topics!r}: a list of at least one topic, or None for all")
            for topic in topics:
                check_name("topics", topic)
        for name, count in (("concurrency", concurrency), ("attempts", attempts)):
            if count < 1:
                raise ValueError(f"{name}={count!r}: at least 1")
        for name, seconds in (("lease", lease), ("timeout", timeout), ("poll", poll)):
            if not 0 < seconds < math.inf:
                raise ValueError(f"{name}={seconds!r}: a finite number of seconds, more than 0")
        if not 0 <= drain < math.inf:
            raise ValueError(f"drain={drain!r}: a finite number of seconds, at least 0")
        self.outbox = outbox
        self.deliver = deliver
        self.topics = None if topics is None else tuple(topics)
        self.concurrency = concurrency
        self.lease = lease
        self.timeout = timeout
        self.attempts = attempts
        self.backoff = Backoff(base=1.0, cap=300.0) if backoff is None else backoff
        self.park_on = park_on
        self.poll = poll
        self.drain = drain
        self._runtime = runtime
        self._shifts: set[Shift] = set()

    async def run(self) -> None:
        """Deliver until `stop` is called or this is cancelled, and then let what has been begun come to its end."""
        await self._work(until_idle=False)

    async def flush(self) -> int:
        """Deliver what is due, until nothing is; return how many messages were delivered.

        For a scheduled job, and for tests. Raises `StoreUnavailable` where the database fails: at once if nothing can
        be claimed, after a lease if an outcome cannot be written down.
        """
        return await self._work(until_idle=True)

    def stop(self) -> None:
        """Let `run` and `flush` return when what has been begun has come to its end. May be called in any thread."""
        for shift in tuple(self._shifts):
            shift.stop()

    def wake(self) -> None:
        """Look into the outbox now: something was added. May be called in any thread."""
        for shift in tuple(self._shifts):
            shift.wake()

    async def _work(self, *, until_idle: bool) -> int:
        with detached():
            shift = Shift(self, self._runtime or current_runtime(), until_idle=until_idle)
            self._shifts.add(shift)
            try:
                await shift.run()
            finally:
                self._shifts.discard(shift)
        return shift.delivered
