"""Line charts over time as inline SVG: no script, no font, no picture from elsewhere.

The drawing stretches to whatever width it gets while its text and strokes keep their size, so that the same page is
read on a desk and on a telephone. Lines are told apart by colours that stay distinct for the colour-blind (after Okabe
and Ito, darkened for white and lightened for black), from the fifth on by dashes too, and are labelled at their ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import final

from resilient.lab.axis import Axis, linear_axis, log_axis, quantity, time_axis

__all__ = ["Band", "Line", "Marker", "Plot", "draw"]

_HEIGHT = 160
"""Pixels of the plotting area."""
_ROW = 15
"""Pixels of a row of labels above it."""
_FOOT = 24
"""Pixels of the time axis below it."""
_LABEL_GAP = 14
"""Pixels between the labels at the ends of two lines."""
_COMMON_WIDTH = 400
"""Pixels that the plotting area usually has: only to judge which labels would touch."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One series. A point that is None or not finite leaves a gap.

    Lines of the same label have the same colour on the whole page. `muted` draws one in grey, as a background to
    the others: what was offered, what was allowed. `step` keeps each value until the next point.
    """

    label: str
    points: Sequence[tuple[float, float | None]]
    muted: bool = False
    step: bool = False


@final
@dataclass(frozen=True, slots=True)
class Band:
    """A shaded stretch of time: a fault, a deployment."""

    start: float
    end: float
    label: str


@final
@dataclass(frozen=True, slots=True)
class Marker:
    """A labelled instant."""

    at: float
    label: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Some lines over the seconds of a run.

    `unit`
        Of the values: `s` for seconds (shown as ms where that suits), `%` for fractions, or any other text.
    `note`
        A sentence below the title.
    `log`
        A logarithmic scale, for latencies that differ by powers of ten.
    `start`, `end`
        The seconds shown; left out: all that any line, band or marker has.
    `top`
        The least value that the scale reaches, so that several plots can be compared.
    """

    title: str
    unit: str = ""
    lines: Sequence[Line] = ()
    bands: Sequence[Band] = ()
    markers: Sequence[Marker] = ()
    note: str = ""
    log: bool = False
    start: float | None = None
    end: float | None = None
    top: float | None = None
    colours: dict[str, int] = field(default_factory=dict)
