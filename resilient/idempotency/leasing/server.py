"""The far side of leased clients: what it remembers of their calls is exactly what they may still retry."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import final

from resilient.backends.clients import BlockingClientStore, ClientCall, Refused, scope_of
from resilient.backends.faces import Threads
from resilient.backends.store import Answer, Replay, Store
from resilient.errors import ExpiredKey
from resilient.idempotency.execution import Execution
from resilient.idempotency.fingerprint import digest
from resilient.idempotency.hosts import Host, ThreadHost
from resilient.idempotency.steps import Steps
from resilient.idempotency.terms import Terms

__all__ = ["LeasedClients", "clients_of"]

_AS_LONG_AS_THE_CLIENT = 315_360_000.0
"""Seconds, ten years: the record of a call ends with its acknowledgement or its client, not by itself."""
_THREADS = 8


def clients_of(store: Store) -> BlockingClientStore:
    """The leased clients of a store. Raises `ValueError` for one that has none."""
    make: Callable[[], BlockingClientStore] | None = getattr(store.blocking, "clients", None)
    if make is None:
        raise ValueError(f"store={store!r}: it keeps no leased clients; sqlite://, postgresql:// and memory:// do")
    return make()


def check_lease(name: str, seconds: float) -> float:
    """Return a lease. Raises `ValueError` for what is none."""
    if not 0 < seconds < math.inf:
        raise ValueError(f"{name}={seconds!r}: a finite number of seconds, more than 0")
    return seconds


@final
class LeasedClients:
    """The leased clients in the database of `store`."""

    def __init__(self, store: Store) -> None:
        self._store = clients_of(store)
        self._threads = Threads(_THREADS)

    async def begin(
        self, terms: Terms, host: Host, call: ClientCall, principal: str, fingerprint: bytes, *, name: str
    ) -> Execution | Replay:
        """Begin to run a call of a client, or learn what came of it before.

        Raises `ExpiredKey` for one that was acknowledged, and for a client that is not known any more; and what
        `Terms.begin` raises.
        """
        steps = Steps(self._store, self._threads, blocking=isinstance(host, ThreadHost))

        async def ask(
            _scope: str, _key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float, takeover: bool
        ) -> Answer:
            begin = partial(
                self._store.begin,
                call,
                principal,
                fingerprint,
                owner=owner,
                lease=lease,
                ttl=ttl,
                takeover=takeover,
            )
            answer = await steps.do(begin)
            if isinstance(answer, Refused):
                raise _refusal(call, answer)
            return answer

        # Another principal, or another operation, under the same number is another payload.
        mark = digest([name.encode(), principal.encode(), fingerprint])
        remembering = replace(terms, ttl=_AS_LONG_AS_THE_CLIENT, one_commit=False)
        scope, key = scope_of(call.client), str(call.number)
        return await remembering.begin(host, scope, key, mark, name=name, ask=ask)

    async def register(self, client: str, principal: str, *, lease: float) -> None:
        """Give a client its lease."""
        await self._steps().do(partial(self._store.register, client, principal, lease=lease))

    async def renew(self, client: str, principal: str, acknowledged: int, *, lease: float) -> bool:
        """Let its lease begin anew, unless it is over."""
        return await self._steps().do(partial(self._store.renew, client, principal, acknowledged, lease=lease))

    async def leave(self, client: str, principal: str) -> bool:
        """End its lease; whether it was known."""
        return await self._steps().do(partial(self._store.leave, client, principal))

    async def collect(self, limit: int = 100) -> int:
        """Remove clients whose lease ended a lease ago, with all that is remembered of them."""
        return await self._steps().do(partial(self._store.collect, limit))

    def _steps(self) -> Steps:
        return Steps(self._store, self._threads, blocking=False)


def _refusal(call: ClientCall, refused: Refused) -> ExpiredKey:
    if refused.reason == "stale":
        return ExpiredKey(
            f"{call.key!r}: its client has acknowledged it, and it is not remembered any more", stale=True
        )
    return ExpiredKey(f"{call.key!r}: its client's lease is over, and nothing of the client is remembered any more")
