"""What came out of the lab, as one JSON file: who ran what, and the metrics and series of every run.

```python
from resilient.lab.results import Header, Results, Run, ScenarioFacts

facts = ScenarioFacts(title="Outage", duration=60.0, trigger=(20.0, 30.0), deadline=1.0, primary=("recovery",))
results = Results(
    header=Header(made="2026-11-24T18:00:00+00:00", command="resilient lab run outage", scenarios={"outage": facts}),
    runs=[Run(scenario="outage", policy="default", seed=0, metrics={"recovery": 1.2}, series={"goodput": [50.0]})],
)
results.write("outage.json")
assert Results.read("outage.json") == results
```

A run is a function of scenario, policy and seed, so `runs` must be the same on every machine; `Results.sha256` is how
two machines compare theirs. The header says when, where and with what; it may differ.

In `metrics`, None is "no value" (no latency where no call succeeded), and for `recovery` it is "never". Series have one
value a second, from second 0.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self, TypeAlias, TypeVar, final

from resilient.lab.fields import BadFile, Field, read_file

__all__ = [
    "SCHEMA",
    "BadFile",
    "Header",
    "Key",
    "Number",
    "Results",
    "Run",
    "ScenarioFacts",
    "canonical",
    "merge",
    "replay_command",
]

SCHEMA: Final = 1
"""The version of the format; another one is refused."""

Key: TypeAlias = tuple[str, str, int]
"""Scenario, policy and seed: what a run is a function of."""

Number: TypeAlias = float | None

T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioFacts:
    """What a reader has to know of a scenario.

    `reference`
        What it is found by again, where that is not its name: a file, or `module:function`.
    `source`
        The paper, incident or study that it is taken from.
    `naive`, `good`
        What naive policies do in it, and what good ones do.
    `duration`, `warmup`
        Seconds of the run, and how many at its beginning no metric counts.
    `trigger`
        From which second to which something is wrong; None where nothing in particular is.
    `knobs`
        What can be turned, and how it was set.
    `deadline`
        Seconds after which a caller has no more use for an answer; None: it waits for ever.
    `primary`
        The metrics that the policies are judged by; the first matters most.
    """

    title: str
    duration: float
    primary: Sequence[str]
    reference: str = ""
    source: str = ""
    naive: str = ""
    good: str = ""
    warmup: float = 0.0
    trigger: tuple[float, float] | None = None
    knobs: Mapping[str, float | str | bool] = field(default_factory=dict[str, float | str | bool])
    deadline: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "primary", tuple(self.primary))
        if not (math.isfinite(self.duration) and self.duration > 0):
            raise ValueError(f"duration={self.duration!r}: a finite number of seconds, more than 0")
        if not 0 <= self.warmup < self.duration:
            raise ValueError(f"warmup={self.warmup!r}: from 0 to the duration, {self.duration!r}")
        if self.trigger is not None:
            object.__setattr__(self, "trigger", tuple(self.trigger))
            begin, end = self.trigger
            if not 0 <= begin <= end <= self.duration:
                raise ValueError(f"trigger={self.trigger!r}: from a second to a later one within {self.duration!r}")
        if self.deadline is not None and not (math.isfinite(self.deadline) and self.deadline > 0):
            raise ValueError(f"deadline={self.deadline!r}: a finite number of seconds, more than 0, or None")
        if not self.primary:
            raise ValueError(f"primary={self.primary!r}: at least one metric by which policies are judged")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Who ran what, when and with what. `made` is an ISO 8601 date and time."""

    made: str
    command: str
    scenarios: Mapping[str, ScenarioFacts]
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    backend: str = "asyncio"
    mode: str = "functions"

    def __post_init__(self) -> None:
        try:
            datetime.fromisoformat(self.made)
        except ValueError:
            raise ValueError(f"made={self.made!r}: a date and time of ISO 8601") from None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One policy in one scenario with one seed. All numbers are finite `int` or `float`, so that they can be hashed."""

    scenario: str
    policy: str
    seed: int
    metrics: Mapping[str, Number]
    series: Mapping[str, Sequence[Number]] = field(default_factory=dict[str, Sequence[Number]])

    def __post_init__(self) -> None:
        for name, value in self.metrics.items():
            _check(f"metrics.{name}", value)
        for name, values in self.series.items():
            for second, value in enumerate(values):
                _check(f"series.{name}[{second}]", value)
        object.__setattr__(self, "series", {name: tuple(values) for name, values in self.series.items()})

    @property
    def key(self) -> Key:
        """What this run is a function of."""
        return self.scenario, self.policy, self.seed


def _check(name: str, value: Number) -> None:
    if value is not None and not (type(value) in {int, float} and math.isfinite(value)):
        raise ValueError(f"{name}={value!r}: a finite number or null")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The content of a results file."""

    header: Header
    runs: Sequence[Run]
    _by_policy: dict[tuple[str, str], dict[int, Run]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", tuple(self.runs))
        by_policy: dict[tuple[str, str], dict[int, Run]] = {}
        for run in sorted(self.runs, key=lambda run: run.seed):
            by_policy.setdefault((run.scenario, run.policy), {})[run.seed] = run
        object.__setattr__(self, "_by_policy", by_policy)
        seen: set[Key] = set()
        for index, run in enumerate(self.runs):
            if run.scenario not in self.header.scenarios:
                known = ", ".join(self.header.scenarios) or "none"
                raise ValueError(f"runs[{index}].scenario={run.scenario!r}: one that the header describes: {known}")
            if run.key in seen:
                raise ValueError(f"runs[{index}]: {_named(run.key)} is there twice")
            seen.add(run.key)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read a results file; one that is not exactly that is a `BadFile`."""
        document = read_file(path, "json")
        version = document.entries().get("schema")
        if version is not None and version.value != SCHEMA:
            raise version.wrong(f"this version of resilient reads {SCHEMA}")
        fields = document.table(("schema", "header", "runs"))
        runs = [_run(entry) for entry in fields["runs"].items()]
        header = _header(fields["header"])
        return _made(document, cls, header=header, runs=runs)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all; a run has a line of its own."""
        head = json.dumps(asdict(self.header), ensure_ascii=False, indent=1)
        lines = ",\n".join(json.dumps(_written(run), ensure_ascii=False, allow_nan=False) for run in self.runs)
        text = f'{{"schema": {SCHEMA},\n"header": {head},\n"runs": [\n{lines}\n]}}\n'
        target = Path(path)
        part = target.with_name(f".{target.name}.part")
        part.write_text(text, encoding="utf-8")
        part.replace(target)

    @property
    def scenarios(self) -> tuple[str, ...]:
        """The scenarios that were run, in the order of their first run."""
        return tuple(dict.fromkeys(run.scenario for run in self.runs))

    def policies(self, scenario: str | None = None) -> tuple[str, ...]:
        """The policies of a scenario, or of all, in the order of their first run."""
        return tuple(dict.fromkeys(run.policy for run in self.runs if scenario in {None, run.scenario}))

    def of(self, scenario: str, policy: str) -> dict[int, Run]:
        """The runs of a policy in a scenario by seed, in the order of the seeds."""
        return dict(self._by_policy.get((scenario, policy), {}))

    def canonical(self) -> bytes:
        """The runs as JSON that depends on nothing but them: see `canonical`."""
        return canonical(self.runs)

    @property
    def sha256(self) -> str:
        """The hash of `canonical`: equal exactly where the runs are equal."""
        return hashlib.sha256(self.canonical()).hexdigest()


def canonical(runs: Sequence[Run]) -> bytes:
    """Return runs as JSON that depends on nothing else: ordered by key, without spaces, numbers as floats."""
    written = [_written(run, plain=True) for run in sorted(runs, key=lambda run: run.key)]
    return json.dumps(written, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True).encode()


def _written(run: Run, *, plain: bool = False) -> dict[str, object]:
    spell = _plain if plain else _as_it_is
    return {
        "scenario": run.scenario,
        "policy": run.policy,
        "seed": run.seed,
        "metrics": {name: spell(value) for name, value in run.metrics.items()},
        "series": {name: [spell(value) for value in values] for name, values in run.series.items()},
    }


def _plain(value: Number) -> Number:
    # 3 equals 3.0 and 0.0 equals -0.0, so they have one spelling.
    return None if value is None else float(value) + 0.0


def _as_it_is(value: Number) -> Number:
    return value


def _named(key: Key) -> str:
    scenario, policy, seed = key
    return f"scenario {scenario!r}, policy {policy!r}, seed {seed}"


def merge(first: Results, *others: Results) -> Results:
    """Put runs of the same making together: what several processes ran, or one after the other.

    Scenarios of the same name must be the same, and so must backend, mode and versions; a run that is there twice must
    have come out the same twice. Else ValueError says what differs.
    """
    scenarios = dict(first.header.scenarios)
    runs = {run.key: run for run in first.runs}
    for other in others:
        for name in ("backend", "mode", "versions"):
            ours, theirs = getattr(first.header, name), getattr(other.header, name)
            if ours != theirs:
                raise ValueError(f"{name}: {ours!r} and {theirs!r} cannot be merged")
        for name, facts in other.header.scenarios.items():
            if scenarios.setdefault(name, facts) != facts:
                raise ValueError(f"scenario {name!r} is not the same in both: {facts!r} and {scenarios[name]!r}")
        for run in other.runs:
            if runs.setdefault(run.key, run) != run:
                raise ValueError(f"{_named(run.key)} came out differently; a run depends on nothing else")
    headers = [results.header for results in (first, *others)]
    header = replace(
        first.header,
        made=max(headers, key=lambda header: _instant(header.made)).made,
        command=" && ".join(dict.fromkeys(header.command for header in headers)),
        scenarios=scenarios,
    )
    return Results(header=header, runs=tuple(runs.values()))


def _instant(made: str) -> float:
    return datetime.fromisoformat(made).timestamp()


def replay_command(file: str | os.PathLike[str], run: Run) -> str:
    """Return the command that runs `run` of the results in `file` again."""
    options = ("--scenario", run.scenario, "--policy", run.policy, "--seed", str(run.seed))
    return shlex.join(["resilient", "lab", "replay", os.fspath(file), *options])


def _made(at: Field, kind: Callable[..., T], **arguments: Any) -> T:
    """Construct what knows itself what it may hold; its complaint gets the file and the place."""
    try:
        return kind(**arguments)
    except ValueError as error:
        raise BadFile(f"{at.file}: {f'{at.path}.' if at.path else ''}{error}") from None


def _header(at: Field) -> Header:
    fields = at.table(("made", "command", "versions", "backend", "mode", "scenarios"))
    return _made(
        at,
        Header,
        made=fields["made"].text(),
        command=fields["command"].text(),
        versions=fields["versions"].texts(),
        backend=fields["backend"].text(),
        mode=fields["mode"].text(),
        scenarios={name: _facts(entry) for name, entry in fields["scenarios"].entries().items()},
    )


def _facts(at: Field) -> ScenarioFacts:
    fields = at.table(
        ("title", "source", "naive", "good", "duration", "warmup", "trigger", "knobs", "deadline", "primary"),
        ("reference",),
    )
    for name in ("source", "naive", "good"):
        if not isinstance(fields[name].value, str):
            raise fields[name].wrong("a text")
    trigger, deadline = fields["trigger"], fields["deadline"]
    seconds = None if trigger.value is None else tuple(second.number() for second in trigger.items())
    if seconds is not None and len(seconds) != 2:  # noqa: PLR2004 - begin and end
        raise trigger.wrong("two seconds, or null")
    return _made(
        at,
        ScenarioFacts,
        title=fields["title"].text(),
        reference=fields["reference"].value if "reference" in fields else "",
        source=fields["source"].value,
        naive=fields["naive"].value,
        good=fields["good"].value,
        duration=fields["duration"].number(),
        warmup=fields["warmup"].number(),
        trigger=seconds,
        knobs={name: _knob(knob) for name, knob in fields["knobs"].entries().items()},
        deadline=None if deadline.value is None else deadline.number(),
        primary=[metric.text() for metric in fields["primary"].items()],
    )


def _knob(at: Field) -> float | str | bool:
    return at.value if isinstance(at.value, bool) else at.text() if isinstance(at.value, str) else at.number()


def _run(at: Field) -> Run:
    fields = at.table(("scenario", "policy", "seed", "metrics", "series"))
    for name, series in fields["series"].entries().items():
        if not isinstance(series.value, list):
            raise series.wrong(f"a list of numbers and nulls, one a second of {name}")
    fields["metrics"].entries()
    return _made(
        at,
        Run,
        scenario=fields["scenario"].text(),
        policy=fields["policy"].text(),
        seed=fields["seed"].whole(),
        metrics=fields["metrics"].value,
        series=fields["series"].value,
    )
