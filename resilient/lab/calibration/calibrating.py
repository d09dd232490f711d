"""A scenario, simulated and played, and the two held against each other."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast, final

from resilient.lab.calibration.costs import with_machine, with_sockets
from resilient.lab.calibration.explaining import (
    DICE,
    Explanation,
    Figure,
    Rolls,
    explain,
    figure,
    idle_together,
    together,
)
from resilient.lab.calibration.limits import LONGEST, MOST, check_load, check_scenario
from resilient.lab.calibration.playing import Conditions, Idle, measure_idle, play
from resilient.lab.reporting.measures import NEVER, in_order
from resilient.lab.results import Number, Run
from resilient.lab.scenario import Scenario
from resilient.lab.simulation.run import run
from resilient.lab.stacks import Stack

__all__ = ["SCHEMA", "Calibrated", "Calibration", "calibrate"]

SCHEMA: Final = 1
"""The version of the file's format."""

_DICE = 1000
"""Dice have seeds of their own from here on."""
_COMPARED = ("success", "p50", "p99", "amplification", "goodput", "recovery", "duplicates")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """One policy, simulated and real."""

    policy: str
    idle: Idle
    conditions: Conditions
    """Of all real runs together."""
    figures: Sequence[tuple[Figure, Explanation]]
    simulated: Mapping[int, Mapping[str, Number]]
    """The metrics of each seed's run."""
    real: Mapping[int, Mapping[str, Number]]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A scenario, simulated and played over real sockets."""

    scenario: Scenario
    seeds: int
    policies: Sequence[Calibrated]

    def write(self, path: Path, header: Mapping[str, Any]) -> None:
        """Write it as JSON; `header` says who made it, and with what."""
        document = {
            "schema": SCHEMA,
            "kind": "calibration",
            "header": header,
            "scenario": self.scenario.name,
            "knobs": dict(self.scenario.knobs),
            "seeds": self.seeds,
            "policies": [_written(one) for one in self.policies],
        }
        path.write_text(f"{json.dumps(document, indent=1, allow_nan=False)}\n", encoding="utf-8")


def _written(one: Calibrated) -> dict[str, Any]:
    figures = {
        figure.metric: {name: _finite(value) for name, value in asdict(figure).items() if name != "metric"}
        | asdict(explanation)
        for figure, explanation in one.figures
    }
    return {
        "policy": one.policy,
        "idle": asdict(one.idle),
        "conditions": asdict(one.conditions),
        "figures": figures,
        "runs": [
            {"seed": seed, "simulated": dict(one.simulated[seed]), "real": dict(metrics)}
            for seed, metrics in one.real.items()
        ],
    }


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in cast("dict[str, Any]", value).items()}
    return "never" if value == NEVER else value


def calibrate(
    scenario: Scenario,
    policies: Sequence[Stack],
    *,
    seeds: int = 1,
    longest: float = LONGEST,
    most: float = MOST,
    on_step: Callable[[str], object] = lambda _text: None,
) -> Calibration:
    """Play the scenario in virtual time and over real sockets, under each of the policies, with seeds 0, 1, ...

    `longest`
        Seconds that a run may take in real time (60).
    `most`
        Attempts that its busiest second may have (250).
    `on_step`
        Is told what is done next.

    Raises `ValueError` for what cannot be played over sockets, takes longer, or is too much: before anything is played.
    """
    check_scenario(scenario, longest=longest)
    simulated: dict[str, list[Run]] = {}
    for stack in policies:
        on_step(f"{stack.name}: simulating")
        simulated[stack.name] = [run(scenario, stack, seed, mode="http") for seed in range(seeds)]
        for one in simulated[stack.name]:
            check_load(scenario, one, most=most)
    return Calibration(
        scenario=scenario,
        seeds=seeds,
        policies=[_calibrate(scenario, stack, simulated[stack.name], on_step) for stack in policies],
    )


def _calibrate(
    scenario: Scenario, stack: Stack, simulated: Sequence[Run], on_step: Callable[[str], object]
) -> Calibrated:
    on_step(f"{stack.name}: measuring an idle call")
    idle = [measure_idle(scenario, stack)]
    real: list[Run] = []
    conditions: list[Conditions] = []
    for like in simulated:
        on_step(f"{stack.name}, seed {like.seed}: {scenario.duration:g} s over sockets")
        played, condition = play(scenario, stack, like.seed)
        real.append(played)
        conditions.append(condition)
        idle.append(measure_idle(scenario, stack))
    on_step(f"{stack.name}: simulating with what was measured")
    usual, all_in_all = idle_together(idle), together(conditions)
    sockets: list[list[Run]] = []
    machine: list[list[Run]] = []
    for die in range(DICE):
        one, turn = idle[die % len(idle)], die / DICE  # what an idle call costs differs from time to time
        sockets.append(_roll(with_sockets(scenario, one, turn), stack, simulated, die))
        machine.append(_roll(with_machine(scenario, one, all_in_all, turn), stack, simulated, die))

    def values(runs: Sequence[Run], name: str) -> list[Number]:
        return [one.metrics.get(name) for one in runs]

    def rolls(dice: Sequence[Sequence[Run]], name: str) -> Rolls:
        return [values(runs, name) for runs in dice]

    named = {name for one in (*simulated, *real) for name in one.metrics} & {*scenario.primary, *_COMPARED}
    figures = [
        figure(
            name,
            calls=math.fsum(one.metrics["calls"] or 0.0 for one in simulated),
            simulated=values(simulated, name),
            sockets=rolls(sockets, name),
            machine=rolls(machine, name),
            real=values(real, name),
        )
        for name in in_order(named, scenario.primary)
    ]
    return Calibrated(
        policy=stack.name,
        idle=usual,
        conditions=all_in_all,
        figures=[(one, explain(one, usual, all_in_all)) for one in figures],
        simulated={one.seed: one.metrics for one in simulated},
        real={one.seed: one.metrics for one in real},
    )


def _roll(scenario: Scenario, stack: Stack, like: Sequence[Run], die: int) -> list[Run]:
    """Simulate it with the seeds of other runs; the first die is their own."""
    return [run(scenario, stack, one.seed, mode="http", dice=_DICE + die if die else None) for one in like]
