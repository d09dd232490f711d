"""`resilient demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

__all__ = ["demo"]


def demo(
    *,
    rate: Annotated[float, typer.Option(help="Orders a second.")] = 100.0,
    duration: Annotated[float, typer.Option(help="Seconds of load in each of the two runs.")] = 40.0,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 1,
    instances: Annotated[int, typer.Option(help="Processes of the service at the beginning.")] = 5,
    out: Annotated[Path, typer.Option(help="Where the HTML report goes.", dir_okay=False, writable=True)] = Path(
        "resilient-demo.html"
    ),
) -> None:
    """Prove it: a small service, the same disasters twice, with plain httpx and through resilient.

    Starts real processes of an orders service on this machine, kills, stops, slows and breaks them under constant load,
    and then holds the database against what the callers were told.

    Ends with 0 if resilient lost and duplicated no order and answered 99.9 % of the calls in time, while the plain
    client duplicated at least one; else with 1.
    """
    try:
        from resilient.lab.demo import command
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in {"starlette", "uvicorn"}:
            raise
        sys.exit(f"resilient: the demo needs {package}: pip install 'resilient-mesh[demo]'")
    try:
        settings = command.Settings(rate=rate, duration=duration, seed=seed, instances=instances)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    raise typer.Exit(command.run_demo(settings, out=out, console=Console()))
