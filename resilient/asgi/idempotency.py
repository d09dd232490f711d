"""Requests that take effect once for each ``Idempotency-Key``, whatever framework answers them."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import final

from resilient.asgi.exchange import Exchange
from resilient.asgi.problems import Problem
from resilient.asgi.recorded import Recorded
from resilient.asgi.types import ASGIApp, Message, Receive, Scope, Send
from resilient.backends.store import Mode, Replay, Store
from resilient.errors import InProgress, KeyReused, OutcomeUnknown, StoreUnavailable
from resilient.idempotency.execution import Execution, Terms
from resilient.idempotency.fingerprint import digest
from resilient.idempotency.hosts import LoopHost
from resilient.idempotency.keys import parse_key
from resilient.runtime import Runtime

__all__ = ["IdempotencyMiddleware"]

_log = logging.getLogger("resilient.asgi")

_HEADER = b"idempotency-key"
_PATH_SHOWN = 128
"""Characters of the path that the scope shows to whoever reads the store's table."""


@final
class IdempotencyMiddleware:
    """Answer a request that is sent again with the response of the first time, and run it only once.

    ```python
    from resilient.asgi import IdempotencyMiddleware

    async def app(scope, receive, send):
        ...

    app = IdempotencyMiddleware(app, store="sqlite:///idempotency.db")
    ```

    It acts on requests of `methods` that carry an ``Idempotency-Key``; everything else reaches the application with the
    very same objects. The application finds the `Claim` in ``scope["resilient.claim"]``.

    `store`
        A store, or its URL.
    `ttl`
        Seconds for which a response is remembered (a day: longer than any sensible client retries). Publish it.
    `lease`
        Seconds after which a silent execution counts as dead (30.0). It is renewed three times in that span.
    `principal`
        Names the caller from the scope; a function or a coroutine function. Keys of different callers never meet. By
        default it is a hash of the ``Authorization`` and ``Cookie`` headers, so pass it where those can change between
        two tries of one request (a refreshed token, a cookie that counts). What it raises is the server's 500.
    `require`
        Answer 400 to a request of `methods` without a key.
    `mode`
        What is guaranteed, see `Mode`. `fenced` by default, as the effect cannot be seen from here: an application that
        dies between its effect and its response runs again. With `transactional`, what is written through the
        claim's transaction is committed together with the response.
    `max_body`
        Bytes of a request's body (larger: 413) and of a response's (larger: recorded without it); 1 MiB.
    `methods`
        POST and PATCH: what HTTP does not make idempotent by itself.
    `runtime`
        Replaces the ambient one.

    Answers of its own are ``application/problem+json``: 400 for a key that is none, 409 with ``Retry-After`` while the
    same request is running and without it where its outcome is unknown, 413, 422 for another request under the same
    key, 503 when the store cannot tell (then nothing was run).

    The response is recorded before its first byte is sent, whatever its status, without ``Set-Cookie``, ``Date`` and
    what belongs to the connection. Replays carry ``Idempotency-Replayed: true``. An exception records nothing: a
    transaction is undone and the key is free at once; a fenced lease is held to its end, and then the request may run
    again. ``claim.release()`` keeps a response from being recorded. Put authentication, rate limits and load shedding
    outside of this middleware, or their refusals are what retries get.

    A response that is longer than `max_body`, or a stream of events, is passed on as it comes and recorded without its
    body; so is its replay, with the same status. Every other response is held back until it is whole, and until then
    the application is not told of a disconnect: its work is finished for the retry.

    Raises `ValueError` for terms that the store cannot keep.
    """

    def __init__(
        self,
        app: ASGIApp,
        store: Store | str,
        *,
        ttl: float = 86_400.0,
        lease: float = 30.0,
        principal: Callable[[Scope], str | Awaitable[str]] | None = None,
        require: bool = False,
        mode: Mode = "fenced",
        max_body: int = 1_048_576,
        methods: Iterable[str] = ("POST", "PATCH"),
        runtime: Runtime | None = None,
    ) -> None:
        if max_body < 0:
            raise ValueError(f"max_body={max_body!r}: bytes, at least 0")
        self.app = app
        self._terms = Terms.agree(store, mode=mode, lease=lease, ttl=ttl, runtime=runtime)
        self._principal = credential if principal is None else principal
        self._require = require
        self._max_body = max_body
        self._methods = frozenset(method.upper() for method in methods)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["method"] not in self._methods:
            await self.app(scope, receive, send)
            return
        lines = [value for name, value in scope["headers"] if name.lower() == _HEADER]
        if lines:
            await self._serve(lines, scope, receive, send)
        elif self._require:
            await _KEY_MISSING.send(send)
        else:
            await self.app(scope, receive, send)

    async def _serve(self, lines: list[bytes], scope: Scope, receive: Receive, send: Send) -> None:
        try:
            key = parse_key(lines)
        except ValueError as error:
            await _key_malformed(str(error)).send(send)
            return
        place = await self._place(scope)
        try:
            body = await _read_body(scope, receive, self._max_body)
        except _TooLarge:
            await _too_large(self._max_body).send(send)
            return
        if body is None:
            return  # the client left before it had said what it wants
        begun = await self._begin(place, key, _fingerprint(scope, body))
        if isinstance(begun, Problem | Recorded):
            await begun.send(send)
        else:
            await Exchange(begun, body, receive, send, max_body=self._max_body).run(self.app, scope)

    async def _place(self, scope: Scope) -> str:
        """What a key is unique in: the caller, the method and the path, none of which the key can change."""
        principal = self._principal(scope)
        if inspect.isawaitable(principal):
            principal = await principal
        if not isinstance(principal, str):
            raise TypeError(f"principal: it returned {principal!r}, and a caller is named by a str")
        method, path = scope["method"], scope["path"]
        mark = digest([principal.encode(), method.encode(), path.encode()])
        return f"{method} {path[:_PATH_SHOWN]} {mark.hex()[:32]}"

    async def _begin(self, place: str, key: str, fingerprint: bytes) -> Execution | Recorded | Problem:
        try:
            begun = await self._terms.begin(LoopHost(), place, key, fingerprint)
        except InProgress as error:
            return _in_progress(error.retry_after)
        except KeyReused:
            return _KEY_REUSED
        except OutcomeUnknown:
            return _OUTCOME_UNKNOWN
        except StoreUnavailable:
            _log.warning("the idempotency store failed; the request was not run", exc_info=True)
            return _STORE_UNAVAILABLE
        if isinstance(begun, Replay):
            return _OUTCOME_UNKNOWN if begun.result is None else Recorded.load(begun.result)
        return begun


def credential(scope: Scope) -> str:
    """Return a hash of the credentials that the request carries: the default principal."""
    carried = [value for name, value in scope["headers"] if name.lower() in {b"authorization", b"cookie"}]
    return digest(carried).hex()


def _fingerprint(scope: Scope, body: bytes) -> bytes:
    content = [value for name, value in scope["headers"] if name.lower() in {b"content-encoding", b"content-type"}]
    asked = [scope["method"].encode(), scope["path"].encode(), scope.get("query_string", b"")]
    return digest([*asked, digest(content), body])


class _TooLarge(Exception):
    """The request's body is larger than what is compared."""


async def _read_body(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """Return the whole body; None when the client left before its end."""
    declared = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
    if any(value.isdigit() and int(value) > limit for value in declared):
        raise _TooLarge
    body = bytearray()
    more = True
    while more:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > limit:
            raise _TooLarge
        more = message.get("more_body", False)
    return bytes(body)


def _key_malformed(detail: str) -> Problem:
    return Problem(status=400, kind="idempotency-key-malformed", title="Idempotency-Key is malformed", detail=detail)


def _too_large(limit: int) -> Problem:
    return Problem(
        status=413,
        kind="idempotency-body-too-large",
        title="The body is too large for a request with an Idempotency-Key",
        detail=f"At most {limit} bytes can be compared with what was sent before.",
    )


def _in_progress(retry_after: float | None) -> Problem:
    seconds = max(1, math.ceil(retry_after or 0.0))
    return Problem(
        status=409,
        kind="idempotency-in-progress",
        title="The same request is being processed",
        detail="A request with this Idempotency-Key has not been answered yet. Repeat it later, with the same key.",
        headers=[(b"retry-after", str(seconds).encode())],
    )


_KEY_MISSING = Problem(
    status=400,
    kind="idempotency-key-missing",
    title="Idempotency-Key is missing",
    detail="Requests of this method carry an Idempotency-Key header, one for each operation.",
)
_KEY_REUSED = Problem(
    status=422,
    kind="idempotency-key-reused",
    title="Idempotency-Key is already used",
    detail="This key was used before, for another request. This one was not processed; it needs a key of its own.",
)
_OUTCOME_UNKNOWN = Problem(
    status=409,
    kind="idempotency-outcome-unknown",
    title="The outcome is unknown",
    detail="A request with this Idempotency-Key was begun and may have taken effect. It is not repeated, and has to be "
    "reconciled. Do not repeat it under another key.",
)
_STORE_UNAVAILABLE = Problem(
    status=503,
    kind="idempotency-store-unavailable",
    title="The request was not processed",
    detail="Whether it was processed before cannot be told at the moment. Repeat it with the same Idempotency-Key.",
)
