"""The attempts of a hedged call, which run at the same time.

The first one runs in the caller's own task. What starts the others differs: on asyncio an alarm, so that a call whose
first attempt answers in time costs a list entry and no task; on trio a nursery. What the attempts come to, what
surfaces and what is closed is the same on both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, cast, final

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from resilient.call import Call, Next
from resilient.deadline import Alarm, deadlines_here
from resilient.events import HedgeStarted, send_event
from resilient.verdict import Outcome, Verdict

__all__ = ["Terms", "race"]

_CLOSING = 1.0
"""Seconds in which a result that nobody gets has to be closed."""
_AGAIN = 0.05
"""Seconds after which a caller is looked at again that somebody else is cancelling."""


class Terms(NamedTuple):
    """Under which terms other attempts follow the first one."""

    delay: float
    """Seconds between two."""
    max_hedges: int
    refusing: tuple[Callable[[Call], bool], ...]
    """Each tells whether a policy below turns such calls away at the moment."""


async def race(terms: Terms, call: Call, nxt: Next[Any]) -> Any:
    """Make the call's first attempt, and others if it takes too long; return or raise what surfaces."""
    deadlines = deadlines_here()
    task = None if deadlines is None else asyncio.current_task(deadlines.loop)
    if deadlines is None or task is None:
        return await _race_in_a_nursery(_Attempts(terms, call, nxt))
    first = call.evolve(attempt=call.attempt)
    later = _Later(deadlines.clock() + terms.delay, task, terms, call, nxt)
    deadlines.watch(later)
    error: BaseException | None = None
    result: Any = None
    try:
        result = await nxt(first)
    except BaseException as caught:
        contest = later.leave()
        if contest is None:
            first.finish(caught, upto=call)
            raise
        error = caught
    else:
        contest = later.leave()
        if contest is None:
            return result
    try:
        return await contest.decide(task, first, result, error)
    finally:
        del error  # this frame is in its traceback: the two would keep each other alive


class _Ended(NamedTuple):
    attempt: Call
    outcome: Outcome


@final
class _Attempts:
    """What the attempts of one call come to, and what the call comes to by that."""

    __slots__ = ("begun", "call", "ended", "nxt", "over", "terms")

    def __init__(self, terms: Terms, call: Call, nxt: Next[Any]) -> None:
        self.terms = terms
        self.call = call
        self.nxt = nxt
        self.begun = 0
        """How many followed the first one."""
        self.ended: list[_Ended] = []
        """In the order of their ends. What was only cancelled is not among them."""
        self.over: BaseException | None = None
        """What ends the call whatever its attempts come to: its caller's cancellation, an exit of the interpreter."""

    @property
    def decided(self) -> bool:
        """Whether it no longer matters what comes of the attempts that still run."""
        return self.over is not None or any(outcome.verdict.good for _, outcome in self.ended)

    def begin(self) -> Call | None:
        """Another attempt, paid for and announced; None where there is to be none."""
        call = self.call
        now = call.runtime.now()
        if self.ended or self.over is not None or self.begun == self.terms.max_hedges:
            return None
        if call.deadline is not None and call.deadline <= now:
            return None
        try:
            if _spent(call) or any(refusing(call) for refusing in self.terms.refusing):
                return None
            if call.budget is not None and not call.budget.withdraw(now):
                return None
        except Exception as error:  # noqa: BLE001 - it surfaces in the caller
            self.give_up(error)
            return None
        self.begun += 1
        number = call.attempt + self.begun
        if call.runtime.emit is not None:
            send_event(call.runtime.emit, HedgeStarted(at=now, name=call.name, attempt=number))
        return call.evolve(attempt=number)

    async def make(self, attempt: Call) -> None:
        """Make an attempt and judge it. An exit ends the call, an error of judging too; a cancellation is raised."""
        error: BaseException | None = None
        rest: BaseException | None = None
        result: Any = None
        try:
            result = await self.nxt(attempt)
        except BaseException as caught:  # noqa: BLE001 - it is judged
            error = caught
        try:
            rest = self.judge(attempt, result, error)
            if rest is None:
                return
            if _is_cancellation(rest):
                raise rest
            self.give_up(rest)
        finally:
            del error, rest  # this frame is in their tracebacks: they would keep each other alive

    def judge(self, attempt: Call, result: Any, error: BaseException | None) -> BaseException | None:
        """Judge an attempt that ended; return what of its error is no outcome."""
        failure, rest = _split(error)
        try:
            if failure is not None:
                outcome = attempt.classify.judge_error(failure)
            elif rest is None:
                outcome = attempt.classify.judge_result(result)
            else:
                attempt.finish(rest, upto=self.call)
                return rest
        except Exception as broken:  # noqa: BLE001 - it surfaces in the caller
            self.give_up(broken)
            outcome = Outcome(result, failure or rest, Verdict.CANCELLED)
        self.ended.append(_Ended(attempt, outcome))
        return rest

    def give_up(self, over: BaseException) -> None:
        """Let the call end with `over`, unless something as serious has ended it before."""
        if self.over is None or _rank(over) > _rank(self.over):
            self.over = over

    async def surface(self) -> Any:
        """Return or raise what the caller gets, once the rest is closed, whatever becomes of the caller meanwhile."""
        taken = self._best() if self.over is None else None
        returned = taken if taken is not None and taken.outcome.error is None else None
        left = [ended for ended in self.ended if ended is not returned]
        while left:
            try:
                await self._discard(*left.pop(0))
            except BaseException as over:  # noqa: BLE001 - it surfaces when all are closed
                self.give_up(over)
                if returned is not None:  # nobody is left to take it
                    left.append(returned)
                    returned = None
        if returned is not None:
            return returned.outcome.result
        error = self.over if self.over is not None or taken is None else taken.outcome.error
        assert error is not None
        try:
            raise error
        finally:
            # This frame, which the error has in its traceback, refers to what refers to the error.
            self.over, self.ended = None, []
            del error, taken

    def _best(self) -> _Ended:
        """The first success; without one, the first that may have had an effect, or else the last one."""
        good = (ended for ended in self.ended if ended.outcome.verdict.good)
        unknown = (ended for ended in self.ended if ended.outcome.verdict.unknown)
        return next(good, None) or next(unknown, None) or self.ended[-1]

    async def _discard(self, attempt: Call, outcome: Outcome) -> None:
        try:
            if outcome.error is None:
                with anyio.move_on_after(_CLOSING, shield=True):
                    await attempt.classify.discard(outcome.result)
        finally:
            attempt.finish(outcome.error, upto=self.call)


def _spent(call: Call) -> bool:
    """Whether the first attempt uses up what a second one would need: a body that can be read once."""
    return call.classify.spent is not None and call.classify.spent(call.request) is not None


def _parts(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """What of an error is a cancellation, and what is something else."""
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).split(cancelled)
    return (error, None) if isinstance(error, cancelled) else (None, error)


def _is_cancellation(error: BaseException) -> bool:
    return _parts(error)[1] is None


def _rank(error: BaseException) -> int:
    """An exit of the interpreter goes before a cancellation, and that before an error."""
    return 0 if isinstance(error, Exception) else 1 if _is_cancellation(error) else 2


def _split(error: BaseException | None) -> tuple[Exception | None, BaseException | None]:
    """What of an error is a failure, and what is no outcome."""
    if error is None or isinstance(error, Exception):
        return error, None
    cancelled, failure = _parts(error)
    if cancelled is not None and isinstance(failure, Exception):
        return failure, cancelled  # of an attempt whose children were cancelled, some failed on their way out
    return None, error


@final
class _Later(Alarm):
    """Begins a contest when the first attempt takes too long."""

    __slots__ = ("call", "cancelling", "contest", "nxt", "terms")

    def __init__(self, when: float, task: asyncio.Task[Any], terms: Terms, call: Call, nxt: Next[Any]) -> None:
        super().__init__(when, task)
        self.cancelling = task.cancelling()
        self.terms = terms
        self.call: Call | None = call
        self.nxt = nxt
        self.contest: _Contest | None = None

    def leave(self) -> _Contest | None:
        """Tell the contest, if one has begun; the first attempt has ended, and none begins any more."""
        self.task = self.context = self.call = None
        return self.contest

    def ring(self) -> None:
        """Begin the second attempt."""
        if self.call is None or self.task is None:  # the first one ended when this was about to be called
            return
        contest = _Contest(_Attempts(self.terms, self.call, self.nxt), self.task, self.cancelling)
        contest.begin()
        if contest.attempts.begun or contest.attempts.over is not None:
            self.contest = contest


@final
class _Contest:
    """The attempts of a call on asyncio: the first one in its caller's task, each other in a task of its own.

    Once one of them has won, the tasks of the others are cancelled; the caller's takes that back, as `asyncio.timeout`
    does it. Each is cancelled once, and not while somebody else is cancelling it: that would hit what it cleans up.
    """

    __slots__ = ("attempts", "cancelling", "others", "timer", "untold")

    def __init__(self, attempts: _Attempts, task: asyncio.Task[Any], cancelling: int) -> None:
        self.attempts = attempts
        self.cancelling = cancelling
        """How many cancellations of its caller's task others had asked for when the call began."""
        self.others: list[asyncio.Task[None]] = []
        self.untold: dict[asyncio.Task[Any], int] = {task: cancelling}
        """The tasks whose attempts were not told to end, each with the number of cancellations that it began with."""
        self.timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Begin another attempt, if there is to be one."""
        attempts = self.attempts
        attempt = attempts.begin()
        if attempt is None:
            if attempts.over is not None:
                self._end_all()
            return
        loop = asyncio.get_running_loop()
        if attempts.begun < attempts.terms.max_hedges:
            self.timer = loop.call_later(attempts.terms.delay, self.begin)
        task = loop.create_task(self._compete(attempt))
        self.others.append(task)
        self.untold[task] = 0

    async def _compete(self, attempt: Call) -> None:
        with suppress(BaseExceptionGroup):  # a group of nothing but cancellations
            await self.attempts.make(attempt)
        if self.attempts.decided:
            self._end_all()

    def _end_all(self) -> None:
        """Tell the attempts that still run to end: now, or when nobody else does any more."""
        for task, cancelling in [*self.untold.items()]:
            if task.cancelling() <= cancelling:
                del self.untold[task]
                task.cancel()  # also the winner's, which is about to end
        self._stop_the_timer()
        if self.untold:
            self.timer = asyncio.get_running_loop().call_later(_AGAIN, self._end_all)

    def _stop_the_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()

    async def decide(self, task: asyncio.Task[Any], first: Call, result: Any, error: BaseException | None) -> Any:
        """Wait for a success or for all to fail; then for the losers, whom nobody else waits for."""
        attempts = self.attempts
        try:
            await self._judge_the_first(task, first, result, error)
            while not attempts.decided and (running := self._running()):
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        except BaseException as over:  # noqa: BLE001 - it surfaces when all have ended
            attempts.give_up(over)
        finally:
            del error
        self._end_all()
        # A cancelled scope of anyio around the caller would cancel this wait again and again.
        with anyio.CancelScope(shield=True):
            while running := self._running():
                try:
                    await asyncio.wait(running)
                except asyncio.CancelledError as over:
                    attempts.give_up(over)
        self._stop_the_timer()
        return await attempts.surface()

    async def _judge_the_first(
        self, task: asyncio.Task[Any], first: Call, result: Any, error: BaseException | None
    ) -> None:
        told = self.untold.pop(task, None) is None
        ours = told and task.uncancel() <= self.cancelling
        rest = self.attempts.judge(first, result, error)
        cancelled = rest is not None and _is_cancellation(rest)
        if told and not ours:
            # Its caller cancelled it as well, and asyncio made one error of both, which the attempt may even have kept
            # to itself. A scope of anyio asks again, and knows only its own error; others do not.
            await anyio.lowlevel.checkpoint()
            self.attempts.give_up(error if error is not None and cancelled else asyncio.CancelledError())
        elif error is not None and rest is not None and not (ours and cancelled):
            self.attempts.give_up(error)

    def _running(self) -> list[asyncio.Task[None]]:
        return [task for task in self.others if not task.done()]


async def _race_in_a_nursery(attempts: _Attempts) -> Any:
    """Make the attempts of a call on trio: the first one in its caller's task, the others in a nursery."""
    ended = anyio.Event()

    async def compete(attempt: Call, tasks: TaskGroup) -> None:
        await attempts.make(attempt)
        ended.set()
        if attempts.decided:
            tasks.cancel_scope.cancel()

    async def begin_others(tasks: TaskGroup) -> None:
        while True:
            with anyio.move_on_after(attempts.terms.delay):
                await ended.wait()
            attempt = attempts.begin()
            if attempt is None:
                break
            tasks.start_soon(compete, attempt, tasks)
        if attempts.over is not None:
            tasks.cancel_scope.cancel()

    call = attempts.call
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(begin_others, tasks)
            await compete(call.evolve(attempt=call.attempt), tasks)
    except BaseException as over:  # noqa: BLE001 - it surfaces when all results are closed
        attempts.give_up(over)
    return await attempts.surface()
