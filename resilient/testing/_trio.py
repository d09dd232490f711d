"""trio in virtual time.

When trio is idle, the clock jumps to exactly the next deadline, instead of trio waiting for it. trio's own
`MockClock` does nearly that, but spins for ever in a deadlock and lets sockets and threads through. Trio shuffles
tasks that are ready at the same moment; here a seeded generator does, so that the seed decides the schedule.

It relies on private names of trio: the run's I/O manager, and the switch and the generator of its scheduler.
"""

from __future__ import annotations

import functools
import math
import random
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn, TypeVar, final

import trio

from resilient.testing._replaced import replaced
from resilient.testing.clock import Agenda, Deadlock, ManualClock, describe_deadlock, refusal

__all__ = ["run"]

T = TypeVar("T")

# Private modules, so typed as what they are to us: anything.
_trio_run: Any = import_module("trio._core._run")
_trio_threads: Any = import_module("trio._threads")

_one_at_a_time = threading.RLock()  # reentrant, so that trio itself can refuse a run within a run
"""Trio's scheduler switch is global, so runs in several threads take turns."""


@final
class _VirtualClock(trio.abc.Clock):
    """Trio's clock, which also stands in front of its I/O manager: where that would wait, the clock jumps.

    What trio itself needs for asynchronous generators and Ctrl-C goes through; other code may not wait for I/O.
    """

    def __init__(self, clock: ManualClock, on_step: Callable[[], object] | None) -> None:
        self._clock = clock
        self._on_step = on_step
        self._agendas: list[Agenda] = []
        self.scope = trio.CancelScope()
        self.deadlock: str | None = None

    def start_clock(self) -> None:
        self._runner: Any = _trio_run.GLOBAL_RUN_CONTEXT.runner
        self._inner = self._runner.io_manager
        self._runner.io_manager = self

    def current_time(self) -> float:
        return self._clock.now()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self._clock.now()

    def get_events(self, timeout: float) -> Any:
        events = self._inner.get_events(0)
        if timeout > 0 and not events and not self._runner.waiting_for_idle:
            self._jump()
        return events

    @contextmanager
    def attend(self, agenda: Agenda) -> Generator[None]:
        """Keep the appointments of `agenda` too, in the block."""
        self._agendas.append(agenda)
        try:
            yield
        finally:
            self._agendas.remove(agenda)

    def _jump(self) -> None:
        """Move the clock to the next deadline, or appointment."""
        if self._on_step is not None:
            self._on_step()
            if self._runner.runq:
                return
        instant = self._runner.deadlines.next_deadline()
        first: Agenda | None = None
        for agenda in self._agendas:
            if (when := agenda.next()) < instant:
                instant, first = when, agenda
        if instant == math.inf:
            self._unwind()
            return
        self._clock.advance_to(instant)
        if first is not None:
            first.keep(self._clock.now())

    async def wait_readable(self, fd: Any) -> None:
        if fd is not self._runner.entry_queue.wakeup.wakeup_sock:
            raise refusal("waiting for a file descriptor")
        await self._inner.wait_readable(fd)

    async def wait_writable(self, _fd: Any) -> NoReturn:
        raise refusal("waiting for a file descriptor")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _unwind(self) -> None:
        """Cancel everything, through shields too: nothing else can end what they protect."""
        tasks = sorted(_family(self._runner.init_task), key=lambda task: task._counter)
        if self.deadlock is None:
            # Trio's own tasks, which always wait, have names like <init>.
            waiting = [(task.name, task.coro) for task in tasks if not task.name.startswith("<")]
            self.deadlock = describe_deadlock(self._clock.now(), waiting)
        self.scope.cancel()
        for task in tasks:
            status = task._cancel_status
            while status is not None:
                status._scope.shield = False
                status = status._parent


def _family(task: Any) -> Iterator[Any]:
    """The task and all tasks below it."""
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _family(child)


@final
class _Steps(trio.abc.Instrument):
    def __init__(self, on_step: Callable[[], object]) -> None:
        self._on_step = on_step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._on_step()


def run(main: Callable[[], Awaitable[T]], clock: ManualClock, seed: int, on_step: Callable[[], object] | None) -> T:
    """Run `main` to its end on a trio of its own."""
    virtual = _VirtualClock(clock, on_step)
    here = threading.get_ident()
    start_thread_soon = _trio_threads.start_thread_soon

    def start_elsewhere(*args: Any, **kwargs: Any) -> None:
        if threading.get_ident() == here:
            raise refusal("a worker thread")
        start_thread_soon(*args, **kwargs)

    @functools.wraps(main, updated=())  # the name of its task in a dump
    async def guarded() -> T:
        with virtual.scope:
            return await main()
        raise AssertionError("only a deadlock cancels the scope")

    instruments = [] if on_step is None else [_Steps(on_step)]
    scheduler = replaced(_trio_run, _ALLOW_DETERMINISTIC_SCHEDULING=True, _r=random.Random(f"{seed}:trio"))
    try:
        with _one_at_a_time, scheduler, replaced(_trio_threads, start_thread_soon=start_elsewhere):
            return trio.run(guarded, clock=virtual, instruments=instruments)
    finally:
        if virtual.deadlock is not None:  # whatever else came of it
            raise Deadlock(virtual.deadlock)
