"""What the commands of the lab have in common: how they are asked, and how they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, NoReturn, TypeVar

import typer
from rich.console import Console

from resilient.lab.bench.references import find_policy
from resilient.lab.scenario import Scenario

__all__ = ["INTERRUPTED", "Knobs", "Policies", "Seeds", "attempt", "console", "errors", "policies_of", "refuse"]

T = TypeVar("T")

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C."""

console: Final = Console(soft_wrap=False)
errors: Final = Console(stderr=True)

Policies = Annotated[
    str | None,
    typer.Option(
        "--policy",
        "-p",
        help="Names, separated by commas: none, retry1, retry3, default, a scenario's own, module:factory, or "
        "stacks.toml:name. Left out: those that the scenario is usually played with.",
    ),
]
Seeds = Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1, ...")]
Knobs = Annotated[list[str] | None, typer.Option("--set", help="Turn a knob of the scenario: --set load=250.")]


def refuse(error: Exception) -> NoReturn:
    """End with 2, and say why in one line."""
    errors.print(f"resilient: {error}", style="red", markup=False, highlight=False)
    raise typer.Exit(2)


def attempt(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a function; what a user asked for and cannot be had is an error in one line."""
    try:
        return function(*args, **kwargs)
    except (ValueError, TypeError, OSError) as error:
        refuse(error)


def policies_of(scenario: Scenario, given: str | None) -> list[str]:
    """The names of the policies that were asked for, or those that the scenario is usually played with."""
    chosen = [*scenario.policies] if given is None else [name.strip() for name in given.split(",")]
    for name in chosen:
        attempt(find_policy, name, scenario)
    return chosen
