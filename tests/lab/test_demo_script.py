"""What the demo does to whom, and when."""

from __future__ import annotations

from itertools import pairwise

import pytest

from resilient.lab.demo.script import Settings


@pytest.mark.parametrize("instances", [3, 5, 16])
def test_every_disaster_is_undone_before_the_run_ends(instances):
    settings = Settings(instances=instances)
    undone = {"stop": "wake", "slow": "heal", "fail": "heal", "lose": "heal"}
    acts = settings.acts()
    assert [act.at for act in acts] == sorted(act.at for act in acts)
    for disaster in settings.disasters:
        assert 0 < disaster.start < disaster.end < settings.duration
        began = next(act for act in acts if act.deed == disaster.kind)
        assert (began.at, began.instances) == (disaster.start, disaster.victims)
        ended = next(act for act in acts if act.at == disaster.end)
        if disaster.kind == "kill":
            assert (ended.deed, ended.instances) == ("start", (settings.newcomer,))
        else:
            assert (ended.deed, ended.instances) == (undone[disaster.kind], disaster.victims)


@pytest.mark.parametrize("instances", [3, 5, 16])
def test_who_is_killed_suffers_nothing_else_and_somebody_always_works(instances):
    settings = Settings(instances=instances)
    killed, *others = settings.disasters
    (dead,) = killed.victims
    assert all(dead not in disaster.victims for disaster in others)
    assert settings.newcomer not in settings.fleet
    for disaster in others:
        if disaster.kind != "lose":
            assert set(settings.fleet) - {dead} - set(disaster.victims)


def test_only_the_dead_instance_is_missing_while_another_disaster_strikes():
    killed, *others = Settings().disasters
    assert killed.start < others[0].start
    assert killed.end > others[-1].end
    assert all(one.end <= other.start for one, other in pairwise(others))


def test_the_schedule_scales_with_the_duration():
    short, long = Settings(duration=10), Settings(duration=40)
    assert [4 * act.at for act in short.acts()] == pytest.approx([act.at for act in long.acts()])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"rate": 0.0}, "rate=0.0: orders a second, more than 0 and at most 1000"),
        ({"rate": 2000.0}, "rate=2000.0"),
        ({"duration": 1.0}, "duration=1.0: between 6 and 600 seconds"),
        ({"duration": float("nan")}, "duration=nan"),
        ({"instances": 2}, "instances=2: between 3 and 16 processes"),
        ({"attempt_timeout": 0.0}, "attempt_timeout=0.0: a finite number of seconds, more than 0"),
        ({"deadline": float("inf")}, "deadline=inf"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(wrong, told):
    with pytest.raises(ValueError, match=told):
        Settings(**wrong)
