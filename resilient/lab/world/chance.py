"""Chance that two runs of one seed share, whatever the policies do in between.

Policies are compared on *common random numbers*: the same calls arrive at the same instants, and the same attempt of
the same call takes the same time at the server, under every policy. So each part of the world draws from a stream of
its own, named and not shared, and what belongs to a call is not drawn in turn at all but computed from the call's
number.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from random import Random
from typing import final

__all__ = ["Chance"]

_MASK = 2**64 - 1
_CALL = 0x9E3779B97F4A7C15
_ATTEMPT = 0xD1B54A32D192ED03


@final
class Chance:
    """The random numbers of one run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def stream(self, name: str) -> Random:
        """Return a generator of its own for the part of the world that is called `name`."""
        return Random(f"{self.seed}:{name}")  # a text is hashed by SHA-512, not by `hash`

    def of_call(self, name: str) -> Callable[[int, int], float]:
        """Return a function that gives each (call, attempt) its own number in (0, 1), always the same.

        The mixing is that of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
        2014).
        """
        digest = blake2b(f"{self.seed}:{name}".encode(), digest_size=8).digest()
        key = int.from_bytes(digest, "big")

        def draw(call: int, attempt: int) -> float:
            z = (key + call * _CALL + attempt * _ATTEMPT) & _MASK
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
            return (((z ^ (z >> 31)) >> 12) + 0.5) * 2.0**-52

        return draw
