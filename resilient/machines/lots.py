"""Chance that comes out the same in every process: a lot that is drawn by name."""

from __future__ import annotations

from hashlib import blake2b

__all__ = ["lot"]

_BITS = 64


def lot(seed: object, name: object) -> float:
    """A fraction in [0, 1) that depends on nothing but `seed` and `name`, evenly distributed over either.

    Python's own `hash` of a string differs from process to process. Two numbers, strings or tuples that are written
    differently draw different lots, even if they are equal (1 and 1.0).
    """
    digest = blake2b(f"{seed!r}\n{name!r}".encode(errors="backslashreplace"), digest_size=_BITS // 8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53
