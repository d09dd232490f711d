"""What the filters' arguments have in common."""

from __future__ import annotations

import math

__all__ = ["check_positive"]


def check_positive(name: str, value: float, what: str) -> None:
    """Raise `ValueError` unless `value` is a finite number above 0."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value!r}: a finite {what}, more than 0")
