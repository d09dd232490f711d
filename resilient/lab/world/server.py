"""A server: workers, a line in front of them, and everything that can be wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, final

from resilient.instance import Instance
from resilient.lab.engine import Engine
from resilient.lab.world.job import Job, Reply
from resilient.lab.world.queues import Queue
from resilient.lab.world.service_times import ServiceTime
from resilient.machines.load import Load, LoadMeter

__all__ = ["Handler", "Records", "Server"]

Handler: TypeAlias = "Callable[[Job], Coroutine[Any, Any, Reply]]"
"""What a server does after its own work, while it holds the worker: calls to the next tier."""

_DONE = Reply()
_OVERLOADED = Reply(503)
_PENDING = Reply(409, retry_after=0.05)


@final
class Records:
    """The keys whose work is done or being done, in the memory that a tier's servers share: a database.

    The far side of idempotency keys: the work of one key has its effect once, and every reply to it is the same.
    """

    def __init__(self) -> None:
        self.done: dict[str, Reply] = {}
        self.running: set[str] = set()


@final
class _Lane:
    """Workers and the line in front of them: those of one partition."""

    __slots__ = ("busy", "queue")

    def __init__(self, queue: Queue) -> None:
        self.busy = 0
        self.queue = queue


@final
class Server:
    """One instance of a tier, as a process on a machine of its own.

    It does not know whether a caller still waits, so it works on what has been abandoned: that is what keeps an
    overload alive, and a simulation that cancels such work does not show it.

    `partition` says of a key in which partition it is: each has `workers` and a `queue` of its own.
    """

    def __init__(
        self,
        instance: Instance,
        engine: Engine,
        draw: Callable[[int, int], float],
        *,
        workers: int,
        service_time: ServiceTime,
        queue: Callable[[], Queue],
        partition: Callable[[int], int] | None = None,
        records: Records | None = None,
        handler: Handler | None = None,
        effect: Callable[[Job], object] | None = None,
    ) -> None:
        self.instance = instance
        self.zone = instance.zone
        self.workers = workers
        """Of each partition."""
        self.on_change: Callable[[], object] | None = None
        """Is told when the server becomes reachable, or ceases to be."""
        self.answers = True
        """Whether it reads what it is sent: a black hole accepts, and never answers."""
        self.slowness = 1.0
        """By which factor its work takes longer."""
        self.failing: Callable[[Job], Reply | None] | None = None
        """Says whether a call fails on arrival, and how, without any work."""
        self.failing_takes = 0.001
        """Seconds that such a failure takes."""
        self.silent: Callable[[Job], bool] | None = None
        """Says whether the reply to finished work is lost."""
        self.reports = False
        """Whether the reply to finished work says how busy it is."""
        self.received = self.served = self.wasted = self.refused = 0
        self._reachable = True
        self._engine = engine
        self._draw = draw
        self._quantile = service_time.quantile
        self._new_queue = queue
        self._partition = partition
        self._lanes = {0: _Lane(queue())} if partition is None else dict[int, _Lane]()
        self._running: dict[Job, _Lane] = {}
        self._stopped_at: float | None = None
        self._unread: list[Job] = []
        self._unsaid: list[tuple[Job, Reply]] = []
        self._inside = 0
        self._stayed = self._area = 0.0
        self._looked = engine.now()
        self._records = records
        self._handler = handler
        self._effect = effect
        self._meter: LoadMeter | None = None
        self._found: dict[Job, int] = {}

    @property
    def reachable(self) -> bool:
        """Whether connections to it are accepted."""
        return self._reachable

    @reachable.setter
    def reachable(self, reachable: bool) -> None:
        if reachable != self._reachable:
            self._reachable = reachable
            if self.on_change is not None:
                self.on_change()

    @property
    def queued(self) -> int:
        """Calls that wait for a worker."""
        return len(self._unread) + sum(len(lane.queue) for lane in self._lanes.values())

    @property
    def load(self) -> int:
        """Calls that it works on, and that wait."""
        return len(self._running) + self.queued

    @property
    def stopped(self) -> bool:
        """Whether it stands still."""
        return self._stopped_at is not None

    def call_seconds(self, now: float) -> tuple[float, float]:
        """The call-seconds spent inside until now, as counted from moment to moment and from call to call.

        By Little's law they are the same, or calls were lost or counted twice.
        """
        self._look(now)
        return self._area, self._stayed + self._inside * now

    def _look(self, now: float) -> None:
        """Count what passed since the last change."""
        inside = len(self._running) + len(self._unread)
        for lane in self._lanes.values():
            inside += len(lane.queue)
        self._area += inside * (now - self._looked)
        self._looked = now

    def report(self) -> Load:
        """How many calls are with it, and how long those take that find so many: measured from the first report on."""
        if self._meter is None:
            self._meter = LoadMeter()
            self._meter.in_flight = self._inside - len(self._unread)
        return self._meter.load(self._engine.now(), utilization=len(self._running) / self.workers)

    # -- calls ------------------------------------------------------------------------------------------------------

    def receive(self, job: Job) -> None:
        """Take a call from the network."""
        if not self._reachable:
            self.refused += 1
            job.answer(job, ConnectionRefusedError(f"{self.instance.id} is down"))
            return
        self.received += 1
        if not self.answers:
            return
        now = self._engine.now()
        self._look(now)
        self._inside += 1
        self._stayed -= now
        job.arrived = now
        if self._stopped_at is None:
            self._take(job, now)
        else:
            self._unread.append(job)

    def _take(self, job: Job, now: float) -> None:
        """Decide what becomes of a call."""
        if self.failing is not None and (reply := self.failing(job)) is not None:
            self._count_out(now)
            self._engine.at(now + self.failing_takes, job.answer, job, reply)
            return
        if job.idempotency_key is not None and self._records is not None:
            known = self._records.done.get(job.idempotency_key)
            if known is not None or job.idempotency_key in self._records.running:
                self._count_out(now)
                job.answer(job, _PENDING if known is None else known)
                return
            self._records.running.add(job.idempotency_key)
        if self._meter is not None:
            self._found[job] = self._meter.begin()
        lane = self._lanes[0] if self._partition is None else self._lane(self._partition(job.errand.key))
        if lane.busy < self.workers:
            self._start(job, lane, now)
            return
        refused = lane.queue.push(job, now)
        if refused is not None:
            self._turn_away(refused)

    def _count_out(self, now: float) -> None:
        self._inside -= 1
        self._stayed += now

    def _end(self, job: Job, now: float, *, failed: bool = False) -> None:
        """Measure a call that is over. Of one that came before anybody asked, nobody knows how many it found."""
        if self._meter is not None:
            found = self._found.pop(job, None)
            self._meter.end(found or 0, None if found is None else now - job.arrived, now, failed=failed)

    def _lane(self, partition: int) -> _Lane:
        lane = self._lanes.get(partition)
        if lane is None:
            lane = self._lanes[partition] = _Lane(self._new_queue())
        return lane

    def _turn_away(self, job: Job) -> None:
        now = self._engine.now()
        self._count_out(now)
        self._end(job, now, failed=True)
        self._forget_key(job)
        job.answer(job, _OVERLOADED)

    def _forget_key(self, job: Job) -> None:
        if self._records is not None and job.idempotency_key is not None:
            self._records.running.discard(job.idempotency_key)

    def _start(self, job: Job, lane: _Lane, now: float) -> None:
        takes = self._quantile(self._draw(job.errand.number, job.attempt)) * self.slowness
        job.started = now
        job.finishes = finishes = now + takes
        self._running[job] = lane
        lane.busy += 1
        self._engine.at(finishes, self._worked, job, finishes)

    def _worked(self, job: Job, instant: float) -> None:
        if job.finishes != instant or self._stopped_at is not None or job not in self._running:
            return  # it was held up, or died
        if self._handler is None:
            self._finish(job, _DONE)
        else:
            job.finishes = -math.inf  # nothing of its own is left to be held up
            self._engine.spawn(self._go_on, job, self._handler)

    async def _go_on(self, job: Job, handler: Handler) -> None:
        reply = await handler(job)
        if job not in self._running:
            return
        if self._stopped_at is None:
            self._finish(job, reply)
        else:
            self._unsaid.append((job, reply))

    def _finish(self, job: Job, reply: Reply) -> None:
        now = self._engine.now()
        load = self.report() if self.reports else None
        self._look(now)
        self._count_out(now)
        self._end(job, now, failed=not reply.ok)
        lane = self._running.pop(job)
        lane.busy -= 1
        self.served += 1
        self.wasted += job.left
        if reply.ok and self._effect is not None:
            self._effect(job)
        if self._records is not None and job.idempotency_key is not None:
            self._forget_key(job)
            if reply.ok:
                self._records.done[job.idempotency_key] = reply
        if self.silent is None or not self.silent(job):
            job.answer(job, reply if load is None else reply._replace(load=load))
        self._employ(lane, now)

    def _employ(self, lane: _Lane, now: float) -> None:
        """Give free workers to those who wait."""
        while lane.busy < self.workers and self._stopped_at is None:
            waiting = lane.queue.pop(now, self._turn_away)
            if waiting is None:
                return
            self._start(waiting, lane, now)

    def _employ_all(self, now: float) -> None:
        for lane in self._lanes.values():
            self._employ(lane, now)

    # -- what can happen to it --------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stand still, as in a long pause of a garbage collector or under SIGSTOP.

        Connections are still accepted, and what is sent is read afterwards.
        """
        if self._stopped_at is None:
            self._stopped_at = self._engine.now()

    def go_on(self) -> None:
        """Go on where it stood still."""
        if self._stopped_at is None:
            return
        now = self._engine.now()
        self._look(now)
        lost = now - self._stopped_at
        self._stopped_at = None
        for job in self._running:
            if job.finishes > -math.inf:
                job.finishes += lost
                self._engine.at(job.finishes, self._worked, job, job.finishes)
        unsaid, self._unsaid = self._unsaid, []
        for job, reply in unsaid:
            self._finish(job, reply)
        unread, self._unread = self._unread, []
        for job in unread:
            self._take(job, now)
        self._employ_all(now)

    def die(self) -> None:
        """Lose all that it works on and all that waits; connections break, and new ones are refused.

        What comes back is a new process, which does not stand still even if this one did.
        """
        self.reachable = False
        self._stopped_at = None
        now = self._engine.now()
        self._look(now)
        jobs = [*self._running, *self._unread]
        self._meter = None
        self._found.clear()
        self._running.clear()
        self._unread.clear()
        self._unsaid.clear()
        for lane in self._lanes.values():
            lane.busy = 0
            while (job := lane.queue.pop(now, jobs.append)) is not None:
                jobs.append(job)
        for job in jobs:
            self._count_out(now)
            self._forget_key(job)
            job.answer(job, ConnectionResetError(f"{self.instance.id} died"))

    def resize(self, workers: int) -> None:
        """Have more workers, or fewer as soon as they have finished what they do."""
        now = self._engine.now()
        self._look(now)
        self.workers = workers
        self._employ_all(now)
