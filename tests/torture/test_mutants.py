"""Stores that are broken on purpose have to be caught, and the right one has to pass where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.fleet import Fleet
from tests.torture.mutants import MUTANTS
from tests.torture.torture import Torture

PLACES = ["sqlite"]
LONGEST = 10.0
CAUGHT_BY = {
    "without the fence": {"I5"},
    "without the guard": {"I1", "I2"},
    "record before effect": {"I1"},
    "delete instead of release": {"I1", "I5"},
}


def among_the_deaf(folder: Path, place: str, fleet: Fleet, mutant: str = "") -> Torture:
    """Nobody's heartbeat is heard, half of all handlers outlive their lease, and many fail."""
    return Torture(
        folder / "place",
        place,
        "transactional",
        fleet,
        seed=1,
        mutant=mutant,
        hosts=("thread",),
        hearts=("lost",),
        width=3,
        slow=0.5,
        failing=0.2,
        rate=20,
        longest=LONGEST,
    )


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("place", PLACES)
def test_a_store_that_is_broken_on_purpose_is_caught(tmp_path: Path, fleet: Fleet, place: str, mutant: str) -> None:
    torture = among_the_deaf(tmp_path, place, fleet, mutant)

    def broken() -> set[str]:
        return {violation.rule for violation in torture.judge().violations}

    torture.run(lambda: bool(broken() & CAUGHT_BY[mutant]))
    assert broken() & CAUGHT_BY[mutant]


@pytest.mark.parametrize("place", PLACES)
def test_no_executor_that_lost_its_lease_writes_anything(tmp_path: Path, fleet: Fleet, place: str) -> None:
    torture = among_the_deaf(tmp_path, place, fleet)
    verdict = torture.run(lambda: torture.judge().errors.get("LeaseLost", 0) >= 5)
    assert verdict.violations == []
