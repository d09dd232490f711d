"""A gate for a build: rules that lab results have to keep, in a `bench.toml`.

```toml
[[rule]]
scenario = "metastable-retry-storm"
policy = "default"
metric = "recovery"
at_most = 30              # seconds

[[rule]]
scenario = "metastable-retry-storm"
policy = "default"
metric = "success"
at_least = 0.97           # fractions are fractions

[[rule]]
scenario = "slow-instance"
policy = "default"
metric = "p99"
within = 0.05             # at most 5 % worse ...
of = "baseline.json"      # ... than in these results, a path from where the bench.toml is
```

`scenario`, `policy` and `metric` are required, and one or both of `at_most` and `at_least`, or else `within` and `of`.
What is judged is the mean over the seeds, of `recovery` the median. But a bound also fails where a single seed never
recovers (the failure that one has a lab for) or has no value, and `within` where there are more such seeds than there
were. `within` counts in the worse direction only, in both where none is better. A rule whose scenario, policy or metric
was not run fails: a gate that a slip of the pen opens is none.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from resilient.lab.drawing.axis import quantity
from resilient.lab.fields import BadFile, Field, read_file
from resilient.lab.reporting.measures import Measure, measure_of
from resilient.lab.reporting.statistics import Difference, Estimate, estimate, paired_values, values_of
from resilient.lab.results import Results

__all__ = ["BadFile", "Judgement", "Rule", "judge", "read_rules"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a policy has to keep in a scenario: bounds of a metric, or not to be much worse than it was."""

    scenario: str
    policy: str
    metric: str
    at_most: float | None = None
    at_least: float | None = None
    within: float | None = None
    """The fraction of the baseline's value by which it may be worse."""
    of: Results | None = None
    """The baseline."""

    def __post_init__(self) -> None:
        bounds, relative = (self.at_most, self.at_least), (self.within, self.of)
        for name in ("at_most", "at_least", "within"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name}={value!r}: a finite number")
        if self.within is not None and self.within < 0:
            raise ValueError(f"within={self.within!r}: a fraction, 0 or more")
        if (self.within is None) != (self.of is None):
            raise ValueError(f"within={self.within!r}: it goes with of, the results that it is measured against")
        if (bounds == (None, None)) == (relative == (None, None)):
            raise ValueError("a rule has at_most, at_least or both; or else within and of")

    @property
    def measure(self) -> Measure:
        """The metric."""
        return measure_of(self.metric)

    @property
    def subject(self) -> str:
        """Which value it is about."""
        return f"{self.scenario}: {self.policy}: {self.measure.title}"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Whether a rule holds."""

    rule: Rule
    holds: bool
    asked: str
    """What the rule asks for, in words."""
    measured: Estimate | None
    """None where nothing was measured."""
    change: Difference | None = None
    """For a rule with a baseline: how the seeds that both have differ from it."""
    reason: str = ""
    """Why it does not hold, where the measured value alone does not tell."""

    @property
    def text(self) -> str:
        """The judgement in one line."""
        found = "not measured" if self.measured is None else str(self.measured)
        changed = f" ({self.change.text} against the baseline)" if self.change is not None and self.change.seeds else ""
        why = f"; {self.reason}" if self.reason else ""
        return f"{self.rule.subject} {found}{changed}, asked for {self.asked}{why}"


def read_rules(path: str | os.PathLike[str]) -> list[Rule]:
    """Read a `bench.toml`, and the baselines that it names; a file that is not exactly that is a `BadFile`."""
    document = read_file(path, "toml")
    entries = document.table(("rule",))["rule"].items()
    if not entries:
        raise document.wrong("at least one [[rule]]")
    baselines: dict[str, Results] = {}
    return [_rule(entry, Path(path).parent, baselines) for entry in entries]


def _rule(at: Field, folder: Path, baselines: dict[str, Results]) -> Rule:
    fields = at.table(("scenario", "policy", "metric"), ("at_most", "at_least", "within", "of"))
    numbers = {name: fields[name].number() for name in ("at_most", "at_least", "within") if name in fields}
    baseline: Results | None = None
    if "of" in fields:
        name = fields["of"].text()
        if name not in baselines:
            baselines[name] = Results.read(folder / name)
        baseline = baselines[name]
    try:
        return Rule(
            scenario=fields["scenario"].text(),
            policy=fields["policy"].text(),
            metric=fields["metric"].text(),
            at_most=numbers.get("at_most"),
            at_least=numbers.get("at_least"),
            within=numbers.get("within"),
            of=baseline,
        )
    except ValueError as error:
        if isinstance(error, BadFile):
            raise
        raise BadFile(f"{at.file}: {at.path}: {error}") from None


def judge(rules: Sequence[Rule], results: Results) -> list[Judgement]:
    """Tell of each rule whether it holds. The build passes if all do."""
    return [_judge(rule, results) for rule in rules]


def _judge(rule: Rule, results: Results) -> Judgement:
    if rule.of is not None and rule.within is not None:
        return _against(rule, rule.of, rule.within, results)
    measure = rule.measure
    bounds = (("at most", rule.at_most), ("at least", rule.at_least))
    asked = " and ".join(f"{words} {measure.text(bound)}" for words, bound in bounds if bound is not None)
    found, missing = _measured(rule, results)
    if found is None or found.centre is None:
        return Judgement(rule=rule, holds=False, asked=asked, measured=None, reason=missing)
    holds = (rule.at_most is None or found.centre <= rule.at_most) and (
        rule.at_least is None or found.centre >= rule.at_least
    )
    reason = ""
    if holds and found.never and rule.at_most is not None:
        holds, reason = False, f"{found.never} of {found.seeds} seeds never got there"
    if holds and found.missing:
        holds, reason = False, f"{found.missing} of {found.missing + found.seeds} seeds have no value"
    return Judgement(rule=rule, holds=holds, asked=asked, measured=found, reason=reason)


def _against(rule: Rule, baseline: Results, within: float, results: Results) -> Judgement:
    measure = rule.measure
    direction = {"lower": "higher than", "higher": "lower than", None: "away from"}[measure.better]
    found, missing = _measured(rule, results)
    before, _ = _measured(rule, baseline)
    old = None if before is None else before.centre
    asked = f"at most {quantity(within, '%')} {direction} {'the baseline' if old is None else measure.text(old)}"
    if found is None or found.centre is None or before is None or old is None:
        reason = missing if found is None or found.centre is None else "the baseline has no value"
        return Judgement(rule=rule, holds=False, asked=asked, measured=found, reason=reason)
    change = paired_values(
        measure,
        values_of(measure, results.of(rule.scenario, rule.policy)),
        values_of(measure, baseline.of(rule.scenario, rule.policy)),
    )
    reason = _fewer(found, before)
    holds = _near(measure, found.centre, old, within) and not reason
    return Judgement(rule=rule, holds=holds, asked=asked, measured=found, change=change, reason=reason)


def _fewer(found: Estimate, before: Estimate) -> str:
    """Say that fewer seeds got there or have a value: it is worse, even where mean and median do not see it."""
    if found.never * before.seeds > before.never * found.seeds:
        return f"{found.never} of {found.seeds} seeds never got there, before {before.never} of {before.seeds}"
    seeds, seeds_before = found.seeds + found.missing, before.seeds + before.missing
    if found.missing * seeds_before > before.missing * seeds:
        return f"{found.missing} of {seeds} seeds have no value, before {before.missing} of {seeds_before}"
    return ""


def _near(measure: Measure, new: float, old: float, within: float) -> bool:
    if new == old or measure.prefers(new - old):
        return True
    return math.isfinite(old) and abs(new - old) <= within * abs(old)


def _measured(rule: Rule, results: Results) -> tuple[Estimate | None, str]:
    """What was measured; else what is missing."""
    if rule.scenario not in results.scenarios:
        return None, f"the scenario was not run; there are {', '.join(results.scenarios) or 'none'}"
    if rule.policy not in results.policies(rule.scenario):
        return None, f"the policy was not run; there are {', '.join(results.policies(rule.scenario))}"
    names = {name for run in results.of(rule.scenario, rule.policy).values() for name in run.metrics}
    if rule.metric not in names:
        return None, f"there is no such metric; there are {', '.join(sorted(names))}"
    found = estimate(results, rule.scenario, rule.policy, rule.metric)
    return found, "" if found.seeds else "no seed has a value"
