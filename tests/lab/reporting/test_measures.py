"""What is known of a metric, and how its values are written and said."""

from __future__ import annotations

import math
from string import Formatter

import pytest

from resilient.lab.drawing.axis import FACTOR
from resilient.lab.reporting.measures import NEVER, in_order, measure_of

EVERY = [
    "recovery", "success", "goodput", "mean", "p50", "p99", "p999", "max", "amplification", "wasted", "duplicates",
    "duplicated", "unknown", "lost", "right", "refused", "astray", "completion", "fairness", "queue.max", "little",
    "calls", "goodput.after", "p99.during", "max.after", "recovery.late", "success.critical", "share.db-0",
    "queue.mean", "peak.100ms", "admitted.60s", "anything.else",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "title", "unit", "better"),
    [
        ("recovery", "recovery", "s", "lower"),
        ("p999", "p99.9", "s", "lower"),
        ("success", "success", "%", "higher"),
        ("success.critical", "success critical", "%", "higher"),
        ("goodput.during", "goodput during", "calls/s", "higher"),
        ("share.db-0", "share db-0", "%", None),
        ("queue.max", "longest queue", "", "lower"),
        ("peak.100ms", "peak 100 ms", "", "lower"),
        ("admitted.60s", "admitted 60 s", "", None),
        ("p99.during", "p99 during", "s", "lower"),
        ("success.after", "success after", "%", "higher"),
        ("amplification.joining", "amplification joining", FACTOR, "lower"),
        ("own", "own", "", None),
        ("share.", "share.", "", None),
        ("own.p99", "own.p99", "", None),
    ],
)
def test_a_metric_is_known_by_its_name_or_its_family(name, title, unit, better):
    measure = measure_of(name)
    assert (measure.name, measure.title, measure.unit, measure.better) == (name, title, unit, better)


@pytest.mark.parametrize("name", EVERY)
def test_every_metric_can_be_said_of_one_policy_and_of_several(name):
    measure = measure_of(name)
    for pattern in (measure.says, measure.never):
        assert {field for _, field, _, _ in Formatter().parse(pattern) if field} <= {"s", "value"}
    one, two = measure.sentence(["a"], "7"), measure.sentence(["a", "b"], "7")
    assert one.startswith("`a` ")
    assert two.startswith("`a` and `b` ")
    assert "7" in one
    assert len(one.split()) == len(two.split()) - 2
    assert "{" not in measure.explains


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("recovery", 1.234, "1.23 s"),
        ("recovery", NEVER, "never"),
        ("p99", None, "\N{EN DASH}"),
        ("p99", 0.0174, "17.4 ms"),
        ("success", 0.98312, "98.31 %"),
        ("amplification", 3.0, "3\N{MULTIPLICATION SIGN}"),
        ("goodput", 281.23, "281 calls/s"),
        ("calls", 81234, "81.2k"),
    ],
)
def test_a_value_is_written_in_its_unit(name, value, text):
    assert measure_of(name).text(value) == text


@pytest.mark.parametrize(
    ("name", "values", "texts"),
    [
        ("recovery", (1.2, 0.91, 1.63), ("1.2 s", "[0.9, 1.6]")),
        ("recovery", (14.0, 9.0, math.inf), ("14 s", "[9, never]")),
        ("recovery", (math.inf, 14.0, math.inf), ("never", "[14 s, never]")),
        ("recovery", (math.inf, math.inf, math.inf), ("never", "")),
        ("success", (0.9995, 0.9993, 0.9999), ("99.95 %", "[99.93, 99.99]")),
    ],
)
def test_a_value_and_its_interval_have_one_unit(name, values, texts):
    assert measure_of(name).texts(*values) == texts


@pytest.mark.parametrize(
    ("name", "values", "texts"),
    [
        ("p99", (0.012, 0.01, 0.014), ("+12 ms", "[10, 14]")),
        ("p99", (-0.012, -0.014, -0.01), ("\N{MINUS SIGN}12 ms", "[\N{MINUS SIGN}14, \N{MINUS SIGN}10]")),
        ("success", (0.02, 0.01, 0.03), ("+2 points", "[1, 3]")),
        ("recovery", (math.inf, 5.0, math.inf), ("+\N{INFINITY}", "[5.0 s, \N{INFINITY}]")),
        (
            "recovery",
            (-math.inf, -math.inf, 2.0),
            ("\N{MINUS SIGN}\N{INFINITY}", "[\N{MINUS SIGN}\N{INFINITY}, 2.0 s]"),
        ),
        ("recovery", (0.0, 0.0, 0.0), ("0 s", "")),
    ],
)
def test_a_difference_has_a_sign(name, values, texts):
    assert measure_of(name).difference_texts(*values) == texts


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("recovery", "1.2 s [0.9, 1.6]", "`default` recovers in 1.2 s [0.9, 1.6]"),
        ("recovery", "never", "`default` never recovers"),
        ("amplification", "3x", "`default` puts 3x the load on the service"),
        ("success.critical", "99 %", "`default` answers 99 % of the critical calls"),
        ("share.db-0", "10 %", "`default` sends 10 % of the attempts to db-0"),
        ("success.during", "99 %", "`default` answers 99 % of the calls during the trigger"),
        ("p99.during", "2 s", "`default` shows a p99 latency of 2 s during the trigger"),
        ("p99.joining", "2 s", "`default` shows a p99 latency of 2 s (joining)"),
        ("goodput.after", "2 calls/s", "`default` answers 2 calls/s in time after the trigger"),
        ("completion.late", "never", "`default` never serves everybody (late)"),
        ("own", "0.9", "`default` shows own 0.9"),
    ],
)
def test_a_value_is_said_in_words(name, value, sentence):
    assert measure_of(name).sentence(["default"], value) == sentence


def test_names_are_listed_as_one_says_them():
    assert measure_of("recovery").sentence(["a", "b", "c"], "never") == "`a`, `b` and `c` never recover"


@pytest.mark.parametrize(("name", "more"), [("success", True), ("p99", False), ("calls", False)])
def test_a_direction_is_better_or_none_is(name, more):
    measure = measure_of(name)
    assert measure.prefers(0.1) is more
    assert measure.prefers(-0.1) is (name == "p99")
    assert not measure.prefers(0.0)


def test_primary_metrics_come_first_and_unknown_ones_last():
    names = [
        "zebra",
        "calls",
        "share.b",
        "goodput.after",
        "p99",
        "aardvark",
        "share.a",
        "recovery",
        "goodput",
        "peak.1s",
    ]
    assert in_order(names, ["peak.1s", "goodput.after"]) == [
        "peak.1s", "goodput.after", "recovery", "goodput", "p99", "calls", "share.a", "share.b", "aardvark", "zebra",
    ]  # fmt: skip
