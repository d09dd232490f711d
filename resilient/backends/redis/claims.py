"""Claims in Redis or Valkey: one hash each, changed by scripts on the server's clock, removed by its own expiry.

Everything that a store keeps carries its tag: `resilient:{tag}:claim:...` and `resilient:{tag}:fence`. So all of it is
in one slot, and so is every key of an effect, which carries the tag as well.

What is here is written once, as coroutines that wait for nothing but the server: plain functions run the same ones,
through a door at which the thread waits.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from resilient.backends.redis.effects import RedisEffect
from resilient.backends.redis.scripts import Scripts
from resilient.backends.redis.server import Reply
from resilient.backends.redis.session import Session, Terms
from resilient.backends.store import Abandoned, Answer, Busy, Mismatch, Record, Replay, Run, Stats
from resilient.context import current_runtime
from resilient.errors import StoreUnavailable

__all__ = ["Claims"]

_log = logging.getLogger("resilient.backends")

_PAGE = 1000
_PAGES = 100
"""How much of the keyspace `stats` looks at: 100,000 keys, for about as many microseconds of the server's time."""


class Claims:
    """A store's steps, whichever door they go through."""

    def __init__(self, session: Session, tag: str, scripts: Scripts, terms: Terms) -> None:
        self._session = session
        self.tag = tag
        self._scripts = scripts
        self._terms = terms
        self._prefix = f"resilient:{{{tag}}}:claim:"
        self._fence = f"resilient:{{{tag}}}:fence"

    async def begin(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float, takeover: bool = True
    ) -> Answer:
        """Ask for the right to run."""
        reply, copied = await self._session.run_copied(
            self._scripts.begin,
            (self._record(scope, key), self._fence),
            (_new_call(), fingerprint, owner, _ms(lease), _ms(ttl), int(takeover)),
        )
        answer, *more = reply
        if answer != b"run":
            return _refusal(answer, *more)
        fence, taken_over, point, data = more
        run = Run(
            scope=scope,
            key=key,
            fence=int(fence),
            owner=owner,
            takeover=taken_over == b"1",
            recovery_point=point.decode(),
            recovery_data=data,
        )
        if not copied:
            await self.release(run)
            raise StoreUnavailable(
                f"{self._terms.address}: {self._terms.replicas} replicas did not have the claim within "
                f"{self._terms.wait} s, so nothing was run"
            )
        return run

    async def heartbeat(self, run: Run, *, lease: float) -> bool:
        """Let the lease begin anew."""
        answer = await self._session.run(self._scripts.heartbeat, (self._of(run),), (run.fence, _ms(lease)))
        return bool(answer)

    async def save(self, run: Run, point: str, data: bytes | None) -> bool:
        """Move the recovery point."""
        args = (run.fence, point) if data is None else (run.fence, point, data)
        answer, copied = await self._session.run_copied(self._scripts.save, (self._of(run),), args)
        self._complain(run, copied=copied)
        return bool(answer)

    async def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
        """Record the result."""
        return await self.commit(run, result, ttl=ttl, effect=RedisEffect(self.tag))

    async def commit(self, run: Run, result: bytes | None, *, ttl: float, effect: RedisEffect) -> bool:
        """Record the result and execute the commands of the effect; False when the fence is not the caller's."""
        keys: list[str | bytes] = [self._of(run), *effect.keys]
        args: list[str | bytes | int] = [run.fence, _new_call(), _ms(ttl), int(result is not None), result or b""]
        args += effect.words()
        reply, copied = await self._session.run_copied(self._scripts.complete, keys, args)
        answer, *more = reply
        if more:
            what, problem = (text.decode(errors="replace") for text in more)
            raise StoreUnavailable(f"{self._terms.address}: {what}: {problem}; nothing was written")
        self._complain(run, copied=copied)
        return bool(answer == b"done")

    async def release(self, run: Run) -> bool:
        """Give the key back."""
        return bool(await self._session.run(self._scripts.release, (self._of(run),), (run.fence,)))

    async def guard(self, run: Run) -> bool:
        """Whether the fence is the caller's, and nothing is recorded."""
        (found,) = await self._session.ask(("HMGET", self._of(run), "state", "fence"))
        return bool(found == [b"running", b"%d" % run.fence])

    async def lookup(self, scope: str, key: str) -> Record | None:
        """Read the record of a key."""
        found = await self._session.run(self._scripts.lookup, (self._record(scope, key),), ())
        return _read(found) if found else None

    async def gc(self, limit: int = 1000) -> int:
        """Return 0: the server removes what is forgotten by itself, as its time comes."""
        return 0

    async def stats(self) -> Stats:
        """Count what is held, of 100,000 keys of the database: of a larger one it is an estimate, made from these.

        `oldest` is that of the records that were looked at. `size` counts the records; the server takes more.
        """
        prefix = self._prefix.encode()
        cursor: Reply = 0
        seen = pages = total = 0
        counts = [0] * 5
        while pages == 0 or (int(cursor) and pages < _PAGES):
            (found, total) = await self._session.ask(("SCAN", cursor, "COUNT", _PAGE), ("DBSIZE",))
            cursor, keys = found
            seen, pages = seen + len(keys), pages + 1
            ours = [key for key in keys if key.startswith(prefix)]
            if ours:
                page = await self._session.run(self._scripts.count, ours, ())
                oldest = max(counts[3], page[3])
                counts = [one + other for one, other in zip(counts, page, strict=True)]
                counts[3] = oldest
        share = max(1.0, total / seen) if int(cursor) and seen else 1.0
        running, done, forgotten, _, size = (round(count * share) for count in counts)
        return Stats(
            records=running + done,
            running=running,
            done=done,
            forgotten=forgotten,
            oldest=counts[3] / 1000,
            size=size,
        )

    async def close(self) -> None:
        """Close the connections; the store opens new ones when it is used again."""
        self._session.forget()
        await self._session.close()

    def _of(self, run: Run) -> str:
        return self._record(run.scope, run.key)

    def _record(self, scope: str, key: str) -> str:
        return f"{self._prefix}{len(scope)}:{scope}:{key}"

    def _complain(self, run: Run, *, copied: bool) -> None:
        if not copied:
            _log.warning(
                "%s: %d replicas did not have the record of %r within %s s; a failover now may forget it",
                self._terms.address,
                self._terms.replicas,
                run.key,
                self._terms.wait,
            )


def _read(found: list[Any]) -> Record:
    state, fingerprint, fence, owner, lease_left, expires_in, point, data, result, lease = found
    running = state == b"running"
    return Record(
        fingerprint=fingerprint,
        state="running" if running else "done",
        fence=int(fence),
        owner=owner.decode(),
        lease_left=lease_left / 1000 if running else 0.0,
        released=running and lease == b"0",
        expires_in=expires_in / 1000,
        recovery_point=point.decode(),
        recovery_data=data,
        result=result,
    )


def _refusal(answer: bytes, value: Any = None) -> Replay | Busy | Mismatch | Abandoned:
    match answer:
        case b"replay":
            return Replay(value)
        case b"busy":
            return Busy(value / 1000)
        case b"mismatch":
            return Mismatch()
        case _:
            return Abandoned()


def _new_call() -> str:
    """What a call is known by when its answer was lost."""
    return current_runtime().new_id()


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)
