"""Runs the health checks of one service."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import final

import anyio
from anyio.abc import TaskGroup

from resilient.balancing.balancer import Balancer
from resilient.balancing.health import CheckFailed, HealthCheck
from resilient.events import Event
from resilient.instance import Instance
from resilient.machines.health import Health
from resilient.runtime import Runtime

__all__ = ["Checking"]


@final
class Checking:
    """One task an instance, in the task group of whoever keeps the service up to date; they end with it.

    Used in one event loop. `announce` is given what came of the checks.
    """

    def __init__(
        self,
        rule: HealthCheck,
        balancer: Balancer,
        tasks: TaskGroup,
        runtime: Callable[[], Runtime],
        announce: Callable[[Iterable[Event]], None],
    ) -> None:
        self._rule = rule
        self._balancer = balancer
        self._tasks = tasks
        self._runtime = runtime
        self._announce = announce
        self._places = anyio.Semaphore(rule.concurrency)
        self._watched: dict[str, tuple[Instance, anyio.CancelScope]] = {}
        self._busy = False
        self._busy_until = 0.0

    def follow(self, instances: Iterable[Instance]) -> None:
        """Check these from now on, and no others. Who is elsewhere now is checked anew."""
        there = {instance.id: instance for instance in instances}
        for name, (instance, scope) in list(self._watched.items()):
            if name not in there or _elsewhere(instance, there[name]):
                scope.cancel()
                del self._watched[name]
                self._tell(name, None)  # if nobody asks it any more, nobody notices that it is well again
        for name, instance in there.items():
            if name not in self._watched:
                scope = anyio.CancelScope()
                self._watched[name] = instance, scope
                self._tasks.start_soon(self._watch, instance, scope)

    def stop(self) -> None:
        """Learn nothing more, and take back what was found; whoever has the task group cancels it."""
        # Not the single tasks too: with both, anyio's task group on asyncio may swallow a cancellation from outside.
        watched, self._watched = self._watched, {}
        for name in watched:
            self._tell(name, None)

    async def _watch(self, instance: Instance, scope: anyio.CancelScope) -> None:
        """Check one instance for ever."""
        rule, runtime, health = self._rule, self._runtime(), self._rule.health()
        with scope:
            await runtime.sleep(rule.interval * runtime.random())
            while True:
                async with self._places:
                    era, (problem, certain) = self._balancer.era(instance.id), await self._ask(instance)
                if self._watched.get(instance.id, (None, None))[1] is not scope:  # while the answer was on its way
                    return
                self._learn(instance.id, health, problem, certain=certain, era=era)
                await self._rest(runtime)

    async def _rest(self, runtime: Runtime) -> None:
        """Wait for the next check: until there are calls, or for the interval of those without."""
        rule = self._rule
        until = runtime.now() + rule.idle_interval
        while True:
            await runtime.sleep(rule.interval * (1.0 + rule.jitter * runtime.random()))
            if runtime.now() >= until or self._is_busy(runtime.now()):
                return

    def _is_busy(self, now: float) -> bool:
        """Whether the service is called; looked for at most once a second, since it looks at every instance."""
        if now >= self._busy_until:
            self._busy = self._balancer.busy(now)
            self._busy_until = now + 1.0
        return self._busy

    def _learn(self, instance: str, health: Health, problem: str | None, *, certain: bool, era: int | None) -> None:
        """Count what a check came to, and tell the balancer."""
        if problem is None:
            health.succeed()
        else:
            health.fail(certain=certain)
        if health.state == "unhealthy" and problem is not None:
            self._tell(instance, problem)
        elif health.state == "healthy" and problem is None:
            self._tell(instance, None, restore=era if self._rule.restores else None)

    def _tell(self, instance: str, problem: str | None, *, restore: int | None = None) -> None:
        runtime = self._runtime()
        self._announce(self._balancer.check(instance, problem, runtime.now(), runtime.random, restore=restore))

    async def _ask(self, instance: Instance) -> tuple[str | None, bool]:
        """What is wrong with the instance, None if nothing is, and whether that is certain."""
        with anyio.move_on_after(self._rule.timeout) as scope:
            try:
                answer = await self._rule.check(instance)
            except CheckFailed as failure:
                return str(failure), failure.certain
            except Exception as error:  # noqa: BLE001 - whatever a check raises, it did not succeed
                return f"{type(error).__name__}: {error}".removesuffix(": "), False
            return ("its check returned False", False) if answer is False else (None, False)
        assert scope.cancelled_caught
        return f"no answer within {self._rule.timeout:g} s", False


def _elsewhere(one: Instance, other: Instance) -> bool:
    return (one.host, one.port) != (other.host, other.port)
