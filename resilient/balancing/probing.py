"""Ask instances how busy they are, beside the calls."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TypeAlias, final, runtime_checkable

import anyio

from resilient.context import current_runtime
from resilient.instance import Instance
from resilient.machines.load import Load
from resilient.runtime import Runtime
from resilient.waiting import Waiter, loop_waiter

if TYPE_CHECKING:
    from resilient.balancing.balancer import Balancer

__all__ = ["Asking", "Probe", "Probing"]

_log = logging.getLogger("resilient")
_CLOSING = 1.0
_ALL_FAIL = 100

Probe: TypeAlias = Callable[[Instance], Awaitable[Load]]
"""Asks one instance how busy it is."""


@runtime_checkable
class Asking(Protocol):
    """A picker whose machine is a `Prober`."""

    @property
    def probe(self) -> Probe | None:
        """How instances are asked; None: over HTTP, by the transport."""
        ...

    @property
    def path(self) -> str:
        """Where they are asked over HTTP."""
        ...

    @property
    def timeout(self) -> float:
        """After how many seconds an answer is no longer waited for."""
        ...

    @property
    def at_once(self) -> int:
        """How many may be asked at the same time."""
        ...


@final
class Probing:
    """Sends the probes of a balancer's picker, in the background: no call ever waits for one.

    A `Service` runs it while it is open. With a `Balancer` of your own, run it yourself:
    `task_group.start_soon(balancer.probing.run)`. An instance is asked once at a time, and no more than `at_once` of
    them; what is beyond that is dropped, and so is an answer that takes longer than `timeout`.
    """

    __slots__ = (
        "_asked",
        "_balancer",
        "_failures",
        "_idle",
        "_short",
        "_wanted",
        "_workers",
        "ask",
        "at_once",
        "path",
        "timeout",
    )

    def __init__(self, balancer: Balancer, rule: Asking) -> None:
        self.ask = rule.probe
        """How an instance is asked. Where the picker does not say, an HTTP transport does; None: nobody does yet."""
        self.path = rule.path
        self.timeout = rule.timeout
        self.at_once = rule.at_once
        self._balancer = balancer
        self._wanted: deque[Instance] = deque(maxlen=rule.at_once)
        self._asked: set[str] = set()
        self._workers = 0
        self._idle: deque[Waiter] = deque()
        """Workers that have nothing to do, the last one first."""
        self._short: Waiter | None = None
        """To be woken where there are too few of them."""
        self._failures = 0
        """In a row."""

    def want(self, instances: Iterable[Instance]) -> None:
        """Have these asked soon. It may be called from any thread and any event loop."""
        for instance in instances:
            self._wanted.append(instance)
            try:
                waiter = self._idle.pop()
            except IndexError:
                short = self._short
                if short is not None and self._workers < self.at_once:
                    short.wake()
            else:
                waiter.wake()

    async def run(self, runtime: Runtime | None = None) -> None:
        """Ask those that are wanted, until cancelled."""
        runtime = runtime or current_runtime()
        try:
            async with anyio.create_task_group() as tasks:
                while True:
                    self._short = short = loop_waiter()  # before the look at what is wanted: nothing is overlooked
                    for _ in range(min(len(self._wanted), self.at_once - self._workers)):
                        self._workers += 1
                        tasks.start_soon(self._work, runtime)
                    await short.wait(math.inf)
        finally:
            self._short = None
            self._workers = 0
            self._idle.clear()
            self._wanted.clear()
            self._asked.clear()
            close = getattr(self.ask, "aclose", None)
            if close is not None:
                with anyio.move_on_after(_CLOSING, shield=True):
                    await close()

    async def _work(self, runtime: Runtime) -> None:
        """Ask one after the other. A task for each probe would cost more than the probe."""
        while True:
            with suppress(IndexError):  # another worker may be quicker
                while True:
                    instance = self._wanted.popleft()
                    if instance.id not in self._asked:
                        await self._probe(instance, runtime)
            waiter = loop_waiter()
            self._idle.append(waiter)
            if not self._wanted:
                await waiter.wait(math.inf)
            with suppress(ValueError):  # whoever woke it has taken it out
                self._idle.remove(waiter)

    async def _probe(self, instance: Instance, runtime: Runtime) -> None:
        ask = self.ask
        problem: object = f"no answer within {self.timeout:g} s"
        load: object = None
        self._asked.add(instance.id)
        try:
            if ask is None:
                problem = "nobody knows how to ask them"
            else:
                with anyio.move_on_after(self.timeout):
                    load = await ask(instance)
        except Exception as error:  # noqa: BLE001 - logged below; the next one may succeed
            problem = error
        finally:
            self._asked.discard(instance.id)
        if isinstance(load, Load):
            self._failures = 0
            self._balancer.answered(instance, load, runtime.now(), runtime.random)
            return
        if load is not None:
            problem = f"it returned {load!r}, not a Load"
        self._failures += 1
        if self._failures == _ALL_FAIL:
            # Single ones fail where an instance does; all of them, where instances are not asked as they expect.
            _log.warning(
                "%s: of %d probes none was answered, so the choice is random; the last one, of %s: %s",
                self._balancer.name,
                _ALL_FAIL,
                instance.id,
                problem,
            )
