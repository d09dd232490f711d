"""Files that people and other programs write: read them strictly, and say exactly what is wrong with them."""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, final

__all__ = ["BadFile", "Field", "read_file"]

_SHOWN = 60
"""Characters of a wrong value that a message repeats."""


class BadFile(ValueError):
    """A file is not what it has to be. The message names the file, the field, its value and what is allowed."""


def read_file(path: str | os.PathLike[str], kind: Literal["json", "toml"]) -> Field:
    """Parse a whole file. What cannot be read or parsed is a `BadFile`; so are NaN, infinities, a key given twice."""
    file = os.fspath(path)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise BadFile(f"{file}: cannot be read: {error.strerror}") from None
    try:
        text = content.decode()
        document = tomllib.loads(text) if kind == "toml" else _from_json(text)
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{file}: not valid {kind.upper()}: {error}") from None
    return Field(file, "", document)


def _from_json(text: str) -> Any:
    def constant(name: str) -> None:
        raise ValueError(f"{name} is no number")

    return json.loads(text, parse_constant=constant, object_pairs_hook=_once)


def _once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return table


@final
@dataclass(frozen=True, slots=True)
class Field:
    """A value in a file, and where it stands. Its methods return it as what it has to be, or raise `BadFile`."""

    file: str
    path: str
    """As one would write it: `runs[3].metrics.p99`; empty for the whole document."""
    value: Any

    def wrong(self, allowed: str) -> BadFile:
        """Return the error to raise: `allowed` says what may stand here."""
        shown = repr(self.value)
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        return BadFile(f"{self.file}: {self.path or 'the document'}={shown}: {allowed}")

    def table(self, required: Collection[str], optional: Collection[str] = ()) -> dict[str, Field]:
        """A table with all of the `required` fields, some of the `optional` ones and no other."""
        entries = self.entries()
        for name, entry in entries.items():
            if name not in required and name not in optional:
                raise entry.wrong(f"unknown; allowed are {', '.join([*required, *optional])}")
        for name in required:
            if name not in entries:
                where = f"{self.path}.{name}" if self.path else name
                raise BadFile(f"{self.file}: {where} is missing")
        return entries

    def entries(self) -> dict[str, Field]:
        """A table with any fields."""
        value: object = self.value
        if not isinstance(value, Mapping):
            raise self.wrong("a table")
        table = cast("Mapping[str, object]", value)
        prefix = f"{self.path}." if self.path else ""
        return {name: Field(self.file, f"{prefix}{name}", value) for name, value in table.items()}

    def items(self) -> list[Field]:
        """A list."""
        value: object = self.value
        if not isinstance(value, list):
            raise self.wrong("a list")
        values = cast("list[object]", value)
        return [Field(self.file, f"{self.path}[{index}]", value) for index, value in enumerate(values)]

    def text(self) -> str:
        """A text that is not empty."""
        if not isinstance(self.value, str) or not self.value:
            raise self.wrong("a text, not empty")
        return self.value

    def texts(self) -> dict[str, str]:
        """A table of texts."""
        return {name: entry.text() for name, entry in self.entries().items()}

    def number(self) -> float:
        """A finite number."""
        if type(self.value) not in {int, float} or not math.isfinite(self.value):
            raise self.wrong("a finite number")
        number: float = self.value
        return number

    def whole(self) -> int:
        """A whole number."""
        if type(self.value) is not int:
            raise self.wrong("a whole number")
        return self.value
