"""The benchmark of intents runs, and says what it promises to say."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import intents


def test_a_short_run(tmp_path: Path) -> None:
    file = tmp_path / "result.json"

    assert intents.main(["--seconds", "0.1", "--folder", str(tmp_path), "--json", str(file)]) == 0

    result = json.loads(file.read_text())
    assert set(result) == {"schema", "date", "machine", "versions", "seconds", "figures", "goals"}
    assert [figure["step"] for figure in result["figures"]][:3] == [
        "two bare commits",
        "a call",
        "a call, written down",
    ]
    assert all(0 < figure["ms"] <= figure["median_ms"] for figure in result["figures"])
    assert len(result["goals"]) == 2
