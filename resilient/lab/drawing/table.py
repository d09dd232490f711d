"""Tables of a report, as HTML that scrolls within itself where it is wider than the screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal, final

from resilient.lab.drawing.axis import column_texts
from resilient.lab.drawing.chart import Marks

__all__ = ["Cell", "Column", "Table", "draw"]


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
@dataclass(frozen=True, slots=True)
class Cell:
    """A figure that is written already, or the name of a row.

    `notes`
        What stands smaller below it, line by line: its interval.
    `strong`
        Bold, as the best one is.
    `anchor`
        The section that it leads to.
    """

    text: str
    notes: Sequence[str] = ()
    strong: bool = False
    anchor: str = ""

    def __str__(self) -> str:
        return self.text


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of texts and numbers; None is a dash.

    The first cell names the row, in the colour of a line so labelled; a column is named by its title, likewise.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell | str | float | None]]
    caption: str = ""

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError("columns=[]: a table has at least the column that names its rows")
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"rows: {row!r} has {len(row)} cells, and there are {len(self.columns)} columns")


def draw(table: Table, marks: Marks) -> str:
    """Return the table as HTML."""
    columns = [_column(column, [row[index] for row in table.rows], marks) for index, column in enumerate(table.columns)]
    head = f'<th scope="col">{escape(table.columns[0].title)}</th>' + "".join(header for header, _ in columns[1:])
    body: list[str] = []
    for index, row in enumerate(table.rows):
        name = str(row[0])
        cells = "".join(cell[index] for _, cell in columns[1:])
        body.append(
            f'<tr{_classes(marks.switch(name))}><th scope="row">{_dot(name, marks)}{_text(row[0])}</th>{cells}</tr>'
        )
    caption = f"<figcaption>{escape(table.caption)}</figcaption>" if table.caption else ""
    # A few figures far apart are hard to follow.
    written = all(isinstance(cell, Cell) for row in table.rows for cell in row)
    width = f' style="max-width:{14 + 11 * (len(columns) - 1)}rem"' if written else ""
    # Focusable, so that a table wider than the screen can be scrolled with the keyboard.
    return (
        f'<figure class="table"><div class="scroll" tabindex="0"><table{width}><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>{caption}</figure>"
    )


def _column(column: Column, cells: Sequence[Cell | str | float | None], marks: Marks) -> tuple[str, list[str]]:
    """The head of a column and its cells."""
    numbers = [None if isinstance(cell, str | Cell) else cell for cell in cells]
    texts, unit = column_texts(numbers, column.unit, column.decimals)
    known = [number for number in numbers if number is not None]
    best = None if column.best is None or not known else (min if column.best == "min" else max)(known)
    number = "number" if known or any(isinstance(cell, Cell) for cell in cells) else ""
    kind = _classes(number, marks.switch(column.title))
    written: list[str] = []
    for cell, value, text in zip(cells, numbers, texts, strict=True):
        shown = _text(text if cell is value else cell)
        written.append(f"<td{kind}>{f'<b>{shown}</b>' if value is not None and value == best else shown}</td>")
    suffix = f' <span class="unit">{escape(unit)}</span>' if unit else ""
    return f'<th scope="col"{kind}>{_dot(column.title, marks)}{escape(column.title)}{suffix}</th>', written


def _text(cell: Cell | str | float | None) -> str:
    if not isinstance(cell, Cell):
        return escape(str(cell))
    text = escape(cell.text)
    text = f"<b>{text}</b>" if cell.strong else text
    text = f'<a href="#{escape(cell.anchor)}">{text}</a>' if cell.anchor else text
    return text + "".join(f"<small>{escape(note)}</small>" for note in cell.notes)


def _dot(label: str, marks: Marks) -> str:
    colour = marks.colour(label)
    return f'<i class="{colour}"></i>' if colour else ""


def _classes(*names: str) -> str:
    found = " ".join(name for name in names if name)
    return f' class="{found}"' if found else ""
