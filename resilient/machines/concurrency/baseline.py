"""A slow average that begins as a plain one."""

from __future__ import annotations

from typing import final

__all__ = ["Baseline"]

_WARM = 10


@final
class Baseline:
    """An exponentially weighted mean that remembers about `age` values; the plain mean of the first ten."""

    __slots__ = ("_count", "_weight", "value")

    def __init__(self, age: int) -> None:
        self._weight = 2 / (age + 1)
        self._count = 0
        self.value = 0.0

    def add(self, value: float) -> float:
        """Take a value into account, and return the mean."""
        self._count += 1
        weight = 1 / self._count if self._count <= _WARM else self._weight
        self.value += weight * (value - self.value)
        return self.value

    def scale(self, factor: float) -> None:
        """Move the mean at once."""
        self.value *= factor
