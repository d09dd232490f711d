"""The protocol of an inbox: how far a consumer has come in its streams, and which messages it could not process.

That a message was processed is a claim's record (see `resilient.backends.store`). What lies here is the rest: positions
of streams, which are committed together with an effect, and messages that failed:

========  ===========================================  ============
state     event                                        next state
========  ===========================================  ============
absent    begun: somebody began before, and died       failing
absent    fail                                         failing
failing   begun                                        failing, one attempt more
failing   fail                                         failing
failing   fail with park=True                          parked
absent    fail with park=True                          parked
failing   done, committed together with the effect     absent
parked    done, committed together with the effect     absent
parked    discard                                      absent
failing   forgotten after its retention                absent
========  ===========================================  ============

Positions only rise. A parked message counts as processed: the position of its stream moves past it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

from resilient.backends.outbox import Plan

__all__ = ["BlockingInbox", "Failure", "HasInbox", "InboxStats", "Known", "Letter"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A message as it came."""

    key: str
    payload: bytes
    stream: str | None = None
    position: int | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a message and its stream before it is processed."""

    attempts: int = 0
    """How often it failed."""
    parked: bool = False
    position: int | None = None
    """How far its stream was processed."""
    behind: int | None = None
    """The position of an earlier message of its stream that failed and was not processed since."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A message that is not tried any more until somebody has looked into it."""

    id: int
    letter: Letter
    attempts: int
    error: str
    """What the last attempt failed with."""
    age: float
    """Seconds since it first failed."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class InboxStats:
    """What a consumer could not process: for metrics and alarms."""

    failing: int
    """To be delivered again by the broker."""
    parked: int
    """Worth an alarm: each waits for somebody."""
    oldest: float
    """Seconds since the oldest of them first failed; 0.0 for none."""


class BlockingInbox(Protocol):
    """What the consumers of one database keep beside their claims.

    It opens nothing before it is first used, may be shared by threads, and raises `StoreUnavailable` for every failure
    of its own. A plan is for the connection that the effect is written through.
    """

    def statements(self) -> list[str]:
        """What makes the tables in an empty database."""
        ...

    def migrate(self) -> list[str]:
        """Make the tables, or bring them up to date, whatever the store was told; return what was run."""
        ...

    def prepare(self) -> None:
        """Make the tables, unless a plan does that itself."""
        ...

    def look(self, consumer: str, letter: Letter) -> Known:
        """Tell what is known of a message."""
        ...

    def begun(self, consumer: str, letter: Letter) -> int:
        """Count an attempt that follows one that died; return its number."""
        ...

    def fail(self, consumer: str, letter: Letter, *, attempts: int, error: str, park: bool, keep: float) -> None:
        """Write down that a message failed `attempts` times; with `park` it is kept for somebody to look into.

        Failing messages that nobody delivered again for `keep` seconds are forgotten.
        """
        ...

    def done(self, consumer: str, key: str) -> Plan[None]:
        """Tell how to forget that a message failed."""
        ...

    def clear(self, consumer: str, key: str) -> None:
        """Forget that a message failed, as `done` does."""
        ...

    def advance(self, consumer: str, stream: str, position: int) -> Plan[bool]:
        """Tell how to move the position of a stream; False, and nothing is written, where it was there already."""
        ...

    def position(self, consumer: str, stream: str) -> int | None:
        """Return how far a stream was processed; None for one of which nothing was."""
        ...

    def parked(self, consumer: str, *, limit: int = 100, after: int = 0) -> list[Failure]:
        """Return parked messages with an id above `after`, in the order of their ids."""
        ...

    def discard(self, consumer: str, ids: Sequence[int]) -> int:
        """Forget parked messages; return how many there were."""
        ...

    def stats(self, consumer: str) -> InboxStats:
        """Count what failed."""
        ...

    def close(self) -> None:
        """Give back connections; they are opened again when they are needed."""
        ...


@runtime_checkable
class HasInbox(Protocol):
    """A blocking store in a database that can hold an inbox as well."""

    def inbox(self) -> BlockingInbox:
        """Return the inbox of this database."""
        ...
