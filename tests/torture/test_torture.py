"""Eight processes are killed, stopped past their lease, cut off and misled about the time, all on the same keys.

Every run goes on until each crash point was met by a kill and by a stop; then somebody finishes what is left, and the
checker reads history and sink. `make torture` does the same for longer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.torture.fleet import Fleet
from tests.torture.grounds import Ground
from tests.torture.hooks import POINTS
from tests.torture.operation import Way
from tests.torture.torture import Torture

pytestmark = pytest.mark.timeout(240)  # a busy machine takes longer until enough has happened

ELSEWHERE: list[Way] = ["derived", "at_most_once"]


def torture_at(ground: Ground, folder: Path, way: Way, fleet: Fleet, **more: Any) -> Torture:
    direct = ground.fresh()
    return Torture(
        folder / "place", ground.place, way, fleet, url=ground.through(direct), direct=direct, seed=1, **more
    )


def was_tormented(torture: Torture) -> bool:
    """Whether everything that can happen to a process did."""
    return torture.reached("kill") >= set(POINTS) and torture.reached("stop") >= set(POINTS) and torture.was_cut()


@pytest.mark.parametrize(
    ("ground", "way"),
    [
        ("sqlite", "transactional"),
        ("postgres", "transactional"),
        ("postgres", "one_commit"),
        ("valkey", "transactional"),
    ],
    indirect=["ground"],
)
def test_nothing_happens_twice_or_gets_lost(ground: Ground, tmp_path: Path, fleet: Fleet, way: Way) -> None:
    """While the network breaks and the server crashes as well."""
    torture = torture_at(ground, tmp_path, way, fleet, faults=ground.faults)
    verdict = torture.run(lambda: was_tormented(torture) and torture.was_struck())
    assert verdict.violations == []
    assert verdict.stuck == 0
    assert verdict.keys > 20
    assert verdict.followed > 0


@pytest.mark.parametrize("way", ELSEWHERE)
def test_nothing_happens_twice_or_gets_lost_elsewhere(ground: Ground, tmp_path: Path, fleet: Fleet, way: Way) -> None:
    torture = torture_at(ground, tmp_path, way, fleet)
    verdict = torture.run(lambda: was_tormented(torture))
    assert verdict.violations == []
    assert verdict.stuck == 0
    assert verdict.keys > 20
    assert verdict.followed > 0 or way == "at_most_once"
    assert verdict.unknown > 0 or way != "at_most_once"


def test_without_derived_keys_an_effect_elsewhere_happens_twice(ground: Ground, tmp_path: Path, fleet: Fleet) -> None:
    """What theory predicts: the record is right all the same, and so is every reply."""
    torture = torture_at(ground, tmp_path, "fenced", fleet, slow=0.7, hearts=("lost",), rate=15.0)
    verdict = torture.run(lambda: torture.judge().duplicates >= 3)
    assert verdict.duplicates >= 3
    assert {violation.rule for violation in verdict.violations} == {"I1"}
    assert (verdict.lost, verdict.divergent, verdict.stuck) == (0, 0, 0)


def test_nothing_happens_twice_or_gets_lost_over_http(ground: Ground, tmp_path: Path, fleet: Fleet) -> None:
    torture = torture_at(ground, tmp_path, "transactional", fleet, web=True)
    verdict = torture.run(lambda: torture.reached("kill") >= set(POINTS) and len(torture.reached("stop")) >= 2)
    assert verdict.violations == []
    assert verdict.stuck == 0
    assert verdict.keys > 20
    assert verdict.followed > 0


@pytest.mark.parametrize("way", ["derived", "at_most_once"])
def test_threads_and_tasks_of_one_process_share_a_memory(tmp_path: Path, fleet: Fleet, way: Way) -> None:
    verdict = Torture(tmp_path / "place", "memory", way, fleet, seed=1).run_alone(2.0)
    assert verdict.violations == []
    assert verdict.stuck == 0
    assert verdict.keys > 20
