"""`resilient discover`: what a discovery URL leads to, once or for as long as one looks."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, NoReturn

import anyio
import typer
from rich.console import Console
from rich.live import Live

from resilient.cli.instances import Look
from resilient.context import current_runtime
from resilient.discovery import Discovery, connect
from resilient.discovery.following import Follower
from resilient.snapshot import Snapshot

__all__ = ["discover"]

_PATIENCE = 5.0
_BEAT = 0.25
_NONE = 1
_REFUSED = 2
_INTERRUPTED = 130
_WIDE = 10_000  # lines that another program reads are not folded

_errors = Console(stderr=True, soft_wrap=True)


def discover(
    *,
    url: Annotated[str, typer.Argument(help="Where the instances are: dns://orders.internal:8080, for example.")],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay, and show every change.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write JSON: one document, or with --watch one a line.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds to wait for the first answer. Left out: 5, or with --watch as long as it takes."),
    ] = None,
) -> None:
    """Show the instances that a discovery URL leads to.

    Ends with 0 if there are instances; with 1 if there are none, or no answer in time; with 2 if the URL is not
    understood. Ctrl-C ends --watch, with 130.
    """
    if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
        _end(_REFUSED, f"--timeout {timeout:g}: a finite number of seconds, more than 0")
    logging.getLogger("resilient").addHandler(logging.NullHandler())  # it is shown, and need not be logged as well
    try:
        source = connect(url)
    except (ValueError, ModuleNotFoundError) as error:
        _end(_REFUSED, str(error))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    look = Look(url, current_runtime().now())
    living = Live(console=console, auto_refresh=False) if watch and console.is_terminal and not as_json else None
    if as_json:
        show = partial(_write_json, look)
    elif living is not None:
        show = partial(_refresh, look, living)
    else:
        show = partial(_write_changes, look) if watch else partial(_write_table, look, console)
    if timeout is None:
        timeout = math.inf if watch else _PATIENCE
    try:
        with living or nullcontext():
            beat = math.inf if living is None else _BEAT
            anyio.run(partial(_follow, source, look, show, patience=timeout, stay=watch, beat=beat))
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None
    except BrokenPipeError:  # whoever read this has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if look.snapshot is None:
        trouble = look.trouble()
        _end(_NONE, f"{url}: no answer in {timeout:g} s" + (f": {trouble}" if trouble else ""))
    raise typer.Exit(0 if look.snapshot.instances else _NONE)


def _end(code: int, why: str) -> NoReturn:
    _errors.print(f"resilient: {why}", style="red", markup=False, highlight=False)
    raise typer.Exit(code)


async def _follow(
    source: Discovery, look: Look, show: Callable[[float], None], *, patience: float, stay: bool, beat: float
) -> None:
    """Show the first snapshot, or with `stay` each one; and without news every `beat` seconds, as time goes by."""
    runtime = current_runtime()
    until = runtime.now() + patience
    news = anyio.Event()
    broken: BrokenPipeError | None = None

    def deliver(snapshot: Snapshot) -> None:
        look.learn(snapshot, runtime.now())
        news.set()

    follower = Follower(look.url, source, deliver, runtime)
    look.trouble = lambda: follower.trouble
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follower.run)
        while look.snapshot is not None or runtime.now() < until:
            with anyio.move_on_after(beat if look.snapshot is not None else min(beat, until - runtime.now())):
                await news.wait()
            heard, news = news.is_set(), anyio.Event()
            try:
                if heard or beat < math.inf:
                    show(runtime.now())
            except BrokenPipeError as error:
                broken = error  # leaves the group as it is, and not in a group of errors
            if broken is not None or (heard and not stay):
                break
        trouble = follower.trouble
        look.trouble = lambda: trouble  # it ends with the watch
        tasks.cancel_scope.cancel()
    if broken is not None:
        raise broken


def _write_json(look: Look, now: float) -> None:
    at = datetime.fromtimestamp(current_runtime().wall(), UTC)
    print(json.dumps(look.document(now, at.isoformat(timespec="milliseconds"))), flush=True)


def _write_changes(look: Look, now: float) -> None:
    at = datetime.fromtimestamp(current_runtime().wall()).astimezone()
    for line in look.log(now, at.strftime("%H:%M:%S")):
        print(line)
    sys.stdout.flush()


def _write_table(look: Look, console: Console, now: float) -> None:
    console.print(look.view(now))


def _refresh(look: Look, living: Live, now: float) -> None:
    living.update(look.view(now), refresh=True)
