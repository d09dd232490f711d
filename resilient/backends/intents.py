"""The protocol of stores for intents: what a client is about to send, kept until it knows what came of it.

A store keeps one record for each (scope, key). This is the whole of its state machine; `o` is the token that `begin`
gave out, and a write under any other token changes nothing and answers False:

========  ============================================  =============  ===============================
state     event                                         next state     answer
========  ============================================  =============  ===============================
absent    begin                                         open, o        `Held(fresh=True)`
absent    begin with create=False                       absent         None
open      begin, another fingerprint                    open           `Mismatch`
open      begin, the lease is in force                  open           `Busy(what is left of it)`
open      begin, the lease is over, the window is not   open, o'       `Held`
open      begin, both are over                          lapsed         `Lapsed`
open      heartbeat(o): the lease begins anew           open           True
open      release(o): the lease is over                 open           True
open      finish(o)                                     done           True
open      drop(o)                                       absent         True
open      the window and the lease are over             lapsed
lapsed    begin, another fingerprint                    lapsed         `Mismatch`
lapsed    begin                                         lapsed         `Lapsed`
lapsed    heartbeat, release, finish, drop (o)          as when open   True
any       settle                                        done, absent   True; False where there is none
done      begin, the same fingerprint                   done           `Finished(result)`
done      begin, another fingerprint                    done           `Mismatch`
done      heartbeat, release, finish, drop              done           False
done      its retention is over                         absent
========  ============================================  =============  ===============================

A lapsed intent is never removed by itself and never sent again: the far side may have forgotten its key, so whether
it took effect is for somebody to find out. The store's own clock decides about leases and windows. What `begin` wrote
is on disk when it returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, final

from resilient.backends.store import Busy, Mismatch

__all__ = ["BlockingIntentStore", "Busy", "Finished", "Held", "Intent", "IntentAnswer", "Lapsed", "Mismatch"]


@final
@dataclass(frozen=True, slots=True)
class Finished:
    """It was done before. `result` is what came of it, None where that was not kept."""

    result: bytes | None


@final
@dataclass(frozen=True, slots=True)
class Lapsed:
    """It may have been sent, and may not be sent again: the far side may have forgotten the key."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What a store knows of an intent, with times relative to the moment of reading on the store's own clock."""

    id: int
    """Rises with every new intent of a store."""
    scope: str
    """Where it goes: "POST http://orders/payments", or the name of an operation."""
    key: str
    state: Literal["open", "lapsed", "done"]
    fingerprint: bytes
    request: bytes
    """What is sent."""
    result: bytes | None
    """What came of it, where it is done and its result was kept."""
    attempts: int
    """How often somebody has begun to send it."""
    age: float
    """Seconds since it was written down."""
    window_left: float
    """Seconds for which it may still be sent, and of a done one, for which its result is kept; 0.0 or less: over."""
    lease_left: float
    """Seconds for which somebody who sends it keeps others away; 0.0 or less when nobody does."""
    due_in: float
    """Seconds until the next attempt to resume it; 0.0 or less: now."""
    reason: str
    """Why the last attempt did not finish it; empty where nothing is known."""

    @property
    def forgotten(self) -> bool:
        """Whether it counts as absent."""
        return self.state == "done" and self.window_left <= 0

    def answer(self, fingerprint: bytes) -> Mismatch | Finished | Busy | Lapsed | None:
        """What `begin` answers without a write; None where the caller may send it."""
        if self.fingerprint != fingerprint:
            return Mismatch()
        if self.state == "done":
            return Finished(self.result)
        if self.lease_left > 0:
            return Busy(self.lease_left)
        return Lapsed() if self.state == "lapsed" else None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The caller may send it, and proves it with `owner` in every later write."""

    scope: str
    key: str
    owner: str
    window_left: float
    """Seconds for which it may be sent."""
    attempts: int
    """How often somebody has begun to send it, this time included."""
    request: bytes

    @property
    def fresh(self) -> bool:
        """Whether nobody can have sent it before."""
        return self.attempts == 1


IntentAnswer: TypeAlias = Held | Finished | Mismatch | Busy | Lapsed | None


class BlockingIntentStore(Protocol):
    """A durable store of intents. Its module's docstring holds the state machine.

    It opens nothing before it is first used, may be shared by threads and processes, and raises `StoreUnavailable` for
    every failure of its own. Times are seconds.
    """

    waits: bool
    """Whether its steps wait for a disk or a network: then an event loop runs them in worker threads."""

    def begin(
        self,
        scope: str,
        key: str,
        fingerprint: bytes,
        request: bytes,
        *,
        owner: str,
        lease: float,
        window: float,
        create: bool = True,
    ) -> IntentAnswer:
        """Write an intent down, or take over the one that is there.

        `window` counts from the first `begin`. With `create=False` only what is there is taken.
        """
        ...

    def heartbeat(self, held: Held, *, lease: float) -> bool:
        """Let the lease begin anew."""
        ...

    def release(self, held: Held, *, delay: float, reason: str) -> bool:
        """Leave it open for whoever resumes it, no earlier than in `delay` seconds."""
        ...

    def finish(self, held: Held, result: bytes | None, *, keep: float) -> bool:
        """Write down what came of it, and keep that for `keep` seconds."""
        ...

    def drop(self, held: Held) -> bool:
        """Remove it: nothing happened, or asking again gives the same answer."""
        ...

    def settle(self, scope: str, key: str, *, done: bool, result: bytes | None, keep: float) -> bool:
        """Say what came of an intent, by hand: done, with its result, or never to happen and removed."""
        ...

    def unfinished(self, *, limit: int, after: int = 0) -> list[Intent]:
        """Read the intents that are open or lapsed, in the order in which they were written, from id `after` on."""
        ...

    def lookup(self, scope: str, key: str) -> Intent | None:
        """Read an intent."""
        ...

    def gc(self, limit: int = 1000) -> int:
        """Remove at most `limit` done intents whose retention is over. Every new intent removes a few, too."""
        ...

    def close(self) -> None:
        """Give back connections."""
        ...
