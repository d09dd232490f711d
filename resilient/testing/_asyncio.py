"""asyncio in virtual time.

The loop has no file descriptors. Where another loop would wait for the next timer, the clock jumps to exactly
that timer. Where no timer is left, nothing can ever happen again: the tasks are cancelled, and the run is a `Deadlock`.

It relies on private attributes of asyncio (`_scheduled`, `_clock_resolution`, the self-pipe), unchanged since
CPython 3.11, and of anyio (its scopes and its table of idle threads).
"""

from __future__ import annotations

import asyncio
import functools
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import Context
from importlib import import_module
from itertools import count
from typing import Any, NoReturn, TypeVar, TypeVarTuple, Unpack, cast, final

import anyio
from anyio._backends._asyncio import CancelScope

from resilient.testing._replaced import replaced
from resilient.testing.clock import Agenda, Deadlock, ManualClock, describe_deadlock, refusal

__all__ = ["VirtualLoop", "run"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_anyio_asyncio: Any = import_module("anyio._backends._asyncio")  # a private module, so typed as anything


@final
class _Task(asyncio.Task[Any]):
    """A task that hashes by its order of creation.

    asyncio and anyio hold tasks in sets and cancel them in the set's order, which must not depend on addresses.
    """

    __slots__ = ("order",)

    def __init__(self, loop: VirtualLoop, coro: Coroutine[Any, Any, Any], name: str | None = None, **rest: Any) -> None:
        self.order = next(loop.order)  # before asyncio puts the task in its first set
        super().__init__(coro, loop=loop, name=name or f"Task-{self.order}", **rest)

    def __hash__(self) -> int:
        return self.order


@final
class _CancelScope(CancelScope):
    """A scope that hashes by its order of creation, for the reason that tasks do."""

    __slots__ = ("order",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        loop = asyncio.get_running_loop()
        # Another thread may run a real loop while this class stands in for anyio's.
        self.order = next(loop.order) if isinstance(loop, VirtualLoop) else id(self) >> 4
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self.order


@final
class _NoThreads:
    """Stands where anyio keeps its idle worker threads, and refuses to be asked for one."""

    def __bool__(self) -> NoReturn:
        raise refusal("a worker thread")


@final
class _Jump:
    """The loop's selector: without a file to wait for, it moves the clock to the next timer."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.select = loop.turn

    def close(self) -> None:
        pass


@final
class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on `clock`."""

    _clock_resolution: float
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _thread_id: int | None

    def __init__(self, clock: ManualClock, on_step: Callable[[], object] | None = None) -> None:
        super().__init__(cast("Any", _Jump(self)))
        self.order = count(1)
        self._clock = clock
        self._on_step = on_step
        self._agendas: list[Agenda] = []
        self.deadlock: str | None = None
        self.time = clock.now  # type: ignore[method-assign] # the runtime's own function, at its price
        if on_step is not None:
            self.call_soon = self._call_soon_after_step  # type: ignore[method-assign] # costs nothing where not wanted
        self.set_task_factory(cast("Any", _Task))  # its first argument is this loop and no other

    @contextmanager
    def attend(self, agenda: Agenda) -> Generator[None]:
        """Keep the appointments of `agenda` too, in the block."""
        self._agendas.append(agenda)
        try:
            yield
        finally:
            self._agendas.remove(agenda)

    def turn(self, timeout: float | None = None) -> list[Any]:
        """Stand where another loop would wait for files, until its next timer is due."""
        if timeout is None or timeout > 0:  # no callback is ready
            self._jump()
        # Exactly those timers fire that are due now: asyncio fires what is due before now + resolution.
        self._clock_resolution = math.ulp(self.time())
        return []

    def _jump(self) -> None:
        """Move the clock to the next timer, or appointment."""
        if self._on_step is not None:
            self._on_step()
            if self._ready:
                return
        # asyncio takes cancelled timers off the top of its heap before it selects.
        instant = self._scheduled[0].when() if self._scheduled else math.inf
        first: Agenda | None = None
        for agenda in self._agendas:
            if (when := agenda.next()) < instant:
                instant, first = when, agenda
        if instant == math.inf:
            self._unwind()
            return
        self._clock.advance_to(instant)
        if first is not None:
            first.keep(self.time())

    def _unwind(self) -> None:
        """Cancel everything, so that it cleans up."""
        tasks = sorted(asyncio.all_tasks(self), key=hash)
        if self.deadlock is None:
            waiting = [(task.get_name(), task.get_coro()) for task in tasks]
            self.deadlock = describe_deadlock(self.time(), waiting)
        for task in tasks:
            task.cancel()

    def _call_soon_after_step(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        assert self._on_step is not None
        super().call_soon(self._on_step)
        return super().call_soon(callback, *args, context=context)

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Schedule `callback` from a signal handler or a finalizer; another thread is refused."""
        if self._thread_id not in (None, threading.get_ident()):
            raise refusal("a call from another thread")
        return self.call_soon(callback, *args, context=context)

    # asyncio's channel for being woken up by other threads.

    def _make_self_pipe(self) -> None:
        pass

    def _close_self_pipe(self) -> None:
        pass


def _refuse(method: str, what: str) -> None:
    def refused(*_: object, **__: object) -> NoReturn:
        raise refusal(f"{what} (loop.{method})")

    setattr(VirtualLoop, method, refused)


_REFUSED = {
    "a socket": (
        "add_reader add_writer connect_accepted_socket create_connection create_datagram_endpoint create_server "
        "create_unix_connection create_unix_server getaddrinfo getnameinfo sendfile sock_accept sock_connect sock_recv "
        "sock_recv_into sock_recvfrom sock_recvfrom_into sock_sendall sock_sendfile sock_sendto start_tls"
    ),
    "a pipe": "connect_read_pipe connect_write_pipe",
    "a subprocess": "subprocess_exec subprocess_shell",
    "a worker thread": "run_in_executor",
    "a signal handler": "add_signal_handler",
}
for _what, _methods in _REFUSED.items():
    for _method in _methods.split():
        _refuse(_method, _what)


def run(main: Callable[[], Awaitable[T]], clock: ManualClock, on_step: Callable[[], object] | None) -> T:
    """Run `main` to its end on a loop of its own."""
    loop = VirtualLoop(clock, on_step)

    @functools.wraps(main, updated=())  # the name of its task in a dump
    async def guarded() -> T:
        _anyio_asyncio._threadpool_idle_workers.set(_NoThreads())
        _anyio_asyncio._threadpool_workers.set(_NoThreads())
        return await main()

    try:
        # The same class but for its hash, so real loops in other threads may use it meanwhile.
        with replaced(_anyio_asyncio, CancelScope=_CancelScope):
            return anyio.run(guarded, backend="asyncio", backend_options={"loop_factory": lambda: loop})
    finally:
        loop.close()  # where the run was refused, nobody else has
        if loop.deadlock is not None:  # whatever else came of it
            raise Deadlock(loop.deadlock)
