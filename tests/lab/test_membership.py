"""Servers that join and leave, and what discovery knows of them."""

from __future__ import annotations

import pytest

from resilient.lab.bench.documents import read_scenario
from resilient.lab.episodes import Pauses
from resilient.lab.faults import Slow
from resilient.lab.membership import Delisting, Join, Rolling
from resilient.lab.scenario import Tier
from resilient.lab.world.service_times import Constant
from tests.lab.measured import measure
from tests.lab.samples_of_worlds import Look, small_world


def app(lag: float = 0.0) -> list[Tier]:
    return [Tier(name="app", instances=3, workers=100, service_time=Constant(0.001), lag=lag)]


# Join


def test_one_that_joins_is_called_once_discovery_has_told(backend):
    sent: list[int] = []
    join = Join(at=2, number=2)
    looks = [Look(at=at, look=lambda world: sent.append(world.fleet().sent_to.get("app-4", 0))) for at in (2.9, 3.9)]
    metrics = measure(small_world(join, *looks, tiers=app(lag=1.0)), "none", backend=backend).metrics
    assert sent[0] == 0
    assert sent[1] == pytest.approx(99 * 0.9 / 5, abs=2)
    assert metrics["success"] == 1.0


def test_what_is_wrong_with_it_begins_when_it_joins_and_ends_after_its_time():
    slowness: list[list[float]] = []
    join = Join(at=2, joining=[Slow(factor=8, seconds=3), Slow(at=4, factor=2, seconds=1)])
    look = Look(at=0.5, every=1, look=lambda world: slowness.append([one.slowness for one in world.fleet().servers]))
    measure(small_world(join, look), "none")
    assert [seen[3:] for seen in slowness] == [[], [], [8], [8], [8], [1], [2], [1], [1], [1]]
    assert all(seen[:3] == [1, 1, 1] for seen in slowness)


# Rolling


def test_the_oldest_leave_and_as_many_new_ones_join():
    there: list[list[str]] = []
    rolling = Rolling(at=1, every=2, batch=2, seconds=4)
    names = Look(at=0.5, every=2, look=lambda world: there.append([s.instance.id for s in world.fleet().servers]))
    measure(small_world(rolling, names), "none")
    assert there == [
        ["app-0", "app-1", "app-2"],
        ["app-2", "app-3", "app-4"],
        ["app-4", "app-5", "app-6"],
        ["app-4", "app-5", "app-6"],
        ["app-4", "app-5", "app-6"],
    ]


@pytest.mark.parametrize(("drain", "refused"), [(0.0, 99 / 3), (0.5, 99 / 6), (1.5, 0)])
def test_who_leaves_refuses_until_discovery_has_told_unless_it_is_drained(drain, refused):
    scenario = small_world(
        Rolling(at=2, every=100, drain=drain),
        tiers=app(lag=1.0),
        measure=lambda world: {"refused": world.fleet().counts()["refused"], "astray": world.fleet().astray},
    )
    outcome = measure(scenario, "none")
    assert outcome.metrics["refused"] == pytest.approx(refused, abs=1)
    assert sum(outcome.series["failures"]) == outcome.metrics["refused"]
    assert outcome.metrics["astray"] == 0


def test_new_ones_may_join_with_something_wrong():
    slow: list[int] = []
    rolling = Rolling(at=1, every=3, joining=[Slow(factor=5, seconds=2)])
    look = Look(at=1.5, every=1, look=lambda world: slow.append(sum(s.slowness > 1 for s in world.fleet().servers)))
    measure(small_world(rolling, look), "none")
    assert slow == [1, 1, 0, 1, 1, 0, 1, 1, 0]


def test_a_server_that_calls_others_can_be_replaced(backend):
    """The new one refuses calls until it can make calls of its own: at the same instant, here."""
    tiers = [
        Tier(name="front", instances=2, workers=100, service_time=Constant(0.001), calls=["back"]),
        Tier(name="back", instances=2, workers=100, service_time=Constant(0.001)),
    ]
    front = [f"front-{number}" for number in range(8)]
    scenario = small_world(
        Rolling(at=1.005, every=1, seconds=6),
        tiers=tiers,
        measure=lambda world: {name: world.fleet().sent_to.get(name, 0) for name in front},
    )
    outcome = measure(scenario, "default", backend=backend)
    assert outcome.metrics["success"] == 1.0
    assert all(outcome.metrics[name] > 30 for name in front)
    assert outcome.metrics["amplification"] == 1.0


# Delisting


def test_who_is_not_listed_is_not_called_though_it_is_there(backend):
    sent: list[int] = []
    delisting = Delisting(at=2, seconds=3, places=[0, 2])
    look = Look(at=0.25, every=0.5, look=lambda world: sent.append(world.fleet().sent_to.get("app-2", 0)))
    scenario = small_world(delisting, look, tiers=app(lag=1.0), measure=lambda world: {"astray": world.fleet().astray})
    metrics = measure(scenario, "none", backend=backend).metrics
    assert 0 < sent[5] < sent[6] == sent[11] < sent[12]  # callers know from second 3 until second 6
    assert (metrics["success"], metrics["astray"]) == (1.0, 0)


def test_one_that_joins_may_be_unlisted_at_first():
    sent: list[int] = []
    join = Join(at=1, joining=[Delisting(seconds=4)])
    look = Look(at=0.5, every=1, look=lambda world: sent.append(world.fleet().sent_to.get("app-3", 0)))
    measure(small_world(join, look), "none")
    assert sent[:5] == [0] * 5
    assert sent[5] > 0


# files


def test_all_of_it_can_be_said_in_a_file(tmp_path):
    path = tmp_path / "cold.toml"
    path.write_text(
        """
        duration = 10
        timeout = 3.0
        attempt_timeout = 1.0
        load.arrivals.constant = { rate = 10 }
        tiers = [{ name = "app", instances = 2, service_time.constant = { mean = 0.1 } }]
        [[faults]]
        join = { at = 3, joining = [{ slow = { factor = 10, seconds = 3 } }] }
        [[faults]]
        rolling = { every = 2.0, drain = 1.0, joining = [{ pauses = { length = 0.2, longest = 2.0, every = 5.0 } }] }
        [[faults]]
        delisting = { zone = "a" }
        """
    )
    assert read_scenario(path, {}).faults == [
        Join(at=3, joining=[Slow(factor=10, seconds=3)]),
        Rolling(every=2.0, drain=1.0, joining=[Pauses(length=0.2, longest=2.0, every=5.0)]),
        Delisting(zone="a"),
    ]
    path.write_text(path.read_text().replace("slow =", "snow ="))
    with pytest.raises(ValueError, match=r"faults\[0\].join.joining\[0\]: expected one of stop, .*, got snow"):
        read_scenario(path, {})
