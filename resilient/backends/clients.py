"""The protocol of stores for leased clients: what they may still retry is remembered, and exactly that (RIFL).

A client registers and gets a lease. It numbers its calls 1, 2, ..., and says with each one up to which number it has
given up nothing that it could still retry: its acknowledgement. For each client a store keeps one row, and in the
store of claims one record for each call; they share a database, and every event here is one transaction:

=========  ==================================================  ================================================
client     event                                               effect, answer
=========  ==================================================  ================================================
absent     register                                            leased, acknowledged = 0
absent     renew, begin                                        False, `Refused("expired")`
leased     renew(ack)                                          the lease begins anew; forget(ack); True
leased     begin(n, ack), n is acknowledged                    forget(ack); `Refused("stale")`
leased     begin(n, ack)                                       forget(ack); what the store of claims answers
over       renew                                               False
over       begin(n, ack), there is a record of n               what the store of claims answers
over       begin(n, ack), there is none                        `Refused("expired")`
any        leave                                               collected at once
over       collect, one more lease after its end               its records are removed, and then its row: absent
=========  ==================================================  ================================================

*forget(ack)* raises the client's acknowledgement, which never falls, and removes the records of its calls up to it.
One that is running under a lease is spared, and removed when another acknowledgement comes by or the client ends.

Why a call takes effect at most once, however late one of its requests arrives: the record of n disappears only
together with the acknowledgement of n, or with the client. After that there is either an acknowledgement of n or no
client, and both refuse it. A client that was removed never comes back, because its name is never given out again. A
client that stops acknowledging is removed when its lease is over, and a lease that is over does not begin again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, final

from resilient.backends.store import Answer
from resilient.call import Attribute

__all__ = ["LEASED", "BlockingClientStore", "ClientCall", "LeasedAnswer", "Refused", "scope_of"]

_KEY = re.compile(r"([0-9a-f-]{1,64})\.([1-9][0-9]{0,17})")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCall:
    """One call of a leased client: what travels with each of its attempts."""

    client: str
    number: int
    acknowledged: int
    """The client will never again send a call up to this number."""

    def __post_init__(self) -> None:
        if not 0 <= self.acknowledged < self.number:
            raise ValueError(
                f"acknowledged={self.acknowledged!r}: at least 0, and less than the number of the call, {self.number!r}"
            )

    @property
    def key(self) -> str:
        """The idempotency key: "<client>.<number>"."""
        return f"{self.client}.{self.number}"

    @classmethod
    def parse(cls, client: str, key: str, acknowledged: str) -> ClientCall:
        """Read what a request carries. Raises `ValueError`."""
        match = _KEY.fullmatch(key)
        if match is None or match[1] != client:
            raise ValueError(
                f"key {key!r}: that of a leased client is '<client>.<number>', and the client is {client!r}"
            )
        if not (acknowledged.isascii() and acknowledged.isdigit() and len(acknowledged) < len(str(2**63))):
            raise ValueError(f"acknowledgement {acknowledged!r}: a number")
        return cls(client=client, number=int(match[2]), acknowledged=int(acknowledged))


LEASED: Attribute[Callable[[], ClientCall] | None] = Attribute("call of a leased client", None)
"""On a call: makes what each of its attempts carries."""


@final
@dataclass(frozen=True, slots=True)
class Refused:
    """The call may not run: it was acknowledged ("stale"), or its client is not known any more ("expired")."""

    reason: Literal["stale", "expired"]


LeasedAnswer: TypeAlias = Answer | Refused


def scope_of(client: str) -> str:
    """The scope of a client's claims; their keys are the numbers of its calls."""
    return f"client {client}"


class BlockingClientStore(Protocol):
    """A durable store of leased clients. Its module's docstring holds the state machine.

    `principal` names who may speak for the client; with another one it is not known. Times are seconds.
    """

    waits: bool
    """Whether its steps wait for a disk or a network: then an event loop runs them in worker threads."""

    def register(self, client: str, principal: str, *, lease: float) -> None:
        """Give a client its lease. Its name has never been used before."""
        ...

    def renew(self, client: str, principal: str, acknowledged: int, *, lease: float) -> bool:
        """Let its lease begin anew, unless it is over."""
        ...

    def begin(
        self,
        call: ClientCall,
        principal: str,
        fingerprint: bytes,
        *,
        owner: str,
        lease: float,
        ttl: float,
        takeover: bool,
    ) -> LeasedAnswer:
        """Ask for the right to run a call of a client. `owner` names the executor, and nobody before it."""
        ...

    def leave(self, client: str, principal: str) -> bool:
        """End its lease; whether it was known. Nothing of it is retried."""
        ...

    def collect(self, limit: int = 100) -> int:
        """Remove at most `limit` clients whose lease ended a lease ago; every registration and renewal removes some."""
        ...

    def count(self) -> int:
        """How many clients there are."""
        ...

    def close(self) -> None:
        """Give back connections."""
        ...
