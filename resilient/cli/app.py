"""The commands."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from resilient.cli.calibrate import calibrate
from resilient.cli.demo import demo
from resilient.cli.discover import discover
from resilient.cli.lab import lab
from resilient.cli.messages import inbox, outbox
from resilient.cli.store import store

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback is read by whoever it is reported to
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(discover)
lab.command()(calibrate)
app.add_typer(lab, name="lab")
app.add_typer(outbox, name="outbox")
app.add_typer(inbox, name="inbox")
app.add_typer(store, name="store")


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
