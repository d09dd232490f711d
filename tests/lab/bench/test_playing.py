"""Many runs, their results, and the bands."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from resilient.lab.bench.bands import judge
from resilient.lab.bench.collecting import collect
from resilient.lab.bench.playing import Job, play, play_all
from resilient.lab.bench.references import make_scenario
from resilient.lab.bench.sweeping import Sweep
from resilient.lab.results import Results, Run
from resilient.lab.scenario import Band, Scenario

STORM = str(Path(__file__).parent / "storm.toml")
JOBS = [Job(scenario=STORM, policy=policy, seed=seed) for policy in ("none", "default") for seed in (0, 1)]


def test_on_all_cores_the_same_comes_out_in_the_order_of_the_jobs():
    told: list[Job] = []
    played = play_all(JOBS, processes=2, on_run=lambda job, _run: told.append(job))
    assert [job for job, _ in played] == JOBS
    assert sorted(told, key=JOBS.index) == JOBS
    assert played == play_all(JOBS, processes=1) == [(job, play(job)) for job in JOBS]


@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_run_raises_ends_all(processes):
    with pytest.raises(ValueError, match="policy 'nonsense'"):
        play_all([*JOBS, Job(scenario=STORM, policy="nonsense", seed=0)], processes=processes)


def test_results_say_how_they_can_be_had_again(tmp_path):
    scenario = make_scenario(STORM)
    results = collect(play_all(JOBS[:1], processes=1), [(scenario, STORM)], command=["lab", "run", "storm.toml"])
    results.write(tmp_path / "results.json")
    again = Results.read(tmp_path / "results.json")
    assert again == results
    facts = again.header.scenarios["small-storm"]
    assert (facts.reference, facts.trigger, facts.deadline) == (STORM, (10, 12), 2.0)
    assert again.header.command == "resilient lab run storm.toml"
    assert {"python", "resilient-mesh", "anyio", "trio", "httpx"} == {*again.header.versions}


PROGRAM = """
import sys
from resilient.lab.bench.playing import Job, play_all
if __name__ == "__main__":
    jobs = [Job(scenario=sys.argv[1], policy="none", seed=seed) for seed in range(2000)]
    played = play_all(jobs, processes=2, on_run=lambda job, run: print("played", flush=True))
    print("kept", len(played), flush=True)
"""


def test_ctrl_c_keeps_what_is_finished_and_leaves_no_process(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(program), STORM], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "played\n"
    os.killpg(process.pid, signal.SIGINT)  # the whole group, as a terminal does
    output, _ = process.communicate(timeout=30)
    assert 1 <= int(output.split()[-1]) < 2000
    assert process.returncode == 0
    deadline = time.monotonic() + 10
    while _alive(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# Sweeps


def test_a_sweep_sums_up_by_value(tmp_path):
    knob = "load.arrivals.poisson.rate"
    jobs = [
        Job(scenario=STORM, policy="none", seed=seed, knobs=((knob, rate),)) for rate in (10, 20) for seed in (0, 1)
    ]
    sweep = Sweep(scenario=STORM, knob=knob, values=[10, 20], policies=["none"], played=play_all(jobs, processes=1))
    slow, quick = (sweep.estimate(rate, "none", "calls") for rate in (10, 20))
    assert slow.centre == pytest.approx(280, rel=0.2)
    assert quick.centre == pytest.approx(560, rel=0.2)
    sweep.write(tmp_path / "sweep.json")
    assert '"load.arrivals.poisson.rate": 20' in (tmp_path / "sweep.json").read_text()


# Bands


def runs(metric: str, **by_policy: list[float | None]) -> list[Run]:
    return [
        Run(scenario="small-storm", policy=policy, seed=seed, metrics={metric: value})
        for policy, values in by_policy.items()
        for seed, value in enumerate(values)
    ]


def with_band(band: Band) -> Scenario:
    return replace(make_scenario(STORM), bands=[band])


@pytest.mark.parametrize(
    ("band", "values", "holds"),
    [
        (Band(policy="none", metric="p99", high=1.5), [1.0, 2.0], True),
        (Band(policy="none", metric="p99", high=1.0), [1.0, 2.0], False),
        (Band(policy="none", metric="p99", low=1.5), [1.0, 2.0], True),
        (Band(policy="none", metric="p99", low=1.0), [1.0, None], False),
        (Band(policy="none", metric="recovery", high=2.0), [1.0, 2.0, None], True),
        (Band(policy="none", metric="recovery", high=2.0), [1.0, None, None], False),
        (Band(policy="none", metric="recovery", low=math.inf), [None, None, None], True),
        (Band(policy="none", metric="recovery", low=math.inf), [1.0, None, None], False),
    ],
)
def test_a_band_is_about_the_mean_and_of_recovery_about_the_median_and_never_means_never(band, values, holds):
    (finding,) = judge(with_band(band), runs(band.metric, none=values))
    assert finding.holds is holds


def test_a_band_may_be_a_factor_of_another_policy():
    band = Band(policy="default", of="none", metric="p99", high=0.5, why="that is what it is for")
    (finding,) = judge(with_band(band), runs("p99", none=[2.0, 4.0], default=[1.0, 3.0]))
    assert finding.value == pytest.approx(2 / 3)
    assert not finding.holds
    assert str(finding) == (
        "small-storm: p99 of default / none is 0.6667; expected at most 0.5 (that is what it is for)"
    )


def test_bands_of_policies_that_were_not_played_are_left_out():
    assert judge(with_band(Band(policy="default", metric="p99", high=1.0)), runs("p99", none=[1.0])) == []
