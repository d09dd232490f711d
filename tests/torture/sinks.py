"""Where effects go that leave the database: a far side that nobody shares a transaction with.

It has no constraint, so that a duplicate is seen and not prevented. Only a caller who sends a key along is told what
the first one under this key did.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict
from pathlib import Path

from tests.torture.checker import Row


class FarSide:
    """A folder that many processes apply effects to. What it was told stays, whoever is killed when."""

    def __init__(self, folder: Path) -> None:
        self._plain = folder / "applied"
        self._keyed = folder / "applied once"
        self._keyed.mkdir(exist_ok=True)

    def apply(self, row: Row, key: str | None = None) -> str:
        """Apply one part of an effect, and return the attempt that applied it."""
        line = json.dumps(asdict(row)).encode() + b"\n"
        if key is None:
            file = os.open(self._plain, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(file, line)
            finally:
                os.close(file)
            return row.attempt
        return self._apply_once(line, key)

    def _apply_once(self, line: bytes, key: str) -> str:
        # A link is there as a whole or not at all, and fails where there is one already.
        draft = self._keyed / f"draft {uuid.uuid4().hex}"
        draft.write_bytes(line)
        try:
            os.link(draft, self._keyed / key)
        except FileExistsError:
            line = (self._keyed / key).read_bytes()
        finally:
            draft.unlink()
        attempt: str = json.loads(line)["attempt"]
        return attempt

    def rows(self) -> list[Row]:
        """All that was applied."""
        lines = self._plain.read_bytes().splitlines() if self._plain.exists() else []
        lines += [path.read_bytes() for path in self._keyed.iterdir() if not path.name.startswith("draft ")]
        return [Row(**json.loads(line)) for line in lines]
