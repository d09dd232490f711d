"""Round numbers: which ticks an axis has, in which unit, and how figures are written.

Seconds (unit `s`) are shown as µs, ms or s, whichever suits the largest figure. Fractions (unit `%`) are shown as per
cent. Any other unit is shown as it is, with k and M for thousands and millions; a factor (unit `FACTOR`)
without a space.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

__all__ = ["FACTOR", "Axis", "column_texts", "interval_texts", "linear_axis", "log_axis", "quantity", "time_axis"]

NOTHING = "\N{EN DASH}"
FACTOR = "\N{MULTIPLICATION SIGN}"
"""The unit of what multiplies."""
_MINUS = "\N{MINUS SIGN}"
_MINUTE = 60.0
_ALMOST_ALL = 0.99995
"""From here on two decimals of a per cent would round up to a hundred."""
_TIME_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)


@final
@dataclass(frozen=True, slots=True)
class Axis:
    """A scale from `low` to `high` with its labelled ticks."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    unit: str = ""
    """What the labels leave out."""
    log: bool = False

    def place(self, value: float) -> float:
        """Where `value` lies between `low` (0.0) and `high` (1.0); outside of these it stops at the edge."""
        if self.log:
            if value <= 0:
                return 0.0
            place = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            place = (value - self.low) / (self.high - self.low)
        return min(max(place, 0.0), 1.0)


def linear_axis(values: Iterable[float], unit: str, *, ticks: int = 4) -> Axis:
    """An axis from 0 (or below, where there are negative values) to a round number above the largest value."""
    values = list(values)
    low, high = min(values, default=0.0), max(values, default=0.0)
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        high = 1.0
    factor, shown = _scale(unit, max(-low, high))
    step = _round_step((high - low) / factor / ticks)
    first, last = math.floor(low / factor / step + 1e-9), math.ceil(high / factor / step - 1e-9)
    largest = max(-first, last) * step
    labels = tuple((n * step * factor, _tick(n * step, step, largest)) for n in range(first, last + 1))
    return Axis(first * step * factor, last * step * factor, labels, shown)


def log_axis(values: Iterable[float], unit: str, *, ticks: int = 6) -> Axis:
    """A logarithmic axis over the positive values, with ticks at 1, 2, 5, 10, ... or only at powers of ten."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = _round_down(min(positive)), _round_step(max(positive))
    if low == high:
        low, high = _round_down(low * 0.99), _round_step(high * 1.01)
    steps = [low]
    while steps[-1] < high * (1 - 1e-9):
        steps.append(_round_step(steps[-1] * 1.01))
    if len(steps) > ticks:
        decades = [step for step in steps if math.isclose(step, 10.0 ** round(math.log10(step)))]
        steps = decades[:: math.ceil(len(decades) / ticks)]
    return Axis(low, high, tuple((step, quantity(step, unit)) for step in steps), log=True)


def time_axis(low: float, high: float, *, ticks: int = 6) -> Axis:
    """An axis of a run's seconds from exactly `low` to exactly `high`; in minutes where it is long."""
    if not low < high:
        raise ValueError(f"low={low!r}, high={high!r}: a time axis begins before it ends")
    span = high - low
    fitting = [step for step in _TIME_STEPS if 1 < span / step <= ticks]
    step = fitting[0] if fitting else _round_step(span / ticks)
    factor, unit = (1.0, "s") if step < _MINUTE else (_MINUTE, "min")
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    labels = [(n * step, _tick(n * step / factor, step / factor, high / factor)) for n in range(first, last + 1)]
    instant, text = labels[-1]
    labels[-1] = (instant, f"{text} {unit}")
    return Axis(low, high, tuple(labels), unit)


def quantity(value: float | None, unit: str = "") -> str:
    """Write one figure with three significant digits and its unit: `12.3 ms`, `12.5k calls/s`; a dash for None.

    Per cent has two decimals, and is not rounded up to a hundred.
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    factor, shown = _scale(unit, abs(value))
    text = _significant(value / factor)
    if unit == "%":
        text = "> 99.99" if _ALMOST_ALL <= value < 1 else _trimmed(f"{value * 100:.2f}")
    return text + _suffix(shown)


def interval_texts(
    value: float, low: float, high: float, unit: str = "", *, infinite: str = NOTHING
) -> tuple[str, str]:
    """Write a figure and the interval around it in one unit: `1.2 s` and `[0.9, 1.6]`.

    Both have as many decimals as the width of the interval deserves, and at most four significant digits. Where both
    ends are written as the value is, the interval is "" and the value is written by `quantity`. `infinite` stands for
    what is not finite.
    """
    known = [number for number in (value, low, high) if math.isfinite(number)]
    largest = max((abs(number) for number in known), default=0.0)
    factor, shown = _scale(unit, largest)
    half = (high - low) / 2 / factor if math.isfinite(high - low) else largest / factor / 10
    most = max(3 - _magnitude(largest / factor), 0)
    decimals = min(max(-_magnitude(half * (1 + 1e-9)), 0), most)
    # An end that only looks like 0 would contradict whoever says that the interval excludes it.
    smallest = min((abs(number) / factor for number in (low, high) if number and math.isfinite(number)), default=1.0)
    while decimals < most and smallest < 0.5 * 10.0**-decimals:
        decimals += 1

    def write(number: float) -> str:
        if math.isfinite(number):
            return f"{number / factor:z,.{decimals}f}".replace("-", _MINUS)
        return f"{_MINUS if number < 0 else ''}{infinite}"

    text, first, last = write(value), write(low), write(high)
    if first == text == last:
        return (quantity(value, unit) if math.isfinite(value) else text), ""
    if unit == "%" and value < 1 and text.startswith("100"):
        return quantity(value, unit), f"[{first}, {last}]"  # not rounded up to a hundred
    if math.isfinite(value):
        return text + _suffix(shown), f"[{first}, {last}]"
    # The value does not tell the unit of the interval.
    first, last = (end if end.endswith(infinite) else end + _suffix(shown) for end in (first, last))
    return text, f"[{first}, {last}]"


def column_texts(values: Iterable[float | None], unit: str, decimals: int | None = None) -> tuple[list[str], str]:
    """Write figures that stand below each other, all in one unit with the same decimals; and name that unit."""
    values = [value if value is not None and math.isfinite(value) else None for value in values]
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    factor, shown = _scale(unit, largest)
    scaled = [None if value is None else value / factor for value in values]
    if decimals is None:
        whole = all(value is None or value == round(value) for value in scaled)
        few = 2 if unit == "%" else min(max(2 - _magnitude(largest / factor), 0), 3)
        decimals = 0 if whole else few
    texts = [NOTHING if value is None else f"{value:,.{decimals}f}".replace("-", _MINUS) for value in scaled]
    return texts, shown


def _suffix(shown: str) -> str:
    return shown if shown in {"", FACTOR} else f" {shown}"


def _scale(unit: str, largest: float) -> tuple[float, str]:
    if unit == "%":
        return 0.01, "%"
    if unit != "s" or largest == 0:
        return 1.0, unit
    # 0.9995 s is written as 1 s, not as 1000 ms.
    return next(((f, name) for f, name in ((1.0, "s"), (1e-3, "ms")) if largest >= 0.9995 * f), (1e-6, "µs"))


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, ... times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _round_down(most: float) -> float:
    """The largest of 1, 2, 5, 10, ... times a power of ten that is at most `most`."""
    power = 10.0 ** math.floor(math.log10(most))
    return next(factor * power for factor in (10, 5, 2, 1) if factor * power <= most * (1 + 1e-9))


def _magnitude(value: float) -> int:
    return math.floor(math.log10(value)) if value > 0 else 0


def _tick(value: float, step: float, largest: float) -> str:
    for factor, letter in ((1e6, "M"), (1e3, "k")):
        if largest >= 10 * factor and value:
            return f"{value / factor:g}{letter}".replace("-", _MINUS)
    return f"{value:.{max(-_magnitude(step), 0)}f}".replace("-", _MINUS)


def _significant(value: float) -> str:
    for least, factor, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return _significant(value / factor) + letter
    return _trimmed(f"{value:,.{min(max(2 - _magnitude(abs(value)), 0), 6)}f}")


def _trimmed(text: str) -> str:
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", _MINUS)
