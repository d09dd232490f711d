"""Stores that are broken on purpose have to be caught, and the right one has to pass where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.fleet import Fleet
from tests.torture.grounds import Ground
from tests.torture.hooks import RECORDED
from tests.torture.mutants import MUTANTS
from tests.torture.torture import Torture

pytestmark = pytest.mark.timeout(120)

LONGEST = 30.0
"""Seconds on a busy machine; one or two on a free one."""
CAUGHT_BY = {
    "without the fence": {"I5"},
    "without the guard": {"I1", "I2"},
    "record before effect": {"I1"},
    "delete instead of release": {"I1", "I5"},
}


def among_the_deaf(folder: Path, ground: Ground, fleet: Fleet, mutant: str = "") -> Torture:
    """Nobody's heartbeat is heard, half of all handlers outlive their lease, and many fail; they need not die, too."""
    deadly = mutant == "record before effect"
    return Torture(
        folder / "place",
        ground.place,
        "transactional",
        fleet,
        url=ground.fresh(),
        seed=1,
        mutant=mutant,
        hosts=("thread",),
        hearts=("lost",),
        width=3,
        slow=0.5,
        failing=0.3,
        rate=8,
        kills=0.02 if deadly else 0.0,
        fates=[("kill", RECORDED)] if deadly else (),
        asleep=0,
        longest=LONGEST,
    )


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_store_that_is_broken_on_purpose_is_caught(ground: Ground, tmp_path: Path, fleet: Fleet, mutant: str) -> None:
    torture = among_the_deaf(tmp_path, ground, fleet, mutant)

    caught: set[str] = set()  # what is broken may be mended later: an effect that follows its reply

    def is_caught() -> bool:
        caught.update(violation.rule for violation in torture.judge().violations)
        return bool(caught & CAUGHT_BY[mutant])

    torture.run(is_caught)
    assert caught & CAUGHT_BY[mutant]


def test_no_executor_that_lost_its_lease_writes_anything(ground: Ground, tmp_path: Path, fleet: Fleet) -> None:
    torture = among_the_deaf(tmp_path, ground, fleet)

    def is_enough() -> bool:
        verdict = torture.judge()
        assert verdict.violations == []  # at no moment: that is how mutants are caught
        return verdict.errors.get("LeaseLost", 0) >= 5

    assert torture.run(is_enough).violations == []
