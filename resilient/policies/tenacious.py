"""The vocabulary of tenacity: its strategies, consulted after a failure with a state of their own shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from resilient.verdict import Outcome

if TYPE_CHECKING:
    from resilient.policies.retry import _Series  # pyright: ignore[reportPrivateUsage]  # two halves of one policy

__all__ = ["Tenacious", "is_tenacious"]


def is_tenacious(strategy: object) -> bool:
    """Whether the strategy is one of tenacity's, without importing tenacity."""
    return any(kind.__module__.partition(".")[0] == "tenacity" for kind in type(strategy).__mro__)


@final
class _NextAction:
    __slots__ = ("name", "sleep")

    def __init__(self, sleep: float) -> None:
        self.name = "resilient"
        self.sleep = sleep


@final
class Tenacious:
    """What tenacity's strategies read of a `RetryCallState`, at an eighth of its cost."""

    __slots__ = (
        "args",
        "attempt_number",
        "fn",
        "idle_for",
        "kwargs",
        "next_action",
        "outcome",
        "outcome_timestamp",
        "retry_object",
        "seconds_since_start",
        "start_time",
        "upcoming_sleep",
    )

    def __init__(self, series: _Series, attempt: int, outcome: Outcome, now: float) -> None:
        from tenacity import Future

        request = series.call.request
        self.args, self.kwargs = request if isinstance(request, tuple) else ((request,), {})
        self.fn = series.call.invoke
        self.attempt_number = attempt
        self.start_time = series.started
        self.outcome_timestamp = now
        self.seconds_since_start = now - series.started
        self.idle_for = series.idle
        self.upcoming_sleep = 0.0
        self.next_action: Any = None
        self.retry_object: Any = None
        self.outcome = Future(attempt)
        if outcome.error is None:
            self.outcome.set_result(outcome.result)
        else:
            self.outcome.set_exception(outcome.error)

    def announce(self, delay: float) -> None:
        """Say what comes next, for callbacks that log it."""
        self.upcoming_sleep = delay
        self.next_action = _NextAction(delay)
