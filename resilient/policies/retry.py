"""Try again what may be tried again."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast, final

from resilient.budget import RetryBudget
from resilient.call import Call, Next, Policy
from resilient.errors import OutcomeUnknown
from resilient.events import RetriesExhausted, RetryScheduled, send_event
from resilient.machines.backoff import Backoff
from resilient.machines.budget import DEPOSITS
from resilient.policies.base import OwnPolicy, Role
from resilient.policies.tenacious import Tenacious, is_tenacious, judges_results
from resilient.verdict import Effect, Outcome, Repeat, Verdict
from resilient.waiting import pause

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState, Retrying
    from tenacity.retry import retry_base
    from tenacity.stop import stop_base
    from tenacity.wait import wait_base

__all__ = ["Backoff", "On", "Retry", "RetryBudget"]

On: TypeAlias = "type[Exception] | tuple[type[Exception], ...] | Callable[[Any], bool | Awaitable[bool]] | retry_base"

_ATTEMPTS = 3
_NO = Repeat.NO  # by itself: on 3.11 to look up a member of an enumeration takes as long as a layer
_HINT_CAP = 60.0
_HINT_JITTER = 0.1
_MARK = "__resilient_given_up__"
_NOT_AGAIN = "resilient: not tried again: "
_NO_EFFECT = "resilient: a later attempt had no effect: "


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Retry(OwnPolicy):
    """Make up to `attempts` attempts, where trying again is safe and there is time, room and hope for it.

    What may be repeated is decided by the verdict of the classifier. What certainly did not run (a refused
    connection, a 429) is tried again; what may have run only if the call is repeatable: by its HTTP method, an
    honoured idempotency key, or `options(idempotent=True)`. A rejection of our own and a cancellation never
    are.

    `attempts`
        3, the first one included. More seldom helps: what failed three times is down, not unlucky. With 1 this policy
        does nothing.
    `on`
        What to retry instead of what the verdict says: exception types, a predicate that gets the exception or the
        result (of a stream only the exception), or a `retry_*` of tenacity. For functions, naming an exception
        declares that the function may run again after it, unless `options(idempotent=False)` says no; an HTTP
        call stays as repeatable as its method or key makes it. Note that `OSError` includes `TimeoutError`, and
        with it an attempt that ran out of time.
    `backoff`
        The wait between attempts: a `Backoff` (full jitter, 50 ms doubling up to 5 s), or a `wait_*` of
        tenacity. What the far side asks for (`Retry-After`) is a lower bound, jittered by up to 10 % and
        believed up to a minute.
    `stop`
        A `stop_*` of tenacity, or any function of its state. It replaces `attempts` unless both are given.
    `budget`
        Bounds the extra attempts of all calls together; see `RetryBudget`. None removes the bound. Where the
        call has a budget already (that of its `Service`, or of a `Retry` outside of this one), that one counts.
    `before_sleep`
        A callback of tenacity, called before each wait with its state.

    It gives up at once when the wait would reach the deadline. What surfaces is the last attempt's own result
    or exception with a note of what was tried; but once an attempt may have had an effect, a later one that had
    none (a refused connection, an open circuit) does not replace it, since it would tell the caller that
    repeating is safe. Where the ambiguous attempt left a result that was discarded, `OutcomeUnknown` says so.
    An exception that survived a retry is not retried again by an outer one, or three layers of three attempts
    would make 27.

    Stateful by its budget, thread-safe. Raises `ValueError` or `TypeError` for an argument that is none of the above.
    """

    attempts: int | None = None
    on: On | None = None
    backoff: Backoff | wait_base | Callable[[RetryCallState], float] = field(default_factory=Backoff)
    stop: stop_base | Callable[[RetryCallState], bool] | None = None
    budget: RetryBudget | None = field(default_factory=RetryBudget)
    before_sleep: Callable[[RetryCallState], Any] | None = None
    role: ClassVar[Role] = Role.RETRY

    def __post_init__(self) -> None:
        if self.attempts is None and self.stop is None:
            object.__setattr__(self, "attempts", _ATTEMPTS)
        if self.attempts is not None and self.attempts < 1:
            raise ValueError(f"attempts={self.attempts!r}: how often a call is made, at least 1")
        types = _types_of(self.on)
        if types is not None and not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in types):
            raise TypeError(
                f"on={self.on!r}: types of Exception (never of BaseException: a cancellation is not retried)"
            )
        if self.on is not None and types is None and not callable(self.on):
            raise TypeError(f"on={self.on!r}: exception types, a predicate, or a retry_* of tenacity")
        if not isinstance(self.backoff, Backoff) and not _is_function(self.backoff):
            raise TypeError(f"backoff={self.backoff!r}: a Backoff, or a wait_* of tenacity")
        for name, value in (("stop", self.stop), ("before_sleep", self.before_sleep)):
            if value is not None and not _is_function(value):
                raise TypeError(f"{name}={value!r}: a function of tenacity's state")

    @classmethod
    def from_tenacity(cls, retrying: AsyncRetrying | Retrying, *, budget: RetryBudget | None = None) -> Retry:
        """Adopt the `retry`, `wait`, `stop` and `before_sleep` of a tenacity object.

        Its `stop` rules the attempts, as there; a `budget` bounds them all together, by default a fresh one.
        `reraise` has no counterpart: the caller's own exception always surfaces. `sleep`, `before`, `after` and
        the other callbacks are not taken over.
        """
        return cls(
            on=retrying.retry,
            backoff=retrying.wait,
            stop=retrying.stop,
            before_sleep=retrying.before_sleep,
            budget=RetryBudget() if budget is None else budget,
        )

    def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
        """Repeat `nxt`."""
        del below
        budget, rules = self.budget, _Rules(self)
        window: Any = None if budget is None else budget.window
        judges_results = rules.judges_results

        async def layer(call: Call) -> Any:
            started, deadline = call.runtime.now(), call.deadline
            if budget is not None and call.budget is None:
                call.budget = budget
                if started < window.edge:
                    window.counts[DEPOSITS] += 1  # what `deposit` does, in this frame and without a lock
                else:
                    budget.deposit(started)
            attempt = call  # a stream's first attempt is a child, so that it has ends of its own
            error: Exception | None = None
            result: Any = None
            try:
                if call.ends is not None:
                    attempt = call.evolve(attempt=call.attempt)
                elif call.classify.result is None and not judges_results:
                    return await nxt(call)
                result = await nxt(attempt)
            except Exception as caught:  # noqa: BLE001 - it is judged, and raised again unless a later attempt is good
                error = caught
            except BaseException as over:
                attempt.finish(over, upto=call)
                raise
            if error is None:
                judge = call.classify.result
                # What a function streams is no result that could be judged.
                if judge is None and (not judges_results or call.ends is not None):
                    return result
                if judge is not None and not judges_results and judge(result).repeat is _NO:
                    return result
            call.deadline = deadline  # a `Timeout` of the attempt has lowered it
            outcome = await _Series(rules, call, nxt, started).go_on(attempt, result, error)
            if outcome.error is None:
                return outcome.result
            try:
                raise outcome.error
            finally:
                del error, outcome  # this frame is in its traceback: the two would keep each other alive

        return layer


def _is_function(value: object) -> bool:
    return callable(value) and not isinstance(value, type)  # `wait_fixed` is no strategy, `wait_fixed(1)` is


def _types_of(on: object) -> tuple[type[Exception], ...] | None:
    types = (on,) if isinstance(on, type) else on
    return cast("tuple[type[Exception], ...]", types) if isinstance(types, tuple) else None


@final
class _Rules:
    """The configuration of a `Retry`, taken apart once."""

    __slots__ = (
        "attempts",
        "backoff",
        "before_sleep",
        "consults_tenacity",
        "judges_results",
        "predicate",
        "stop",
        "tenacious",
        "types",
    )

    def __init__(self, retry: Retry) -> None:
        self.types = _types_of(retry.on)
        on = retry.on if self.types is None else None
        self.tenacious: Any = on if is_tenacious(on) else None
        self.predicate: Any = on if self.tenacious is None else None
        self.judges_results = on is not None and judges_results(on)
        self.attempts = retry.attempts
        self.backoff: Any = retry.backoff
        self.stop: Any = retry.stop
        self.before_sleep: Any = retry.before_sleep
        told = (self.tenacious, self.stop, self.before_sleep)
        self.consults_tenacity = any(told) or not isinstance(self.backoff, Backoff)

    async def wants(self, call: Call, outcome: Outcome, state: Tenacious | None) -> bool:
        """Whether this outcome is to be tried again, were there time and room."""
        verdict, error = outcome.verdict, outcome.error
        if self.attempts == 1 or verdict is Verdict.LOCAL or verdict is Verdict.CANCELLED:
            return False
        if self.types is not None and error is not None:
            wanted = isinstance(error, self.types)
        elif self.predicate is not None:
            wanted = await _value(self.predicate(outcome.result if error is None else error))
        elif self.tenacious is not None:
            wanted = await _value(self.tenacious(state))
        else:
            return verdict.repeat is Repeat.ALWAYS or (verdict.repeat is Repeat.IF_REPEATABLE and bool(call.repeatable))
        declared = call.classify.on_declares and call.repeatable is not False
        return bool(wanted) and (declared or bool(call.repeatable) or verdict.effect is Effect.NONE)

    async def delay(self, call: Call, attempt: int, outcome: Outcome, state: Tenacious | None) -> float:
        """Seconds to wait: our own choice, or the far side's if that is longer."""
        random = call.runtime.random
        if isinstance(self.backoff, Backoff):
            delay = self.backoff.delay(attempt, random)
        else:
            delay = max(0.0, float(await _value(self.backoff(state))))
        hint = outcome.retry_after
        if hint is not None and hint > 0:
            delay = max(delay, min(hint, _HINT_CAP) * (1.0 + _HINT_JITTER * random()))
        return delay


@final
class _Series:
    """The attempts of one call, from the first that was not simply good."""

    __slots__ = ("call", "made", "nxt", "rules", "state", "worst")

    def __init__(self, rules: _Rules, call: Call, nxt: Next[Any], started: float) -> None:
        self.rules = rules
        self.call = call
        self.nxt = nxt
        self.made = 1
        self.state = Tenacious(call, started) if rules.consults_tenacity else None
        self.worst: Outcome | None = None

    async def go_on(self, attempt: Call, result: Any, error: Exception | None) -> Outcome:
        """Judge the attempt, and make others until one is good or there is a reason to stop; tell what surfaces."""
        call, rules = self.call, self.rules
        outcome: Outcome | None = None
        try:
            while True:
                outcome = call.classify.judge_result(result) if error is None else call.classify.judge_error(error)
                now = call.runtime.now()
                if self.state is not None:
                    self.state.attempted(self.made, outcome, now)
                if _given_up_inside(outcome.error, attempt) or not await rules.wants(call, outcome, self.state):
                    return await self._surface(attempt, outcome, None)
                delay = await rules.delay(call, self.made, outcome, self.state)
                reason = await self._reason_to_stop(delay, now)
                if reason is not None:
                    return await self._surface(attempt, outcome, reason)
                await self._leave(attempt, outcome, delay)
                self.made += 1
                attempt = call.evolve(attempt=attempt.attempt + 1)
                error = result = None
                try:
                    result = await self.nxt(attempt)
                except Exception as caught:  # noqa: BLE001 - likewise
                    error = caught
        except BaseException as over:
            attempt.finish(over, upto=call)
            raise
        finally:
            # What surfaces has this frame in its traceback: the two would keep each other alive.
            self.worst = self.state = outcome = error = None

    async def _reason_to_stop(self, delay: float, now: float) -> str | None:
        call, rules, made = self.call, self.rules, self.made
        if self.state is not None:
            self.state.upcoming_sleep = delay
        if rules.attempts is not None and made >= rules.attempts:
            return f"all {made} attempts were made"
        if rules.stop is not None and await _value(rules.stop(self.state)):
            return f"told to stop after attempt {made}"
        if call.classify.spent is not None and (spent := call.classify.spent(call.request)) is not None:
            return f"after attempt {made}, because {spent}"
        if call.deadline is not None and now + delay >= call.deadline:
            return f"after attempt {made} the deadline left no time for another"
        if call.budget is not None and not call.budget.withdraw(now):
            return f"after attempt {made} the retry budget was empty"
        return None

    async def _leave(self, attempt: Call, outcome: Outcome, delay: float) -> None:
        """Leave the attempt behind, and let the delay pass."""
        call, state = self.call, self.state
        returnable = outcome.error is not None or await call.classify.discard(outcome.result)
        attempt.finish(outcome.error, upto=call)
        if outcome.verdict.unknown:
            self.worst = outcome if returnable else Outcome(None, _given_up(attempt), outcome.verdict)
        emit = call.runtime.emit
        if emit is not None:
            reason = outcome.verdict.name.lower() if outcome.error is None else repr(outcome.error)
            at = call.runtime.now()
            send_event(emit, RetryScheduled(at=at, name=call.name, attempt=attempt.attempt, delay=delay, reason=reason))
        if state is not None and self.rules.before_sleep is not None:
            state.announce(delay)
            await _value(self.rules.before_sleep(state))
        await pause(call, delay)
        if state is not None:
            state.idle_for += delay

    async def _surface(self, attempt: Call, outcome: Outcome, reason: str | None) -> Outcome:
        """Choose what the caller is to see, and say in it why there was no other attempt."""
        call, last, worst = self.call, outcome, self.worst
        if reason is not None and call.runtime.emit is not None:
            event = RetriesExhausted(at=call.runtime.now(), name=call.name, attempt=attempt.attempt, reason=reason)
            send_event(call.runtime.emit, event)
        if worst is not None and last.verdict.effect is Effect.NONE:
            outcome = worst
            if last.error is None:
                await call.classify.discard(last.result)
            elif worst.error is not None:
                _note(worst.error, _NO_EFFECT, repr(last.error))
        if outcome is not last or last.error is not None:
            attempt.finish(last.error, upto=call)
        if outcome.error is not None:
            if reason is not None:
                _note(outcome.error, _NOT_AGAIN, reason)
            if reason is not None or outcome is not last:
                vars(outcome.error)[_MARK] = _Mark(call)
        return outcome


async def _value(answer: Any) -> Any:
    """The answer of a strategy; those of tenacity's `AsyncRetrying` may be coroutines."""
    return await answer if inspect.isawaitable(answer) else answer


def _given_up(attempt: Call) -> OutcomeUnknown:
    return OutcomeUnknown(f"{attempt.name}: attempt {attempt.attempt} may have run, and its answer was given up")


# Notes and marks go past `__setattr__`: an exception may be a frozen dataclass.


def _note(error: BaseException, kind: str, text: str) -> None:
    """Add a note, in the place of an earlier one of its kind: an exception may be one object, raised for ever."""
    others = [note for note in getattr(error, "__notes__", ()) if not note.startswith(kind)]
    vars(error)["__notes__"] = [*others, kind + text]


@final
class _Mark:
    """Says on an exception that a retry gave it up: the one around `call`."""

    __slots__ = ("call",)

    def __init__(self, call: Call | None = None) -> None:
        self.call = call

    def __reduce__(self) -> tuple[type[_Mark], tuple[()]]:
        return _Mark, ()  # an exception may be pickled, a call not; and in another process it says nothing


def _given_up_inside(error: BaseException | None, attempt: Call) -> bool:
    """Whether a retry inside of this attempt has given the error up already."""
    mark: _Mark | None = getattr(error, _MARK, None)
    call = None if mark is None else mark.call
    while call is not None and call is not attempt:
        call = call.parent or call.ambient.call
    return call is not None
