"""Ask a second instance when the first one is slow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast, final

import anyio
from anyio.abc import TaskGroup

from resilient.call import Call, Next, Policy
from resilient.events import HedgeStarted, send_event
from resilient.policies.base import OwnPolicy, Role
from resilient.verdict import Outcome

__all__ = ["Hedge"]

_CLOSING = 1.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Hedge(OwnPolicy):
    """Send another attempt when no answer came within `delay` seconds, and take the first success.

    It trades a little load for a much shorter tail: with `delay` at the 95th percentile of latency, one call in
    twenty is sent twice (Dean and Barroso, "The Tail at Scale", 2013). At most `max_hedges` (1) extra attempts
    a call; each is paid from the call's retry budget, and an empty budget means no hedge. Attempts of one call
    go to different instances.

    Only repeatable calls are hedged. The first *success* wins, not the first end: a fast failure does not beat
    a slow success. An attempt that fails before `delay` is left to `Retry`. The losers are cancelled and
    awaited before the call returns; when all fail, the attempt that may have had an effect is what surfaces.

    Needs an event loop, so a plain function cannot be hedged, and neither can an async generator, which may not move
    between tasks. Raises `ValueError` unless `delay` is finite and positive and `max_hedges` at least 1.
    """

    delay: float = field(kw_only=False)
    max_hedges: int = 1
    role: ClassVar[Role] = Role.HEDGE
    stateful: ClassVar[bool] = False
    needs_loop: ClassVar[str | None] = "it runs attempts at the same time"
    moves_tasks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.delay) and self.delay > 0):
            raise ValueError(f"delay={self.delay!r}: a finite number of seconds, more than 0")
        if self.max_hedges < 1:
            raise ValueError(f"max_hedges={self.max_hedges!r}: extra attempts a call, at least 1")

    def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
        """Race attempts of `nxt`."""
        del below

        async def layer(call: Call) -> Any:
            if not call.repeatable:
                return await nxt(call)
            return await _Race(self, call, nxt).run()

        return layer


@final
class _Race:
    """The attempts of one call that run at the same time."""

    __slots__ = ("call", "ended", "hedge", "nxt", "quiet")

    def __init__(self, hedge: Hedge, call: Call, nxt: Next[Any]) -> None:
        self.hedge = hedge
        self.call = call
        self.nxt = nxt
        self.quiet = anyio.Event()
        """An attempt has ended: no more are started."""
        self.ended: list[tuple[Call, Outcome]] = []

    async def run(self) -> Any:
        try:
            taken = await self._race()
            await self._discard_all_but(taken)
        except BaseException:  # nobody is left to take a result
            await self._discard_all_but(None)
            raise
        if taken.error is not None:
            raise taken.error
        return taken.result

    async def _race(self) -> Outcome:
        """The first success; without one, an attempt that may have had an effect."""
        try:
            async with anyio.create_task_group() as tasks:
                await self._start_attempts(tasks)
        except BaseExceptionGroup as group:
            # Attempts keep their Exceptions to themselves: what escapes is an interpreter that is going down.
            raise _leaf(group) from None
        outcomes = [outcome for _, outcome in self.ended]
        good = (outcome for outcome in outcomes if outcome.verdict.good)
        unknown = (outcome for outcome in outcomes if outcome.verdict.unknown)
        return next(good, None) or next(unknown, None) or outcomes[-1]

    async def _start_attempts(self, tasks: TaskGroup) -> None:
        call = self.call
        tasks.start_soon(self._attempt, call.evolve(attempt=call.attempt), tasks)
        for extra in range(1, self.hedge.max_hedges + 1):
            with anyio.move_on_after(self.hedge.delay):
                await self.quiet.wait()
            now = call.runtime.now()
            if self.quiet.is_set() or _spent(call) or (call.budget is not None and not call.budget.withdraw(now)):
                return
            if call.runtime.emit is not None:
                send_event(call.runtime.emit, HedgeStarted(at=now, name=call.name, attempt=call.attempt + extra))
            tasks.start_soon(self._attempt, call.evolve(attempt=call.attempt + extra), tasks)

    async def _attempt(self, attempt: Call, tasks: TaskGroup) -> None:
        error: Exception | None = None
        result: Any = None
        try:
            result = await self.nxt(attempt)
        except Exception as caught:  # noqa: BLE001 - it is judged like any outcome
            error = caught
        except BaseException as over:
            attempt.finish(over, upto=self.call)
            raise
        classify = attempt.classify
        outcome = classify.judge_result(result) if error is None else classify.judge_error(error)
        self.ended.append((attempt, outcome))
        if outcome.verdict.good:
            tasks.cancel_scope.cancel()
        self.quiet.set()

    async def _discard_all_but(self, taken: Outcome | None) -> None:
        for ended in self.ended.copy():
            if taken is None or taken.error is not None or ended[1] is not taken:
                self.ended.remove(ended)
                await self._discard(*ended)

    async def _discard(self, attempt: Call, outcome: Outcome) -> None:
        """Close what an attempt left behind, whatever becomes of the caller meanwhile."""
        try:
            if outcome.error is None:
                with anyio.move_on_after(_CLOSING, shield=True):
                    await attempt.classify.discard(outcome.result)
        finally:
            attempt.finish(outcome.error, upto=self.call)


def _spent(call: Call) -> bool:
    """Whether the first attempt uses up what a second one would need: a body that can be read once."""
    return call.classify.spent is not None and call.classify.spent(call.request) is not None


def _leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What is no cancellation in the group, or else the first of them."""
    serious = group.split(anyio.get_cancelled_exc_class())[1] or group
    first = serious.exceptions[0]
    return _leaf(cast("BaseExceptionGroup[BaseException]", first)) if isinstance(first, BaseExceptionGroup) else first
