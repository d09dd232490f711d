"""What lies between callers and servers: time, loss, and partitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

from resilient.lab.engine import Engine, Signal
from resilient.lab.world.chance import Chance
from resilient.lab.world.job import Errand, Job, Reply
from resilient.lab.world.server import Server
from resilient.lab.world.service_times import ServiceTime
from resilient.machines.load import Load

__all__ = ["CorruptReply", "Network"]


class CorruptReply(OSError):
    """What came back is not what was sent."""


@final
class Network:
    """Carries attempts to servers and replies back.

    `latency` is one way. What is lost is not reported to anybody: the caller waits until its own patience is at an end.
    """

    def __init__(
        self,
        engine: Engine,
        chance: Chance,
        *,
        latency: ServiceTime | None = None,
        lose_request: float = 0.0,
        lose_reply: float = 0.0,
        repeat: float = 0.0,
        corrupt: float = 0.0,
        name: str = "network",
    ) -> None:
        self._engine = engine
        self._latency = latency
        self.lose_request = lose_request
        """The fraction of requests that never arrive."""
        self.lose_reply = lose_reply
        """The fraction of replies that never arrive: the work was done."""
        self.repeat = repeat
        """The fraction of requests that arrive twice."""
        self.corrupt = corrupt
        """The fraction of replies that say something else than what was sent."""
        self.cut: set[str | None] = set()
        """Zones that nothing gets into or out of."""
        names = ("out", "back", "lost out", "lost back", "twice", "changed")
        self._draws: dict[str, Callable[[int, int], float]] = {
            what: chance.of_call(f"{name}, {what}") for what in names
        }

    def _happens(self, what: str, fraction: float, job: Job) -> bool:
        return fraction > 0.0 and self._draws[what](job.errand.number, job.attempt) < fraction

    async def send(self, errand: Errand, server: Server, deadline: float | None, idempotency_key: str | None) -> Reply:
        """Make one attempt of the errand at a server: the innermost step of every pipeline in a world.

        `deadline` and `idempotency_key` are what the server is told. Raises `CorruptReply`, or what a connection dies
        of.
        """
        signal = self._engine.signal()
        jobs = self.carry(errand, server, signal, deadline, idempotency_key)
        try:
            reply: Reply | Exception = await signal
        finally:
            for job in jobs:
                job.left = True
        if isinstance(reply, Exception):
            try:
                raise reply
            finally:
                del reply  # this frame is in its traceback: the two would keep each other alive
        if not reply.intact:
            raise CorruptReply(f"{server.instance.id}: the checksum of the reply does not hold")
        return reply

    def carry(
        self, errand: Errand, server: Server, signal: Signal, deadline: float | None, idempotency_key: str | None
    ) -> Sequence[Job]:
        """Carry one attempt to a server, and its reply, or what the connection dies of, to `signal`.

        Returns what the server has of it: a job, or two where the network repeats itself. Whoever no longer waits for
        the signal writes it down there, as `left`.
        """
        job = Job(
            errand,
            errand.attempts,
            _Answer(self, server, signal),
            deadline=deadline,
            priority=errand.priority,
            idempotency_key=idempotency_key,
        )
        errand.attempts += 1
        copy = self._deliver(server, job)
        return (job,) if copy is None else (job, copy)

    async def check(self, server: Server, zone: str | None) -> None:
        """Ask a server from a zone whether it is there, as a health check does.

        Raises if it refuses connections, and waits for ever where nothing comes back. It is answered beside the calls:
        at once, however many wait there and whatever they come to.
        """
        if not server.reachable:
            raise ConnectionRefusedError(f"{server.instance.id} is down")
        if not server.answers or server.stopped or self._cut_off(server, zone):
            await self._engine.signal()

    async def probe(self, server: Server) -> Load:
        """Ask a server how busy it is. One that stands still, or is cut off, does not answer for ever.

        There and back takes the network's median, and raises `ConnectionRefusedError` where nobody listens.
        """
        if self._latency is not None:
            signal = self._engine.signal()
            self._engine.at(self._engine.now() + 2 * self._latency.quantile(0.5), _tell, signal, None)
            await signal
        if not server.reachable:
            raise ConnectionRefusedError(f"{server.instance.id} is down")
        if not server.answers or server.stopped or server.zone in self.cut:
            await self._engine.signal()
        return server.report()

    def _deliver(self, server: Server, job: Job) -> Job | None:
        """Carry a request to the server; return the copy of it, if it arrives twice."""
        if self._severed(server, job) or self._happens("lost out", self.lose_request, job):
            return None
        copy = job.again() if self._happens("twice", self.repeat, job) else None
        if self._latency is None:
            server.receive(job)
            if copy is not None:
                server.receive(copy)
        else:
            delay = self._latency.quantile(self._draws["out"](job.errand.number, job.attempt))
            arrives = self._engine.now() + delay
            self._engine.at(arrives, server.receive, job)
            if copy is not None:
                self._engine.at(arrives, server.receive, copy)
        return copy

    def _severed(self, server: Server, job: Job) -> bool:
        return bool(self.cut) and self._cut_off(server, job.errand.zone)

    def _cut_off(self, server: Server, zone: str | None) -> bool:
        return server.zone != zone and (server.zone in self.cut or zone in self.cut)

    def back(self, server: Server, signal: Signal, job: Job, reply: Reply | Exception) -> None:
        """Carry a reply to the caller."""
        if self._severed(server, job) or self._happens("lost back", self.lose_reply, job):
            return
        if self._happens("changed", self.corrupt, job) and isinstance(reply, Reply):
            reply = reply._replace(value=self._draws["changed"](job.errand.number, job.attempt), intact=False)
        if self._latency is None:
            _tell(signal, reply)
        else:
            delay = self._latency.quantile(self._draws["back"](job.errand.number, job.attempt))
            self._engine.at(self._engine.now() + delay, _tell, signal, reply)


def _tell(signal: Signal, reply: Any) -> None:
    if not signal.done():
        signal.set_result(reply)


@final
class _Answer:
    """Takes a server's reply to the attempt that waits for it."""

    __slots__ = ("_network", "_server", "_signal")

    def __init__(self, network: Network, server: Server, signal: Signal) -> None:
        self._network = network
        self._server = server
        self._signal = signal

    def __call__(self, job: Job, reply: Reply | Exception) -> None:
        self._network.back(self._server, self._signal, job, reply)
