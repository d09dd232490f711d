"""Listeners written for pybreaker."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

from resilient.call import Call
from resilient.errors import ResilienceError
from resilient.machines.circuit import CircuitState, Transition

if TYPE_CHECKING:
    from pybreaker import CircuitBreakerListener

    from resilient.policies.circuit_breaker import CircuitBreaker

__all__ = ["LISTENED", "Listeners"]

LISTENED = ("before_call", "success", "failure", "state_change")
"""What a listener is asked for."""

_log = logging.getLogger("resilient")
# pybreaker has no state for a circuit opened by hand: to its listeners that one is open.
_NAMES = {
    CircuitState.CLOSED: "closed",
    CircuitState.OPEN: "open",
    CircuitState.HALF_OPEN: "half-open",
    CircuitState.ISOLATED: "open",
}


@final
class _State:
    """A state as pybreaker's listeners know it: an object with a `name`."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


@final
class _Facade:
    """What a listener may read of the breaker it listens to, under pybreaker's names."""

    __slots__ = ("_breaker",)

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker

    @property
    def name(self) -> str:
        return self._breaker.name

    @property
    def current_state(self) -> str:
        return _NAMES[self._breaker.state]

    @property
    def fail_counter(self) -> int:
        return self._breaker.consecutive

    @property
    def fail_max(self) -> int:
        return self._breaker.consecutive_failures or self._breaker.minimum_calls

    @property
    def reset_timeout(self) -> float:
        return self._breaker.cooldown


@final
class Listeners:
    """Tells pybreaker's listeners of a breaker's life. What one of them raises is logged and dropped."""

    __slots__ = ("_facade", "_listeners")

    def __init__(self, breaker: CircuitBreaker, listeners: tuple[CircuitBreakerListener, ...]) -> None:
        self._facade: Any = _Facade(breaker)
        self._listeners = listeners

    def before_call(self, call: Call) -> None:
        """A call was admitted."""
        args, kwargs = call.arguments
        self._tell(lambda listener: listener.before_call(self._facade, call.invoke, *args, **kwargs))

    def success(self) -> None:
        """A call ended well."""
        self._tell(lambda listener: listener.success(self._facade))

    def failure(self, error: BaseException | None) -> None:
        """A call ended badly; a result that is a failure has no error of its own."""
        failure = error if error is not None else ResilienceError("the result was a failure")
        self._tell(lambda listener: listener.failure(self._facade, failure))

    def changed(self, change: Transition) -> None:
        """The circuit changed its state."""
        old: Any = _State(_NAMES[change.old])
        new: Any = _State(_NAMES[change.new])
        self._tell(lambda listener: listener.state_change(self._facade, old, new))

    def _tell(self, message: Callable[[CircuitBreakerListener], None]) -> None:
        for listener in self._listeners:
            try:
                message(listener)
            except Exception:  # noqa: BLE001 - whatever a listener raises is its own business
                _log.exception("the listener %r failed", listener)
