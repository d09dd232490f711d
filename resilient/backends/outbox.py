"""The protocol of an outbox: messages that were committed together with an effect, and are delivered afterwards.

A message is added through the connection of whoever writes the effect, and so it exists exactly if the effect does.
Relays then claim it, deliver it, and settle it. This is the whole of its state machine; `f` is the fence under which a
relay claimed the message, and a settlement under any other fence changes nothing:

=========  ==================================================  =====================================
state      event                                               next state
=========  ==================================================  =====================================
absent     add                                                 pending
pending    claim: it is due, and the first of its group        pending, leased to f' > f, one attempt more
pending    claim: it is due, an earlier one of its group open  waiting
pending    claim: it is due, and no attempt is left            parked: every relay that tried it died
pending    renew(f): the lease begins anew                     pending
pending    settle(f): delivered                                delivered
pending    settle(f): failed                                   pending, due after its delay
pending    settle(f): parked                                   parked
waiting    the one before it is delivered or discarded         pending
parked     requeue                                             pending, due, without attempts
parked     discard                                             discarded
delivered  gc, when its retention is over                      absent
discarded  gc, when its retention is over                      absent
=========  ==================================================  =====================================

Pending, waiting and parked messages are *open*. A leased message is not due until its lease is over, and then it is due
again: so a relay that died is followed. Within a group the messages are claimed one at a time, in the order in which
they were committed; a parked one holds those behind it.

Attempts are counted when a message is claimed, not when it fails: a message that kills its relay is counted, too. The
database's clock decides, read after its lock is held.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar, final, runtime_checkable

__all__ = [
    "BlockingOutbox",
    "Claimed",
    "Draft",
    "HasOutbox",
    "Message",
    "OutboxStats",
    "Parked",
    "Plan",
    "Rows",
    "Settlement",
    "Statement",
]

T = TypeVar("T")


class Statement(NamedTuple):
    """One statement, with parameters written `:name`."""

    sql: str
    values: Mapping[str, object] = {}


class Rows(NamedTuple):
    """What a statement came to."""

    rows: Sequence[Sequence[Any]]
    """Empty for a statement that returns none."""
    changed: int
    """How many rows it changed."""


Plan: TypeAlias = Generator[Statement, Rows, T]
"""Statements for a connection that is somebody else's, blocking or asynchronous: each is sent what it came to."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A message that is to be added."""

    topic: str
    key: str
    payload: bytes
    group: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    delay: float = 0.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message that is to be delivered, leased to one relay."""

    id: int
    """Rises in the order in which messages were added; never used again."""
    topic: str
    key: str
    """Its idempotency key: to be sent along, as the message may be delivered again."""
    payload: bytes
    group: str | None
    headers: Mapping[str, str]
    attempt: int
    """1 for the first."""
    age: float
    """Seconds since it was added."""
    fence: int

    def json(self) -> object:
        """Return the payload as the value that was added. Raises `ValueError` for what is no JSON."""
        import json

        value: object = json.loads(self.payload)
        return value


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What came of one delivery."""

    message: Message
    state: Literal["delivered", "failed", "parked"]
    delay: float = 0.0
    """Seconds until a failed one is due again."""
    error: str = ""
    counted: bool = True
    """Whether the attempt counts: not where nothing was sent."""


class Claimed(NamedTuple):
    """What a relay may deliver now, and what it found to have no attempt left."""

    messages: list[Message]
    parked: list[Message]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """A message that is not delivered any more until somebody has looked into it."""

    id: int
    topic: str
    key: str
    payload: bytes
    group: str | None
    headers: Mapping[str, str]
    attempts: int
    error: str
    """What the last attempt failed with."""
    age: float
    """Seconds since it was added."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxStats:
    """How much is in an outbox: for metrics and alarms. Counting reads the whole table."""

    pending: int
    """To be delivered, now or later; those in flight included."""
    in_flight: int
    """Leased to a relay."""
    waiting: int
    """Behind another one of their group."""
    parked: int
    """Worth an alarm: each waits for somebody."""
    delivered: int
    """Kept until their retention is over; those that were discarded included."""
    oldest: float
    """Seconds since the oldest pending or waiting message was added: how far the relays are behind; 0.0 for none."""


class BlockingOutbox(Protocol):
    """The messages of one database.

    It opens nothing before it is first used, may be shared by threads, and raises `StoreUnavailable` for every failure
    of its own. Its module's docstring holds the state machine.
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

    def add(self, draft: Draft) -> Plan[bool]:
        """Tell how to add a message through somebody's connection; True if it is new.

        The plan raises `KeyReused` for a known key of this topic with another payload, and `ValueError` for a
        connection to another database.
        """
        ...

    def claim(
        self, *, owner: str, limit: int, lease: float, attempts: int, topics: Sequence[str] | None = None
    ) -> Claimed:
        """Lease up to `limit` messages that are due for `lease` seconds; park those that had `attempts` already."""
        ...

    def renew(self, messages: Sequence[Message], *, lease: float) -> set[int]:
        """Let the leases begin anew; return the ids of those that are still the caller's."""
        ...

    def settle(self, settlements: Sequence[Settlement]) -> set[int]:
        """Write down what came of deliveries; return the ids of those that were still the caller's."""
        ...

    def parked(self, *, limit: int = 100, after: int = 0) -> list[Parked]:
        """Return parked messages with an id above `after`, in the order of their ids."""
        ...

    def requeue(self, ids: Sequence[int]) -> int:
        """Let parked messages be delivered after all; return how many there were."""
        ...

    def discard(self, ids: Sequence[int]) -> int:
        """Give up parked messages, so that those behind them are delivered; return how many there were."""
        ...

    def gc(self, limit: int = 1000) -> int:
        """Remove at most `limit` messages whose retention is over, and tell how many."""
        ...

    def stats(self) -> OutboxStats:
        """Count what is held."""
        ...

    def close(self) -> None:
        """Give back connections; they are opened again when they are needed."""
        ...


@runtime_checkable
class HasOutbox(Protocol):
    """A blocking store in a database that can hold an outbox as well."""

    def outbox(self, *, keep: float) -> BlockingOutbox:
        """Return the outbox of this database, which keeps what was delivered for `keep` seconds."""
        ...
