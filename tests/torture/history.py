"""What happened, in one order: every process appends an event with a single write, which no other one tears.

An event is written before what it announces, or after what it reports. So an operation that was called after another
one had returned stands behind it in the file, whichever processes they ran in.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Event = dict[str, Any]


class Pen:
    """Appends lines of JSON to a file that others append to, too."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, kind: str, **fields: Any) -> None:
        """Append one event. The line break comes first as well: half a line of somebody who died spoils no other."""
        os.write(self._file, b"\n" + json.dumps({"kind": kind, **fields}).encode() + b"\n")

    def write_half(self, kind: str, **fields: Any) -> None:
        """What is left of an event when its writer dies in the middle."""
        line = b"\n" + json.dumps({"kind": kind, **fields}).encode()
        os.write(self._file, line[: len(line) // 2])

    def close(self) -> None:
        os.close(self._file)


@dataclass
class Reader:
    """Reads the lines that were appended since it read last."""

    path: Path
    events: list[Event] = field(default_factory=list)
    _offset: int = 0

    def read(self) -> list[Event]:
        """All events so far."""
        if not self.path.exists():
            return self.events
        with self.path.open("rb") as file:
            file.seek(self._offset)
            whole, _, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + 1 if whole else 0
        self.events += parse(whole)
        return self.events


def parse(text: bytes) -> list[Event]:
    """The whole events among these lines."""
    events: list[Event] = []
    for line in text.split(b"\n"):
        try:
            event = json.loads(line)
        except ValueError:  # half a line: its writer was killed
            continue
        events.append(event)
    return events
