"""A part of the golden report is played again: what comes out differently was changed by a change of the code.

If the change is meant, `make golden` writes the report anew, and its diff is part of the change.
"""

from __future__ import annotations

import pytest

from benchmarks.lab_suite import GOLDEN
from resilient.lab.bench.playing import Job, play
from resilient.lab.bench.references import make_scenario
from resilient.lab.results import Results
from resilient.lab.scenarios import names


@pytest.fixture(scope="module")
def golden() -> Results:
    return Results.read(GOLDEN)


def test_it_has_every_scenario_with_its_policies_and_the_same_seeds_for_all(golden):
    expected = {name: tuple(make_scenario(name).policies) for name in names()}
    assert {name: golden.policies(name) for name in golden.scenarios} == expected
    seeds = {tuple(golden.of(name, policy)) for name in expected for policy in expected[name]}
    assert [*seeds] == [tuple(range(max(seeds)[-1] + 1))]


@pytest.mark.parametrize("name", names())
def test_a_run_of_each_scenario_comes_out_again_to_the_last_bit(golden, name):
    policy = "default" if "default" in golden.policies(name) else golden.policies(name)[-1]
    recorded = golden.of(name, policy)[0]
    assert play(Job(scenario=name, policy=policy, seed=0)).metrics == recorded.metrics
