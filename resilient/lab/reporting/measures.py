"""What the lab measures: the name of each metric, its unit, which direction is better, and how it is said in words.

A metric is known by its own name or by its family, the part before the first dot: `share.db-0`, and a known metric of a
part of the calls or of the time (`success.critical`, `p99.during`). One that is neither is shown under the name it has:
a number without a unit, of which nobody knows what is better.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal, final

from resilient.lab.drawing.axis import FACTOR, interval_texts, quantity

__all__ = ["NEVER", "Measure", "in_order", "measure_of"]

NEVER: Final = math.inf
"""What counts as `recovery` where a run never recovered: later than anything."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One metric.

    `unit`
        `s`, `%` (the metric is a fraction), `calls/s`, `FACTOR` for a factor, or "" for a count.
    `better`
        Which direction is better; None where none is by itself.
    `says`
        What a policy does, with `{s}` for the ending of the third person and `{value}` for how much.
    `explains`
        How it is counted.
    `never`
        What a policy does whose runs never get there; "" for a metric whose missing values say nothing.
    """

    name: str
    title: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    says: str
    explains: str = ""
    never: str = ""

    def text(self, value: float | None) -> str:
        """Write a value of it: `1.2 s`, `98.3 %`, `never`; a dash for None."""
        if value is not None and math.isinf(value):
            return "never"
        return quantity(value, self.unit)

    def texts(self, value: float, low: float, high: float) -> tuple[str, str]:
        """Write a value and the interval around it, in one unit: `1.2 s` and `[0.9, 1.6]`.

        The interval is "" where it is no wider than the value itself is written.
        """
        return interval_texts(value, low, high, self.unit, infinite="never")

    def difference_texts(self, value: float, low: float, high: float) -> tuple[str, str]:
        """Write a difference with its sign, and its interval; those of fractions are in (percentage) points."""
        text, interval = interval_texts(value, low, high, self.unit, infinite="∞")
        sign = "+" if value > 0 else ""
        return f"{sign}{text}".replace("%", "points"), interval

    def sentence(self, policies: Iterable[str], value: str) -> str:
        """Say what the policies do whose value is written `value`; their names stand between backticks."""
        names = [f"`{policy}`" for policy in policies]
        pattern = self.never if value == "never" else self.says
        return f"{listed(names)} {pattern.format(value=value, s='s' if len(names) == 1 else '')}"

    def prefers(self, difference: float) -> bool:
        """Tell whether a value larger by `difference` is better."""
        return difference > 0 if self.better == "higher" else difference < 0 if self.better == "lower" else False


def listed(names: Iterable[str]) -> str:
    """Write a list as one says it: `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def measure_of(name: str) -> Measure:
    """Return what is known of a metric."""
    if name in _KNOWN:
        return _KNOWN[name]
    family, _, rest = name.partition(".")
    rest = re.sub(r"(?<=\d)(?=m?s$)", " ", rest)  # 100ms
    if rest in _PHASES and family in _KNOWN:
        return _part(_KNOWN[family], name, f"{rest} the trigger")
    if rest and family in _FAMILIES:
        pattern = _FAMILIES[family]
        return replace(
            pattern,
            name=name,
            title=pattern.title.format(rest=rest),
            says=pattern.says.replace("{rest}", rest),
            explains=pattern.explains.format(rest=rest),
        )
    if rest and family in _KNOWN:
        return _part(_KNOWN[family], name, f"({rest})")
    return Measure(name=name, title=name, says=f"show{{s}} {name} {{value}}")


def _part(whole: Measure, name: str, which: str) -> Measure:
    """A metric of a part of the calls or of the time."""
    rest = name.partition(".")[2]
    return replace(
        whole,
        name=name,
        title=f"{whole.title} {rest}",
        says=f"{whole.says} {which}",
        never=f"{whole.never} {which}" if whole.never else "",
        explains=f"{whole.title} {which}",
    )


def in_order(names: Iterable[str], primary: Iterable[str] = ()) -> list[str]:
    """Sort metrics: the primary ones as given, then the known ones, then families, then what nobody knows."""
    places = {name: place for place, name in enumerate(dict.fromkeys([*primary, *_KNOWN, *_FAMILIES]))}

    def place(name: str) -> tuple[int, int, str]:
        whole = places.get(name)
        if whole is not None:
            return whole, 0, name
        family = name.partition(".")[0]
        return places.get(family, len(places)), 1, name

    return sorted(set(names), key=place)


_PHASES: Final = {"before", "during", "after"}

_KNOWN: Final = {
    measure.name: measure
    for measure in (
        Measure(
            name="recovery",
            title="recovery",
            unit="s",
            better="lower",
            says="recover{s} in {value}",
            never="never recover{s}",
            explains="from the end of the trigger to the first three seconds with 95 % of the goodput before it",
        ),
        Measure(
            name="back",
            title="back",
            unit="s",
            better="lower",
            says="give{s} it its share again within {value}",
            explains="from when an instance is well again to the end of the first two seconds with 90 % of its share",
        ),
        Measure(
            name="success",
            title="success",
            unit="%",
            better="higher",
            says="answer{s} {value} of the calls",
            explains="calls answered within their deadline",
        ),
        Measure(
            name="goodput",
            title="goodput",
            unit="calls/s",
            better="higher",
            says="answer{s} {value} in time",
            explains="calls a second answered within their deadline",
        ),
        Measure(
            name="mean",
            title="mean",
            unit="s",
            better="lower",
            says="take{s} {value} on average",
            explains="mean latency of successes, from when they were due",
        ),
        Measure(
            name="p50",
            title="p50",
            unit="s",
            better="lower",
            says="show{s} a median latency of {value}",
            explains="latency of successes from when they were due: half of them took no longer",
        ),
        Measure(
            name="p99",
            title="p99",
            unit="s",
            better="lower",
            says="show{s} a p99 latency of {value}",
            explains="likewise: 99 % of them took no longer",
        ),
        Measure(
            name="p999",
            title="p99.9",
            unit="s",
            better="lower",
            says="show{s} a p99.9 latency of {value}",
            explains="likewise: 99.9 % of them took no longer",
        ),
        Measure(
            name="max",
            title="slowest",
            unit="s",
            better="lower",
            says="take{s} {value} for the slowest success",
            explains="latency of the slowest success",
        ),
        Measure(
            name="amplification",
            title="amplification",
            unit=FACTOR,
            better="lower",
            says="put{s} {value} the load on the service",
            explains="attempts for each call",
        ),
        Measure(
            name="wasted",
            title="wasted",
            unit="%",
            better="lower",
            says="waste{s} {value} of the work",
            explains="work that was done after its caller had left",
        ),
        Measure(
            name="duplicates",
            title="duplicates",
            better="lower",
            says="double{s} {value} effects",
            explains="effects that took place more than once",
        ),
        Measure(
            name="duplicated",
            title="duplicated",
            unit="%",
            better="lower",
            says="double{s} the effects of {value} of the calls",
            explains="further effects, for each call",
        ),
        Measure(
            name="unknown",
            title="unknown",
            unit="%",
            better="lower",
            says="leave{s} {value} of the calls done and reported as failed",
            explains="calls that took effect and were reported as failed",
        ),
        Measure(
            name="lost",
            title="lost",
            better="lower",
            says="lose{s} {value} calls",
            explains="calls that were admitted and never answered",
        ),
        Measure(
            name="right",
            title="right",
            unit="%",
            better="higher",
            says="get{s} {value} of the results right",
            explains="computations with the right result",
        ),
        Measure(
            name="refused",
            title="refused",
            unit="%",
            better="lower",
            says="meet{s} a refusal in {value} of the attempts",
            explains="attempts that were refused",
        ),
        Measure(
            name="astray",
            title="astray",
            better="lower",
            says="send{s} {value} attempts to instances that are gone",
            explains="attempts to instances that are gone",
        ),
        Measure(
            name="completion",
            title="completion",
            unit="s",
            better="lower",
            says="serve{s} everybody within {value}",
            never="never serve{s} everybody",
            explains="from the end of the trigger until the last one was served",
        ),
        Measure(
            name="fairness",
            title="fairness",
            better="higher",
            says="spread{s} the load with a fairness of {value}",
            explains="Jain's index of the instances' shares: 1 where all are equal, 1/n where one has all",
        ),
        Measure(
            name="queue.max",
            title="longest queue",
            better="lower",
            says="let{s} {value} calls queue",
            explains="calls waiting at one instance, at worst",
        ),
        Measure(
            name="little",
            title="Little's ratio",
            says="show{s} {value} of the calls in the servers that Little's law expects",
            explains="calls inside the servers, by how many Little's law expects: 1 in a model that counts well",
        ),
        Measure(name="calls", title="calls", says="get{s} {value} calls", explains="calls that were due"),
    )
}

_FAMILIES: Final = {
    measure.name: measure
    for measure in (
        Measure(
            name="success",
            title="success {rest}",
            unit="%",
            better="higher",
            says="answer{s} {value} of the {rest} calls",
            explains="success of the {rest} calls",
        ),
        Measure(
            name="share",
            title="share {rest}",
            unit="%",
            says="send{s} {value} of the attempts to {rest}",
            explains="attempts that went to {rest}",
        ),
        Measure(
            name="queue",
            title="queue {rest}",
            better="lower",
            says="show{s} a queue of {value} ({rest})",
            explains="calls waiting ({rest})",
        ),
        Measure(
            name="peak",
            title="peak {rest}",
            better="lower",
            says="send{s} {value} attempts within {rest} at worst",
            explains="most attempts that arrived within {rest}",
        ),
        Measure(
            name="admitted",
            title="admitted {rest}",
            says="admit{s} {value} calls within {rest} at most",
            explains="most calls that were admitted within {rest}",
        ),
    )
}
