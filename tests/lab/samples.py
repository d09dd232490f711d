"""Results that look like those of the lab: three scenarios, several policies and seeds, made by a coarse model."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from statistics import fmean

from resilient.lab.results import Header, Results, Run, ScenarioFacts

CAPACITY = 300.0
STORM = ScenarioFacts(
    title="Metastable retry storm",
    source="Bronson et al., Metastable Failures in Distributed Systems, HotOS 2021",
    naive="their retries keep the database overloaded long after the outage that began it",
    good="they stop repeating what nobody waits for, and the backlog is gone within seconds",
    duration=180.0,
    warmup=10.0,
    trigger=(60.0, 70.0),
    knobs={"load": 280.0, "capacity": 300.0, "queue": "unbounded"},
    deadline=1.0,
    primary=("recovery", "amplification", "goodput.after"),
)
SLOW = ScenarioFacts(
    title="One slow instance",
    source="Dean and Barroso, The Tail at Scale, 2013",
    naive="they send a tenth of all calls to the slow one",
    good="they notice, and send it what it can do",
    duration=120.0,
    trigger=(30.0, 120.0),
    deadline=2.0,
    primary=("p99", "success"),
)
HERD = ScenarioFacts(
    title="Recovery herd", duration=60.0, primary=("peak.100ms", "own"), knobs={"clients": 1000.0, "jitter": False}
)
SCENARIOS = {"metastable-retry-storm": STORM, "slow-instance": SLOW, "recovery-herd": HERD}
POLICIES = ("none", "retry1", "retry3", "default")


def outage(title: str) -> ScenarioFacts:
    return ScenarioFacts(title=title, duration=9, trigger=(3, 4), primary=["recovery"])


def made(runs: Iterable[Run], **header) -> Results:
    """Results with a header that fits the runs."""
    runs = list(runs)
    names = dict.fromkeys(run.scenario for run in runs)
    given = {
        "made": "2026-11-24T18:00:00+00:00",
        "command": f"resilient lab run {' '.join(names)} --seeds 10",
        "versions": {"python": "3.11.7", "resilient": "0.1.0", "anyio": "4.14.0"},
        "scenarios": {name: SCENARIOS.get(name) or outage(name) for name in names},
    }
    return Results(header=Header(**given | header), runs=runs)


def run(scenario="outage", policy="default", seed=0, /, series=None, **metrics) -> Run:
    """A run with these metrics; `__` stands for the dot in a name."""
    named = {name.replace("__", "."): value for name, value in metrics.items()}
    return Run(scenario=scenario, policy=policy, seed=seed, metrics=named, series=series or {})


def sample(
    *, scenarios: Sequence[str] = tuple(SCENARIOS), policies: Sequence[str] = POLICIES, seeds: int = 10
) -> Results:
    """What `resilient lab run` might have written."""
    models = {"metastable-retry-storm": storm, "slow-instance": slow, "recovery-herd": herd}
    return made(models[name](policy, seed) for name in scenarios for policy in policies for seed in range(seeds))


def storm(policy: str, seed: int) -> Run:
    """A database with an unbounded queue stands still for ten seconds."""
    chance = random.Random(f"storm {seed}")
    repeats = {"none": 0, "retry1": 1, "retry3": 2}.get(policy, 0.1)
    drops = policy not in {"none", "retry1", "retry3"}
    queue, failing = 0.0, 0.0
    series: dict[str, list[float | None]] = {
        name: [] for name in ("offered", "goodput", "failures", "attempts", "p50", "p99", "queue", "ejected", "open")
    }
    for second in range(int(STORM.duration)):
        offered = float(round(chance.gauss(280, 280**0.5)))
        stopped = 60 <= second < 70
        capacity = 0.0 if stopped else chance.gauss(CAPACITY, 4)
        attempts = float(round(offered * (1 + repeats * failing)))
        queue = max(0.0, queue + attempts - capacity)
        queue = min(queue, 250.0 + 20 * chance.random()) if drops else queue
        wait = queue / CAPACITY
        good = 0.0 if stopped or wait > 1 else min(offered, capacity or 0.0)
        failing = 1 - good / offered
        latency = 0.1 + wait
        series["offered"].append(offered)
        series["goodput"].append(good)
        series["failures"].append(offered - good)
        series["attempts"].append(attempts)
        series["p50"].append(latency if good else None)
        series["p99"].append(min(latency * 1.6 + 0.1 * chance.random(), 1.0) if good else None)
        series["queue"].append(queue)
        series["ejected"].append(0.0)
        series["open"].append(1.0 if drops and (stopped or wait > 0.8) else 0.0)
    return Run(
        scenario="metastable-retry-storm",
        policy=policy,
        seed=seed,
        metrics=_metrics(series, STORM)
        | {
            "recovery": _recovery(series, STORM),
            "wasted": max(0.0, 1 - math.fsum(known(series["goodput"])) / (170 * CAPACITY)),
            "queue.max": max(known(series["queue"])),
            "success.critical": min(1.0, 0.2 + fmean(known(series["goodput"])) / 280),
            "success.sheddable": fmean(known(series["goodput"])) / 290,
            "duplicates": 0,
        },
        series=series,
    )


def slow(policy: str, seed: int) -> Run:
    """One of ten instances takes ten times as long; each policy loses a part of the calls to it."""
    chance = random.Random(f"slow {seed}")
    part = {"none": 0.1, "retry1": 0.1, "retry3": 0.1}.get(policy, 0.01)
    noticed = 30 + (3 if part < 0.1 else 1000)
    series: dict[str, list[float | None]] = {
        name: [] for name in ("offered", "goodput", "failures", "attempts", "p50", "p99", "queue", "ejected", "open")
    }
    for second in range(int(SLOW.duration)):
        hurt = second >= 30 and second < noticed
        offered = float(round(chance.gauss(200, 14)))
        series["offered"].append(offered)
        series["goodput"].append(offered * (1 - 0.02 * hurt))
        series["failures"].append(offered * 0.02 * hurt)
        series["attempts"].append(offered * (1.0 + 0.02 * hurt * ("retry" in policy)))
        series["p50"].append(0.02 + 0.002 * chance.random())
        series["p99"].append((0.9 + 0.2 * chance.random()) if hurt else 0.05 + 0.02 * chance.random())
        series["queue"].append(float(chance.randrange(3)) + (20.0 if hurt else 0.0))
        series["ejected"].append(1.0 if second >= noticed else 0.0)
        series["open"].append(0.0)
    shares = {f"share.node-{number}": (1 - part) / 9 for number in range(9)} | {"share.node-9": part}
    return Run(
        scenario="slow-instance",
        policy=policy,
        seed=seed,
        metrics=_metrics(series, SLOW) | shares | {"fairness": 0.93 + 0.05 * chance.random()},
        series=series,
    )


def herd(policy: str, seed: int) -> Run:
    """Clients that come back all at once; a scenario with metrics and a series of its own."""
    chance = random.Random(f"herd {seed} {policy}")
    peak = {"none": 1000, "retry1": 990, "retry3": 985}.get(policy, 60)
    arrivals = [
        float(peak - chance.randrange(20)) if second == 20 else float(chance.randrange(9)) for second in range(60)
    ]
    return Run(
        scenario="recovery-herd",
        policy=policy,
        seed=seed,
        metrics={
            "peak.100ms": max(arrivals),
            "admitted.60s": math.fsum(arrivals),
            "own": chance.randrange(8, 11) / 10,
        },
        series={"arrivals": arrivals},
    )


def known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _metrics(series: dict[str, list[float | None]], facts: ScenarioFacts) -> dict[str, float | None]:
    counted = {name: known(values[int(facts.warmup) :]) for name, values in series.items()}
    offered = math.fsum(counted["offered"])
    begin, end = (int(second) for second in facts.trigger or (0, 0))
    goodput = known(series["goodput"])
    return {
        "calls": int(offered),
        "success": math.fsum(counted["goodput"]) / offered,
        "goodput": fmean(counted["goodput"]),
        "p50": sorted(counted["p50"])[len(counted["p50"]) // 2],
        "p99": max(counted["p99"]),
        "p999": None if facts is STORM else max(counted["p99"]),
        "max": max(counted["p99"]),
        "amplification": math.fsum(counted["attempts"]) / offered,
        "goodput.before": fmean(goodput[int(facts.warmup) : begin]),
        "goodput.during": fmean(goodput[begin:end]),
    } | ({"goodput.after": fmean(goodput[end:])} if goodput[end:] else {})


def _recovery(series: dict[str, list[float | None]], facts: ScenarioFacts) -> float | None:
    goodput = known(series["goodput"])
    before = fmean(goodput[10:60])
    for second in range(70, len(goodput) - 3):
        if fmean(goodput[second : second + 3]) >= 0.95 * before:
            return float(second - 70)
    return None
