"""What the results say, in plain words: who recovers and who does not, who is best, and how clearly.

Names of policies stand between backticks, which every place that shows a finding renders in its own way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import final

from resilient.lab.reporting.measures import Measure, listed, measure_of
from resilient.lab.reporting.statistics import LEAST, Difference, Estimate, difference, estimate, values_of
from resilient.lab.results import Results

__all__ = ["Finding", "findings", "headline", "overall", "worst_seed"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one metric says about the policies of a scenario."""

    measure: Measure
    text: str
    """A sentence without its full stop."""
    best: Sequence[str]
    """Who is best, or level with the best; nobody where no direction is better or there are too few seeds to tell."""
    clear: bool
    """Is everybody else clearly worse, and is there anybody else?"""


def headline(results: Results, scenario: str) -> str:
    """Say what each policy does, by the scenario's first metric, the best one first."""
    metric = results.header.scenarios[scenario].primary[0]
    ranked = _ranked(results, scenario, metric)
    measure = measure_of(metric)
    clauses: list[str] = []
    for value, group in groupby(ranked, key=lambda ranking: _value(ranking[1])):
        policies = [policy for policy, _ in group]
        clauses.append(
            measure.sentence(policies, value)
            if value
            else f"{_names(policies)} {'has' if len(policies) == 1 else 'have'} no value of {measure.title}"
        )
    return "; ".join(clauses)


def findings(results: Results, scenario: str) -> list[Finding]:
    """Compare the policies by each of the scenario's primary metrics."""
    return [_finding(results, scenario, metric) for metric in results.header.scenarios[scenario].primary]


def overall(results: Results) -> str:
    """Say in how many of all primary metrics each policy is best or level with the best."""
    found = [finding for scenario in results.scenarios for finding in findings(results, scenario) if finding.best]
    if not found or len(results.policies()) == 1:
        return ""
    times = Counter(policy for finding in found for policy in finding.best)
    policies = sorted(results.policies(), key=lambda policy: -times[policy])
    first, *others = policies
    counted = "".join(f", `{policy}` in {times[policy]}" for policy in others)
    metrics = "metric" if len(found) == 1 else "metrics"
    return f"`{first}` is best or level with the best in {times[first]} of {len(found)} primary {metrics}{counted}"


def worst_seed(results: Results, scenario: str, policy: str) -> int | None:
    """Return the seed in which a policy did worst by the scenario's first metric; None where no direction is better."""
    measure = measure_of(results.header.scenarios[scenario].primary[0])
    if measure.better is None:
        return None
    sign = -1.0 if measure.better == "higher" else 1.0
    values = values_of(measure, results.of(scenario, policy))
    known = {seed: sign * value for seed, value in values.items() if value is not None}
    return max(known, key=lambda seed: known[seed], default=None)


def _ranked(results: Results, scenario: str, metric: str) -> list[tuple[str, Estimate]]:
    """The policies from the best to the worst; without a direction, or among equals, as they were run."""
    estimates = [(policy, estimate(results, scenario, policy, metric)) for policy in results.policies(scenario)]
    sign = {"higher": -1.0, "lower": 1.0, None: 0.0}[measure_of(metric).better]

    def place(ranking: tuple[str, Estimate]) -> tuple[bool, float, int]:
        found = ranking[1]
        if found.centre is None:
            return True, 0.0, 0
        return False, sign * found.centre if sign else 0.0, found.never

    return sorted(estimates, key=place)


def _value(found: Estimate) -> str:
    if found.centre is None:
        return ""
    if math.isinf(found.centre) and found.never < found.seeds:
        return f"only {found.seeds - found.never} of {found.seeds} seeds"
    return str(found)


def _names(policies: Sequence[str]) -> str:
    return listed(f"`{policy}`" for policy in policies)


def _finding(results: Results, scenario: str, metric: str) -> Finding:
    measure = measure_of(metric)
    ranked = _ranked(results, scenario, metric)
    if all(found.centre is None for _, found in ranked):
        return Finding(measure=measure, text="no run has a value", best=(), clear=False)
    if measure.better is None or len(ranked) == 1:
        said = "; ".join(f"`{policy}` {_value(found) or 'has no value'}" for policy, found in ranked)
        return Finding(measure=measure, text=said, best=(), clear=False)
    # Who has no value in some seeds (no success at all) would be compared by what is left: by its luckier ones.
    fewest = min(found.missing for _, found in ranked)
    whole = [ranking for ranking in ranked if ranking[1].missing == fewest]
    text, level = _compared(results, scenario, measure, whole)
    lacking = "".join(f"; `{policy}` {_lack(found)}" for policy, found in ranked if found.missing > fewest)
    return Finding(measure=measure, text=text + lacking, best=level, clear=len(level) == 1)


def _lack(found: Estimate) -> str:
    return "has no value" if found.centre is None else f"has a value in {found.remark} and is left out"


def _compared(
    results: Results, scenario: str, measure: Measure, ranked: Sequence[tuple[str, Estimate]]
) -> tuple[str, Sequence[str]]:
    """Say who is best; and return who is, or level with the best, if there are seeds enough to tell."""
    best, found = ranked[0]
    if not ranked[1:]:
        return f"`{best}` {_value(found)}", [best] if found.seeds >= LEAST else []
    level, worse = [best], list[str]()
    for policy, other in ranked[1:]:
        apart = difference(results, scenario, measure.name, best, policy)
        (worse if apart.better and found.text != other.text else level).append(policy)
    if not level[1:]:
        text = f"`{best}` is clearly best{_ahead(results, scenario, measure, best, ranked[1])}"
    elif all(str(other) == str(found) for _, other in ranked):
        text = f"the same for all: {_value(found)}"
    else:
        text = _level(results, scenario, measure, level, worse)
    enough = difference(results, scenario, measure.name, best, ranked[1][0]).enough
    return text, level if enough else []


def _apart(results: Results, scenario: str, measure: Measure, better: str, worse: str) -> Difference:
    """The difference the way round in which it is positive."""
    pair = (better, worse) if measure.better == "higher" else (worse, better)
    return difference(results, scenario, measure.name, *pair)


def _ahead(results: Results, scenario: str, measure: Measure, best: str, following: tuple[str, Estimate]) -> str:
    policy, found = following
    apart = _apart(results, scenario, measure, best, policy)
    if found.centre is not None and math.isinf(found.centre):
        return f"; the next, {measure.sentence([policy], _value(found))}"
    more = "more" if measure.better == "higher" else "less"
    return f": {apart.text.removeprefix('+')} {more} than `{policy}`, the next"


def _level(results: Results, scenario: str, measure: Measure, level: Sequence[str], worse: Sequence[str]) -> str:
    first, second, *others = level
    apart = _apart(results, scenario, measure, first, second)
    if not apart.enough:
        seeds = "1 seed is" if apart.seeds == 1 else f"{apart.seeds} seeds are"
        return f"`{first}` came out best, but {seeds} too few to call a difference clear (at least {LEAST})"
    by = "" if others else f" ({apart.text} over {apart.seeds} seeds)"
    text = f"no clear difference between {_names(level)}{by}"
    return f"{text}; {_names(worse)} {'is' if len(worse) == 1 else 'are'} clearly worse" if worse else text
