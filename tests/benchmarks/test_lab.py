"""The benchmark of the lab plays the same model everywhere; how fast anything is, is not tested here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import lab
from benchmarks.lab import BARE, DEFAULT, OURS, Row, Size


def test_ours_and_what_is_written_by_hand_play_the_same_model():
    means = [lab.SUBJECTS[name](4000) for name in (OURS, DEFAULT, BARE)]
    assert means == [pytest.approx(0.0104, rel=0.08)] * 3


def test_what_is_not_there_is_named(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        lab.main(["--seconds", "0", "--calls", "10", "--largest", "10"])
    assert "not installed: " in capsys.readouterr().err


def test_a_result_says_what_it_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without the peers, which live in an environment of their own."""
    file = tmp_path / "result.json"
    monkeypatch.setattr(lab, "DISTRIBUTIONS", ["anyio"])
    monkeypatch.setattr(lab, "SUBJECTS", {name: lab.SUBJECTS[name] for name in (OURS, BARE)})

    assert lab.main(["--seconds", "0", "--calls", "200", "--largest", "1000", "--json", str(file)]) == 0

    result = json.loads(file.read_text())
    assert set(result) == {"schema", "date", "machine", "versions", "seconds", "subjects", "scaling", "goals"}
    assert [row["name"] for row in result["subjects"]] == [OURS, BARE]
    assert all(row["calls_a_second"] > 0 and row["mean_ms"] > 5 for row in result["subjects"])
    assert [size["calls"] for size in result["scaling"]] == [100, 1000]
    assert len(result["goals"]) == 4


def test_goals_are_judged():
    def verdicts(ours: int, many_us: float, many_mb: float) -> list[bool]:
        rows = [Row(OURS, ours, ours, 10.0), Row(BARE, 40_000, 40_000, 10.0)]
        return [verdict.met for verdict in lab.judge(rows, [Size(10, 30.0, 40.0), Size(100, many_us, many_mb)])]

    assert verdicts(30_000, 32.0, 45.0) == [True] * 4
    assert verdicts(25_900, 32.0, 45.0) == [True, False, True, True]
    assert verdicts(24_000, 35.0, 60.0) == [False] * 4
