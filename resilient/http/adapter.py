"""What HTTP does for policies that keep a call beyond its process, or have something to ask of the far side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, final

from resilient.call import Ask
from resilient.context import Options, detached
from resilient.http.body import Body, replayable
from resilient.http.classify import classify_http
from resilient.idempotency.intents.kept import KeptRequest, KeptResponse
from resilient.verdict import Effect

if TYPE_CHECKING:
    from resilient.http.exchange import Exchange

__all__ = ["HttpAdapter", "Send"]

_NOT_PROCESSED = frozenset({401, 403, 404, 405, 407, 421})
"""What the way to the operation answers, not the operation: its credentials and routes may be others next time."""
_GONE = 410
_OF_THE_BODY = frozenset({"content-encoding", "content-length", "content-type", "expect", "transfer-encoding"})
_PATIENCE = 10.0
"""Seconds for a request of the library's own, retries included."""
_REPLAYED = ("idempotency-replayed", "idempotent-replayed")  # the second is Stripe's


class Send(Protocol):
    """Sends a request through the policies of a transport."""

    async def __call__(self, request: Any, *, sync: bool) -> Any:
        """Return the response."""
        ...


@final
class HttpAdapter:
    """The adapter of one call."""

    __slots__ = ("_exchange", "_send")

    def __init__(self, exchange: Exchange, send: Send) -> None:
        self._exchange = exchange
        self._send = send

    def keep(self, headers: frozenset[str], limit: int) -> tuple[str, bytes, bytes]:
        """Return what the request is to be kept as."""
        kept = self._kept(headers)
        if len(kept.body) > limit:
            raise ValueError(f"{kept.place}: a body of {len(kept.body)} bytes, and max_body={limit}")
        return kept.place, kept.dump(), kept.fingerprint

    def _kept(self, headers: frozenset[str]) -> KeptRequest:
        request = self._exchange.request
        if not replayable(self._exchange.package, request.stream):
            what = getattr(request.stream, "what", type(request.stream).__name__)
            raise ValueError(
                f"{request.method} {request.url.host}: its body, {what}, can be read only once, and an intent may have "
                "to be sent again with the same bytes: pass bytes, text, json= or data="
            )
        url = request.url
        if url.userinfo:
            url = url.copy_with(username=None, password=None)  # a credential, which is in `Authorization` too
        pairs = request.headers.multi_items()
        return KeptRequest.of(request.method, str(url), pairs, b"".join(request.stream), keep=headers)

    def lacks(self, request: bytes) -> str | None:
        """Say why this request is not the one that was kept."""
        was = KeptRequest.load(request)
        names = frozenset(name for name, _ in was.headers)
        present = self._kept(names)
        if (present.method, present.url, present.body) != (was.method, was.url, was.body):
            return "method, URL or body differ"
        if sorted(present.headers) != sorted(was.headers):
            return f"the headers {', '.join(sorted(names))} differ"
        missing = [name for name in was.left_out if name not in self._exchange.request.headers]
        if missing:
            return (
                f"it had the headers {', '.join(missing)}, which are not kept: let the client bring them, or name them "
                "in Intents(headers=...)"
            )
        return None

    async def keep_result(self, result: Any, limit: int) -> bytes | None:
        """Return the response's bytes; its body can still be read. None: there are more than `limit`, or no end."""
        if result.headers.get("content-type", "").lower().startswith("text/event-stream"):
            return None
        headers = result.headers.multi_items()
        if result.is_closed:  # it came with its content, as that of a MockTransport does, which is decoded
            content = result.content
            headers = [pair for pair in headers if pair[0] != "content-encoding"]
        else:
            content = await self._read(result, limit)
        if content is None or len(content) > limit:
            return None
        return KeptResponse.of(result.status_code, headers, content).dump()

    async def _read(self, result: Any, limit: int) -> bytes | None:
        body = result.stream
        declared = result.headers.get("content-length", "")
        if not isinstance(body, Body) or (declared.isdigit() and int(declared) > limit):
            return None  # a policy's own answer is kept without its body, too
        return await body.hold(limit)

    def load_result(self, data: bytes) -> Any:
        """Make a response from its bytes."""
        package = self._exchange.package
        kept = KeptResponse.load(data)
        return package.module.Response(kept.status, headers=kept.headers, stream=package.ByteStream(kept.body))

    def is_final(self, result: Any) -> bool:
        """Whether it is what the operation came to."""
        verdict = classify_http.judge_result(result).verdict
        if any(result.headers.get(name) == "true" for name in _REPLAYED):
            return True
        return verdict.effect is Effect.DONE and result.status_code not in _NOT_PROCESSED

    def has_expired(self, result: Any) -> bool:
        """Whether the far side says that it does not know the key's client any more."""
        return bool(result.status_code == _GONE and result.headers.get("resilient-client") == "expired")

    def asker(self) -> Ask:
        """What sends requests of the library's own, with the credentials of this call."""
        package, sync, send = self._exchange.package, self._exchange.sync, self._send
        request = self._exchange.request
        here = request.url
        headers = [
            pair
            for pair in request.headers.multi_items()
            if pair[0] not in _OF_THE_BODY and pair[0] != "idempotency-key" and not pair[0].startswith("resilient-")
        ]

        async def ask(method: str, path: str) -> tuple[int, bytes]:
            extensions = {"resilient": Options(idempotent=True, timeout=_PATIENCE)}
            question = package.Request(method, here.join(path), headers=headers, extensions=extensions)
            with detached():  # options and deadline of the caller's are for its own call
                response = await send(question, sync=sync)
            if sync:
                return response.status_code, response.read()
            return response.status_code, await response.aread()

        return ask
