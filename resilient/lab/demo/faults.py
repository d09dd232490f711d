"""How one process of the service is made to misbehave."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Literal, TypeAlias, final, get_args

import anyio

from resilient.asgi.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["LOST", "SLOWER", "Fault", "Faults"]

Fault: TypeAlias = Literal["slow", "fail", "lose", "stop"]

SLOWER = 10.0
"""How many times as long a slow instance works on an order."""
LOST = 20
"""Of so many replies one is lost."""


@final
class Faults:
    """Stands around the application, as a failing machine or network would: the application knows nothing of it.

    `slow`
        Work takes ten times as long.
    `fail`
        Every request is answered with 500 at once, before it has any effect.
    `lose`
        One reply in twenty is lost when all is done and committed: the connection is reset in its place. `phase` says
        which one, so that not all instances lose theirs at the same moment.
    `stop`
        The process stops itself (SIGSTOP), all its threads, while it works on at least one order and writes none: a
        stopped writer would lock everybody else out of the database. What it was asked meanwhile, it does when it
        wakes up, long after its callers have left.
    """

    def __init__(self, phase: int = 0) -> None:
        self._phase = phase % LOST
        self._active: set[Fault] = set()
        self._requests = 0
        self._working = 0
        self._replies = 0

    def obey(self, word: str) -> None:
        """Begin one of the faults, or `heal` them all."""
        if word == "heal":
            self._active.clear()
        else:
            self._active.update(fault for fault in get_args(Fault) if fault == word)

    async def work(self, seconds: float) -> None:
        """Let the time pass that an order takes; nothing is written meanwhile."""
        self._working += 1
        try:
            # Every request is here: none is on its way to or from the database. Nor does a heartbeat write, which comes
            # after a third of a lease: an order takes milliseconds.
            if "stop" in self._active and self._working == self._requests:
                self._active.discard("stop")
                os.kill(os.getpid(), signal.SIGSTOP)
            await anyio.sleep(seconds * SLOWER if "slow" in self._active else seconds)
        finally:
            self._working -= 1

    def around(self, app: ASGIApp, drop: Callable[[Scope], None]) -> ASGIApp:
        """Return `app`, disturbed. `drop` resets the connection of a request."""

        async def disturbed(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
            elif "fail" in self._active:
                await _fail(send)
            else:
                self._requests += 1
                try:
                    await self._serve(app, scope, receive, send, drop)
                finally:
                    self._requests -= 1

        return disturbed

    async def _serve(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, drop: Callable[[Scope], None]
    ) -> None:
        lost = False
        if "lose" in self._active:
            lost = self._replies % LOST == self._phase
            self._replies += 1
        await app(scope, receive, _into_the_void if lost else send)
        if lost:
            drop(scope)
            while (await receive())["type"] != "http.disconnect":
                pass  # or the server would answer 500 in place of an application that did not


async def _fail(send: Send) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _into_the_void(_message: Message) -> None:
    pass
