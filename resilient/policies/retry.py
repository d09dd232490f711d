"""Try again what may be tried again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, final

from resilient.budget import RetryBudget
from resilient.call import Call, Next, Policy
from resilient.errors import OutcomeUnknown
from resilient.events import RetriesExhausted, RetryScheduled, send_event
from resilient.machines.backoff import Backoff
from resilient.policies.base import OwnPolicy, Role
from resilient.policies.tenacious import Tenacious, is_tenacious
from resilient.verdict import Effect, Outcome, Repeat, Verdict
from resilient.waiting import pause

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState, Retrying
    from tenacity.retry import retry_base
    from tenacity.stop import stop_base
    from tenacity.wait import wait_base

__all__ = ["Backoff", "On", "Retry", "RetryBudget"]

On: TypeAlias = "type[Exception] | tuple[type[Exception], ...] | Callable[[Any], bool] | retry_base"

_ATTEMPTS = 3
_HINT_CAP = 60.0
_HINT_JITTER = 0.1
_EXHAUSTED = "__resilient_exhausted__"


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Retry(OwnPolicy):
    """Make up to `attempts` attempts, where trying again is safe and there is time, room and hope for it.

    What may be repeated is decided by the verdict of the classifier. What certainly did not run (a refused
    connection, a 429) is tried again; what may have run only if the call is repeatable: by its HTTP method, an
    honoured idempotency key, or `options(idempotent=True)`. A rejection of our own and a cancellation never
    are.

    `attempts`
        3, the first one included. More seldom helps: what failed three times is down, not unlucky.
    `on`
        What to retry instead of what the verdict says: exception types, a predicate that gets the exception or the
        result, or a `retry_*` of tenacity. For functions, naming an exception declares that the function may
        run again after it; an HTTP call stays as repeatable as its method or key makes it. Note that `OSError`
        includes `TimeoutError`, and with it an attempt that ran out of time.
    `backoff`
        The wait between attempts: a `Backoff` (full jitter, 50 ms doubling up to 5 s), or a `wait_*` of
        tenacity. What the far side asks for (`Retry-After`) is a lower bound, jittered by up to 10 % and
        believed up to a minute.
    `stop`
        A `stop_*` of tenacity, or any function of its state. It replaces `attempts` unless both are given.
    `budget`
        Bounds the extra attempts of all calls together; see `RetryBudget`. None removes the bound.
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
        types = self._types()
        if types is not None and not all(isinstance(t, type) and issubclass(t, Exception) for t in types):
            raise TypeError(
                f"on={self.on!r}: types of Exception (never of BaseException: a cancellation is not retried)"
            )
        if self.on is not None and types is None and not callable(self.on):
            raise TypeError(f"on={self.on!r}: exception types, a predicate, or a retry_* of tenacity")
        if not isinstance(self.backoff, Backoff) and not callable(self.backoff):
            raise TypeError(f"backoff={self.backoff!r}: a Backoff, or a wait_* of tenacity")
        for name, value in (("stop", self.stop), ("before_sleep", self.before_sleep)):
            if value is not None and not callable(value):
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

    def _types(self) -> tuple[type, ...] | None:
        if isinstance(self.on, type):
            return (self.on,)
        return self.on if isinstance(self.on, tuple) else None

    def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
        """Repeat `nxt`."""
        del below
        budget = self.budget
        deposit = None if budget is None else budget.deposit
        rules = _Rules(self)

        async def layer(call: Call) -> Any:
            started = call.runtime.now()
            if deposit is not None and call.budget is None:
                call.budget = budget
                deposit(started)
            # The first attempt of what is no stream is the call itself.
            attempt = call if call.ends is None else call.evolve(attempt=1)
            error: Exception | None = None
            result: Any = None
            try:
                result = await nxt(attempt)
            except Exception as caught:
                error = caught
            if error is None and not rules.judges_results:
                judge = call.classify.result
                if judge is None or judge(result).repeat is Repeat.NO:
                    return result
            return await _Series(rules, call, nxt, started).go_on(attempt, result, error)

        return layer


@final
class _Rules:
    """The configuration of a `Retry`, taken apart once."""

    __slots__ = (
        "attempts",
        "backoff",
        "before_sleep",
        "judges_results",
        "predicate",
        "retry",
        "stop",
        "tenacious",
        "types",
    )

    def __init__(self, retry: Retry) -> None:
        self.retry = retry
        self.types = retry._types()  # noqa: SLF001 - the rules are the other half of the policy
        on = retry.on if self.types is None else None
        self.tenacious: Any = on if is_tenacious(on) else None
        self.predicate: Any = on if self.tenacious is None else None
        self.judges_results = on is not None
        self.attempts = retry.attempts
        self.stop = retry.stop
        self.backoff = retry.backoff
        self.before_sleep = retry.before_sleep

    @property
    def consults_tenacity(self) -> bool:
        return not (
            self.tenacious is None
            and self.stop is None
            and self.before_sleep is None
            and isinstance(self.backoff, Backoff)
        )

    async def wants(self, call: Call, outcome: Outcome, state: Tenacious | None, started: float) -> bool:
        """Whether this outcome is to be tried again, were there time and room."""
        verdict = outcome.verdict
        if verdict is Verdict.LOCAL or verdict is Verdict.CANCELLED or _exhausted_since(outcome.error, started):
            return False
        if self.types is not None and outcome.error is not None:
            wanted = isinstance(outcome.error, self.types)
        elif self.predicate is not None:
            wanted = bool(self.predicate(outcome.result if outcome.error is None else outcome.error))
        elif self.tenacious is not None:
            wanted = bool(await _value(self.tenacious(state)))
        else:
            return verdict.repeat is Repeat.ALWAYS or (verdict.repeat is Repeat.IF_REPEATABLE and call.repeatable)
        return wanted and (call.classify.on_declares or call.repeatable or verdict.effect is Effect.NONE)

    async def delay(self, call: Call, attempt: int, outcome: Outcome, state: Tenacious | None) -> float:
        """Seconds to wait: our own choice, or the far side's if that is longer."""
        random = call.runtime.random
        if isinstance(self.backoff, Backoff):
            delay = self.backoff.delay(attempt, random)
        else:
            delay = float(await _value(self.backoff(state)))  # type: ignore[arg-type]  # tenacity's shape, not its type
        hint = outcome.retry_after
        if hint is not None and hint > 0:
            delay = max(delay, min(hint, _HINT_CAP) * (1.0 + _HINT_JITTER * random()))
        return delay


@final
class _Series:
    """The attempts of one call, from the first that was not simply good."""

    __slots__ = ("call", "idle", "nxt", "rules", "started", "worst")

    def __init__(self, rules: _Rules, call: Call, nxt: Next[Any], started: float) -> None:
        self.rules = rules
        self.call = call
        self.nxt = nxt
        self.started = started
        self.idle = 0.0
        self.worst: Outcome | None = None

    async def go_on(self, attempt: Call, result: Any, error: Exception | None) -> Any:
        """Judge the attempt, and make others until one is good or there is a reason to stop."""
        call, rules = self.call, self.rules
        attempt_started = self.started
        while True:
            outcome = call.classify.judge_result(result) if error is None else call.classify.judge_error(error)
            now = call.runtime.now()
            state = Tenacious(self, attempt.attempt, outcome, now) if rules.consults_tenacity else None
            if not await rules.wants(call, outcome, state, attempt_started):
                return self._surface(outcome, None)
            delay = await rules.delay(call, attempt.attempt, outcome, state)
            reason = await self._reason_to_stop(attempt.attempt, delay, now, state)
            if reason is not None:
                return self._surface(outcome, reason, attempt.attempt)
            await self._wait(attempt, outcome, delay, state)
            attempt = call.evolve(attempt=attempt.attempt + 1)
            attempt_started = call.runtime.now()
            error = result = None
            try:
                result = await self.nxt(attempt)
            except Exception as caught:
                error = caught

    async def _reason_to_stop(self, attempt: int, delay: float, now: float, state: Tenacious | None) -> str | None:
        call, rules = self.call, self.rules
        if state is not None:
            state.upcoming_sleep = delay
        if rules.attempts is not None and attempt >= rules.attempts:
            return f"all {attempt} attempts were made"
        if rules.stop is not None and await _value(rules.stop(state)):  # type: ignore[arg-type]  # tenacity's shape, not its type
            return f"told to stop after attempt {attempt}"
        if call.classify.spent is not None and (spent := call.classify.spent(call.request)) is not None:
            return f"after attempt {attempt}, because {spent}"
        if call.deadline is not None and now + delay >= call.deadline:
            return f"after attempt {attempt} the deadline left no time for another"
        if call.budget is not None and not call.budget.withdraw(now):
            return f"after attempt {attempt} the retry budget was empty"
        return None

    async def _wait(self, attempt: Call, outcome: Outcome, delay: float, state: Tenacious | None) -> None:
        """Leave the attempt behind, and let the delay pass."""
        call = self.call
        returnable = outcome.error is not None or await call.classify.discard(outcome.result)
        attempt.finish(outcome.error, upto=call)
        if outcome.verdict.unknown:
            lost = OutcomeUnknown(f"{call.name}: attempt {attempt.attempt} may have run, and its answer was given up")
            self.worst = outcome if returnable else Outcome(None, lost, outcome.verdict)
        emit = call.runtime.emit
        if emit is not None:
            reason = outcome.verdict.name.lower() if outcome.error is None else repr(outcome.error)
            at = call.runtime.now()
            send_event(emit, RetryScheduled(at=at, name=call.name, attempt=attempt.attempt, delay=delay, reason=reason))
        if state is not None and self.rules.before_sleep is not None:
            state.announce(delay)
            await _value(self.rules.before_sleep(state))  # type: ignore[arg-type]  # tenacity's shape, not its type
        await pause(call, delay)
        self.idle += delay

    def _surface(self, outcome: Outcome, reason: str | None, attempts: int = 0) -> Any:
        """Return or raise what the caller is to see."""
        call = self.call
        if reason is not None and call.runtime.emit is not None:
            event = RetriesExhausted(at=call.runtime.now(), name=call.name, attempt=attempts, reason=reason)
            send_event(call.runtime.emit, event)
        if self.worst is not None and outcome.verdict.effect is Effect.NONE:
            if outcome.error is not None and self.worst.error is not None:
                self.worst.error.add_note(f"resilient: a later attempt had no effect: {outcome.error!r}")
            outcome = self.worst
        if outcome.error is None:
            return outcome.result
        if reason is not None:
            outcome.error.add_note(f"resilient: not tried again: {reason}")
        if reason is not None or self.worst is not None:
            setattr(outcome.error, _EXHAUSTED, call.runtime.now())
        raise outcome.error


async def _value(answer: Any) -> Any:
    """The answer of a strategy; those of tenacity's `AsyncRetrying` may be coroutines."""
    return await answer if inspect.isawaitable(answer) else answer


def _exhausted_since(error: BaseException | None, started: float) -> bool:
    """Whether another retry already gave this error up during the attempt that began at `started`."""
    when: float | None = getattr(error, _EXHAUSTED, None)
    return when is not None and when >= started
