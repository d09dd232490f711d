"""From runs to a results file."""

from __future__ import annotations

import math
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from resilient.lab.bench.playing import Job
from resilient.lab.results import Header, Results, Run, ScenarioFacts
from resilient.lab.scenario import Scenario

__all__ = ["collect", "facts_of", "versions"]

_PACKAGES = ("resilient-mesh", "anyio", "trio", "httpx")


def versions() -> dict[str, str]:
    """What a result could depend on, and must not."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def facts_of(scenario: Scenario, reference: str) -> ScenarioFacts:
    """What the reader of a result has to know of a scenario."""
    return ScenarioFacts(
        title=scenario.title or scenario.name,
        reference="" if reference == scenario.name else reference,
        source=scenario.source,
        naive=scenario.naive,
        good=scenario.good,
        duration=scenario.duration,
        warmup=scenario.warmup,
        trigger=scenario.trigger,
        knobs={name: value for name, value in scenario.knobs.items() if isinstance(value, float | int | str)},
        deadline=scenario.deadline if scenario.deadline < math.inf else None,
        primary=scenario.primary,
    )


def collect(
    runs: Sequence[tuple[Job, Run]], scenarios: Iterable[tuple[Scenario, str]], *, command: Sequence[str] | None = None
) -> Results:
    """Put runs and what they were runs of together.

    `command` is by default the one that this program was started by.
    """
    backends = {job.backend: None for job, _ in runs}
    modes = {job.mode: None for job, _ in runs}
    header = Header(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["resilient", *(sys.argv[1:] if command is None else command)]),
        versions=versions(),
        backend=", ".join(backends) or "asyncio",
        mode=", ".join(modes) or "functions",
        scenarios={scenario.name: facts_of(scenario, reference) for scenario, reference in scenarios},
    )
    return Results(header=header, runs=[run for _, run in runs])
