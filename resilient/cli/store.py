"""`resilient store`: the tables of a durable store are made, counted, and swept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from resilient.backends.connecting import connect
from resilient.backends.store import Store
from resilient.errors import StoreUnavailable

__all__ = ["store"]

T = TypeVar("T")

_REFUSED = 2
_BATCH = 1000

store = typer.Typer(no_args_is_help=True, help="Make, count and sweep the tables of a durable store.")

_Url = Annotated[str, typer.Argument(help="The store: postgresql://user@host/orders, sqlite:////var/lib/orders.db.")]


@store.command()
def migrate(
    *,
    url: _Url,
    sql: Annotated[bool, typer.Option("--sql", help="Only print the statements that make the tables.")] = False,
) -> None:
    """Make the tables of a store, or bring them up to date; for stores that are opened with migrate=false.

    Ends with 0, or with 2 if the URL names no store with tables, or the store cannot be reached.
    """
    found = _open(url)
    schema = getattr(found.blocking, "schema", None)
    if schema is None:
        _end(f"{found!r} has no tables")
    if sql:
        for statement in schema.statements():
            print(f"{_one_indent(statement)};\n")
        return
    done = _try(schema.migrate)
    print(f"{found!r}: {f'{len(done)} statements were run' if done else 'the tables were up to date'}")
    found.blocking.close()


@store.command()
def stats(
    *, url: _Url, as_json: Annotated[bool, typer.Option("--json", help="Write one JSON document.")] = False
) -> None:
    """Count what a store holds: records, their state, the age of the oldest one in seconds, and bytes in use."""
    found = _open(url)
    counted = asdict(_try(found.blocking.stats))
    if as_json:
        print(json.dumps(counted))
    else:
        for name, value in counted.items():
            print(f"{name:10} {value:g}" if isinstance(value, float) else f"{name:10} {value}")
    found.blocking.close()


@store.command()
def gc(
    *,
    url: _Url,
    batch: Annotated[int, typer.Option(min=1, help="Records that are removed in one transaction.")] = _BATCH,
) -> None:
    """Remove all records whose retention is over, batch by batch."""
    found = _open(url)
    removed = 0
    while swept := _try(lambda: found.blocking.gc(batch)):
        removed += swept
        if swept < batch:
            break
    print(f"{found!r}: {removed} records were removed")
    found.blocking.close()


def _open(url: str) -> Store:
    try:
        return connect(url)
    except (ValueError, ModuleNotFoundError) as error:
        _end(str(error))


def _try(step: Callable[[], T]) -> T:
    try:
        return step()
    except StoreUnavailable as error:
        _end(str(error))


def _one_indent(statement: str) -> str:
    lines: list[Any] = [line.rstrip() for line in statement.strip("\n").splitlines()]
    indent = min(len(line) - len(line.lstrip()) for line in lines if line)
    return "\n".join(line[indent:] for line in lines).strip()


def _end(why: str) -> NoReturn:
    typer.secho(f"resilient: {why}", fg="red", err=True)
    raise typer.Exit(_REFUSED)
