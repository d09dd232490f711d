"""The benchmark of discovery does what it says; how fast anything is, is not tested here."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import discovery


def test_every_step_runs_and_changes_what_it_should() -> None:
    for step in discovery.steps(200).values():
        assert step() >= 0.0
        assert step() >= 0.0


def test_a_line_is_a_slice_of_other_pods() -> None:
    (key, first), (same, second) = discovery.read(discovery.line(3)), discovery.read(discovery.line(3, 7))
    assert key == same == "orders-0003"
    assert len(first) == len(second) == discovery.SLICE
    assert [one.instance.id for one in first][1:] == [one.instance.id for one in second][1:]
    assert first[0].instance.id != second[0].instance.id


def test_a_result_says_what_it_promises(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert discovery.main(["--seconds", "0", "--pods", "200", "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert set(result) == {"schema", "date", "machine", "versions", "pods", "seconds", "figures", "goals"}
    assert [figure["step"] for figure in result["figures"]] == ["first", "line", "change", "event"]
