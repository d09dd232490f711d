"""The whole suite of the lab, with one of its scenarios, which is short."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import lab_suite
from benchmarks.lab_suite import GOLDEN
from resilient.lab.results import Results


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "lab.json"
    shutil.copy(GOLDEN, file)
    monkeypatch.setattr(lab_suite, "GOLDEN", file)
    monkeypatch.setattr(lab_suite, "CATALOGUE", tmp_path / "lab.md")
    return file


def test_what_is_played_is_judged_and_compared_and_nothing_is_written(report: Path, capsys: pytest.CaptureFixture[str]):
    before = report.read_bytes()
    assert lab_suite.main(["--only", "window-boundary", "--seeds", "1"]) == 0
    assert "bands hold" in capsys.readouterr().out
    assert report.read_bytes() == before
    assert not report.with_suffix(".md").exists()


def test_a_part_that_is_written_leaves_the_rest_as_it_was(report: Path):
    before = Results.read(report)
    assert lab_suite.main(["--only", "window-boundary", "--seeds", "1", "--write"]) == 0
    after = Results.read(report)
    assert after.scenarios == before.scenarios
    for name in before.scenarios:
        for policy in before.policies(name):
            recorded = before.of(name, policy)
            expected = {0: recorded[0]} if name == "window-boundary" else recorded
            assert after.of(name, policy) == expected
    table = report.with_suffix(".md").read_text()
    assert all(f"`{name}`. Source" in table for name in before.scenarios)
