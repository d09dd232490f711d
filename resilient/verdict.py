"""What became of an attempt, in one word that every policy reads.

Three questions are kept apart, because they have different answers: did it run (*effect*), who is at
fault (*blame*), and may it be tried again (*repeat*).

=============  =======  ===========  ==============  ==========================================
verdict        effect   blame        repeated        for example
=============  =======  ===========  ==============  ==========================================
`OK`           done     healthy      no              a result, 2xx
`ANSWERED`     done     healthy      no              4xx: the question was wrong, the server is well
`FAILED`       unknown  instance     if repeatable   5xx, a timeout, a broken connection
`OVERLOADED`   unknown  penalty      if repeatable   503
`REFUSED`      none     penalty      always          429, a refused stream, GOAWAY
`PENDING`      unknown  nobody       if repeatable   409 with Retry-After under an honoured key, a timeout overslept
`UNREACHABLE`  none     instance     always          connection refused
`LOCAL`        none     nobody       no              a rejection of our own, our own pool
`CANCELLED`    unknown  nobody       no              the caller went away
=============  =======  ===========  ==============  ==========================================
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, final

from resilient.errors import DeadlineExceeded, Rejected

__all__ = ["Blame", "Classifier", "Effect", "Outcome", "Repeat", "Verdict", "classify_function", "verdict_of_timeout"]


class Effect(enum.Enum):
    """Did it run?"""

    DONE = "done"
    UNKNOWN = "unknown"
    NONE = "none"


class Blame(enum.Enum):
    """Who is at fault?"""

    HEALTHY = "healthy"
    INSTANCE = "instance"
    PENALTY = "penalty"
    NOBODY = "nobody"


class Repeat(enum.Enum):
    """May it be tried again?"""

    NO = "no"
    IF_REPEATABLE = "if repeatable"
    ALWAYS = "always"


class Verdict(enum.Enum):
    """What became of one attempt. See the table at the top of this module."""

    OK = (Effect.DONE, Blame.HEALTHY, Repeat.NO)
    ANSWERED = (Effect.DONE, Blame.HEALTHY, Repeat.NO, "4xx")
    FAILED = (Effect.UNKNOWN, Blame.INSTANCE, Repeat.IF_REPEATABLE)
    OVERLOADED = (Effect.UNKNOWN, Blame.PENALTY, Repeat.IF_REPEATABLE)
    REFUSED = (Effect.NONE, Blame.PENALTY, Repeat.ALWAYS)
    PENDING = (Effect.UNKNOWN, Blame.NOBODY, Repeat.IF_REPEATABLE)
    UNREACHABLE = (Effect.NONE, Blame.INSTANCE, Repeat.ALWAYS)
    LOCAL = (Effect.NONE, Blame.NOBODY, Repeat.NO)
    CANCELLED = (Effect.UNKNOWN, Blame.NOBODY, Repeat.NO)

    # Plain attributes, not properties: breakers and balancers read them on every call.
    effect: Effect
    blame: Blame
    repeat: Repeat
    unknown: bool
    """It may or may not have run."""
    good: bool
    """The instance did its work: it closes a circuit and ends a row of failures."""
    bad: bool
    """The instance failed: it counts for breakers and ejection. A 429 does not (an instance that
    enforces a quota is well); a 503 does, or one that only ever answers 503 would keep its traffic."""
    refusal: bool
    """The far side turned the work away: it counts for adaptive throttling."""

    def __init__(self, effect: Effect, blame: Blame, repeat: Repeat, _distinguish: str = "") -> None:
        self.effect = effect
        self.blame = blame
        self.repeat = repeat
        self.unknown = effect is Effect.UNKNOWN
        self.good = blame is Blame.HEALTHY
        self.refusal = blame is Blame.PENALTY
        self.bad = blame is Blame.INSTANCE or (self.refusal and self.unknown)


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """One attempt's end: its result or its error, the verdict, and how long the far side asks to wait."""

    result: Any
    error: BaseException | None
    verdict: Verdict
    retry_after: float | None = None


async def _keep(_result: Any) -> bool:
    """A plain value needs no closing and stays what it is."""
    return True


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """Judges what came of an attempt.

    An adapter sets one for its protocol; retry, breaker, budget, throttle, balancer and metrics all read the
    same verdict.

    `error`
        The verdict on an exception.
    `result`
        The verdict on a result; None says that every result is `OK` and costs nothing.
    `hint`
        The seconds that a result or an exception asks the caller to wait, or None. Without it, those are the
        `retry_after` of an exception.
    `on_declares`
        Whether naming an exception in `Retry(on=...)` declares that the call may be repeated. True for
        functions; an HTTP call is repeatable by its method or its idempotency key alone.
    `discard`
        Closes a result because another attempt is to take its place, and tells whether it could still be returned
        (a response whose body was read can, an open stream cannot).
    `spent`
        Says of a request why it cannot be made again (its body is a stream that was read), or None.
    """

    error: Callable[[BaseException], Verdict]
    result: Callable[[Any], Verdict] | None = None
    hint: Callable[[Any], float | None] | None = None
    on_declares: bool = True
    discard: Callable[[Any], Awaitable[bool]] = _keep
    spent: Callable[[Any], str | None] | None = None

    def judge_error(self, error: BaseException) -> Outcome:
        """The full outcome of an attempt that raised."""
        hint = _own_hint(error) if self.hint is None else self.hint(error)
        return Outcome(None, error, self.error(error), hint)

    def judge_result(self, result: Any) -> Outcome:
        """The full outcome of an attempt that returned."""
        verdict = Verdict.OK if self.result is None else self.result(result)
        return Outcome(result, None, verdict, None if self.hint is None else self.hint(result))


def _own_hint(error: BaseException) -> float | None:
    """What an exception says by itself; others' mean a date or a `timedelta` by the same name."""
    hint = getattr(error, "retry_after", None)
    return hint if isinstance(hint, int | float) else None


def verdict_of_timeout(error: DeadlineExceeded) -> Verdict:
    """Judge a deadline that passed: nobody is to blame where nothing was sent, or where the caller slept over it."""
    if not error.sent:
        return Verdict.LOCAL
    return Verdict.PENDING if error.overslept else Verdict.FAILED


def _function_error(error: BaseException) -> Verdict:
    if isinstance(error, Exception):
        if isinstance(error, DeadlineExceeded):
            return verdict_of_timeout(error)
        if isinstance(error, Rejected):
            return Verdict.LOCAL
        if isinstance(error, ConnectionRefusedError):
            return Verdict.UNREACHABLE
        return Verdict.FAILED
    return Verdict.CANCELLED


classify_function = Classifier(error=_function_error)
"""How functions are judged: a result is `OK`, our own rejection `LOCAL`, a refused connection
`UNREACHABLE`, any other exception `FAILED`, a cancellation `CANCELLED`."""
