"""The commands."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from resilient.cli.later import Commands

__all__ = ["app"]

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback is read by whoever it is reported to
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - as typer calls it
    if wanted:
        try:
            typer.echo(f"resilient {version('resilient-mesh')}")
        except PackageNotFoundError:
            typer.echo("resilient, not installed: run from its source")
        raise typer.Exit


@app.callback()
def resilient(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A service mesh without the sidecar."""
