"""`ClientLease`: keys of a leased identity, which the far side forgets exactly when they are no longer needed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from resilient.backends.clients import LEASED, ClientCall
from resilient.backends.connecting import connect
from resilient.backends.faces import Threads
from resilient.backends.store import Store
from resilient.call import Call, Next
from resilient.context import current_call, detached
from resilient.deadline import no_time_left
from resilient.errors import ConcurrencyExceeded, ExpiredKey
from resilient.idempotency.hosts import LoopHost, ThreadHost
from resilient.idempotency.leasing.authority import Authority, Direct, Far
from resilient.idempotency.leasing.server import check_lease, clients_of
from resilient.idempotency.steps import Steps
from resilient.machines.outstanding import Outstanding
from resilient.runtime import Runtime
from resilient.waiting import Waiter, drive, waiter_for

__all__ = ["ClientLease", "client_call"]

_log = logging.getLogger("resilient.idempotency")

_RENEWALS = 3
"""Renewals a lease: one may be lost, and another late, before the lease is."""
_USABLE = 0.9
"""The share of a lease in which new calls begin: a request that is on its way must not arrive after its end."""
_THREADS = 4


@final
class _Identity:
    """One leased name, and the calls that were numbered under it."""

    def __init__(self, client: str, window: int) -> None:
        self.client = client
        self.authorities: dict[bool, Authority] = {}
        """Whom to ask, in plain code (True) and in an event loop, with the credentials of the latest call."""
        self.calls = Outstanding(window)
        self.lease = 0.0
        self.usable_until = 0.0
        self.renewed_at = 0.0
        self.lost = False
        self.renewer: object = None
        """Whoever renews it at this time."""
        self.told = -1
        """What was acknowledged with the last renewal: a lease that nobody uses after that is let go."""

    def ask(self, *, blocking: bool) -> Authority:
        """Whom to ask, here."""
        if blocking not in self.authorities:
            where = "with sync_leave()" if not blocking else "with `await leave()`"
            raise RuntimeError(f"client {self.client} was only used elsewhere: leave {where}")
        return self.authorities[blocking]

    def extend(self, sent: float, lease: float) -> None:
        """A lease is counted from when it was asked for: the far side counts from later."""
        self.lease, self.renewed_at, self.usable_until = lease, sent, sent + lease * _USABLE


@final
@dataclass(frozen=True, slots=True)
class _Ticket:
    """The number of one call. What it acknowledges is as new as each attempt."""

    identity: _Identity
    number: int

    def now(self) -> ClientCall:
        """What an attempt that is made now carries."""
        acknowledged = self.identity.calls.acknowledged
        return ClientCall(client=self.identity.client, number=self.number, acknowledged=acknowledged)


@final
class ClientLease:
    """Number the calls of this process under a leased identity (RIFL, Lee et al., SOSP 2015).

    ```python
    from resilient import Honoured, Service
    from resilient.idempotency import ClientLease

    orders = Service("orders", "static://127.0.0.1:8000", idempotency=Honoured(lease=ClientLease()))
    ```

    A key that is remembered for a day is a guess about the slowest retry. Here the far side knows: each key is
    "<client>.<number>", and each request says up to which number the client has given up retrying. The far side
    forgets what was acknowledged, and refuses it when a late copy arrives (`ExpiredKey`, 410): such a copy takes
    effect neither a second time nor a first one. When a client dies its lease ends, and all of it is forgotten.
    For calls between services of one's own, inside one process: what has to survive a restart needs `Intents`.

    `store`
        By default identities are leased by the far side's `IdempotencyMiddleware(client_lease=...)`, asked the way
        that the calls go: for HTTP clients. For functions whose far side is an `@once` of this store: the store.
    `lease`
        With a store, the seconds of a lease (600.0: it outlives a restart of the far side, and the records of a client
        that died take place for two of them). The middleware says its own.
    `window`
        How many calls may be numbered ahead of the first one that is still under way (512, as in RIFL): the far side
        remembers as many of a client.
    `max_wait`
        Seconds for which a call waits while the window is full (30.0), within its deadline; then it fails with
        `ConcurrencyExceeded`.

    The lease is taken with the first call and renewed in the background, three times in its span, while there are
    calls. One that was lost (this process slept too long) is replaced with the next call; calls that are under way then
    get what the far side still knows of them, or `ExpiredKey`. A key that the caller brought is left alone.

    One object belongs to one far side and serves all tasks, threads and event loops of a process. Raises `ValueError`
    for arguments that cannot work.
    """

    def __init__(
        self, store: Store | str | None = None, *, lease: float = 600.0, window: int = 512, max_wait: float = 30.0
    ) -> None:
        if window < 1:
            raise ValueError(f"window={window!r}: at least 1 call")
        if not max_wait >= 0:
            raise ValueError(f"max_wait={max_wait!r}: seconds, at least 0")
        store = connect(store) if isinstance(store, str) else store
        self.lease = check_lease("lease", lease)
        self.window = window
        self.max_wait = max_wait
        self._store = None if store is None else clients_of(store)
        self._threads = Threads(_THREADS)
        self._lock = threading.Lock()
        self._identity: _Identity | None = None
        self._registering = False
        self._waiters: list[Waiter] = []

    @property
    def client(self) -> str | None:
        """The name of the identity; None while there is none."""
        identity = self._identity
        return None if identity is None or identity.lost else identity.client

    async def run(self, call: Call, nxt: Next[Any]) -> Any:
        """Run a call that has no key yet: what `Honoured` does with it."""
        ticket = await self._take(call)
        identity = ticket.identity
        try:
            call.idempotency_key = ticket.now().key
            call.repeatable = True
            call.attributes = {**(call.attributes or {}), LEASED: ticket.now}
            result = await nxt(call)
        except ExpiredKey as error:
            if not error.stale:
                self._lose(identity)
            raise
        finally:
            self._end(ticket)
        if call.adapter is not None and call.adapter.has_expired(result):
            self._lose(identity)
        return result

    async def leave(self) -> None:
        """Give the identity back, in an event loop: the far side forgets it at once. For the end of a process.

        Calls that are under way lose their keys; a later one takes a new identity.
        """
        identity = self._let_go()
        if identity is not None:
            await identity.ask(blocking=False).leave(identity.client)

    def sync_leave(self) -> None:
        """Give the identity back, in plain code. See `leave`."""
        identity = self._let_go()
        if identity is not None:
            drive(identity.ask(blocking=True).leave(identity.client))

    def __repr__(self) -> str:
        return f"ClientLease({'' if self._store is None else repr(self._store)})"

    # -- the identity -------------------------------------------------------------------------------------------------

    async def _take(self, call: Call) -> _Ticket:
        give_up: float | None = None
        while True:
            identity, number, waiter = self._try_to_take(call)
            if identity is not None and number is not None:
                identity.authorities[call.blocking] = self._authority(call)
                self._see_to_renewal(call, identity)
                return _Ticket(identity, number)
            if waiter is None:
                await self._register(call)
                continue
            if give_up is None:
                give_up = call.runtime.now() + self.max_wait
            await self._wait(call, waiter, give_up)

    def _try_to_take(self, call: Call) -> tuple[_Identity | None, int | None, Waiter | None]:
        """A number; or whom to wait as; or neither: an identity is to be registered, by the caller."""
        waiter = None
        with self._lock:
            identity = self._identity
            if identity is not None and not identity.lost and call.runtime.now() < identity.usable_until:
                number = identity.calls.begin()
                if number is not None:
                    return identity, number, None
            elif not self._registering:
                self._registering = True
                return None, None, None
            waiter = waiter_for(call)
            self._waiters.append(waiter)
        return None, None, waiter

    async def _wait(self, call: Call, waiter: Waiter, give_up: float) -> None:
        now = call.runtime.now()
        ends = give_up if call.deadline is None else min(give_up, call.deadline)
        try:
            woken = ends > now and await waiter.wait(ends - now)
        finally:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        if woken:
            return
        if ends < give_up:
            raise no_time_left(call)
        raise ConcurrencyExceeded(
            f"{call.name}: {self.window} calls are ahead of one that is still under way, and it did not end within "
            f"{self.max_wait:g} s",
            policy=self,
        )

    async def _register(self, call: Call) -> None:
        identity = None
        try:
            sent = call.runtime.now()
            client, lease = await self._authority(call).register(call.runtime.new_id())
            identity = _Identity(client, self.window)
            identity.extend(sent, lease)
        finally:
            with self._lock:
                self._registering = False
                if identity is not None:
                    self._identity = identity
            self._wake()

    def _authority(self, call: Call) -> Authority:
        if self._store is not None:
            return Direct(self._store, Steps(self._store, self._threads, blocking=call.blocking), self.lease)
        if call.adapter is None:
            raise TypeError(
                f"{call.name}: a function cannot ask the far side for a lease; where both share a store, give it: "
                "ClientLease(store)"
            )
        return Far(call.adapter.asker())

    def _end(self, ticket: _Ticket) -> None:
        with self._lock:
            moved = ticket.identity.calls.end(ticket.number)
        if moved:
            self._wake()

    def _lose(self, identity: _Identity) -> None:
        identity.lost = True
        self._wake()

    def _let_go(self) -> _Identity | None:
        with self._lock:
            identity, self._identity = self._identity, None
        if identity is None or identity.lost:
            return None
        identity.lost = True
        return identity

    def _wake(self) -> None:
        with self._lock:
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.wake()

    # -- renewal ------------------------------------------------------------------------------------------------------

    def _see_to_renewal(self, call: Call, identity: _Identity) -> None:
        """Let somebody renew the lease who is not cancelled with a call."""
        interval = identity.lease / _RENEWALS
        now = call.runtime.now()
        with self._lock:
            # Whoever renewed it may have ended together with its event loop.
            if identity.renewer is not None and now < identity.renewed_at + 1.5 * interval:
                return
            token = identity.renewer = object()
        blocking, runtime = call.blocking, call.runtime
        host = ThreadHost() if blocking else LoopHost()
        stop: list[Callable[[], object]] = []

        async def renew() -> None:
            if not await self._renew(identity, token, runtime, blocking=blocking):
                stop[0]()

        with detached():
            stop.append(host.repeat(renew, interval, runtime))

    async def _renew(self, identity: _Identity, token: object, runtime: Runtime, *, blocking: bool) -> bool:
        """Renew the lease, and tell whether it is to be renewed again."""
        with self._lock:
            if identity.renewer is not token or identity.lost or identity is not self._identity:
                return False
            calls = identity.calls
            acknowledged = calls.acknowledged
            if calls.under_way == 0 and acknowledged == identity.told:  # nobody has used it since the last time
                identity.renewer = None
                return False
            identity.told = acknowledged
        sent = runtime.now()
        try:
            lease = await identity.ask(blocking=blocking).renew(identity.client, acknowledged)
        except RuntimeError:  # the client was closed: nobody is left who calls by way of it
            return False
        except Exception:  # noqa: BLE001 - it is tried again; the lease goes on meanwhile
            _log.warning("the lease of client %s was not renewed", identity.client, exc_info=True)
            return True
        if lease is None:
            self._lose(identity)
            return False
        identity.extend(sent, lease)
        return True


def client_call() -> ClientCall | None:
    """Return what the attempt that this code runs in has to carry: client, number and acknowledgement.

    For functions under `Honoured(lease=...)`, to send it along; the far side's `@once(key=...)` returns it. None
    where there is no such call.
    """
    call = current_call()
    made = None if call is None else call.get(LEASED)
    return None if made is None else made()
