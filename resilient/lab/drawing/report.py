"""One HTML page that holds everything: text, figures, line charts and tables.

It needs no network, no script and no other file, is read in light and in dark, on a desk and on a telephone, and says
in words what its charts show. What belongs to a label can be switched off and on. It knows nothing of what it reports:

```python
from resilient.lab.drawing.report import Band, Line, Page, Plot, Section

page = Page(
    title="An outage",
    facts={"Seed": "7"},
    sections=[
        Section(
            title="Over time",
            blocks=[
                Plot(
                    title="Goodput",
                    unit="calls/s",
                    lines=[Line(label="default", points=[(0, 50.0), (1, 20.0), (2, 50.0)])],
                    bands=[Band(0.5, 1.5, "database down")],
                )
            ],
        )
    ],
)
assert page.html().startswith("<!doctype html>")
```
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from itertools import count, groupby
from typing import TypeAlias, final

from resilient.lab.drawing import table
from resilient.lab.drawing.chart import Band, Line, Marker, Marks, Plot, choose_colours, draw
from resilient.lab.drawing.table import Cell, Column, Table

__all__ = [
    "Band",
    "Block",
    "Cell",
    "Column",
    "Line",
    "Listing",
    "Marker",
    "Page",
    "Plot",
    "Points",
    "Section",
    "Stat",
    "Table",
    "Text",
]


@final
@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; a `large` one is what the rest goes into. Labels between backticks are set off, in their colour."""

    text: str
    large: bool = False


@final
@dataclass(frozen=True, slots=True)
class Points:
    """A list of short paragraphs: what each is about, and the text, as in `Text`."""

    points: Sequence[tuple[str, str]]


@final
@dataclass(frozen=True, slots=True)
class Listing:
    """Lines to be copied, folded away below a title."""

    title: str
    lines: Sequence[str]


@final
@dataclass(frozen=True, slots=True)
class Stat:
    """A figure that matters, large: what it is, how it is written, and what it is to be compared with."""

    label: str
    value: str
    note: str = ""


Block: TypeAlias = Text | Points | Listing | Stat | Plot | Table


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page. Figures next to each other share a row, and so do plots as far as there is room.

    `anchor` is its name in the address of the page, for cells that lead to it.
    """

    title: str = ""
    anchor: str = ""
    lead: str = ""
    blocks: Sequence[Block] = ()

    @property
    def plots(self) -> list[Plot]:
        """The plots among the blocks."""
        return [block for block in self.blocks if isinstance(block, Plot)]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The whole report.

    `facts`
        What it takes to repeat it: seed, machine, versions, date.
    `switches`
        Labels whose lines, rows and columns the reader can hide and show. They stay in sight, and so are the legend.
    """

    title: str
    lead: str = ""
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    sections: Sequence[Section] = ()
    switches: Sequence[str] = ()

    def html(self) -> str:
        """Return the page as one HTML document."""
        marks = Marks(
            choose_colours(plot for section in self.sections for plot in section.plots),
            {label: number for number, label in enumerate(self.switches)},
        )
        keys = (f"plot-{number}" for number in count(1))
        sections = "".join(_section(section, marks, keys) for section in self.sections)
        facts = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(fact)}</dd></div>" for name, fact in self.facts.items()
        )
        style = files("resilient.lab.drawing").joinpath("report.css").read_text(encoding="utf-8")
        # Which switch is off is known to the style alone: no script.
        style += "".join(
            f"body:has(#show-{number}:not(:checked)) .s{number} {{ display: none; }}\n"
            for number in marks.switches.values()
        )
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            # Nothing may be fetched, whatever a label says.
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{escape(self.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
            f"<header><h1>{escape(self.title)}</h1>{_paragraph(self.lead, marks, 'lead')}"
            f"{f'<dl>{facts}</dl>' if facts else ''}</header>\n{_switches(marks)}{sections}</main>\n</body>\n</html>\n"
        )


def _switches(marks: Marks) -> str:
    """A row of labels to be ticked."""
    boxes = "".join(
        f'<label class="{marks.colour(label)}"><input type="checkbox" id="show-{number}" autocomplete="off" checked>'
        f"{escape(label)}</label>"
        for label, number in marks.switches.items()
    )
    return f'<fieldset class="switches"><legend>Shown</legend>{boxes}</fieldset>\n' if boxes else ""


def _inline(text: str, marks: Marks) -> str:
    """Escape a text, set off what stands between backticks, and keep intervals in one line."""
    parts = re.split("`([^`]+)`", text)
    for index in range(1, len(parts), 2):
        name = parts[index]
        parts[index] = f'<b class="name {marks.colour(name)}">{escape(name)}</b>'
    parts[::2] = [re.sub(r"\[[^][]{1,30}\]", r'<span class="whole">\g<0></span>', escape(part)) for part in parts[::2]]
    return "".join(parts)


def _paragraph(text: str, marks: Marks, kind: str = "") -> str:
    if not text:
        return ""
    return f'<p class="{kind}">{_inline(text, marks)}</p>' if kind else f"<p>{_inline(text, marks)}</p>"


def _section(section: Section, marks: Marks, keys: Iterator[str]) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>" if section.title else "", _paragraph(section.lead, marks, "lead")]
    for _, group in groupby(section.blocks, type):
        parts.append(_group(list(group), marks, keys))
    anchor = f' id="{escape(section.anchor)}"' if section.anchor else ""
    return f"<section{anchor}>{''.join(parts)}</section>\n"


def _group(blocks: list[Block], marks: Marks, keys: Iterator[str]) -> str:
    """Neighbours of one kind, together."""
    plots = [block for block in blocks if isinstance(block, Plot)]
    if plots:
        return draw(plots, marks=marks, keys=keys)
    stats = [_stat(block, marks) for block in blocks if isinstance(block, Stat)]
    if stats:
        return f'<div class="stats">{"".join(stats)}</div>'
    alone = [block for block in blocks if isinstance(block, Text | Points | Listing | Table)]
    return "".join(_block(block, marks) for block in alone)


def _block(block: Text | Points | Listing | Table, marks: Marks) -> str:
    match block:
        case Text(text, large):
            return _paragraph(text, marks, "large" if large else "")
        case Points(points):
            items = (f"<div><dt>{escape(about)}</dt><dd>{_inline(text, marks)}</dd></div>" for about, text in points)
            return f'<dl class="points">{"".join(items)}</dl>'
        case Listing(title, lines):
            text = "\n".join(escape(line) for line in lines)
            return f"<details><summary>{escape(title)}</summary><pre>{text}</pre></details>"
        case Table():
            return table.draw(block, marks)


def _stat(stat: Stat, marks: Marks) -> str:
    return (
        f'<div class="stat"><p class="label">{escape(stat.label)}</p>'
        f'<p class="value">{escape(stat.value)}</p>{_paragraph(stat.note, marks, "note")}</div>'
    )
