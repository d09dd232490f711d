"""A single server, to be given calls at given seconds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from resilient.call import Priority
from resilient.instance import Instance
from resilient.lab.engine import Engine, open_engine
from resilient.lab.world.job import Errand, Job, Reply
from resilient.lab.world.queues import Fifo
from resilient.lab.world.server import Server
from resilient.lab.world.service_times import Constant, ServiceTime

__all__ = ["Desk", "open_desk"]

A_SECOND = Constant(1.0)


class Desk:
    """Sends calls to a server, and notes what comes back, and when."""

    def __init__(self, engine: Engine, server: Server) -> None:
        self.engine = engine
        self.server = server
        self.answers: list[tuple[float, int, int | str]] = []
        """Second, number of the call, and the status or the name of the error."""
        self.loads: list[Any] = []
        """What each reply says of the server's load."""

    def send(self, number: int, at: float = 0.0, **options: Any) -> Job:
        """Let the server receive a call at that second."""
        job = self.job(number, **options)
        self.engine.at(at, self.server.receive, job)
        return job

    def job(self, number: int, *, attempt: int = 0, key: int = 0, **options: Any) -> Job:
        settings: dict[str, Any] = {"deadline": None, "priority": Priority.CRITICAL, "idempotency_key": None}
        return Job(Errand(number, key=key), attempt, self._note, **settings | options)

    def _note(self, job: Job, reply: Reply | Exception) -> None:
        what = reply.status if isinstance(reply, Reply) else type(reply).__name__
        self.answers.append((self.engine.now(), job.errand.number, what))
        self.loads.append(getattr(reply, "load", None))

    async def close(self, after: float = 1000.0) -> list[tuple[float, int, int | str]]:
        """Let everything happen, and return the answers."""
        await anyio.sleep(after)
        moment, call = self.server.call_seconds(self.engine.now())
        assert abs(moment - call) <= 1e-9 * max(1.0, call)  # Little's law
        return self.answers


@asynccontextmanager
async def open_desk(
    service_time: ServiceTime = A_SECOND, draw: Callable[[int, int], float] | None = None, **options: Any
):
    """Open a server; by default it has one worker, who takes a second for each call."""
    settings: dict[str, Any] = {"workers": 1, "queue": Fifo}
    async with open_engine() as engine:
        server = Server(
            Instance(id="it", host="it", port=80),
            engine,
            draw or (lambda _call, _attempt: 0.5),
            service_time=service_time,
            **settings | options,
        )
        yield Desk(engine, server)
