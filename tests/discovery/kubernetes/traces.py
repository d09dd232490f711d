"""Traces of real API servers (v1.36): what was asked, and the bytes that came, as they came."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jsonl"))

# What differs from run to run, or what only a whole cluster knows.
_VARYING = {"managedFields", "uid", "creationTimestamp", "generation"}


@dataclass(frozen=True)
class Trace:
    method: str
    path: str
    params: dict[str, str]
    body: Any
    status: int
    headers: dict[str, str]
    chunks: list[tuple[float, bytes]]
    ended_at: float

    @classmethod
    def load(cls, name: str) -> Trace:
        # Not splitlines(), which takes characters inside the strings for line breaks.
        lines = (FOLDER / f"{name}.jsonl").read_text().rstrip("\n").split("\n")
        request, head, *chunks, end = map(json.loads, lines)
        asked = request["request"]
        return cls(
            method=asked["method"],
            path=asked["path"],
            params={key: str(value) for key, value in asked["params"].items()},
            body=asked["body"],
            status=head["status"],
            headers=head["headers"],
            chunks=[(chunk["at"], chunk["bytes"].encode()) for chunk in chunks],
            ended_at=end["at"],
        )

    @property
    def content(self) -> bytes:
        return b"".join(chunk for _, chunk in self.chunks)

    @property
    def objects(self) -> list[Any]:
        """Every line of the answer, without what varies."""
        return [steady(json.loads(line)) for line in self.content.split(b"\n") if line]


def steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: steady(one) for key, one in value.items() if key not in _VARYING}
    return [steady(one) for one in value] if isinstance(value, list) else value
