"""Policies by name, and what a factory may return."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from resilient.balancing import Balance, LeastRequest
from resilient.lab.arrivals import constant
from resilient.lab.scenario import OpenLoop, Scenario, Tier
from resilient.lab.simulation.run import run
from resilient.lab.stacks import Setting, made_by, stack
from resilient.lab.world.service_times import Constant
from resilient.pipeline import Pipeline
from resilient.policies.adaptive_throttle import AdaptiveThrottle
from resilient.policies.honoured import Honoured
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.runtime import Runtime
from resilient.service import Service
from resilient.snapshot import Snapshot


class Nowhere:
    """A discovery that is only to be recognised."""

    async def watch(self):
        yield Snapshot(version=1, instances=())


NOWHERE = Nowhere()
SETTING = Setting(name="orders", timeout=4.0, attempt_timeout=1.0, honours_keys=True)


def kinds(service: Service) -> list[type]:
    return [type(policy) for policy in service.pipeline.policies]


def test_none_has_an_attempt_timeout_and_nothing_else():
    none = stack("none")
    service = none.make(SETTING, NOWHERE)
    assert (none.reckless, none.tells) == (True, False)
    assert (service.name, service.discovery, service.budget) == ("orders", NOWHERE, None)
    assert kinds(service) == [Balance, Timeout]
    assert service.pipeline.policies[-1] == Timeout(1.0)


@pytest.mark.parametrize("retries", [1, 3, 12])
def test_so_many_retries_are_one_attempt_more_without_a_budget(retries):
    naive = stack(f"retry{retries}")
    service = naive.make(SETTING, NOWHERE)
    total, retry, *rest = service.pipeline.policies
    assert (naive.reckless, naive.tells) == (True, False)
    assert isinstance(retry, Retry)
    assert (total, retry.attempts, retry.budget) == (Timeout(4.0), retries + 1, None)
    assert [type(policy) for policy in rest] == [Balance, Timeout]


def test_the_default_is_that_of_a_service():
    default = stack("default")
    assert (default.reckless, default.tells) == (False, True)
    keyed = default.make(SETTING, NOWHERE)
    assert kinds(keyed) == [Timeout, Honoured, Retry, AdaptiveThrottle, Balance, Timeout]
    plain = default.make(Setting(name="orders", timeout=4.0, attempt_timeout=1.0), NOWHERE)
    assert kinds(plain) == [Timeout, Retry, AdaptiveThrottle, Balance, Timeout]
    assert keyed.budget is not default.make(SETTING, NOWHERE).budget  # each client has its own


# -- factories ------------------------------------------------------------------------------------------------------

MINE = """
from resilient import Pipeline, Retry, Service, Timeout
from resilient.balancing import LeastRequest
from resilient.lab.contenders import single
from resilient.runtime import Runtime

called = []

def pipeline(): return Pipeline(Timeout(3.0), Retry(attempts=2), Timeout(0.5))
def policies(setting):
    called.append(setting)
    return [Timeout(setting.timeout), Retry()]
def service(url="static://127.0.0.1:1"): return Service("production", url, balancer=LeastRequest())
class Stacks:
    @staticmethod
    def pipeline(): return pipeline()
number = 3
def nothing(): return None
def text(): return "default"
async def later(): return pipeline()
def two(one, other): return []
def keyword(*, setting): return []
def any_arguments(*args, **kwargs): return [args, kwargs][:0]
ready = single("ready", tells=True)
def pinned(): return Pipeline(Timeout(1.0), runtime=Runtime())
def pinned_service(): return Service("production", "static://127.0.0.1:1", runtime=Runtime())
def fails(): raise LookupError("a mistake of its author")
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module of a user's."""
    (tmp_path / "mine_for_this_test.py").write_text(MINE)
    (tmp_path / "broken_for_this_test.py").write_text("import there_is_no_such_module")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("mine_for_this_test", None)


def make(path: str) -> Service:
    return stack(f"mine_for_this_test:{path}").make(SETTING, NOWHERE)


@pytest.mark.usefixtures("mine")
def test_a_factory_may_return_a_service():
    service = make("service")
    assert (service.name, service.discovery) == ("production", NOWHERE)
    assert service.balancer.picker == LeastRequest()


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize("path", ["pipeline", "Stacks.pipeline"])
def test_a_factory_may_return_a_pipeline(path):
    service = make(path)
    assert (service.name, service.discovery) == ("orders", NOWHERE)
    assert kinds(service) == [Timeout, Retry, Balance, Timeout]
    assert service.pipeline.policies[0] == Timeout(3.0)


@pytest.mark.usefixtures("mine")
def test_a_factory_may_return_a_list_of_policies_and_ask_for_the_setting():
    assert kinds(make("policies")) == [Timeout, Retry, Balance]
    assert sys.modules["mine_for_this_test"].called == [SETTING]
    assert kinds(make("any_arguments")) == [Balance]


@pytest.mark.usefixtures("mine")
def test_a_ready_stack_may_stand_in_the_place_of_a_factory():
    ready = stack("mine_for_this_test:ready")
    assert (ready.name, ready.reckless, ready.tells) == ("mine_for_this_test:ready", True, True)
    assert kinds(ready.make(SETTING, NOWHERE)) == [Timeout, Balance, Timeout]


@pytest.mark.usefixtures("mine")
def test_a_stack_of_ones_own_tells_servers_and_repeats_only_what_may_be():
    mine = stack("mine_for_this_test:pipeline")
    assert (mine.name, mine.reckless, mine.tells) == ("mine_for_this_test:pipeline", False, True)


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("nothing", TypeError, "nothing: returned None; expected a Service, a Pipeline or a list of policies"),
        ("text", TypeError, "text: returned 'default'; expected a Service"),
        ("later", TypeError, "later: returned <coroutine object later"),
        ("two", TypeError, "two: needs one, other; a factory of policies takes nothing, or a Setting"),
        ("keyword", TypeError, "keyword: needs setting; a factory of policies takes nothing, or a Setting"),
        ("pinned", ValueError, "has a runtime of its own"),
        ("pinned_service", ValueError, "has a runtime of its own"),
        ("number", TypeError, "policy 'mine_for_this_test:number': expected a function that returns policies, got 3"),
        ("missing", ValueError, "policy 'mine_for_this_test:missing': module .* has no attribute 'missing'"),
        ("Stacks.missing", ValueError, "has no attribute 'missing'"),
        ("fails", LookupError, "a mistake of its author"),
    ],
)
def test_what_is_no_factory_is_refused_in_clear_words(path, error, message):
    with pytest.raises(error, match=message):
        make(path)


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonesuch", "policy 'nonesuch': one of none, retry1, retry3"),
        ("", "policy '': one of none"),
        ("retry0", "policy 'retry0': one of none"),
        ("retry100", "policy 'retry100': one of none"),
        ("mine_for_this_test:", "one of none"),
        (":pipeline", "one of none"),
        ("there_is_no_such_module:x", "No module named 'there_is_no_such_module'"),
        ("broken_for_this_test:x", "policy 'broken_for_this_test:x': No module named 'there_is_no_such_module'"),
        (".mine:x", "policy '.mine:x': "),
        ("..:x", "policy '..:x': "),
    ],
)
def test_a_name_that_is_none_is_refused_in_clear_words(name, message):
    with pytest.raises(ValueError, match=message):
        stack(name)


def test_a_function_that_does_not_tell_its_arguments_gets_none():
    assert kinds(made_by(list)(SETTING, NOWHERE)) == [Balance]


def test_a_pinned_runtime_is_found_in_what_a_function_makes():
    with pytest.raises(ValueError, match="has a runtime of its own"):
        made_by(lambda: Pipeline(runtime=Runtime()))(SETTING, NOWHERE)


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize("path", ["pipeline", "policies", "service", "any_arguments"])
def test_they_all_run(path, backend):
    scenario = Scenario(
        name="test",
        title="",
        source="",
        naive="",
        good="",
        tiers=[Tier(name="orders", service_time=Constant(0.1), instances=2)],
        load=OpenLoop(arrivals=lambda _random: constant(5)),
        duration=4,
        clients=3,
        timeout=4.0,
        attempt_timeout=1.0,
    )
    metrics = run(scenario, f"mine_for_this_test:{path}", 0, backend=backend).metrics
    assert (metrics["calls"], metrics["success"]) == (20, 1.0)
