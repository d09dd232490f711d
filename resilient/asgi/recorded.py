"""What is kept of a response, and what is answered with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import final

from resilient.asgi.problems import Headers, Problem, send_response
from resilient.asgi.types import Message, Send

__all__ = ["Recorded"]

# Of the connection (RFC 9110, section 7.6.1), of one client or one moment: no part of a result.
_NOT_KEPT = frozenset(
    {
        b"connection",
        b"date",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_OF_THE_BODY = frozenset(
    {b"accept-ranges", b"content-encoding", b"content-length", b"content-range", b"content-type", b"etag"}
)
_REPLAYED = (b"idempotency-replayed", b"true")


@final
@dataclass(frozen=True, slots=True)
class Recorded:
    """A response as it is replayed. `body` is None where it was too large to keep, or a stream without an end."""

    status: int
    headers: Headers
    body: bytes | None
    trailers: Headers = field(default_factory=Headers)

    @classmethod
    def of(cls, start: Message, body: bytes | None, trailers: Headers | None = None) -> Recorded:
        """What is kept of a response that begins with `start`."""
        headers = [(bytes(name).lower(), bytes(value)) for name, value in start.get("headers", ())]
        named = {
            token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")
        }
        kept = [(name, value) for name, value in headers if name not in _NOT_KEPT and name not in named]
        return cls(start["status"], kept, body, trailers or [])

    def dump(self) -> bytes:
        """One line of JSON, and the body."""
        head: dict[str, object] = {"version": 1, "status": self.status, "headers": _as_text(self.headers)}
        head["body"] = self.body is not None
        if self.trailers:
            head["trailers"] = _as_text(self.trailers)
        return json.dumps(head).encode() + b"\n" + (self.body or b"")

    @classmethod
    def load(cls, data: bytes) -> Recorded:
        """The reverse of `dump`."""
        line, _, body = data.partition(b"\n")
        head = json.loads(line)
        headers, trailers = _as_headers(head["headers"]), _as_headers(head.get("trailers", ()))
        return cls(head["status"], headers, body if head["body"] else None, trailers)

    async def send(self, send: Send, *, trailers: bool = False) -> None:
        """Replay it; its trailers where the server has them (`trailers`), without otherwise.

        Where the body was not kept, the status and the other headers still are what they were: an error status would
        say that it failed, and invite a repetition under a fresh key. A problem document takes the body's place.
        """
        if self.body is not None and self.trailers and trailers:
            headers = [line for line in self.headers if line[0] != b"content-length"]
            start = {"type": "http.response.start", "status": self.status, "headers": [*headers, _REPLAYED]}
            await send({**start, "trailers": True})
            await send({"type": "http.response.body", "body": self.body})
            await send({"type": "http.response.trailers", "headers": self.trailers, "more_trailers": False})
            return
        if self.body is not None:
            await send_response(send, self.status, [*self.headers, _REPLAYED], self.body)
            return
        problem = Problem(
            status=self.status,
            kind="idempotency-body-not-kept",
            title="Done before; its body was not kept",
            detail="The request was processed under this Idempotency-Key. The body of its response was too large to "
            "keep, or a stream, and cannot be sent again. Do not repeat the request under another key.",
            headers=[*((name, value) for name, value in self.headers if name not in _OF_THE_BODY), _REPLAYED],
        )
        await problem.send(send)


def _as_text(headers: Headers) -> list[list[str]]:
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]


def _as_headers(lines: Iterable[Sequence[str]]) -> Headers:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in lines]
