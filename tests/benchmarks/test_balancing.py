"""The benchmark of balancing measures what it says; how fast anything is, is not tested here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import balancing
from benchmarks.balancing import CONSTANT, PICKERS, Change, Pick
from resilient import balancing as room


def test_every_picker_is_measured():
    picking = {name for name in room.__all__ if hasattr(getattr(room, name), "picking") and name != "Picker"}
    assert set(PICKERS) == picking


def test_one_instance_is_replaced():
    before = balancing.fleet(1000)
    after = balancing.replaced(before)
    assert len({one.id for one in after.instances}) == 1000
    assert len({one.id for one in before.instances} & {one.id for one in after.instances}) == 999


def test_a_result_says_what_it_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "result.json"
    monkeypatch.setattr(balancing, "SIZES", (2, 30))
    monkeypatch.setattr(balancing, "_REPETITIONS", 1)

    assert balancing.main(["--seconds", "0", "--json", str(file)]) == 0

    result = json.loads(file.read_text())
    assert set(result) == {"schema", "date", "machine", "versions", "seconds", "picks", "changes", "goals"}
    assert {row["picker"] for row in result["picks"]} == set(PICKERS)
    assert all(row["us"] > 0 for row in result["picks"])
    assert {row["change"] for row in result["changes"]} == {"snapshot", "diff", "table"}
    assert len(result["picks"]) == 2 * len(PICKERS)
    assert len(result["changes"]) == 6 * len(PICKERS)
    assert len(result["goals"]) == 2 * len(CONSTANT) + 2


def test_an_unknown_picker_is_named(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        balancing.main(["--only", "Best"])
    assert "--only Best: one of Random, RoundRobin" in capsys.readouterr().err


def test_goals_are_judged():
    def verdicts(few: float, many: float, snapshot: float, diff: float) -> list[bool]:
        picks = [Pick("Random", 10, few), Pick("Random", 10_000, many)]
        changes = [Change("snapshot", "Random", 10_000, snapshot), Change("diff", "Random", 10_000, diff)]
        return [verdict.met for verdict in balancing.judge(picks, changes)]

    assert verdicts(1.5, 3.0, 50.0, 2.0) == [True] * 4
    assert verdicts(1.6, 3.3, 51.0, 2.1) == [False] * 4
