"""Under which terms an operation runs, and how it begins."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast, final, get_args

from resilient.backends.connecting import connect
from resilient.backends.store import (
    Abandoned,
    Answer,
    BlockingOneCommitStore,
    Busy,
    Mismatch,
    Mode,
    OneCommitStore,
    Opened,
    Replay,
    Run,
    Store,
)
from resilient.context import current_runtime, surroundings
from resilient.errors import InProgress, KeyReused, OutcomeUnknown
from resilient.events import ClaimBegan, ClaimRefused, OutcomeLeftUnknown, ResultReplayed
from resilient.idempotency.account import Account
from resilient.idempotency.execution import Execution
from resilient.idempotency.hosts import Host
from resilient.runtime import Runtime

__all__ = ["Terms"]

_FIRST_LOOK, _LAST_LOOK = 0.01, 0.25
"""Seconds between two looks at a key that somebody else runs: doubled from the first to the last, and jittered."""

_SHORTEST = 0.001
"""Seconds: what stores round to."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Under which terms operations run: checked once, when they are written down."""

    store: Store
    mode: Mode
    lease: float
    ttl: float
    runtime: Runtime | None
    wait: float = 0.0
    one_commit: bool = False
    """Claim, effect and record share a transaction, which is open from the beginning."""

    @classmethod
    def agree(
        cls,
        store: Store | str,
        *,
        mode: Mode,
        lease: float,
        ttl: float,
        runtime: Runtime | None,
        wait: float = 0.0,
        resumable: bool = False,
    ) -> Terms:
        """Check the terms. Raises `ValueError`."""
        store = connect(store) if isinstance(store, str) else store
        if mode not in get_args(Mode):
            raise ValueError(f"mode={mode!r}: the modes are {', '.join(get_args(Mode))}")
        if mode not in store.modes:
            raise ValueError(f"mode={mode!r}: {store!r} offers {', '.join(sorted(store.modes))}")
        for name, seconds in (("lease", lease), ("ttl", ttl)):
            if not 0 < seconds < math.inf:
                raise ValueError(f"{name}={seconds!r}: a finite number of seconds, more than 0")
        if not 0 <= wait < math.inf:
            raise ValueError(f"wait={wait!r}: a finite number of seconds, at least 0")
        able = mode == "transactional" and isinstance(store.blocking, BlockingOneCommitStore)
        one_commit = able and not resumable
        return cls(store=store, mode=mode, lease=lease, ttl=ttl, runtime=runtime, wait=wait, one_commit=one_commit)

    async def begin(
        self,
        host: Host,
        scope: str,
        key: str,
        fingerprint: bytes,
        *,
        name: str | None = None,
        ask: Callable[..., Awaitable[Answer]] | None = None,
    ) -> Execution | Replay:
        """Begin to run, or learn what came of it before.

        `name` is what events call the operation; the scope by default. `ask` stands for the store's `begin`.

        Raises `KeyReused`, `InProgress`, `OutcomeUnknown`, and `StoreUnavailable` for whatever the store cannot tell.
        """
        runtime = self.runtime or current_runtime()
        account = Account(runtime, name or scope, key)
        store = host.face(self.store)

        async def step() -> Opened | Answer:
            with account.closed_on_failure(store):
                return await self._ask(ask, store, scope, key, fingerprint, owner=runtime.new_id())

        async def undo(answer: Opened | Answer) -> None:
            if isinstance(answer, Opened):
                await answer.transaction.rollback()
            elif isinstance(answer, Run):
                await store.release(answer)

        answer = await host.shelter(step, undo)
        if isinstance(answer, Busy) and self.wait:
            answer = await self._wait(answer, lambda: host.shelter(step, undo), host, runtime)
        whole = answer.transaction if isinstance(answer, Opened) else None
        match answer:
            case (Run() as run) | Opened(run):
                account.tell(ClaimBegan, fence=run.fence, takeover=run.takeover)
                return Execution(self, host, store, run, runtime, account, whole=whole)
            case Replay() as replay:
                account.tell(ResultReplayed)
                return replay
            case Mismatch():
                account.tell(ClaimRefused, reason="reused", retry_after=None)
                raise KeyReused(f"{key!r}: the key was used before, with another payload")
            case Busy(retry_after):
                account.tell(ClaimRefused, reason="in_progress", retry_after=retry_after)
                raise InProgress(f"{key!r}: the same key is being processed", retry_after=retry_after)
            case Abandoned():
                account.tell(OutcomeLeftUnknown)
                raise OutcomeUnknown(f"{key!r}: whoever ran it did not report; reconcile it")

    async def _ask(
        self,
        ask: Callable[..., Awaitable[Answer]] | None,
        store: Store,
        scope: str,
        key: str,
        fingerprint: bytes,
        *,
        owner: str,
    ) -> Opened | Answer:
        lease, ttl = self.lease, self.ttl
        if self.one_commit and ask is None:
            opener = cast("OneCommitStore", store)
            return await opener.open(scope, key, fingerprint, owner=owner, lease=lease, ttl=ttl)
        takeover = self.mode != "at_most_once"
        begin = store.begin if ask is None else ask
        return await begin(scope, key, fingerprint, owner=owner, lease=lease, ttl=ttl, takeover=takeover)

    async def _wait(
        self, answer: Busy, ask: Callable[[], Awaitable[Opened | Answer]], host: Host, runtime: Runtime
    ) -> Opened | Answer:
        """Ask again until the other one is done or its lease is over, no longer than the caller waits for an answer."""
        here = surroundings()
        left = self.wait if here.deadline is None else min(self.wait, here.deadline - here.runtime.now())
        until = runtime.now() + left
        pause = _FIRST_LOOK
        now: Opened | Answer = answer
        while isinstance(now, Busy) and (left := until - runtime.now()) > 0:
            # No later than the lease ends: the other one may be dead, and then this one takes over.
            look = min(left, max(now.retry_after, _SHORTEST), pause * (0.5 + runtime.random()))
            await host.rest(look, runtime)
            now = await ask()
            pause = min(2 * pause, _LAST_LOOK)
        return now
