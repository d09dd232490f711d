"""The vocabulary of tenacity: its strategies, consulted after a failure with a state of their own shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from resilient.call import Call
from resilient.verdict import Outcome

if TYPE_CHECKING:
    from tenacity import Future

__all__ = ["Tenacious", "is_tenacious", "judges_results"]

_JUDGE_ERRORS_ALONE = {
    "_retry_never",
    "retry_if_exception",
    "retry_if_exception_cause_type",
    "retry_if_exception_message",
    "retry_if_exception_type",
    "retry_if_not_exception_type",
}


def is_tenacious(strategy: object) -> bool:
    """Whether the strategy is one of tenacity's, without importing tenacity."""
    return any(_from_tenacity(kind) for kind in type(strategy).__mro__)


def judges_results(strategy: object) -> bool:
    """Whether the strategy may want a result tried again. Of those that cannot, no success pays for being asked."""
    kind = type(strategy)
    return not (_from_tenacity(kind) and kind.__name__ in _JUDGE_ERRORS_ALONE)


def _from_tenacity(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "tenacity"


@final
@dataclass(frozen=True, slots=True)
class _NextAction:
    sleep: float
    name: str = "resilient"


@final
class Tenacious:
    """What tenacity's strategies and callbacks read of a `RetryCallState`, at an eighth of its cost.

    One for each call that failed once, brought up to date after each attempt. It takes attributes of the caller's own.
    """

    def __init__(self, call: Call, started: float) -> None:
        self.args, self.kwargs = call.arguments
        self.fn = call.invoke
        self.attempt_number = 0
        self.start_time = started
        self.outcome_timestamp = started
        self.seconds_since_start = 0.0
        self.idle_for = 0.0
        self.upcoming_sleep = 0.0
        self.next_action: Any = None
        self.retry_object: Any = None
        self.outcome: Future
        self._name = call.name

    def attempted(self, attempt: int, outcome: Outcome, now: float) -> None:
        """Note how an attempt ended."""
        from tenacity import Future

        self.attempt_number = attempt
        self.outcome_timestamp = now
        self.seconds_since_start = now - self.start_time
        self.upcoming_sleep = 0.0
        self.next_action = None
        self.outcome = Future(attempt)
        if outcome.error is None:
            self.outcome.set_result(outcome.result)
        else:
            self.outcome.set_exception(outcome.error)

    def announce(self, delay: float) -> None:
        """Say what comes next, for callbacks that log it."""
        self.next_action = _NextAction(delay)

    def get_fn_name(self) -> str:
        """What logs call the function."""
        return self._name
