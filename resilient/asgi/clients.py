"""The HTTP side of leased clients: where identities are leased, and what a request says of its client."""

from __future__ import annotations

import json
from typing import final
from urllib.parse import parse_qs

from resilient.asgi.problems import Headers, Problem, send_response
from resilient.asgi.types import Scope, Send
from resilient.backends.clients import ClientCall
from resilient.backends.store import Replay, Store
from resilient.context import current_runtime
from resilient.errors import StoreUnavailable
from resilient.idempotency.execution import Execution
from resilient.idempotency.hosts import LoopHost
from resilient.idempotency.leasing.authority import PATH
from resilient.idempotency.leasing.server import LeasedClients, check_lease
from resilient.idempotency.terms import Terms
from resilient.runtime import Runtime

__all__ = ["EXPIRED", "STALE", "Clients"]

_CLIENT, _ACK = b"resilient-client", b"resilient-ack"
_LONGEST_NAME = 64
_DIGITS = 18

EXPIRED = Problem(
    status=410,
    kind="idempotency-key-expired",
    title="The client is not known any more",
    detail="The lease of this key's client is over. Whether the request was processed before can no longer be told; "
    "it was not processed now. Do not repeat it under another key before that is found out.",
    headers=[(_CLIENT, b"expired")],
)
STALE = Problem(
    status=410,
    kind="idempotency-key-expired",
    title="The request was acknowledged",
    detail="Its client has said that it will not repeat this request, and its outcome is not remembered any more. It "
    "was not processed now.",
)
_UNKNOWN_CLIENT = Problem(
    status=410,
    kind="client-lease-expired",
    title="The client is not known any more",
    detail="Its lease is over. Take a new one.",
)
_NO_SUCH_METHOD = Problem(
    status=405,
    kind="method-not-allowed",
    title="Not allowed",
    detail=f"POST {PATH} takes a lease, PUT {PATH}/<client>?acknowledged=<number> renews it, DELETE ends it.",
    headers=[(b"allow", b"POST, PUT, DELETE")],
)
_STORE_UNAVAILABLE = Problem(
    status=503,
    kind="idempotency-store-unavailable",
    title="The lease was not given",
    detail="The store of clients cannot tell at the moment. Ask again.",
)


@final
class Clients:
    """Leases identities, and begins the calls that are made under them."""

    def __init__(self, store: Store, *, lease: float, runtime: Runtime | None) -> None:
        self._clients = LeasedClients(store)
        self._lease = check_lease("client_lease", lease)
        self._runtime = runtime

    def serves(self, scope: Scope) -> bool:
        """Whether a request asks for a lease."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return bool(scope["type"] == "http" and (path == PATH or path.startswith(f"{PATH}/")))

    async def serve(self, principal: str, scope: Scope, send: Send, links: Headers) -> None:
        """Answer it."""
        name = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix(PATH).removeprefix("/")
        try:
            answer = await self._answer(scope["method"], name, principal, scope)
        except StoreUnavailable:
            answer = _STORE_UNAVAILABLE
        if isinstance(answer, Problem):
            await answer.send(send, links)
            return
        status, document = answer
        body = b"" if document is None else json.dumps(document).encode()
        headers = [] if document is None else [(b"content-type", b"application/json")]
        await send_response(send, status, [*headers, (b"cache-control", b"no-store")], body)

    async def _answer(
        self, method: str, name: str, principal: str, scope: Scope
    ) -> tuple[int, dict[str, object] | None] | Problem:
        match method, name:
            case "POST", "":
                client = (self._runtime or current_runtime()).new_id()
                await self._clients.register(client, principal, lease=self._lease)
                return 201, {"client": client, "lease": self._lease}
            case "PUT", str() if name:
                acknowledged = _acknowledged(scope)
                if acknowledged is None:
                    return _bad_request("acknowledged=...: the number of a call")
                if not await self._clients.renew(name, principal, acknowledged, lease=self._lease):
                    return _UNKNOWN_CLIENT
                return 200, {"client": name, "lease": self._lease}
            case "DELETE", str() if name:
                await self._clients.leave(name, principal)
                return 204, None
            case _:
                return _NO_SUCH_METHOD

    def call_of(self, scope: Scope, key: str) -> ClientCall | None:
        """What the request says of its client; None: it has none. Raises `ValueError` for what cannot be."""
        said = {name: value for name, value in scope["headers"] if name.lower() in {_CLIENT, _ACK}}
        if _CLIENT not in said:
            return None
        client = said[_CLIENT].decode("latin-1")
        return ClientCall.parse(client[:_LONGEST_NAME], key, said.get(_ACK, b"0").decode("latin-1"))

    async def begin(
        self, terms: Terms, call: ClientCall, principal: str, fingerprint: bytes, name: str
    ) -> Execution | Replay:
        """Begin to run a call of a client, or learn what came of it before."""
        return await self._clients.begin(terms, LoopHost(), call, principal, fingerprint, name=name)


def _acknowledged(scope: Scope) -> int | None:
    values = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("acknowledged", ["0"])
    text = values[-1]
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None


def _bad_request(detail: str) -> Problem:
    return Problem(status=400, kind="client-lease-malformed", title="What is acknowledged?", detail=detail)
