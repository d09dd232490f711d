"""The runs that every machine and every Python must play alike."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from resilient.lab import verify as verifying
from resilient.lab.simulation.run import run
from resilient.lab.verify import RUNS, Finding, Planned, read_hashes, report, verify, versions
from tests.lab.worlds import exponential, world

ROOT = Path(__file__).parents[2]
QUICK = Planned(scenario="office", policy="default", backend="asyncio")


@pytest.mark.parametrize("planned", RUNS, ids=str)
def test_each_run_is_the_same_as_when_its_hash_was_written(planned):
    (finding,) = verify([planned])
    assert finding.holds, report([finding])


def test_each_run_has_a_hash_and_each_hash_a_run():
    assert list(read_hashes()) == [str(planned) for planned in RUNS]


def test_runs_differ_from_each_other():
    on_asyncio = [value for name, value in read_hashes().items() if name.endswith(", asyncio")]
    assert len({*on_asyncio}) == len(on_asyncio) == 6


@pytest.mark.parametrize("seed", ["0", "4242"])
def test_hashes_of_texts_do_not_matter(seed):
    code = (
        "from resilient.lab.verify import RUNS, verify, report\n"
        "found = verify([run for run in RUNS if run.scenario == 'shop' and run.policy == 'default'])\n"
        "print(report(found))\n"
    )
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout == "All 2 runs are the same as ours.\n"


def test_another_seed_is_another_run(backend):
    scenario = world(tier={"service_time": exponential()})
    one, again, other = (run(scenario, "default", seed, backend=backend) for seed in (1, 1, 2))
    assert one == again
    assert one.metrics != other.metrics


@pytest.mark.parametrize("scenario", ["storm", "office"])
def test_on_both_event_loops_a_run_is_the_same_where_nothing_meets_at_one_instant(scenario):
    make = verifying._SCENARIOS[scenario]
    one, other = (run(make(), "default", 3, backend=backend) for backend in ("asyncio", "trio"))
    assert one == other


def test_on_both_event_loops_the_metrics_agree_within_their_intervals():
    """In the shop attempts meet at one instant, and the loops let another one go first."""
    seeds = range(4)
    runs = {
        backend: [run(verifying._SCENARIOS["shop"](), "default", seed, backend=backend).metrics for seed in seeds]
        for backend in ("asyncio", "trio")
    }

    def interval(backend: str, name: str) -> tuple[float, float]:
        values = [metrics[name] or 0.0 for metrics in runs[backend]]
        half = 3.18 * statistics.stdev(values) / len(values) ** 0.5  # Student's t, 95 %
        return statistics.fmean(values) - half, statistics.fmean(values) + half

    assert [metrics["calls"] for metrics in runs["asyncio"]] == [metrics["calls"] for metrics in runs["trio"]]
    for name in ("success", "goodput", "mean", "p50", "p99", "amplification", "wasted"):
        (low, high), (other_low, other_high) = interval("asyncio", name), interval("trio", name)
        assert low <= other_high, name
        assert other_low <= high, name


# -- the report -----------------------------------------------------------------------------------------------------


def test_a_run_that_changed_is_told_with_what_it_may_come_from():
    (finding,) = verify([QUICK], {str(QUICK): "0" * 64})
    assert finding.again == finding.found != finding.expected
    said = report([finding])
    assert said.startswith("1 of 1 runs are not the same as ours.\nDIFFERENT office, default, asyncio: ")
    assert f"{finding.found[:12]} here, and again; 000000000000 came with the library" in said
    assert all(f"{name} {value}" in said for name, value in versions().items())
    assert {"python", "platform", "resilient-mesh", "anyio", "httpx", "trio"} == set(versions())
    assert "come from a change of the simulator or of a policy" in said


def test_a_run_that_is_not_known_is_told():
    (finding,) = verify([QUICK], {})
    assert "UNKNOWN   office, default, asyncio" in report([finding])


def test_a_run_that_differs_from_itself_is_told_apart():
    finding = Finding(run=QUICK, expected="a" * 64, found="b" * 64, again="c" * 64)
    said = report([finding, Finding(run=QUICK, expected="a", found="a")])
    assert "1 of 2 runs" in said
    assert "UNSTEADY  office, default, asyncio: bbbbbbbbbbbb here, cccccccccccc when played again" in said
    assert "That is a bug of ours." in said


def test_findings_are_told_as_they_come():
    told: list[Finding] = []
    assert verify([QUICK], on_finding=told.append) == told
    assert str(told[0]) == "the same  office, default, asyncio"


def test_the_command_judges_and_updates(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verifying, "_FILE", tmp_path / "verified.json")
    monkeypatch.setattr(verifying, "RUNS", (QUICK,))
    assert verifying.main(["--update"]) == 0
    assert verifying.main([]) == 0
    assert "All 1 runs are the same as ours." in capsys.readouterr().out
    (tmp_path / "verified.json").write_text("{}")
    assert verifying.main([]) == 1
    assert "UNKNOWN" in capsys.readouterr().out
