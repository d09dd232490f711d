"""Line charts over time as inline SVG: no script, no font, no picture from elsewhere.

The drawing stretches to whatever width it gets while its text and strokes keep their size, so that the same page is
read on a desk and on a telephone. Lines are told apart by colours that stay distinct for the colour-blind (after Okabe
and Ito, darkened for white and lightened for black), after the sixth by dashes, and are labelled at their ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import count
from typing import final

from resilient.lab.drawing.axis import Axis, linear_axis, log_axis, quantity, time_axis

__all__ = [
    "COLOURS",
    "Band",
    "Line",
    "Marker",
    "Marks",
    "Plot",
    "choose_colours",
    "draw",
    "time_axis_of",
    "value_axis_of",
]

COLOURS = 6
"""How many colours report.css has."""

_HEIGHT = 160
"""Pixels of the plotting area."""
_ROW = 15
"""Pixels of a row of labels above it."""
_FOOT = 24
"""Pixels of the time axis below it."""
_OVERHANG = 0.1
"""How far such a label may reach beyond the right edge, as a part of the width."""
_LABEL_GAP = 14
"""Pixels between the labels at the ends of two lines."""
_CHARACTER = 6.6
"""Pixels of the average character of a label."""
_LONGEST_LABEL = 18
"""Characters of a label that still stands at the end of its line; with longer ones there is a legend instead."""
_COMMON_WIDTH = 400
"""Pixels that the plotting area usually has: only to judge which labels would touch."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One series. A point that is None or not finite leaves a gap.

    Lines of the same label have the same colour on the whole page. `muted` draws one in grey, as a background to
    the others: what was offered, what was allowed. `step` keeps each value until the next point. `spread` is an area
    behind the line, the lowest and the highest value at each instant; it begins anew after one that is None.
    """

    label: str
    points: Sequence[tuple[float, float | None]]
    spread: Sequence[tuple[float, float | None, float | None]] = ()
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
    `labelled`
        False where something else on the page says which line is which. Such a plot is smaller.
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
    labelled: bool = True


@final
@dataclass(frozen=True, slots=True)
class Marks:
    """How what belongs to a label is marked on the page: in its colour, and as what its switch shows and hides."""

    colours: Mapping[str, int] = field(default_factory=dict[str, int])
    switches: Mapping[str, int] = field(default_factory=dict[str, int])

    def colour(self, label: str) -> str:
        """The classes of its colour; "" for a label that no line has."""
        if label not in self.colours:
            return ""
        index = self.colours[label]
        return f"c{index % COLOURS}{' dashed' if index >= COLOURS else ''}"

    def of(self, label: str, *, muted: bool = False) -> str:
        """The classes of a line with this label."""
        return f"{'muted' if muted else self.colour(label)} {self.switch(label)}".rstrip()

    def switch(self, label: str) -> str:
        """The class of what is shown and hidden with this label; "" where there is no switch."""
        return f"s{self.switches[label]}" if label in self.switches else ""


def choose_colours(plots: Iterable[Plot]) -> dict[str, int]:
    """Give each label a colour for the whole page: one of its own while there are some left.

    After that it gets one that no line in the same plot has, and a number beyond `COLOURS` (a dashed line) where
    there is no such one.
    """
    colours: dict[str, int] = {}
    together = [[line.label for line in plot.lines if not line.muted] for plot in plots]
    for label in dict.fromkeys(label for labels in together for label in labels):
        index = len(colours)
        if index >= COLOURS:
            taken = {colours.get(other) for labels in together if label in labels for other in labels}
            index = next(number for number in count() if number not in taken)
        colours[label] = index
    return colours


def draw(plots: Sequence[Plot], *, marks: Marks, keys: Iterator[str]) -> str:
    """Return the plots as a grid of figures whose axes align.

    `marks` say how the lines' labels are marked; `keys` are names that are unique on the page.
    """
    ticks = max((len(text) for plot in plots for _, text in value_axis_of(plot).ticks), default=0)
    ends = max((len(line.label) for plot in plots if plot.labelled for line in plot.lines), default=0)
    too_long = ends > _LONGEST_LABEL
    margins = f"--left:{_CHARACTER * ticks + 14:.0f}px;--right:{22 if too_long else _CHARACTER * ends + 22:.0f}px"
    figures = "".join(_figure(plot, marks, next(keys)) for plot in plots)
    kinds = f"{' legended' if too_long else ''}{' small' if not any(plot.labelled for plot in plots) else ''}"
    return f'<div class="plots{kinds}" style="{margins}">{figures}</div>'


def _figure(plot: Plot, marks: Marks, key: str) -> str:
    x, y = time_axis_of(plot), value_axis_of(plot)
    flags = _flags(plot, x)
    top = _ROW * (max((flag.row for flag in flags), default=-1) + 1) + 8
    below = [
        *(_shade(band, x, top) for band in plot.bands),
        *_grid(x, y, top),
        *(flag.pole(top) for flag in flags),
        *(flag.text() for flag in flags),
    ]
    lines = "".join(
        [_area(line, x, y, marks) for line in plot.lines] + [_path(line, x, y, marks) for line in plot.lines]
    )
    above = [dot for line in plot.lines for dot in _dots(line, x, y, top, marks)]
    above += _end_labels(plot.lines, y, top, marks) if plot.labelled else []
    legend = _legend(plot.lines, marks) if plot.labelled else ""
    unit = y.unit or ("logarithmic" if plot.log else "")
    note = f'<p class="note">{escape(plot.note)}</p>' if plot.note else ""
    return (
        f'<figure class="plot"><figcaption><b>{escape(plot.title)}</b> <span class="unit">{escape(unit)}</span>'
        f'</figcaption><svg class="chart" height="{top + _HEIGHT + _FOOT}" role="img" '
        f'aria-labelledby="{key}-title {key}-desc"><title id="{key}-title">{escape(plot.title)}</title>'
        f'<desc id="{key}-desc">{escape(_in_words(plot))}</desc>{"".join(below)}'
        f'<svg class="lines" y="{top}" width="100%" height="{_HEIGHT}" viewBox="0 0 1000 {_HEIGHT}" '
        f'preserveAspectRatio="none">{lines}</svg>{"".join(above)}</svg>'
        f"{legend}{note}</figure>"
    )


def time_axis_of(plot: Plot) -> Axis:
    """The seconds that a plot shows."""
    instants = [at for line in plot.lines for at, _ in line.points]
    instants += [at for band in plot.bands for at in (band.start, band.end)]
    instants += [marker.at for marker in plot.markers]
    low = min(instants, default=0.0) if plot.start is None else plot.start
    high = max(instants, default=1.0) if plot.end is None else plot.end
    return time_axis(low, high if high > low else low + 1)


def value_axis_of(plot: Plot) -> Axis:
    """The scale of a plot's values."""
    values = [value for line in plot.lines for _, value in line.points if value is not None and math.isfinite(value)]
    ends = [end for line in plot.lines for _, low, high in line.spread for end in (low, high)]
    values += [end for end in ends if end is not None and math.isfinite(end)]
    if plot.top is not None:
        values.append(plot.top)
    return log_axis(values, plot.unit) if plot.log else linear_axis(values, plot.unit)


def _percent(place: float) -> str:
    return f"{100 * place:.2f}".rstrip("0").rstrip(".") + "%"


def _height(value: float, y: Axis) -> float:
    """Pixels from the top of the plotting area."""
    return _HEIGHT * (1 - y.place(value))


def _shade(band: Band, x: Axis, top: int) -> str:
    start, end = x.place(band.start), x.place(band.end)
    return (
        f'<rect class="band" x="{_percent(start)}" y="{top}" width="{_percent(end - start)}" height="{_HEIGHT}">'
        f"<title>{escape(band.label)}</title></rect>"
    )


def _grid(x: Axis, y: Axis, top: int) -> Iterator[str]:
    for value, text in y.ticks:
        at = top + _height(value, y)
        yield f'<line class="grid" x1="0" x2="100%" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield f'<text class="tick" x="0" dx="-8" y="{at:.1f}" dy=".33em" text-anchor="end">{escape(text)}</text>'
    bottom = top + _HEIGHT
    yield f'<line class="axis" x1="0" x2="100%" y1="{bottom}" y2="{bottom}"/>'
    for number, (at_second, text) in enumerate(x.ticks):
        place = _percent(x.place(at_second))
        # Every other one gives way on a narrow screen; the last one has the unit and stays.
        spare = " spare" if (len(x.ticks) - 1 - number) % 2 else ""
        yield f'<line class="axis" x1="{place}" x2="{place}" y1="{bottom}" y2="{bottom + 4}"/>'
        yield f'<text class="tick{spare}" x="{place}" y="{bottom + 17}" text-anchor="middle">{escape(text)}</text>'


@final
@dataclass(frozen=True, slots=True)
class _Flag:
    """The label of a band or a marker, above the plotting area, with a pole down to where it begins."""

    label: str
    place: float
    row: int
    to_the_left: bool
    kind: str

    def pole(self, top: int) -> str:
        x = _percent(self.place)
        return f'<line class="pole {self.kind}" x1="{x}" x2="{x}" y1="{self.row * _ROW + 3}" y2="{top + _HEIGHT}"/>'

    def text(self) -> str:
        dx, anchor = (-5, "end") if self.to_the_left else (5, "start")
        return (
            f'<text class="flag" x="{_percent(self.place)}" dx="{dx}" y="{self.row * _ROW + 12}" '
            f'text-anchor="{anchor}">{escape(self.label)}</text>'
        )


def _flags(plot: Plot, x: Axis) -> list[_Flag]:
    """Lay the labels out in as few rows as they need not to touch."""
    events = [(band.start, band.label, "edge") for band in plot.bands if x.low < band.end and band.start < x.high]
    events += [(marker.at, marker.label, "instant") for marker in plot.markers if x.low <= marker.at <= x.high]
    rows: list[list[tuple[float, float]]] = []
    flags: list[_Flag] = []
    for at, label, kind in sorted(events):
        place = x.place(at)
        width = (_CHARACTER * len(label) + 12) / _COMMON_WIDTH
        to_the_left = place + width > 1 + _OVERHANG and place > width
        taken = (place - width, place) if to_the_left else (place, place + width)
        row = 0
        while row < len(rows) and any(taken[0] < right and left < taken[1] for left, right in rows[row]):
            row += 1
        if row == len(rows):
            rows.append([])
        rows[row].append(taken)
        flags.append(_Flag(label, place, row, to_the_left, kind))
    return flags


def _stretches(line: Line, x: Axis, y: Axis) -> list[list[tuple[float, float]]]:
    """The points without the gaps: places from left to right, and pixels from the top of the plotting area."""
    stretches: list[list[tuple[float, float]]] = [[]]
    for at, value in line.points:
        if value is None or not math.isfinite(value) or (y.log and value <= 0):
            stretches.append([])
        elif x.low <= at <= x.high:
            stretches[-1].append((x.place(at), _height(value, y)))
    return [stretch for stretch in stretches if stretch]


def _path(line: Line, x: Axis, y: Axis, marks: Marks) -> str:
    commands: list[str] = []
    for (start, level), *rest in _stretches(line, x, y):
        commands.append(f"M{1000 * start:.1f} {level:.1f}")
        for place, down in rest:
            commands.append(f"H{1000 * place:.1f}V{down:.1f}" if line.step else f"L{1000 * place:.1f} {down:.1f}")
    return f'<path class="{marks.of(line.label, muted=line.muted)}" d="{"".join(commands)}"/>' if commands else ""


def _area(line: Line, x: Axis, y: Axis, marks: Marks) -> str:
    """What lies between the lowest and the highest value: there and back, stretch by stretch."""
    stretches: list[list[tuple[float, float, float]]] = [[]]
    for at, low, high in line.spread:
        if low is None or high is None:
            stretches.append([])
        elif x.low <= at <= x.high:
            stretches[-1].append((1000 * x.place(at), _height(low, y), _height(high, y)))
    outlines: list[str] = []
    for stretch in stretches:
        if len(stretch) > 1:
            corners = [f"{place:.1f} {high:.1f}" for place, _, high in stretch]
            corners += [f"{place:.1f} {low:.1f}" for place, low, _ in reversed(stretch)]
            outlines.append(f"M{'L'.join(corners)}Z")
    kind = marks.of(line.label, muted=line.muted)
    return f'<path class="spread {kind}" d="{"".join(outlines)}"/>' if outlines else ""


def _dots(line: Line, x: Axis, y: Axis, top: int, marks: Marks) -> Iterator[str]:
    """A point between two gaps, which no line shows."""
    for (place, down), *rest in _stretches(line, x, y):
        if not rest:
            kind = marks.of(line.label, muted=line.muted)
            yield f'<circle class="{kind}" cx="{_percent(place)}" cy="{top + down:.1f}" r="2"/>'


def _end_labels(lines: Sequence[Line], y: Axis, top: int, marks: Marks) -> Iterator[str]:
    """Each line's label at its end, moved up or down where two would touch."""
    ends: list[tuple[float, Line]] = []
    for line in lines:
        values = [value for _, value in line.points if value is not None and math.isfinite(value)]
        if values:
            ends.append((_height(values[-1], y), line))
    ends.sort(key=lambda end: end[0])
    places: list[float] = []
    for wanted, _ in ends:
        places.append(max(wanted, places[-1] + _LABEL_GAP) if places else wanted)
    limit = float(_HEIGHT)
    for index in reversed(range(len(places))):
        places[index] = limit = min(places[index], limit)
        limit -= _LABEL_GAP
    for (_, line), place in zip(ends, places, strict=True):
        kind = marks.of(line.label, muted=line.muted)
        yield (f'<text class="end {kind}" x="100%" dx="8" y="{top + place:.1f}" dy=".33em">{escape(line.label)}</text>')


def _legend(lines: Sequence[Line], marks: Marks) -> str:
    """For narrow screens, where there is no room at the ends of the lines."""
    items = "".join(_legend_item(line, marks) for line in lines)
    return f'<ul class="legend" aria-hidden="true">{items}</ul>' if items else ""


def _legend_item(line: Line, marks: Marks) -> str:
    switch = marks.switch(line.label)
    kind = f' class="{switch}"' if switch else ""
    sample = f'<path class="{marks.of(line.label, muted=line.muted)}" d="M1 4H19"/>'
    return f'<li{kind}><svg width="20" height="8" aria-hidden="true">{sample}</svg>{escape(line.label)}</li>'


def _in_words(plot: Plot) -> str:
    """What the plot shows, for those who do not see it."""
    parts: list[str] = []
    for line in plot.lines:
        known = [(at, value) for at, value in line.points if value is not None and math.isfinite(value)]
        if known:
            values = [value for _, value in known]
            low, high, last = (quantity(value, plot.unit) for value in (min(values), max(values), values[-1]))
            parts.append(f"{line.label}: between {low} and {high}, at the end {last}.")
        else:
            parts.append(f"{line.label}: no values.")
    parts += [f"{band.label}: from second {band.start:g} to second {band.end:g}." for band in plot.bands]
    parts += [f"{marker.label}: at second {marker.at:g}." for marker in plot.markers]
    return " ".join(parts)
