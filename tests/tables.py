"""Reads the tables that docstrings hold, so that a test can compare them with what the code does."""

from __future__ import annotations

import inspect
import re


def read_table(docstring: str | None) -> list[tuple[str, ...]]:
    """The rows, without the header, of the one simple table (reStructuredText) in a docstring."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    _, head, bottom = (number for number, line in enumerate(lines) if re.fullmatch(r"=+( +=+)+", line))
    starts = [column.start() for column in re.finditer("=+", lines[head])]
    spans = list(zip(starts, [*starts[1:], None], strict=True))
    rows: list[tuple[str, ...]] = []
    for line in lines[head + 1 : bottom]:
        for start in starts[1:]:
            assert line[start - 2 : start].strip() == "", f"a cell is wider than its column: {line!r}"
        cells = [line[start:end].strip() for start, end in spans]
        if cells[0]:
            rows.append(tuple(cells))
        else:  # the row above goes on
            rows[-1] = tuple(f"{above} {cell}".strip() for above, cell in zip(rows[-1], cells, strict=True))
    return rows
