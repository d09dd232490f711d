"""HTTP messages as intents keep them: one line of JSON, and the body."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from resilient.idempotency.fingerprint import digest

__all__ = ["ALWAYS_KEPT", "CREDENTIALS", "KeptRequest", "KeptResponse"]

ALWAYS_KEPT = frozenset({"accept", "accept-language", "content-encoding", "content-language", "content-type", "prefer"})
"""What says how the body is to be read and answered, and holds no secret."""
CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})
"""Never written to a disk: whoever resumes has its own."""
_OF_THE_MOMENT = frozenset(
    {
        "accept-encoding",
        "baggage",
        "connection",
        "content-length",
        "date",
        "expect",
        "host",
        "idempotency-key",
        "keep-alive",
        "te",
        "traceparent",
        "tracestate",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-correlation-id",
        "x-request-id",
    }
)
"""Of the connection, the client or one moment: a request without them is the same request."""
_NOT_OF_A_RESULT = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRequest:
    """A request as it is sent again. `left_out` names the headers whose values are not kept."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    left_out: list[str]
    body: bytes

    @classmethod
    def of(
        cls, method: str, url: str, headers: Iterable[tuple[str, str]], body: bytes, *, keep: frozenset[str]
    ) -> KeptRequest:
        """What is kept of a request: its body, and the headers that are named in `keep`."""
        kept: list[tuple[str, str]] = []
        left_out: set[str] = set()
        for name, value in headers:
            lower = name.lower()
            if lower in keep:
                kept.append((lower, value))
            elif lower not in _OF_THE_MOMENT and not lower.startswith("resilient-"):
                left_out.add(lower)
        return cls(method=method, url=url, headers=kept, left_out=sorted(left_out), body=body)

    @property
    def place(self) -> str:
        """Where it goes, as far as a person wants to know."""
        return f"{self.method} {self.url.partition('?')[0].partition('#')[0]}"

    @property
    def fingerprint(self) -> bytes:
        """What a repetition under the same key has to share."""
        content = [value for name, value in self.headers if name in {"content-encoding", "content-type"}]
        return digest([self.method.encode(), self.url.encode(), digest(map(str.encode, content)), self.body])

    def dump(self) -> bytes:
        """One line of JSON, and the body."""
        head = {
            "version": 1,
            "method": self.method,
            "url": self.url,
            "headers": self.headers,
            "left_out": self.left_out,
        }
        return json.dumps(head).encode() + b"\n" + self.body

    @classmethod
    def load(cls, data: bytes) -> KeptRequest:
        """The reverse of `dump`."""
        line, _, body = data.partition(b"\n")
        head = json.loads(line)
        headers = [(name, value) for name, value in head["headers"]]
        return cls(method=head["method"], url=head["url"], headers=headers, left_out=head["left_out"], body=body)


@final
@dataclass(frozen=True, slots=True)
class KeptResponse:
    """A response as it is given to whoever asks again. Its body is as it was sent, compressed or not."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @classmethod
    def of(cls, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> KeptResponse:
        """What is kept of a response."""
        kept = [(name.lower(), value) for name, value in headers if name.lower() not in _NOT_OF_A_RESULT]
        return cls(status, kept, body)

    def dump(self) -> bytes:
        """One line of JSON, and the body."""
        head = {"version": 1, "status": self.status, "headers": self.headers}
        return json.dumps(head).encode() + b"\n" + self.body

    @classmethod
    def load(cls, data: bytes) -> KeptResponse:
        """The reverse of `dump`."""
        line, _, body = data.partition(b"\n")
        head = json.loads(line)
        return cls(head["status"], [(name, value) for name, value in head["headers"]], body)
