"""Commands whose modules are loaded when they are run: to list them takes no lab, and no HTTP client."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final, NamedTuple, final

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["LATER", "Commands", "Later"]


class Later(NamedTuple):
    """Where a command is, and the line that it is listed with."""

    module: str
    name: str
    help: str

    def load(self) -> Any:
        """Import it."""
        found: Any = getattr(import_module(self.module), self.name)
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(add_completion=False)
            alone.command()(found)
            found = alone
        return typer.main.get_command(found)


LATER: Final = {
    "demo": Later(
        "resilient.cli.demo",
        "demo",
        "Prove it: a small service, the same disasters twice, with plain httpx and through resilient.",
    ),
    "discover": Later("resilient.cli.discover", "discover", "Show the instances that a discovery URL leads to."),
    "lab": Later(
        "resilient.cli.lab",
        "lab",
        "Compare failure policies: the real policy objects, in virtual time, against a suite of failures.",
    ),
    "outbox": Later("resilient.cli.messages", "outbox", "Messages that were committed, and are to be delivered."),
    "inbox": Later("resilient.cli.messages", "inbox", "Messages that a consumer could not process."),
    "store": Later("resilient.cli.store", "store", "Make, count and sweep the tables of a durable store."),
}


@final
class Commands(TyperGroup):
    """The group of all commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Name them."""
        del ctx
        return [*LATER]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return what a list tells of a command: not the command."""
        del ctx
        later = LATER.get(cmd_name)
        return None if later is None else TyperCommand(cmd_name, help=later.help)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is to be run."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else LATER[name].load(), rest
