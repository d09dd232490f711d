"""Drawing by weight, where rounding would draw one twice. (test_picking.py and others try how often who is drawn.)"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from resilient.machines.drawing import Drawing

ALMOST_1 = math.nextafter(1.0, 0.0)


@dataclass(frozen=True)
class Weight:
    weight: float


def drawn(*values: float) -> Callable[[], float]:
    return iter(values).__next__


def tenths() -> list[tuple[float, float]]:
    return [(one / 10, other / 10) for one in range(1, 10) for other in range(1, 10)]


@pytest.mark.parametrize("weights", [*tenths(), (1e300, 1.0), (1.0, 1e300), (1e300, 1.0, 1.0), (1.0, 1e300, 1.0)])
def test_two_are_never_the_same_however_their_weights_are_rounded(weights: tuple[float, ...]):
    candidates = tuple(map(Weight, weights))
    for first in (0.0, 0.5, ALMOST_1):
        for second in (0.0, 0.5, ALMOST_1):
            one, other = Drawing().two(candidates, drawn(first, second))
            assert one is not other
