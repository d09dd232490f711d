"""Pickers by which calls with the same key go to the same instance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from resilient.balancing.keys import Key
from resilient.balancing.member import Member
from resilient.machines.hashing import MaglevPicking, RendezvousPicking, RingHashPicking, is_prime
from resilient.machines.picking import Candidate, Picking

__all__ = ["Maglev", "Rendezvous", "RingHash"]

_MOST_ENTRIES = 8_388_608


def _identity(candidate: Candidate) -> str:
    """The name under which an instance is hashed."""
    if isinstance(candidate, Member):
        return candidate.instance.metadata.get("hash_key") or candidate.id
    return candidate.id


def _check(key: Key, bound: float | None) -> None:
    if not callable(key):
        raise TypeError(f"key={key!r}: a function of the call, as by_header(...) and by_argument(...) make one")
    if bound is not None and not (math.isfinite(bound) and bound >= 1):
        raise ValueError(
            f"bound={bound!r}: a finite number, at least 1 (each no more than its share), or None: no bound"
        )


@final
@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Send calls with the same key to the same instance, by rendezvous hashing: the one to begin with.

    For caches, sessions and whatever else an instance knows already. Each key ranks all instances by itself; its calls
    go to the first. When one comes or leaves, only the keys move that have to, to all the others alike, whatever else
    changes. It looks at every instance for each call, some 0.3 us each: up to about 200 of them.

    `key`
        Gives the key of a call: `by_header("X-User")`, `by_argument("user_id")`, or any function of the `Call` that
        returns a str, bytes, int, UUID, a tuple of them, or None. A call without a key goes anywhere, and says so:
        its reason is `fallback`.
    `bound`
        An instance has at most so many times its share of this client's calls in flight, rounded up (1.25); what is
        beyond goes to the next of the key, with the reason `bounded`. So one key that everybody wants does not fell its
        instance. Closer to 1: more even, and fewer calls at home. None: no bound.

    Instances are hashed by their metadata `hash_key` where they have one, else by their id: give that key to a
    replacement (a stateful set's ordinal, not its address) and no key moves. All clients that see the same instances
    choose the same, in any process and on any machine. Weights are shares of the keys. A retry goes to the next of the
    key.

    Raises `ValueError` or `TypeError` for an argument that cannot work.

    Thaler and Ravishankar, *A Name-Based Mapping Scheme for Rendezvous*; Mirrokni et al., *Consistent Hashing with
    Bounded Loads*.
    """

    key: Key
    bound: float | None = 1.25

    def __post_init__(self) -> None:
        _check(self.key, self.bound)

    def picking(self) -> Picking:
        """Return a new machine."""
        return RendezvousPicking(bound=self.bound, identify=_identity)


@final
@dataclass(frozen=True, slots=True)
class RingHash:
    """Send calls with the same key to the same instance, by a ring of points: for hundreds of instances.

    As `Rendezvous`, which see for `key` and `bound`, but a look-up takes the same few microseconds for any number of
    instances. The price is a ring that is made at the first call after they have changed (some milliseconds, 30 of
    them for 10,000 instances), and shares that are uneven, for up to 128 instances by a sixteenth.

    `least`, `most`
        How many points the ring has (1,024 and 32,768). Shares are off by one over the root of the points of an
        instance: with gRPC's 4,096 some of 50 instances have a third more than others, and lose as much when they
        leave. The points of an instance stay as they are until their number no longer fits; then it is halved, for
        all. Where there are more instances than `most`, each has one point.
    """

    key: Key
    bound: float | None = 1.25
    least: int = 1024
    most: int = 32_768

    def __post_init__(self) -> None:
        _check(self.key, self.bound)
        if not 1 <= self.least <= self.most <= _MOST_ENTRIES:
            raise ValueError(
                f"least={self.least!r}, most={self.most!r}: numbers of points, 1 <= least <= most <= {_MOST_ENTRIES:,}"
            )

    def picking(self) -> Picking:
        """Return a new machine."""
        return RingHashPicking(least=self.least, most=self.most, bound=self.bound, identify=_identity)


@final
@dataclass(frozen=True, slots=True)
class Maglev:
    """Send calls with the same key to the same instance, by a table: where shares must be even.

    As `Rendezvous`, which see for `key` and `bound`, but a look-up is one index, for any number of instances, and their
    shares differ by a hundredth or so. The price is the table, which is made at the first call after the instances have
    changed (some 50 to 130 ms), and that more keys move than have to: with 50 instances a sixth more, with 200 twice as
    many (0.16 * sqrt(n ** 3 / size) shares).

    `size`
        Of the table (131,071): a prime number, at least a hundred times the number of instances for even shares. The
        paper's 65,537 is made in less than two thirds of the time, and moves 1.23 shares when one of 50 leaves.

    Eisenbud et al., *Maglev: A Fast and Reliable Software Network Load Balancer*.
    """

    key: Key
    bound: float | None = 1.25
    size: int = 131_071

    def __post_init__(self) -> None:
        _check(self.key, self.bound)
        if not (self.size <= _MOST_ENTRIES and is_prime(self.size)):
            raise ValueError(f"size={self.size!r}: a prime number, at most {_MOST_ENTRIES:,}")

    def picking(self) -> Picking:
        """Return a new machine."""
        return MaglevPicking(size=self.size, bound=self.bound, identify=_identity)
