"""Requests that take effect once for each ``Idempotency-Key``, whatever framework answers them."""

from __future__ import annotations

import inspect
import logging
import math
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal, TypeAlias, final, get_args

from resilient.asgi.bodies import Body, TooLarge
from resilient.asgi.clients import EXPIRED, STALE, Clients
from resilient.asgi.exchange import Exchange, Manners
from resilient.asgi.problems import Headers, Problem
from resilient.asgi.recorded import Recorded
from resilient.asgi.types import ASGIApp, Receive, Scope, Send
from resilient.backends.clients import ClientCall
from resilient.backends.store import Mode, Replay, Store
from resilient.context import current_runtime
from resilient.errors import ExpiredKey, InProgress, KeyReused, OutcomeUnknown, StoreUnavailable
from resilient.events import IdempotencyBypassed
from resilient.idempotency.account import Account
from resilient.idempotency.execution import Execution
from resilient.idempotency.fingerprint import digest
from resilient.idempotency.hosts import LoopHost
from resilient.idempotency.keys import parse_key
from resilient.idempotency.terms import Terms
from resilient.runtime import Runtime

__all__ = ["IdempotencyMiddleware"]

_log = logging.getLogger("resilient.asgi")

OnStoreFailure: TypeAlias = Literal["closed", "open"]
"""What a request gets that the store cannot decide about: a refusal, or a run without protection."""

Key: TypeAlias = str | ClientCall
"""What names a request."""

_HEADER = b"idempotency-key"
_TRAILERS = "http.response.trailers"
_URI_REFERENCE = re.compile(r"[!#-;=?-\[\]_a-z~%]+")
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
        Bytes of a response that are kept (larger: recorded without its body), and of a request that are kept in memory;
        1 MiB.
    `max_request`
        Bytes of a request's body (larger: 413); `max_body` by default. A body is read whole before anything runs, to
        compare it. What exceeds `max_body` waits in a temporary file that has no name (in ``TMPDIR``): as many of them
        as there are requests at once, so let the server bound those.
    `wait`
        Seconds for which a duplicate waits for the one that runs, and for the end of its lease, before it gets 409
        (0.0: at once). It does not wait longer than `ServingMiddleware` says that its client does.
    `resumable`
        In `transactional` mode: commit the claim before the application runs, see `once`. Without it a store that can
        (PostgreSQL) keeps one transaction open from the request's beginning to its end, a lease at most.
    `on_store_failure`
        ``"closed"``: a request that the store cannot decide about gets 503 and does not run. ``"open"``: it runs,
        without a claim in its scope, and a response that cannot be recorded goes out. Then a retry may run twice; each
        time there is an `IdempotencyBypassed` event. Only in mode `fenced`.
    `documentation`
        A URI that every problem links to (``rel="describedby"``): where you tell how long keys are remembered.
    `methods`
        POST and PATCH: what HTTP does not make idempotent by itself.
    `client_lease`
        Seconds for which identities are leased to clients of your own (`ClientLease`; 600.0 suits), at
        ``/.well-known/resilient-clients``. A key under such an identity is remembered as long as its client may retry
        it, and not for `ttl`; one that was acknowledged, or whose client's lease is over, gets 410. By default none are
        leased: whoever may send requests could take as many as it likes.
    `runtime`
        Replaces the ambient one. It is told what becomes of each key (`ClaimBegan`, `ResultReplayed`, ...); the
        operation's name is the method and the path.

    Answers of its own are ``application/problem+json``: 400 for a key that is none, 409 with ``Retry-After`` while the
    same request is running and without it where its outcome is unknown, 413, 422 for another request under the same
    key, 503 when the store cannot tell (then nothing was run). Codes and header follow the IETF draft
    ``draft-ietf-httpapi-idempotency-key-header`` (https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/).

    The response is recorded before its first byte is sent, whatever its status, without ``Set-Cookie``, ``Date`` and
    what belongs to the connection. Replays carry ``Idempotency-Replayed: true``. An exception records nothing: a
    transaction is undone and the key is free at once; a fenced lease is held to its end, and then the request may run
    again. ``claim.release()`` keeps a response from being recorded. Put authentication, rate limits and load shedding
    outside of this middleware, or their refusals are what retries get.

    A response that is longer than `max_body`, or a stream of events, is passed on as it comes and recorded without its
    body; so is its replay, with the same status. Every other response is held back until it is whole, and until then
    the application is not told of a disconnect: its work is finished for the retry. Trailers are recorded, and replayed
    where the server has them. Files that the server would send by itself, and pushes, are not offered to the
    application (frameworks then send the content); early hints pass, and are not replayed.

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
        max_request: int | None = None,
        wait: float = 0.0,
        resumable: bool = False,
        on_store_failure: OnStoreFailure = "closed",
        documentation: str | None = None,
        methods: Iterable[str] = ("POST", "PATCH"),
        client_lease: float | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        max_request = max_body if max_request is None else max_request
        for name, size in (("max_body", max_body), ("max_request", max_request)):
            if size < 0:
                raise ValueError(f"{name}={size!r}: bytes, at least 0")
        if on_store_failure not in get_args(OnStoreFailure):
            raise ValueError(f"on_store_failure={on_store_failure!r}: 'closed' or 'open'")
        if on_store_failure == "open" and mode != "fenced":
            raise ValueError(f"on_store_failure='open': it may run twice, which mode={mode!r} excludes; use 'fenced'")
        self.app = app
        self._terms = Terms.agree(
            store, mode=mode, lease=lease, ttl=ttl, runtime=runtime, wait=wait, resumable=resumable
        )
        self._principal = credential if principal is None else principal
        self._require = require
        self._max_body = max_body
        self._max_request = max_request
        self._open = on_store_failure == "open"
        self._links = _links(documentation)
        self._manners = Manners(max_body=max_body, open_on_failure=self._open, links=self._links)
        self._methods = frozenset(method.upper() for method in methods)
        self._clients = None
        if client_lease is not None:
            self._clients = Clients(self._terms.store, lease=client_lease, runtime=runtime)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if self._clients is not None and self._clients.serves(scope):
            await self._clients.serve(await self._name_principal(scope), scope, send, self._links)
            return
        if scope["type"] != "http" or scope["method"] not in self._methods:
            await self.app(scope, receive, send)
            return
        lines = [value for name, value in scope["headers"] if name.lower() == _HEADER]
        if lines:
            await self._serve(lines, scope, receive, send)
        elif self._require:
            await _KEY_MISSING.send(send, self._links)
        else:
            await self.app(scope, receive, send)

    async def _serve(self, lines: list[bytes], scope: Scope, receive: Receive, send: Send) -> None:
        try:
            key = parse_key(lines)
            call = None if self._clients is None else self._clients.call_of(scope, key)
        except ValueError as error:
            await _key_malformed(str(error)).send(send, self._links)
            return
        principal = await self._name_principal(scope)
        try:
            body = await Body.read(scope, receive, memory=self._max_body, limit=self._max_request)
        except TooLarge:
            await _too_large(self._max_request).send(send, self._links)
            return
        except OSError:
            _log.exception("a request's body could not be kept in a temporary file; the request was not run")
            await _BODY_NOT_KEPT.send(send, self._links)
            return
        if body is None:
            return  # the client left before it had said what it wants
        try:
            await self._answer(principal, call or key, body, scope, receive, send)
        finally:
            await body.close()

    async def _answer(self, principal: str, key: Key, body: Body, scope: Scope, receive: Receive, send: Send) -> None:
        begun = await self._begin(principal, key, body, scope)
        if isinstance(begun, Execution):
            await Exchange(begun, body, receive, send, self._manners).run(self.app, scope)
        elif isinstance(begun, Recorded):
            await begun.send(send, trailers=_TRAILERS in (scope.get("extensions") or {}))
        elif isinstance(begun, Problem):
            await begun.send(send, self._links)
        else:
            await self.app(scope, body.then(receive), send)

    async def _name_principal(self, scope: Scope) -> str:
        principal = self._principal(scope)
        if inspect.isawaitable(principal):
            principal = await principal
        if not isinstance(principal, str):
            raise TypeError(f"principal: it returned {principal!r}, and a caller is named by a str")
        return principal

    async def _begin(self, principal: str, key: Key, body: Body, scope: Scope) -> Execution | Recorded | Problem | None:
        """What is to be done; None where the application runs without a claim."""
        name = f"{scope['method']} {scope['path'][:_PATH_SHOWN]}"
        fingerprint = _fingerprint(scope, body.digest)
        try:
            if isinstance(key, str):
                place = _place(name, principal, scope)
                begun = await self._terms.begin(LoopHost(), place, key, fingerprint, name=name)
            else:
                assert self._clients is not None
                begun = await self._clients.begin(self._terms, key, principal, fingerprint, name)
        except InProgress as error:
            return _in_progress(error.retry_after)
        except ExpiredKey as error:
            return STALE if error.stale else EXPIRED
        except (KeyReused, OutcomeUnknown) as error:
            return _REFUSALS[type(error)]
        except StoreUnavailable as error:
            account = Account(self._terms.runtime or current_runtime(), name, key if isinstance(key, str) else key.key)
            return self._without_store(error, account)
        if isinstance(begun, Replay):
            return _OUTCOME_UNKNOWN if begun.result is None else Recorded.load(begun.result)
        return begun

    def _without_store(self, error: StoreUnavailable, account: Account) -> Problem | None:
        if not self._open:
            _log.warning("the idempotency store failed; a request was not run", exc_info=error)
            return _STORE_UNAVAILABLE
        account.tell(IdempotencyBypassed, error=str(error), ran=False)
        _log.warning("the idempotency store failed; a request runs without protection", exc_info=error)
        return None


def _place(name: str, principal: str, scope: Scope) -> str:
    """What a key is unique in: the caller, the method and the path, none of which the key can change."""
    mark = digest([principal.encode(), scope["method"].encode(), scope["path"].encode()])
    return f"{name} {mark.hex()[:32]}"


def _links(documentation: str | None) -> Headers:
    """Where the IETF draft has a server say how keys are meant to be used."""
    if documentation is None:
        return []
    if not _URI_REFERENCE.fullmatch(documentation):
        raise ValueError(f"documentation={documentation!r}: a URI of visible ASCII characters")
    return [(b"link", f'<{documentation}>; rel="describedby"'.encode())]


def credential(scope: Scope) -> str:
    """Return a hash of the credentials that the request carries: the default principal."""
    carried = [value for name, value in scope["headers"] if name.lower() in {b"authorization", b"cookie"}]
    return digest(carried).hex()


def _fingerprint(scope: Scope, body: bytes) -> bytes:
    """What tells two requests under one key apart; `body` is the digest of the body."""
    content = [value for name, value in scope["headers"] if name.lower() in {b"content-encoding", b"content-type"}]
    asked = [scope["method"].encode(), scope["path"].encode(), scope.get("query_string", b"")]
    return digest([*asked, digest(content), body])


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
_REFUSALS: dict[type[Exception], Problem] = {KeyReused: _KEY_REUSED, OutcomeUnknown: _OUTCOME_UNKNOWN}
_STORE_UNAVAILABLE = Problem(
    status=503,
    kind="idempotency-store-unavailable",
    title="The request was not processed",
    detail="Whether it was processed before cannot be told at the moment. Repeat it with the same Idempotency-Key.",
)
_BODY_NOT_KEPT = Problem(
    status=503,
    kind="idempotency-body-not-spooled",
    title="The request was not processed",
    detail="Its body could not be stored for comparison. Repeat it with the same Idempotency-Key.",
)
