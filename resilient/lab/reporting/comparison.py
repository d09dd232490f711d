"""How two results files differ: another version of the code, another setting of a policy, another machine.

Runs are paired: the same scenario, the same policy, the same seed. So what differs is not the luck of the draw, though
a change of the code may well draw differently from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from resilient.lab.reporting.measures import in_order, measure_of
from resilient.lab.reporting.statistics import Difference, Estimate, estimate, paired_values, values_of
from resilient.lab.results import Key, Results

__all__ = ["Change", "Comparison", "compare"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One metric of one policy in one scenario, in both."""

    scenario: str
    policy: str
    primary: bool
    """Is it one of those that the scenario judges policies by?"""
    before: Estimate
    after: Estimate
    difference: Difference
    """After less before, over the seeds that both have."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything that both files have, and what only one of them has."""

    changes: Sequence[Change]
    common: int
    """Runs that both have."""
    identical: int
    """Of these, those that are the same to the last bit."""
    only_before: Sequence[Key]
    only_after: Sequence[Key]

    @property
    def clear(self) -> list[Change]:
        """What differs clearly."""
        return [change for change in self.changes if change.difference.clear]

    @property
    def better(self) -> list[Change]:
        """What is clearly better after than before."""
        return [change for change in self.changes if change.difference.better]

    @property
    def worse(self) -> list[Change]:
        """What is clearly worse after than before."""
        return [change for change in self.changes if change.difference.worse]


def compare(before: Results, after: Results) -> Comparison:
    """Compare two results run by run.

    Raises ValueError when they have no run in common, or when a scenario of one name is not the same in both: other
    knobs, another duration. What only one of them has is left out, and listed.
    """
    ours, theirs = ({run.key: run for run in results.runs} for results in (before, after))
    common = [key for key in ours if key in theirs]
    if not common:
        raise ValueError("nothing to compare: the two have no run of the same scenario, policy and seed")
    pairs = dict.fromkeys((scenario, policy) for scenario, policy, _ in common)
    for scenario in dict.fromkeys(scenario for scenario, _ in pairs):
        one, other = (results.header.scenarios[scenario] for results in (before, after))
        for name in ("duration", "warmup", "trigger", "deadline", "knobs"):
            if getattr(one, name) != getattr(other, name):
                raise ValueError(
                    f"scenario {scenario!r} is not the same in both: "
                    f"{name}={getattr(one, name)!r} and {name}={getattr(other, name)!r}"
                )
    return Comparison(
        changes=[change for scenario, policy in pairs for change in _changes(before, after, scenario, policy)],
        common=len(common),
        identical=sum(ours[key] == theirs[key] for key in common),
        only_before=[key for key in ours if key not in theirs],
        only_after=[key for key in theirs if key not in ours],
    )


def _changes(before: Results, after: Results, scenario: str, policy: str) -> list[Change]:
    primary = after.header.scenarios[scenario].primary
    ours, theirs = before.of(scenario, policy), after.of(scenario, policy)
    named = [{name for run in runs.values() for name in run.metrics} for runs in (ours, theirs)]
    return [
        Change(
            scenario=scenario,
            policy=policy,
            primary=name in primary,
            before=estimate(before, scenario, policy, name),
            after=estimate(after, scenario, policy, name),
            difference=paired_values(
                measure_of(name), values_of(measure_of(name), theirs), values_of(measure_of(name), ours)
            ),
        )
        for name in in_order(named[0] & named[1], primary)
    ]
