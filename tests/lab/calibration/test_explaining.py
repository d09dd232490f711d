"""Why figures differ, in words, as a function of what was measured."""

from __future__ import annotations

import math
from typing import Any

import pytest

from resilient.lab.calibration.costs import with_machine, with_sockets
from resilient.lab.calibration.explaining import Figure, Range, explain, figure, idle_together, together
from resilient.lab.calibration.playing import Conditions, Idle
from resilient.lab.world.service_times import Constant
from tests.lab.worlds import metrics_of, world

IDLE = Idle(samples=[0.002, 0.003, 0.004], cpu=0.001, late=0.0005)


CHANCE = "chance: with other dice for the policies, and other calls that were late, the simulation has"
LATE = (
    "the event loop was 1 ms late on average (8 ms once in a hundred times, 40 ms at worst); with that the simulation"
)
BEYOND = "beyond what sockets, event loop and chance account for,"


def conditions(**changed: Any) -> Conditions:
    usual: dict[str, Any] = {
        "seconds": 10.0,
        "cpu": 0.2,
        "waited": 0.01,
        "late": 0.001,
        "late_percentiles": [0.0, *(0.001 for _ in range(98)), 0.008, 0.04],
        "opened": 10,
        "refused": 0,
        "unanswered": 0,
    }
    return Conditions(**usual | changed)


def span(low: float, high: float, expected: float | None = None) -> Range:
    return Range(expected=(low + high) / 2 if expected is None else expected, low=low, high=high)


@pytest.mark.parametrize(
    ("given", "cause", "words"),
    [
        ({"metric": "success", "simulated": 1.0, "real": 1.0}, "same", ""),
        (
            {"metric": "p50", "simulated": 0.010, "sockets": span(0.012, 0.014), "real": 0.0135},
            "sockets",
            "an idle call over the socket costs 3 ms here; with that the simulation has 13 ms",
        ),
        (
            {"metric": "p50", "simulated": 0.0134, "sockets": span(0.012, 0.014), "real": 0.0125},
            "chance",
            f"{CHANCE} 12 ms to 14 ms",
        ),
        (
            {"metric": "p50", "simulated": 0.010, "sockets": span(0.012, 0.014), "real": 0.016},
            "machine",
            f"{LATE} has 13 ms to 20 ms",
        ),
        (
            {"metric": "p50", "simulated": 0.010, "sockets": span(0.012, 0.014), "real": 0.023},
            "unexplained",
            f"not explained: +3 ms {BEYOND} 12 ms to 20 ms",
        ),
        (
            {"metric": "p50", "simulated": 0.010, "sockets": span(0.012, 0.014), "real": 0.009},
            "unexplained",
            f"not explained: −3 ms {BEYOND} 12 ms to 20 ms",  # noqa: RUF001
        ),
        (
            {
                "metric": "amplification",
                "simulated": 1.1,
                "sockets": span(1.05, 1.15),
                "machine": span(1.0, 1.2),
                "real": 1.5,
            },
            "unexplained",
            f"not explained: +0.3× {BEYOND} 1× to 1.2×",  # noqa: RUF001
        ),
        (
            {
                "metric": "recovery",
                "simulated": 7.0,
                "sockets": span(6.0, math.inf, 8.0),
                "machine": span(6.0, math.inf, 8.0),
                "real": math.inf,
            },
            "chance",
            f"{CHANCE} 6 s to never",
        ),
        (
            {
                "metric": "recovery",
                "simulated": 7.0,
                "sockets": span(6.0, 8.0),
                "machine": span(6.0, 8.0),
                "real": math.inf,
            },
            "unexplained",
            f"not explained: never instead of some time {BEYOND} 6 s to 8 s",
        ),
        (
            {"metric": "p99", "simulated": None, "sockets": span(1.0, 2.0), "real": 1.5},
            "unexplained",
            "not explained: one of the two has no value",
        ),
    ],
)
def test_a_difference_is_put_down_to_what_was_measured_or_called_unexplained(given, cause, words):
    ranges = {"sockets": span(0.0, 0.0), "machine": span(0.013, 0.020)}
    found = explain(Figure(**ranges | given), IDLE, conditions())
    assert (found.cause, found.text) == (cause, words)


def test_a_delta_is_how_much_more_the_real_one_is():
    made = figure("p50", calls=1000, simulated=[1.0, 2.0], sockets=[[1.0, 2.0]], machine=[[1.0, 2.0]], real=[2.0, None])
    assert (made.simulated, made.real, made.delta) == (1.5, 2.0, 0.5)
    assert figure("p50", calls=1000, simulated=[None], sockets=[[None]], machine=[[None]], real=[1.0]).delta is None
    assert (
        figure("recovery", calls=1000, simulated=[None], sockets=[[None]], machine=[[None]], real=[None]).delta == 0.0
    )


def test_a_range_is_as_wide_as_the_dice_make_it():
    made = figure(
        "amplification", calls=1000, simulated=[1.0], sockets=[[1.0], [1.2]], machine=[[1.1], [1.1]], real=[1.0]
    )
    assert made.sockets is not None
    assert made.machine is not None
    assert made.sockets.expected == pytest.approx(1.1)
    assert made.sockets.low < 1.0
    assert made.sockets.high > 1.2
    assert (made.machine.low, made.machine.high) == pytest.approx((1.097, 1.103))  # three calls of a thousand


def test_equal_latencies_may_differ_by_a_bucket_of_the_histogram():
    made = figure("p50", calls=1000, simulated=[1.0], sockets=[[1.0], [1.0]], machine=[[1.0], [1.0]], real=[1.0])
    assert made.sockets is not None
    assert 1.01 in made.sockets
    assert 1.02 not in made.sockets


def test_a_few_calls_are_nobodys_doing():
    made = figure("goodput", calls=100, simulated=[50.0], sockets=[[50.0]], machine=[[50.0]], real=[50.0])
    assert made.sockets is not None
    assert (made.sockets.low, made.sockets.high) == (48.5, 51.5)
    made = figure("duplicates", calls=100, simulated=[5], sockets=[[5]], machine=[[5]], real=[5])
    assert made.sockets is not None
    assert (made.sockets.low, made.sockets.high) == (5, 5)


def test_of_a_machine_that_is_never_free_nothing_can_be_said():
    given = Figure(metric="p50", simulated=1.0, sockets=span(1.0, 1.1), machine=span(1.0, 1.2), real=9.0)
    assert explain(given, IDLE, conditions(waited=None)).cause == "unexplained"
    found = explain(given, IDLE, conditions(waited=0.9))
    assert (found.cause, found.text) == (
        "machine",
        "other programs had the processors: this one waited for a CPU in 90 % of the time, and nothing can be said",
    )


def test_a_recovery_that_some_dice_never_see_may_never_come():
    made = figure("recovery", calls=1000, simulated=[3.0], sockets=[[3.0], [None], [4.0]], machine=[[3.0]], real=[3.0])
    assert made.sockets == Range(expected=4.0, low=3.0, high=math.inf)


def test_conditions_of_several_runs_are_put_together():
    one = conditions(cpu=0.2, late=0.001, opened=3)
    other = conditions(cpu=0.4, late=0.003, opened=4, waited=None, late_percentiles=[0.5] * 101)
    both = together([one, other])
    assert (both.seconds, both.opened, both.waited) == (20.0, 7, None)
    assert (both.cpu, both.late) == pytest.approx((0.3, 0.002))
    assert both.late_percentiles[-1] == 0.5
    assert together([one, one]).waited == pytest.approx(0.01)


def test_what_was_measured_twice_is_put_together():
    both = idle_together([IDLE, Idle(samples=[0.010], cpu=0.003, late=0.0015)])
    assert (len(both.samples), both.latency) == (4, 0.0035)
    assert (both.cpu, both.late) == pytest.approx((0.002, 0.001))


def test_sockets_cost_what_an_idle_call_costs_and_the_machine_more():
    calm = world(rate=5.0)
    as_it_is = metrics_of(calm)["mean"]
    sockets = metrics_of(with_sockets(calm, IDLE, 0.0))["mean"]
    turned = metrics_of(with_sockets(calm, IDLE, 0.4))["mean"]
    machine = metrics_of(with_machine(calm, IDLE, conditions(late_percentiles=[0.0105] * 101), 0.0))["mean"]
    assert sockets - as_it_is == pytest.approx(0.003, abs=0.0003)
    assert turned - as_it_is == pytest.approx(0.003, abs=0.0003)
    assert turned != sockets
    assert machine - sockets == pytest.approx(0.020)


def test_a_network_that_is_there_already_is_kept():
    slow = world(rate=5.0, latency=Constant(0.05))
    costly = with_machine(slow, IDLE, conditions(), 0.0)
    assert costly.latency is not None
    assert costly.latency.mean == pytest.approx(0.05 + 0.003 / 2 + 0.001, abs=0.001)
    assert metrics_of(costly)["p50"] > 0.2
