"""What comes and goes at each server at moments of its own."""

from __future__ import annotations

import pytest

from resilient.lab.episodes import Bursts, Pauses
from resilient.lab.faults import Fault
from resilient.lab.membership import Join
from resilient.lab.world.server import Server
from tests.lab.measured import measure
from tests.lab.samples_of_worlds import Look, small_world

_STEP = 0.01


def when(fault: Fault, shows, *, seconds: float = 200.0, policy: str = "none", seed: int = 0, backend: str = "asyncio"):
    """From when to when each server shows it, to the hundredth of a second."""
    spells: dict[str, list[list[float]]] = {}

    def look(world) -> None:
        now = world.engine.now() - world.began
        for server in world.fleet().servers:
            mine = spells.setdefault(server.instance.id, [])
            if not shows(server):
                continue
            if mine and mine[-1][1] > now - 1.5 * _STEP:
                mine[-1][1] = now
            else:
                mine.append([now, now])

    scenario = small_world(fault, Look(every=_STEP, look=look), rate=1.0, duration=seconds)
    measure(scenario, policy, seed=seed, backend=backend)
    return spells


def stands_still(server: Server) -> bool:
    return server.stopped


def is_slow(server: Server) -> bool:
    return server.slowness == 4.0


def test_pauses_come_about_every_so_many_seconds_and_last_between_the_two_lengths():
    spells = when(Pauses(length=0.5, longest=1.5, every=3.0), stands_still)
    lengths = [ends - begins for mine in spells.values() for begins, ends in mine[:-1]]
    assert len(lengths) == pytest.approx(3 * 200 / (3.0 + 1.0), rel=0.2)
    assert min(lengths) >= 0.5 - 2 * _STEP
    assert max(lengths) <= 1.5
    assert sum(lengths) / len(lengths) == pytest.approx(1.0, rel=0.1)


def test_of_one_length_they_are_all_alike():
    spells = when(Pauses(length=0.5, every=3.0), stands_still)
    for mine in spells.values():
        assert [ends - begins for begins, ends in mine[:-1]] == pytest.approx([0.5] * (len(mine) - 1), abs=2 * _STEP)


def test_each_server_has_moments_of_its_own_the_same_under_every_policy(backend):
    bursts = Bursts(factor=4, length=2.0, every=5.0)
    spells = when(bursts, is_slow, seconds=30, backend=backend)
    assert len({str(mine) for mine in spells.values()}) == 3
    assert spells == when(bursts, is_slow, seconds=30, policy="default", backend=backend)
    assert spells != when(bursts, is_slow, seconds=30, seed=1, backend=backend)


def test_none_begins_after_the_end_but_one_that_began_goes_on():
    spells = when(Bursts(factor=4, length=2.0, every=1.0, at=5.0, seconds=10.0), is_slow, seconds=30)
    begins = [begin for mine in spells.values() for begin, _ in mine]
    assert min(begins) >= 5
    assert max(begins) < 15
    assert 15 < max(end for mine in spells.values() for _, end in mine) < 17


def test_they_befall_one_that_joins_for_as_long_as_they_say():
    spells = when(Join(at=10.0, joining=[Pauses(length=0.5, every=0.5, seconds=10.0)]), stands_still, seconds=40)
    begins = [begin for begin, _ in spells.pop("app-3")]
    assert len(begins) > 5
    assert min(begins) >= 10
    assert 15 < max(begins) < 20
    assert list(spells.values()) == [[], [], []]


@pytest.mark.parametrize("arguments", [{"length": 0.0}, {"length": 2.0, "longest": 1.0}, {"length": 1.0, "every": 0.0}])
def test_what_cannot_be_is_refused(arguments):
    with pytest.raises(ValueError, match=r"length=|every="):
        Pauses(**{"every": 1.0} | arguments)
