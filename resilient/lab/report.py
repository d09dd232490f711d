"""One HTML page that holds everything: text, figures, line charts and tables.

It needs no network, no script and no other file, is read in light and in dark, on a desk and on a telephone, and says
in words what its charts show. It knows nothing of what it reports:

```python
from resilient.lab.report import Band, Line, Page, Plot, Section

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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from itertools import count, groupby
from typing import Literal, TypeAlias, final

from resilient.lab.axis import column_texts
from resilient.lab.chart import COLOURS, Band, Line, Marker, Plot, choose_colours, draw

__all__ = ["Band", "Block", "Column", "Line", "Marker", "Page", "Plot", "Section", "Stat", "Table", "Text"]


@final
@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@final
@dataclass(frozen=True, slots=True)
class Stat:
    """A figure that matters, large: what it is, how it is written, and what it is to be compared with."""

    label: str
    value: str
    note: str = ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table.

    `unit`
        As in `Plot`: `s` for seconds, `%` for fractions, or any text. It is written in the column's head.
    `decimals`
        How many all its numbers have; left out: enough for three digits of the largest.
    `best`
        Print the smallest or the largest number in bold.
    """

    title: str
    unit: str = ""
    decimals: int | None = None
    best: Literal["min", "max"] | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of texts and numbers; None is a dash. The first cell names the row, in the colour of a line so labelled."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str | float | None]]
    caption: str = ""

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError("columns=[]: a table has at least the column that names its rows")
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"rows: {row!r} has {len(row)} cells, and there are {len(self.columns)} columns")


Block: TypeAlias = Text | Stat | Plot | Table


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page. Figures next to each other share a row, and so do plots as far as there is room."""

    title: str = ""
    lead: str = ""
    blocks: Sequence[Block] = ()

    @property
    def plots(self) -> list[Plot]:
        """The plots among the blocks."""
        return [block for block in self.blocks if isinstance(block, Plot)]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The whole report. `facts` is what it takes to repeat it: seed, machine, versions, date."""

    title: str
    lead: str = ""
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    sections: Sequence[Section] = ()

    def html(self) -> str:
        """Return the page as one HTML document."""
        colours = choose_colours(plot for section in self.sections for plot in section.plots)
        keys = (f"plot-{number}" for number in count(1))
        sections = "".join(_section(section, colours, keys) for section in self.sections)
        facts = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(fact)}</dd></div>" for name, fact in self.facts.items()
        )
        style = files("resilient.lab").joinpath("report.css").read_text(encoding="utf-8")
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            # Nothing may be fetched, whatever a label says.
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{escape(self.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
            f"<header><h1>{escape(self.title)}</h1>{_paragraph(self.lead, 'lead')}"
            f"{f'<dl>{facts}</dl>' if facts else ''}</header>\n{sections}</main>\n</body>\n</html>\n"
        )


def _paragraph(text: str, kind: str = "") -> str:
    if not text:
        return ""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def _section(section: Section, colours: Mapping[str, int], keys: Iterator[str]) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>" if section.title else "", _paragraph(section.lead, "lead")]
    for _, group in groupby(section.blocks, type):
        parts.append(_group(list(group), colours, keys))
    return f"<section>{''.join(parts)}</section>\n"


def _group(blocks: list[Block], colours: Mapping[str, int], keys: Iterator[str]) -> str:
    """Neighbours of one kind, together."""
    plots = [block for block in blocks if isinstance(block, Plot)]
    if plots:
        return draw(plots, colours=colours, keys=keys)
    stats = [_stat(block) for block in blocks if isinstance(block, Stat)]
    if stats:
        return f'<div class="stats">{"".join(stats)}</div>'
    return "".join(
        _table(block, colours) if isinstance(block, Table) else _paragraph(block.text)
        for block in blocks
        if isinstance(block, Table | Text)
    )


def _stat(stat: Stat) -> str:
    return (
        f'<div class="stat"><p class="label">{escape(stat.label)}</p>'
        f'<p class="value">{escape(stat.value)}</p>{_paragraph(stat.note, "note")}</div>'
    )


def _table(table: Table, colours: Mapping[str, int]) -> str:
    columns = [_column(column, [row[index] for row in table.rows]) for index, column in enumerate(table.columns)]
    head = f'<th scope="col">{escape(table.columns[0].title)}</th>' + "".join(header for header, _ in columns[1:])
    body: list[str] = []
    for index, row in enumerate(table.rows):
        name = row[0]
        colour = f'<i class="c{colours[name] % COLOURS}"></i>' if isinstance(name, str) and name in colours else ""
        cells = "".join(cell[index] for _, cell in columns[1:])
        body.append(f'<tr><th scope="row">{colour}{escape(str(name))}</th>{cells}</tr>')
    caption = f"<figcaption>{escape(table.caption)}</figcaption>" if table.caption else ""
    # Focusable, so that a table wider than the screen can be scrolled with the keyboard.
    return (
        f'<figure class="table"><div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>{caption}</figure>"
    )


def _column(column: Column, cells: Sequence[str | float | None]) -> tuple[str, list[str]]:
    """The head of a column and its cells."""
    numbers = [None if isinstance(cell, str) else cell for cell in cells]
    texts, unit = column_texts(numbers, column.unit, column.decimals)
    known = [number for number in numbers if number is not None]
    best = None if column.best is None or not known else (min if column.best == "min" else max)(known)
    kind = ' class="number"' if known else ""
    written: list[str] = []
    for cell, number, text in zip(cells, numbers, texts, strict=True):
        shown = escape(cell if isinstance(cell, str) else text)
        written.append(f"<td{kind}>{f'<b>{shown}</b>' if number is not None and number == best else shown}</td>")
    suffix = f' <span class="unit">{escape(unit)}</span>' if unit else ""
    return f'<th scope="col"{kind}>{escape(column.title)}{suffix}</th>', written
