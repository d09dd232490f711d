"""What scenarios compare the usual policies with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resilient.balancing import (
    Balance,
    HealthCheck,
    LeastRequest,
    Load,
    PeakEwma,
    PreferZone,
    Prequal,
    RoundRobin,
    SlowStart,
)
from resilient.discovery import connect
from resilient.lab.contenders import by_name, changed, prequal, single
from resilient.lab.stacks import Setting
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.stack import default_policies

SETTING = Setting(name="orders", timeout=4.0, attempt_timeout=1.0)


def service(stack):
    return stack.make(SETTING, connect("static://127.0.0.1:1"))


def test_a_single_remedy_stands_between_the_timeouts_and_nothing_else_does():
    made = service(single("remedy", lambda: [Retry(attempts=2, budget=None)]))
    assert [type(policy) for policy in made.pipeline.policies] == [Timeout, Retry, Balance, Timeout]
    assert (made.balancer.picker, made.balancer.ejection) == (RoundRobin(), None)


def test_each_client_has_policies_of_its_own():
    remedy = single("remedy", lambda: [Retry()])
    first, second = service(remedy), service(remedy)
    assert first.budget is not None
    assert first.budget is not second.budget


def test_a_change_leaves_the_rest_of_the_default_as_it_is():
    made = service(changed("other", lambda: {"retry": Retry(attempts=7)}, picker=LeastRequest()))
    assert [type(policy) for policy in made.pipeline.policies] == [type(policy) for policy in default_policies()]
    assert next(policy.attempts for policy in made.pipeline.policies if isinstance(policy, Retry)) == 7
    assert made.balancer.picker == LeastRequest()
    assert made.balancer.ejection is not None
    assert service(changed("same")).balancer.picker == PeakEwma()
    assert service(changed("never", ejection=None)).balancer.ejection is None


def test_the_default_can_be_edited_where_no_argument_changes_it():
    made = service(changed("bare", lambda: {"attempt_timeout": 0.5}, edit=lambda stack: [stack[0], *stack[-2:]]))
    assert [type(policy) for policy in made.pipeline.policies] == [Timeout, Balance, Timeout]
    assert made.pipeline.policies[-1] == Timeout(0.5)


def test_filters_and_checks_are_made_in_the_setting():
    async def check(instance):
        """Nobody asks."""

    setting = replace(SETTING, zone="a", check=check)
    stack = changed(
        "other", filters=lambda setting: [PreferZone(str(setting.zone))], health=lambda setting: HealthCheck(check)
    )
    made = stack.make(setting, connect("static://127.0.0.1:1"))
    assert made.balancer.filters == (PreferZone("a"),)
    assert made.health == HealthCheck(check)
    assert service(single("slow", filters=[SlowStart()])).balancer.filters == (SlowStart(),)
    assert service(changed("same")).health is None


def test_the_default_is_careful_and_tells_deadlines_and_a_single_remedy_does_not():
    assert (changed("one").reckless, changed("one").tells) == (False, True)
    assert (single("two").reckless, single("two").tells, single("three", tells=True).tells) == (True, False, True)


def test_a_picker_that_asks_servers_asks_those_of_its_setting():
    async def probe(instance):
        return Load(in_flight=0)

    setting = Setting(name="orders", timeout=4.0, attempt_timeout=1.0, probe=probe)
    for stack in (single("one", picker=prequal), changed("other", picker=prequal)):
        made = stack.make(setting, connect("static://127.0.0.1:1"))
        assert made.balancer.picker == Prequal(probe=probe)


def test_they_are_found_by_name():
    assert [*by_name(single("one"), changed("two"))] == ["one", "two"]
    with pytest.raises(TypeError, match="unexpected"):
        service(changed("typo", lambda: {"retries": 3}))
