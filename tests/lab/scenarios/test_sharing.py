"""Who is served when not all can be: brownout-by-priority, hot-key."""

from __future__ import annotations

import pytest

from resilient.lab.scenarios import find
from tests.lab.measured import metrics_of

PRIORITIES = ("critical_plus", "critical", "sheddable_plus", "sheddable")


def by_priority(policy: str, backend: str = "asyncio", **knobs) -> list[float]:
    metrics = metrics_of(find("brownout-by-priority")(duration=20.0, **knobs), policy, backend=backend)
    return [metrics[f"success.{priority}"] for priority in PRIORITIES]


def test_first_come_first_served_knows_no_priority():
    shares = by_priority("none", queue="fifo")
    assert max(shares) - min(shares) < 0.1
    assert 0.3 < min(shares) <= max(shares) < 0.5


@pytest.mark.parametrize("policy", ["none", "retry3", "default"])
def test_a_server_that_does_keeps_a_strict_order_and_its_callers_do_not_undo_it(policy):
    critical_plus, critical, sheddable_plus, sheddable = by_priority(policy)
    assert critical_plus > 0.995
    assert 0.3 < critical < 0.7
    assert sheddable_plus < 0.05
    assert sheddable < 0.01


def test_what_is_refused_of_the_least_important_is_kept_at_home():
    scenario = find("brownout-by-priority")(duration=20.0)
    reckless, default = (metrics_of(scenario, policy)["amplification"] for policy in ("retry3", "default"))
    assert default < 1.0
    assert reckless > 2.0


def test_the_keys_of_other_shards_pay_for_whatever_judges_all_keys_together():
    scenario = find("hot-key")(duration=20.0)
    found = {policy: metrics_of(scenario, policy) for policy in ("none", "default", "shared-breaker", "no-throttle")}
    cold = {policy: metrics["success.cold"] for policy, metrics in found.items()}
    assert cold["none"] > 0.999
    assert cold["no-throttle"] > 0.999
    assert cold["shared-breaker"] < 0.2
    assert cold["shared-breaker"] < cold["default"] < 0.95
    for policy in ("none", "default", "no-throttle"):
        assert found[policy]["success.hot"] == pytest.approx(110 / 332, abs=0.04)


def test_trio_agrees():
    assert by_priority("default", "trio") == pytest.approx(by_priority("default"), abs=0.02)
