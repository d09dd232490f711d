"""Round ticks and readable figures."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.lab.drawing.axis import FACTOR, column_texts, interval_texts, linear_axis, log_axis, quantity, time_axis


def labels(axis) -> list[str]:
    return [text for _, text in axis.ticks]


@pytest.mark.parametrize(
    ("values", "unit", "expected", "shown"),
    [
        ([12, 282], "calls/s", ["0", "100", "200", "300"], "calls/s"),
        ([0.5, 1.0], "", ["0.0", "0.5", "1.0"], ""),
        ([0.0123], "s", ["0", "5", "10", "15"], "ms"),
        ([1.2, 3], "s", ["0", "1", "2", "3"], "s"),
        ([0.2, 0.97], "%", ["0", "50", "100"], "%"),
        ([84_000_000], "B/s", ["0", "50M", "100M"], "B/s"),
        ([12_000], "", ["0", "5k", "10k", "15k"], ""),
        ([1000], "", ["0", "500", "1000"], ""),
        ([-8, 2], "", ["−10", "−5", "0", "5"], ""),  # noqa: RUF001 - a minus sign, not a hyphen
        ([], "", ["0.0", "0.5", "1.0"], ""),
        ([0.0], "s", ["0.0", "0.5", "1.0"], "s"),
    ],
)
def test_linear_ticks_are_round_and_cover_the_values(values, unit, expected, shown):
    axis = linear_axis(values, unit)
    assert labels(axis) == expected
    assert axis.unit == shown


@given(st.lists(st.floats(-1e9, 1e9).filter(lambda v: v == 0 or abs(v) > 1e-6), min_size=1))
def test_a_linear_axis_holds_all_values_with_few_ticks(values):
    axis = linear_axis(values, "")
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low - slack <= min(*values, 0) <= max(*values, 0) <= axis.high + slack
    assert 2 <= len(axis.ticks) <= 7
    assert axis.ticks[0][0] == axis.low
    assert axis.ticks[-1][0] == axis.high
    assert len(set(labels(axis))) == len(axis.ticks)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.13, 1.1], ["100 ms", "200 ms", "500 ms", "1 s", "2 s"]),
        ([0.001, 10], ["1 ms", "10 ms", "100 ms", "1 s", "10 s"]),
        ([1e-5, 10], ["10 µs", "1 ms", "100 ms", "10 s"]),
        ([0.02], ["10 ms", "20 ms", "50 ms"]),
        ([], ["500 ms", "1 s", "2 s"]),
        ([-1, 0, 0.1, 0.9], ["100 ms", "200 ms", "500 ms", "1 s"]),
    ],
)
def test_logarithmic_ticks(values, expected):
    assert labels(log_axis(values, "s")) == expected


@given(st.lists(st.floats(1e-8, 1e8), min_size=1))
def test_a_logarithmic_axis_holds_all_values_with_few_ticks(values):
    axis = log_axis(values, "")
    assert axis.low <= min(values) * (1 + 1e-6)
    assert max(values) <= axis.high * (1 + 1e-6)
    assert 2 <= len(axis.ticks) <= 6


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 120, ["0", "30", "60", "90", "120 s"]),
        (0, 10, ["0", "2", "4", "6", "8", "10 s"]),
        (0, 600, ["0", "2", "4", "6", "8", "10 min"]),
        (0, 599.5, ["0", "2", "4", "6", "8 min"]),
        (0, 7200, ["0", "30", "60", "90", "120 min"]),
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0 s"]),
        (55, 75, ["55", "60", "65", "70", "75 s"]),
    ],
)
def test_time_ticks(low, high, expected):
    axis = time_axis(low, high)
    assert labels(axis) == expected
    assert (axis.low, axis.high) == (low, high)


@given(st.floats(0, 1e5), st.floats(1e-3, 1e6))
def test_every_time_axis_has_some_ticks_but_not_many(low, span):
    axis = time_axis(low, low + span)
    assert 1 <= len(axis.ticks) <= 8


def test_a_time_axis_begins_before_it_ends():
    with pytest.raises(ValueError, match=r"low=3, high=3"):
        time_axis(3, 3)


def test_places_run_from_low_to_high_and_stop_there():
    axis = linear_axis([10], "")
    assert [axis.place(v) for v in (-1, 0, 5, 10, 11)] == [0, 0, 0.5, 1, 1]
    log = log_axis([1, 100], "")
    assert [log.place(v) for v in (-1, 0, 1, 10, 100, 1000)] == pytest.approx([0, 0, 0, 0.5, 1, 1])


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.0123456, "s", "12.3 ms"),
        (1.0, "s", "1 s"),
        (0.9996, "s", "1 s"),
        (0.000002, "s", "2 µs"),
        (113.2, "s", "113 s"),
        (0.0, "s", "0 s"),
        (280.04, "calls/s", "280 calls/s"),
        (1234.0, "calls/s", "1,234 calls/s"),
        (12_543.0, "calls/s", "12.5k calls/s"),
        (2.5e6, "", "2.5M"),
        (3e9, "", "3G"),
        (0.9997, "%", "99.97 %"),
        (0.999999, "%", "> 99.99 %"),
        (1.0, "%", "100 %"),
        (0.5, "%", "50 %"),
        (-0.25, "", "−0.25"),  # noqa: RUF001 - a minus sign, not a hyphen
        (None, "s", "–"),  # noqa: RUF001 - a dash, not a hyphen
        (math.inf, "s", "–"),  # noqa: RUF001 - likewise
    ],
)
def test_quantities_are_written_for_people(value, unit, expected):
    assert quantity(value, unit) == expected


@pytest.mark.parametrize(
    ("values", "unit", "decimals", "expected", "shown"),
    [
        ([0.0173, 0.182, None], "s", None, ["17", "182", "–"], "ms"),  # noqa: RUF001 - a dash
        ([0.18, 1.02], "s", None, ["0.18", "1.02"], "s"),
        ([1, 55, None], "s", None, ["1", "55", "–"], "s"),  # noqa: RUF001 - a dash
        ([0.9731, 0.712], "%", None, ["97.31", "71.20"], "%"),
        ([1.04, 3], "", 2, ["1.04", "3.00"], ""),
        ([12345.6, 7], "calls", None, ["12,346", "7"], "calls"),
        ([None], "s", None, ["–"], "s"),  # noqa: RUF001 - a dash
    ],
)
def test_a_column_has_one_unit_and_one_number_of_decimals(values, unit, decimals, expected, shown):
    assert column_texts(values, unit, decimals) == (expected, shown)


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        ((113.2, 109.1, 117.4), "s", ("113 s", "[109, 117]")),
        ((0.017, 0.0165, 0.0181), "s", ("17.0 ms", "[16.5, 18.1]")),
        ((1.0043, 1.0031, 1.0055), FACTOR, ("1.004" + FACTOR, "[1.003, 1.006]")),
        ((282.1, 281.4, 282.9), "calls/s", ("282.1 calls/s", "[281.4, 282.9]")),
        ((12345, 12100, 12511), "", ("12,345", "[12,100, 12,511]")),
        ((279.934, 279.933, 279.935), "calls/s", ("280 calls/s", "")),
        ((3, 3, 3), FACTOR, ("3" + FACTOR, "")),
        ((2.0, 0.1, 4.0), "", ("2.0", "[0.1, 4.0]")),
        ((2.0, 0.0, 4.0), "", ("2", "[0, 4]")),
        ((-0.04, -1.0, 1.0), "", ("0", "[\N{MINUS SIGN}1, 1]")),
        ((0.999999, 0.999, 1.0), "%", ("> 99.99 %", "[99.9, 100.0]")),
        ((0.99999, 0.99999, 0.99999), "%", ("> 99.99 %", "")),
        ((14.0, 9.0, math.inf), "s", ("14 s", "[9, \N{EN DASH}]")),
        ((math.inf, 9.0, math.inf), "s", ("\N{EN DASH}", "[9.0 s, \N{EN DASH}]")),
    ],
)
def test_an_interval_has_the_unit_of_its_value_and_decimals_as_it_deserves(values, unit, expected):
    value, low, high = values
    assert interval_texts(value, low, high, unit) == expected


@given(st.just(0.0) | st.floats(1e-300, 1e6), st.floats(1e-3, 1), st.floats(1e-3, 1))  # powers of ten end at 1e-323
def test_an_interval_that_excludes_zero_is_not_written_as_if_it_held_it(value, below, above):
    low, high = value * below, value * (1 + above)
    _, interval = interval_texts(value, low, high)
    if interval and low > high * 1e-3:
        assert float(interval.strip("[]").split(", ")[0].replace(",", "")) > 0
