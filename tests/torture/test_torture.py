"""Eight processes are killed, stopped past their lease, cut off and misled about the time, all on the same keys.

Every run goes on until each crash point was met by a kill and by a stop; then somebody finishes what is left, and the
checker reads history and sink. `make torture` does the same for longer.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.fleet import Fleet
from tests.torture.hooks import POINTS
from tests.torture.operation import Way
from tests.torture.torture import Torture

PLACES = ["sqlite"]
PROMISED: list[Way] = ["transactional", "derived", "at_most_once"]


def was_tormented(torture: Torture) -> bool:
    """Whether everything that can happen to a process did."""
    return torture.reached("kill") >= set(POINTS) and torture.reached("stop") >= set(POINTS) and torture.was_cut()


@pytest.mark.parametrize("way", PROMISED)
@pytest.mark.parametrize("place", PLACES)
def test_nothing_happens_twice_or_gets_lost(tmp_path: Path, fleet: Fleet, place: str, way: Way) -> None:
    torture = Torture(tmp_path / "place", place, way, fleet, seed=1)
    verdict = torture.run(lambda: was_tormented(torture))
    assert verdict.violations == []
    assert verdict.stuck == 0
    assert verdict.keys > 20
    assert verdict.followed > 0 or way == "at_most_once"
    assert verdict.unknown > 0 or way != "at_most_once"


@pytest.mark.parametrize("place", PLACES)
def test_without_derived_keys_an_effect_elsewhere_happens_twice(tmp_path: Path, fleet: Fleet, place: str) -> None:
    """What theory predicts: the record is right all the same, and so is every reply."""
    torture = Torture(tmp_path / "place", place, "fenced", fleet, seed=1, slow=0.4)
    verdict = torture.run(lambda: torture.judge().duplicates >= 3)
    assert verdict.duplicates >= 3
    assert {violation.rule for violation in verdict.violations} == {"I1"}
    assert (verdict.lost, verdict.divergent, verdict.stuck) == (0, 0, 0)


@pytest.mark.parametrize("place", PLACES)
def test_nothing_happens_twice_or_gets_lost_over_http(tmp_path: Path, fleet: Fleet, place: str) -> None:
    torture = Torture(tmp_path / "place", place, "transactional", fleet, seed=1, web=True)
    verdict = torture.run(lambda: was_tormented(torture))
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
