"""`resilient outbox` and `resilient inbox`: what is on its way, and what somebody has to look into."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from resilient.backends.sqlite import SQLiteStore
from resilient.errors import StoreUnavailable
from resilient.idempotency import BlockingInbox, BlockingOutbox, Inbox, Outbox, Store, connect

__all__ = ["inbox", "outbox"]

T = TypeVar("T")

_REFUSED = 2
_FAILED = 1
_SHOWN = 60
"""Characters of a payload and of an error that a table shows."""

outbox = typer.Typer(no_args_is_help=True, help="Messages that were committed, and are to be delivered.")
inbox = typer.Typer(no_args_is_help=True, help="Messages that a consumer could not process.")

_errors = Console(stderr=True, soft_wrap=True)

Url = Annotated[str, typer.Argument(help="The database: sqlite:///orders.db or postgresql://...")]
Consumer = Annotated[str, typer.Argument(help="The name of the consumer.")]
Ids = Annotated[list[int], typer.Argument(help="Which ones, by the id that `parked` shows.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Limit = Annotated[int, typer.Option(min=1, help="How many at most.")]
After = Annotated[int, typer.Option(min=0, help="Only those with a higher id.")]


@outbox.command("stats")
def outbox_stats(url: Url, *, as_json: AsJson = False) -> None:
    """Count what is held."""
    _show_stats(asdict(_ask(lambda: _outbox(url).stats())), as_json=as_json)


@outbox.command("parked")
def outbox_parked(url: Url, *, limit: Limit = 100, after: After = 0, as_json: AsJson = False) -> None:
    """List messages that are not delivered any more."""
    rows = [asdict(each) for each in _ask(lambda: _outbox(url).parked(limit=limit, after=after))]
    _show(rows, ["id", "topic", "key", "group", "attempts", "age", "error", "payload"], as_json=as_json)


@outbox.command("requeue")
def outbox_requeue(url: Url, ids: Ids) -> None:
    """Let parked messages be delivered after all."""
    typer.echo(f"{_ask(lambda: _outbox(url).requeue(ids))} requeued")


@outbox.command("discard")
def outbox_discard(url: Url, ids: Ids) -> None:
    """Give up parked messages; those behind them in their groups go on."""
    typer.echo(f"{_ask(lambda: _outbox(url).discard(ids))} discarded")


@inbox.command("stats")
def inbox_stats(url: Url, consumer: Consumer, *, as_json: AsJson = False) -> None:
    """Count what failed."""
    _show_stats(asdict(_ask(lambda: _inbox(url, consumer).stats(consumer))), as_json=as_json)


@inbox.command("parked")
def inbox_parked(
    url: Url, consumer: Consumer, *, limit: Limit = 100, after: After = 0, as_json: AsJson = False
) -> None:
    """List messages that are not tried any more."""
    found = _ask(lambda: _inbox(url, consumer).parked(consumer, limit=limit, after=after))
    rows = [{**asdict(each.letter), **asdict(each)} for each in found]
    _show(rows, ["id", "key", "stream", "position", "attempts", "age", "error", "payload"], as_json=as_json)


@inbox.command("discard")
def inbox_discard(url: Url, consumer: Consumer, ids: Ids) -> None:
    """Forget parked messages."""
    typer.echo(f"{_ask(lambda: _inbox(url, consumer).discard(consumer, ids))} discarded")


def _outbox(url: str) -> BlockingOutbox:
    return Outbox(_existing(url)).blocking


def _inbox(url: str, consumer: str) -> BlockingInbox:
    return Inbox(_existing(url), consumer=consumer).blocking


def _existing(url: str) -> Store:
    """Open a store; of a file that is not there, say so instead of making it."""
    store = connect(url)
    if isinstance(store, SQLiteStore) and not store.path.exists():
        raise ValueError(f"{store.path}: there is no such file")
    return store


def _ask(question: Callable[[], T]) -> T:
    try:
        return question()
    except (ValueError, ModuleNotFoundError) as error:
        _end(_REFUSED, str(error))
    except StoreUnavailable as error:
        _end(_FAILED, str(error))


def _end(code: int, why: str) -> NoReturn:
    _errors.print(f"resilient: {why}", style="red", markup=False, highlight=False)
    raise typer.Exit(code)


def _show_stats(stats: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(stats))
        return
    for name, value in stats.items():
        typer.echo(f"{name.replace('_', ' ')}: {value:g}{' s' if name == 'oldest' else ''}")


def _show(rows: list[dict[str, Any]], columns: list[str], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            typer.echo(json.dumps({name: _plain(row[name]) for name in columns}))
        return
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name)
    for row in rows:
        table.add_row(*(Text(_cell(row[name])) for name in columns))
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)  # lines that another program reads are not folded
    console.print(table)


def _plain(value: Any) -> Any:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.0f} s" if isinstance(value, float) else str(_plain(value))
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
