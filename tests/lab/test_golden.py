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

_LONGEST = 17_000
"""Attempts of a run that is short enough to be played again on every change."""

RECORDED = Results.read(GOLDEN)


def _policy(name: str) -> str:
    return "default" if "default" in RECORDED.policies(name) else RECORDED.policies(name)[-1]


def _attempts(name: str) -> float:
    metrics = RECORDED.of(name, _policy(name))[0].metrics
    return (metrics["calls"] or 0.0) * (metrics["amplification"] or 0.0)


pytestmark = pytest.mark.usefixtures("no_cover")  # as in tests/lab/scenarios

SHORT = [name for name in RECORDED.scenarios if _attempts(name) <= _LONGEST]


def test_it_has_every_scenario_with_its_policies_and_the_same_seeds_for_all():
    expected = {name: tuple(make_scenario(name).policies) for name in names()}
    assert {name: RECORDED.policies(name) for name in RECORDED.scenarios} == expected
    seeds = {tuple(RECORDED.of(name, policy)) for name in expected for policy in expected[name]}
    assert seeds == {tuple(range(10))}


def test_a_good_part_of_them_is_short():
    assert len(SHORT) >= 10


@pytest.mark.parametrize("name", SHORT)
def test_a_short_run_comes_out_again_to_the_last_bit(name):
    recorded = RECORDED.of(name, _policy(name))[0]
    assert play(Job(scenario=name, policy=recorded.policy, seed=0)).metrics == recorded.metrics
