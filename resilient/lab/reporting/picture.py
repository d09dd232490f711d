"""Lab results as PNG: the panels of the page, for where no page can be shown.

Needs matplotlib, which the extra `lab` brings, and no display.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

from resilient.lab.drawing.chart import COLOURS, Line, Plot, choose_colours, time_axis_of, value_axis_of
from resilient.lab.reporting.findings import headline
from resilient.lab.reporting.panels import OFFERED, panels
from resilient.lab.results import Results

__all__ = ["PALETTE", "draw_png", "write_pngs"]

PALETTE: Final = {
    "ink": "#1c2126",
    "soft": "#5b6570",
    "rule": "#e3e6ea",
    "axis": "#a3acb5",
    "grey": "#8d97a1",
    "pole": "#8a7a55",
    "c0": "#0b67b2",
    "c1": "#cf5206",
    "c2": "#00896f",
    "c3": "#b0408a",
    "c4": "#6b4a00",
    "c5": "#2b3138",
}
"""The light colours of report.css."""

_COLUMNS = 3
_WIDTH, _HEIGHT = 3.9, 2.55
"""Inches of a panel, with its labels."""
_HEAD = 1.2
"""Inches above the panels."""
_DPI = 130
_LETTERS = 125
"""That fit into a line of the head."""


def write_pngs(results: Results, folder: str | os.PathLike[str]) -> list[Path]:
    """Write a picture of each scenario, `SCENARIO.png`, into a folder, which is made where it is missing."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for scenario in results.scenarios:
        path = target / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', scenario)}.png"
        path.write_bytes(draw_png(results, scenario))
        written.append(path)
    return written


def draw_png(results: Results, scenario: str) -> bytes:
    """Draw the panels of a scenario; ModuleNotFoundError says how to get matplotlib."""
    _matplotlib()
    plots = panels(results, scenario)
    rows = max(1, math.ceil(len(plots) / _COLUMNS))
    height = rows * _HEIGHT + _HEAD
    figure = new_figure(width=_COLUMNS * _WIDTH, height=height)
    figure.subplots_adjust(
        left=0.055, right=0.975, top=1 - (_HEAD + 0.4) / height, bottom=0.35 / height, hspace=0.6, wspace=0.24
    )
    colours = choose_colours(plots)
    for number, plot in enumerate(plots, 1):
        _panel(figure.add_subplot(rows, _COLUMNS, number), plot, colours)
    behind = any(line.muted for plot in plots for line in plot.lines)
    _head(figure, results, scenario, {OFFERED: -1, **colours} if behind else colours, height)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def new_figure(*, width: float, height: float) -> Any:
    """Return an empty figure of so many inches; ModuleNotFoundError says how to get matplotlib."""
    canvas, figures = _matplotlib()
    figure: Any = figures(figsize=(width, height), dpi=_DPI, facecolor="white")
    canvas(figure)  # draws without a display, whatever the user has configured
    return figure


def _matplotlib() -> tuple[Any, Any]:
    """The classes of its canvases and figures; without it, say which extra brings it."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ModuleNotFoundError(
            "pictures need matplotlib: pip install 'resilient-mesh[lab]'", name="matplotlib"
        ) from None
    return FigureCanvasAgg, Figure


def _head(figure: Any, results: Results, scenario: str, colours: Mapping[str, int], height: float) -> None:
    facts = results.header.scenarios[scenario]
    top = 1 - 0.2 / height
    figure.text(0.02, top, facts.title, va="top", size=15, weight="bold", color=PALETTE["ink"])
    said = wrap(f"{headline(results, scenario).replace('`', '')}.", _LETTERS)
    figure.text(0.02, top - 0.32 / height, "\n".join(said[:2]), va="top", size=9.5, color=PALETTE["soft"])
    from matplotlib.lines import Line2D

    figure.legend(
        handles=[Line2D([], [], label=label, **_style(label, colours)) for label in colours],
        loc="upper left",
        bbox_to_anchor=(0.014, top - 0.68 / height),
        ncols=8,
        frameon=False,
        fontsize=9,
        labelcolor=PALETTE["ink"],
        handlelength=1.6,
        columnspacing=1.8,
        borderaxespad=0.0,
    )


def _style(label: str, colours: Mapping[str, int]) -> dict[str, Any]:
    index = colours.get(label, -1)
    if index < 0:
        return {"color": PALETTE["grey"], "linewidth": 1.0}
    return {
        "color": PALETTE[f"c{index % COLOURS}"],
        "linestyle": "--" if index >= COLOURS else "-",
        "linewidth": 1.4,
        "solid_capstyle": "round",
    }


def _panel(axes: Any, plot: Plot, colours: Mapping[str, int]) -> None:
    x, y = time_axis_of(plot), value_axis_of(plot)
    if plot.log:
        axes.set_yscale("log")
        axes.minorticks_off()
    axes.set_xlim(x.low, x.high)
    # A line along the edge keeps its width.
    axes.set_ylim(y.low, y.high if plot.log else y.high + 0.012 * (y.high - y.low))
    for set_ticks, ticks in ((axes.set_xticks, x.ticks), (axes.set_yticks, y.ticks)):
        set_ticks([at for at, _ in ticks], labels=[text for _, text in ticks])
    axes.tick_params(colors=PALETTE["axis"], labelcolor=PALETTE["soft"], labelsize=8, length=3)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True, axis="y", color=PALETTE["rule"], linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(PALETTE["axis"])
    axes.set_title(plot.title, loc="left", size=10, weight="bold", color=PALETTE["ink"], pad=18, x=-0.09)
    unit = y.unit or ("logarithmic" if plot.log else "")
    axes.text(1, 1.04, unit, transform=axes.transAxes, ha="right", va="bottom", size=8, color=PALETTE["soft"])
    for band in plot.bands:
        axes.axvspan(band.start, band.end, color=PALETTE["pole"], alpha=0.16, linewidth=0)
        axes.text(
            x.place(band.start),
            1.015,
            band.label,
            transform=axes.transAxes,
            va="bottom",
            size=7.5,
            color=PALETTE["soft"],
        )
    for line in plot.lines:
        _curve(axes, line, colours)


def _curve(axes: Any, line: Line, colours: Mapping[str, int]) -> None:
    style = _style(line.label, {} if line.muted else colours)
    drawn = {"drawstyle": "steps-post"} if line.step else {}
    axes.plot([at for at, _ in line.points], _numbers([value for _, value in line.points]), **style, **drawn)
    if line.spread:
        axes.fill_between(
            [at for at, _, _ in line.spread],
            _numbers([low for _, low, _ in line.spread]),
            _numbers([high for _, _, high in line.spread]),
            color=style["color"],
            alpha=0.13,
            linewidth=0,
        )


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
