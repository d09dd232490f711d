"""The benchmark of the HTTP client runs, and says what it promises to say."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import http_client


def test_a_short_run(tmp_path: Path) -> None:
    file = tmp_path / "result.json"

    assert http_client.main(["--seconds", "0.5", "--json", str(file)]) == 0

    result = json.loads(file.read_text())
    assert set(result) == {"schema", "date", "machine", "versions", "seconds", "subjects", "cancelling", "goals"}
    measured = [(row["client"], row["load"]["instances"], row["load"]["at_once"]) for row in result["subjects"]]
    loads = [(1, 1), (5, 1), (5, 64)]
    assert sorted(measured) == sorted((client, *load) for client in ("httpx", "resilient") for load in loads)
    assert [row["client"] for row in result["cancelling"]] == ["httpx", "resilient"]
    for row in result["cancelling"]:
        assert row["requests"] > 0
        assert 0 <= row["lost"] <= 10
    assert len(result["goals"]) == 4
