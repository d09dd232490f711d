"""What can be played over sockets, and what cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from resilient.lab.faults import Fault, Suspension, WallClockShift
from resilient.lab.results import Run
from resilient.lab.scenario import Scenario

__all__ = ["LONGEST", "MOST", "check_load", "check_scenario"]

LONGEST: Final = 60.0
"""Seconds of a run, unless one asks for more: a simulation plays them in a second, real time does not."""
MOST: Final = 250.0
"""Attempts in a second, unless one asks for more: callers and servers share one process, which does a few hundred."""

_IMPOSSIBLE: Final[Mapping[type[Fault], str]] = {
    WallClockShift: "the clock of this machine is not set for it",
    Suspension: "what measures would stand still with all the rest",
}


def check_scenario(scenario: Scenario, *, longest: float = LONGEST) -> None:
    """Raise `ValueError` where the scenario cannot be played over sockets, or takes longer than `longest` seconds."""
    for fault in scenario.faults:
        for kind, why in _IMPOSSIBLE.items():
            if isinstance(fault, kind):
                raise ValueError(  # noqa: TRY004 - a scenario with it is no scenario for sockets
                    f"{scenario.name} cannot be played over sockets: {kind.__name__}: {why}"
                )
    if scenario.duration > longest:
        raise ValueError(
            f"{scenario.name} takes {scenario.duration:g} s of real time, and at most {longest:g} s are allowed: make "
            f"it shorter ({_knobs(scenario)}), or allow more with --longest"
        )


def check_load(scenario: Scenario, simulated: Run, *, most: float = MOST) -> None:
    """Raise `ValueError` where the busiest second of a simulated run has more than `most` attempts.

    The last tier's are known, and each other one's are taken to be no more.
    """
    busiest = max((value or 0.0 for value in simulated.series["attempts"]), default=0.0) * len(scenario.tiers)
    if busiest > most:
        raise ValueError(
            f"{scenario.name} makes {busiest:.0f} attempts in a second under {simulated.policy}, and at most {most:g} "
            f"are allowed, as one process plays callers and servers: make it smaller ({_knobs(scenario)}), or allow "
            "more with --most"
        )


def _knobs(scenario: Scenario) -> str:
    return " ".join(f"--set {name}={value}" for name, value in scenario.knobs.items()) or "it has no knobs"
