"""Answers that say what is wrong: ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import final

from resilient.asgi.types import Send

__all__ = ["Headers", "Problem", "send_response"]

Headers = list[tuple[bytes, bytes]]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An answer in place of the application's.

    `kind` ends the URN by which a program tells problems of one status apart.
    """

    status: int
    kind: str
    title: str
    detail: str
    headers: Headers = field(default_factory=Headers)

    def body(self) -> bytes:
        """The document."""
        content = {
            "type": f"urn:problem-type:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        return json.dumps(content).encode()

    async def send(self, send: Send, more: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Answer with the problem, and with `more` headers."""
        headers = [(b"content-type", b"application/problem+json"), *self.headers, *more]
        await send_response(send, self.status, headers, self.body())


async def send_response(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a whole response. A `content-length` is added where a body may be and none is given."""
    if body and all(name.lower() != b"content-length" for name, _ in headers):
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
