"""`resilient lab`, as it is typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from resilient.cli.app import app
from resilient.lab.results import Results
from resilient.lab.scenarios import names

STORM = str(Path(__file__).parent.parent / "lab" / "bench" / "storm.toml")


def lab(*arguments: str, code: int = 0) -> str:
    """Run a command; return what it says, the errors too."""
    result = CliRunner(env={"COLUMNS": "100"}).invoke(app, ["lab", *arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def played(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("played")
    lab("run", STORM, "--policy", "none,default", "--seeds", "2", "--processes", "1", "--out", str(folder))
    return folder


def test_list_names_every_scenario():
    output = lab("list")
    assert all(name in output for name in names())


def test_show_says_what_a_scenario_is():
    output = lab("show", "metastable-retry-storm")
    for part in ("HotOS", "naive policies", "good policies", "tier", "fault", "knobs", "load=280.0", "expected"):
        assert part in output
    assert "small-storm" in lab("show", STORM)


def test_run_writes_results_a_page_and_a_picture(played):
    results = Results.read(played / "results.json")
    assert results.policies() == ("none", "default")
    assert [run.seed for run in results.runs] == [0, 1, 0, 1]
    assert (played / "report.html").read_text().startswith("<!doctype html>")
    assert (played / "small-storm.png").read_bytes().startswith(b"\x89PNG")


def test_run_checks_bands_where_asked():
    arguments = ("run", STORM, "--policy", "default", "--seeds", "1", "--processes", "1", "--check")
    assert "1 of 1 bands hold." in lab(*arguments)
    assert "0 of 1 bands hold." in lab(*arguments, "--set", "bands.0.high=-1.0", code=1)


def test_replay_plays_a_run_again(played):
    file = str(played / "results.json")
    assert lab("replay", file, "--seed", "1").count("the same to the last bit") == 2
    assert "no such run with seed 7; there are runs of small-storm none, small-storm default" in " ".join(
        lab("replay", file, "--seed", "7", code=2).split()
    )


def test_replay_tells_what_differs(played, tmp_path):
    text = (played / "results.json").read_text()
    calls = Results.read(played / "results.json").of("small-storm", "none")[0].metrics["calls"]
    (tmp_path / "results.json").write_text(text.replace(f'"calls": {calls}', '"calls": 1', 1))
    output = lab("replay", str(tmp_path / "results.json"), "--seed", "0", "--policy", "none", code=1)
    assert "small-storm none seed 0: differs in calls" in output


def test_compare_says_what_differs(played):
    file = str(played / "results.json")
    assert "all 4 runs that both have are equal" in lab("compare", file, file)


def test_sweep_turns_a_knob(tmp_path):
    output = lab(
        "sweep", STORM, "--vary", "load.arrivals.poisson.rate=10..20:10", "--metric", "calls", "--policy", "none",
        "--seeds", "1", "--processes", "1", "--out", str(tmp_path),
    )  # fmt: skip
    assert "calls by load.arrivals.poisson.rate" in " ".join(output.split())
    assert (tmp_path / "sweep.json").exists()
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_gate_plays_or_takes_results_and_ends_with_1_where_a_rule_does_not_hold(played, tmp_path):
    rules = tmp_path / "bench.toml"

    def write(scenario: str, at_least: float) -> None:
        rules.write_text(
            f'[[rule]]\nscenario = "{scenario}"\npolicy = "default"\nmetric = "success"\nat_least = {at_least}\n'
        )

    write("small-storm", 0.5)
    assert "The rule holds." in lab("gate", str(rules), "--results", str(played / "results.json"))
    write("small-storm", 1.1)
    assert "1 of 1 rule does not hold." in lab("gate", str(rules), "--results", str(played / "results.json"), code=1)
    write("clock-jumps", 0.0)
    assert "The rule holds." in lab("gate", str(rules), "--seeds", "1", "--processes", "1")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "nothing"), "scenario 'nothing': one of"),
        (("run", STORM, "--policy", "nothing"), "policy 'nothing': one of none"),
        (("run", STORM, "--set", "load"), "'load': a knob is written as name=value"),
        (("run", STORM, "--mode", "smoke"), "--mode smoke: one of functions, http"),
        (("run", STORM, "--backend", "curio", "--seeds", "1"), "backend='curio'"),
        (("sweep", STORM, "--vary", "load"), "written as name=first..last:step"),
        (("compare", "nothing.json", "nothing.json"), "nothing.json"),
        (("gate", "nothing.toml"), "nothing.toml"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(arguments, told):
    output = " ".join(lab(*arguments, code=2).split())
    assert told in output
    assert "Traceback" not in output


def test_calibrate_plays_over_sockets_and_explains(tmp_path):
    out = tmp_path / "calibration.json"
    arguments = ("calibrate", STORM, "--policy", "none", "--out", str(out))
    output = lab(*arguments)
    assert "none, seed 0: 2.5 s over sockets" in output
    for part in ("simulated", "sockets", "delta", "due to", "An idle call over the socket takes", "connections opened"):
        assert part in output
    assert '"kind": "calibration"' in out.read_text()


def test_calibrate_plays_the_smaller_version_of_a_scenario():
    output = lab("calibrate", "slow-instance", "--most", "60", code=2)
    assert "slow-instance makes" in output
    assert "--set load=80.0" in " ".join(output.split())
    assert "at most 5 s are allowed" in " ".join(lab("calibrate", "slow-instance", "--longest", "5", code=2).split())


def test_calibrate_refuses_what_cannot_be():
    assert "cannot be played over sockets" in " ".join(lab("calibrate", "clock-jumps", code=2).split())
    assert "there is no folder" in " ".join(lab("calibrate", STORM, "--out", "/nowhere/at/all.json", code=2).split())
    assert "one of none, retry1" in " ".join(lab("calibrate", STORM, "--policy", "bold", code=2).split())
