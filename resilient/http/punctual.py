"""Synchronous connections that keep a deadline.

A blocking read ends only by its own timeout, and httpx gives each read the same one: a server that drips holds a client
for as long as it likes. Here the timeout itself knows how much is left, and the connection asks it at every read and
write.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable
from typing import Any, final

from resilient.call import Call
from resilient.errors import DeadlineExceeded

__all__ = ["TimeLeft", "make_punctual", "punctual"]

_LONGEST = 86_400.0
"""Seconds: a day. Sockets refuse timeouts of centuries."""
_PIECE = 65_536
"""Bytes that are written with one timeout: more might trickle away beyond the deadline."""


@final
class TimeLeft(float):
    """The seconds that a step of a call may take: at most `usual`, and at most a `share` of what is left of the call.

    As a number it is what was left when it was made, for those who take it for one; `now` is what is left now.
    """

    __slots__ = ("_clock", "_name", "_share", "_usual", "deadline")
    deadline: float
    """It may be lowered while the step is running."""
    _clock: Callable[[], float]
    _name: str
    _share: float
    _usual: float | None

    def __new__(cls, call: Call, usual: float | None, share: float = 1.0) -> TimeLeft:
        """Bound a step of `call`."""
        # Not the call itself: whoever keeps a request would keep the whole exchange alive.
        clock = call.runtime.now
        deadline = math.inf if call.deadline is None else call.deadline
        self = super().__new__(cls, _least(deadline - clock(), usual, share))
        self.deadline = deadline
        self._clock = clock
        self._name = call.name
        self._share = share
        self._usual = usual
        return self

    def now(self) -> float:
        """What is left now; raise `DeadlineExceeded` if that is nothing."""
        remaining = self.deadline - self._clock()
        if remaining <= 0:
            raise DeadlineExceeded(f"{self._name}: no answer within the deadline")
        return _least(remaining, self._usual, self._share)


def _least(remaining: float, usual: float | None, share: float) -> float:
    left = max(0.0, min(remaining * share, _LONGEST))  # time passed since somebody looked
    return left if usual is None else min(left, usual)


def make_punctual(transport: Any) -> None:
    """Let a synchronous `HTTPTransport` keep the deadlines of its calls; any other transport stays as it is."""
    pool: Any = getattr(transport, "_pool", None)
    backend = getattr(pool, "_network_backend", None)
    if backend is not None and hasattr(transport, "handle_request") and not isinstance(backend, _Backend):
        # httpcore takes a backend of one's own, and httpx has no argument for it.
        pool._network_backend = punctual(backend)  # noqa: SLF001 - see above


def punctual(backend: Any) -> Any:
    """What opens connections for httpcore, and connections that keep deadlines."""
    return _Backend(backend)


@final
class _Backend:
    """Opens connections that keep deadlines."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def connect_tcp(self, *args: Any, **kwargs: Any) -> _Stream:
        return _Stream(self._inner.connect_tcp(*args, **kwargs))

    def connect_unix_socket(self, *args: Any, **kwargs: Any) -> _Stream:
        return _Stream(self._inner.connect_unix_socket(*args, **kwargs))


@final
class _Stream:
    """A connection that asks its timeout what is left."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        chunk: bytes = self._inner.read(max_bytes, _now(timeout))
        return chunk

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):
            self._inner.write(buffer[start : start + _PIECE], _now(timeout))

    def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str | None, timeout: float | None) -> _Stream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _now(timeout)))


def _now(timeout: float | None) -> float | None:
    return timeout.now() if isinstance(timeout, TimeLeft) else timeout
