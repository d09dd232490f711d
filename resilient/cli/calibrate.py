"""`resilient lab calibrate`."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from resilient.cli.asking import INTERRUPTED, Knobs, Seeds, attempt, console, errors, policies_of, refuse
from resilient.lab.bench.collecting import versions
from resilient.lab.bench.references import find_policy, make_scenario, parse_knobs
from resilient.lab.calibration.calibrating import calibrate as play_and_compare
from resilient.lab.calibration.limits import LONGEST, MOST
from resilient.lab.calibration.terminal import show_calibration
from resilient.lab.scenario import Scenario

__all__ = ["calibrate"]


def calibrate(
    scenario: Annotated[str, typer.Argument(help="A name, a .toml file, or module:function.")],
    *,
    policy: Annotated[str, typer.Option("--policy", "-p", help="As for `run`.")] = "none,default",
    seeds: Seeds = 1,
    knobs: Knobs = None,
    longest: Annotated[float, typer.Option(min=1, help="Seconds that one run may take.")] = LONGEST,
    most: Annotated[float, typer.Option(min=1, help="Attempts that the busiest second may have.")] = MOST,
    out: Annotated[Path | None, typer.Option(dir_okay=False, help="A JSON file for all figures.")] = None,
) -> None:
    """Play a scenario over real sockets in real time, and say how far, and why, that differs from the simulation.

    The scenario is a smaller version of itself where it has one; --set turns its knobs further. Ends with 0 if it could
    be played.
    """
    if out is not None and not out.parent.is_dir():
        refuse(ValueError(f"--out {out}: there is no folder {out.parent}"))
    small = attempt(_small, scenario, attempt(parse_knobs, knobs or []))
    stacks = [find_policy(name, small) for name in policies_of(small, policy)]
    try:
        with errors.status("beginning") as status:

            def note(text: str) -> None:
                status.update(text)
                if not errors.is_terminal:
                    errors.print(text, markup=False, highlight=False)

            found = attempt(play_and_compare, small, stacks, seeds=seeds, longest=longest, most=most, on_step=note)
    except KeyboardInterrupt:
        errors.print("Interrupted.", style="yellow")
        raise typer.Exit(INTERRUPTED) from None
    show_calibration(found, console)
    if out is not None:
        attempt(found.write, out, _header())


def _small(reference: str, knobs: dict[str, Any]) -> Scenario:
    usual = make_scenario(reference)
    return make_scenario(reference, {**usual.calibration, **knobs})


def _header() -> dict[str, Any]:
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["resilient", *sys.argv[1:]]),
        "versions": versions(),
        "machine": {"system": platform.platform(), "processors": os.cpu_count()},
    }
