"""Turn away what is too much, so that the rest is served in time."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, final

from resilient.asgi.problems import Problem
from resilient.asgi.types import ASGIApp, Message, Receive, Scope, Send
from resilient.balancing.orca import PROBE_PATH
from resilient.call import Call
from resilient.errors import DeadlineExceeded, Overloaded, Rejected
from resilient.machines.hashing import hash_of
from resilient.machines.shedding import COHORTS, Pressure, PriorityGate
from resilient.pipeline import Pipeline
from resilient.policies.adaptive_limit import AdaptiveLimit, Place
from resilient.policies.base import refuse
from resilient.policies.limit_rules import Correlated, Limiter
from resilient.verdict import Verdict

__all__ = ["LoadShedMiddleware"]

_FULL = 0.5
_HOUR = 3600.0
_NEVER = ("/health", "/healthz", "/livez", "/readyz", "/startupz", PROBE_PATH)
_SERVER_ERRORS = 500
_UNAVAILABLE = 503


@final
class LoadShedMiddleware:
    """Work on as many requests at once as this process does well; let a few wait, and turn away the rest at once.

    ```python
    from resilient.asgi import LoadShedMiddleware, ServingMiddleware

    async def app(scope, receive, send):
        ...

    app = ServingMiddleware(LoadShedMiddleware(app))
    ```

    An overloaded server that accepts everything answers everything too late: its callers are gone and have sent again.
    This one answers 503 with ``Retry-After`` to what it cannot do, at once, and the rest in time.

    `limiter`, `initial`, `lowest`, `highest`
        How many requests are worked on at once: see `AdaptiveLimit`. The limit follows their latency.
    `max_wait`
        Seconds that a request waits for its turn, at most (1.0).
    `user`
        Names the user from the scope, a function or a coroutine function. Of two users of one priority the same one is
        served every time, for an hour; then they are drawn anew. By default, and where it is None, chance decides for
        each request.
    `never`
        Paths that are always served and never counted: health checks, or an overload would become an outage.

    A queue that persists is served from its newest end (adaptive LIFO), and whoever would not be done before their
    deadline is turned away. While the queue persists, a growing share of the requests is turned away before they wait,
    the least important first, until it is short. Priorities and deadlines come from `ServingMiddleware`, which belongs
    outside of this one.

    What is counted is the latency to the first byte; a place is held to the last one. Put it outside of everything that
    costs something, and outside of `IdempotencyMiddleware`, or its refusals are what retries get.

    Raises `ValueError` for values that are out of range.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limiter: Limiter | None = None,
        initial: int = 20,
        lowest: int = 1,
        highest: int = 1000,
        max_wait: float = 1.0,
        user: Callable[[Scope], str | Awaitable[str | None] | None] | None = None,
        never: Iterable[str] = _NEVER,
    ) -> None:
        self.app = app
        self.limit = AdaptiveLimit(
            Correlated() if limiter is None else limiter,
            initial=initial,
            lowest=lowest,
            highest=highest,
            max_queue=highest,
            max_wait=max_wait,
            order="adaptive-lifo",
        )
        self._user = user
        self._never = frozenset(never)
        self._pressure = Pressure(_FULL)
        self._gate = PriorityGate()
        self._calls = Pipeline(self.limit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; whatever is not an HTTP request passes untouched."""
        if scope["type"] != "http" or scope["path"] in self._never:
            await self.app(scope, receive, send)
            return
        user = None if self._user is None else self._user(scope)
        if inspect.isawaitable(user):
            user = await user
        call = self._calls.begin(f"{scope['method']} {scope['path']}", _no_step, scope)
        try:
            place = await self._admit(call, user)
        except (Rejected, DeadlineExceeded):
            await _OVERLOADED.send(send)
            return
        await self._serve(place, scope, receive, send)

    async def _admit(self, call: Call, user: str | None) -> Place:
        limit = self.limit
        share = self._pressure.read(limit.queued(), limit.limit(), call.runtime.now())
        if not self._gate.admit(_level(call, user), share, call.runtime.random):
            message = f"{call.name}: {limit.queued()} requests wait, and this is one of those that matter least"
            raise refuse(call, Overloaded(message, policy=self))
        return await limit.take(call)

    async def _serve(self, place: Place, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def learning(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                place.learn(_verdict(message["status"]), None)
            await send(message)

        try:
            await self.app(scope, receive, learning)
        except DeadlineExceeded as error:
            if not answered:
                place.learn(Verdict.FAILED, error)
            raise
        finally:
            place.give_back()


def _level(call: Call, user: str | None) -> int:
    """What a request is turned away by: its priority, and its user's cohort of this hour."""
    runtime = call.runtime
    if user is None:
        cohort = int(runtime.random() * COHORTS)
    else:
        cohort = hash_of((user, int(runtime.wall() // _HOUR))) % COHORTS
    return call.priority * COHORTS + cohort


def _verdict(status: int) -> Verdict:
    if status == _UNAVAILABLE:
        return Verdict.OVERLOADED
    return Verdict.FAILED if status >= _SERVER_ERRORS else Verdict.OK


async def _no_step(_call: Call) -> Any:
    """A request is answered by messages, not by a result."""


_OVERLOADED = Problem(
    status=503,
    kind="overloaded",
    title="The service is overloaded",
    detail="The request was not processed. Repeat it later, if it still matters.",
    headers=[(b"retry-after", b"1")],
)
