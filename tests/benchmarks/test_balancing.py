"""The benchmark of balancing measures what it says; how fast anything is, is not tested here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import balancing
from benchmarks.balancing import CONSTANT, PICKERS, TABLES, Change, Move, Pick
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
    monkeypatch.setattr(balancing, "MOVED_SIZES", (5, 60))
    monkeypatch.setattr(balancing, "_SETS", 1)
    monkeypatch.setattr(balancing, "_KEYS", 2000)

    assert balancing.main(["--seconds", "0", "--json", str(file)]) == 0

    result = json.loads(file.read_text())
    assert set(result) == {"schema", "date", "machine", "versions", "seconds", "picks", "changes", "moves", "goals"}
    assert {row["picker"] for row in result["picks"]} == set(PICKERS)
    assert all(row["us"] > 0 for row in result["picks"])
    assert {row["change"] for row in result["changes"]} == {"snapshot", "diff", "table"}
    assert len(result["picks"]) == 2 * len(PICKERS)
    assert len(result["changes"]) == 6 * len(PICKERS)
    assert {(row["picker"], row["instances"]) for row in result["moves"]} == {(t, n) for t in TABLES for n in (5, 60)}
    assert all(row["mean"] == row["most"] > 0.5 for row in result["moves"])
    assert len(result["goals"]) == 2 * len(CONSTANT) + 2 + 2 * len(TABLES)


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


def test_moves_are_judged_by_the_set_of_which_most_move():
    def verdicts(count: int, removal: float, replacement: float) -> list[bool]:
        moves = [Move("Maglev", count, "removal", 1.0, removal), Move("Maglev", count, "replacement", 2.0, replacement)]
        return [verdict.met for verdict in balancing.judge([], [], moves)]

    assert verdicts(50, 1.2, 2.5) == [True, True]
    assert verdicts(10, 1.21, 2.51) == [False, False]
    assert verdicts(100, 1.4, 2.6) == []
