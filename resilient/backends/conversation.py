"""Requests to a cluster that several endpoints speak for, written once for asyncio, trio and plain threads.

A conversation is a generator. It yields requests, gets their replies, and returns what it wanted to know: what is
asked, in which order, and what follows from an answer stands in it, and nothing of how the bytes travel. `speak` and
`speak_blocking` are its two drivers.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias, TypeVar, cast, final

import httpx

from resilient.backends.listwatch import SourceFailed
from resilient.errors import DiscoveryError

__all__ = [
    "Ask",
    "Conversation",
    "Endpoints",
    "Reply",
    "in_turn",
    "refused",
    "request_for",
    "speak",
    "speak_blocking",
    "unreachable",
]

T = TypeVar("T")

_SERVER_ERROR = 500
_LONGEST_TEXT = 200


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request to one endpoint."""

    method: str
    url: str
    params: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    document: object = None
    """What is sent as JSON; None: nothing."""


@final
@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        """The beginning of it, for a message."""
        return self.content[:_LONGEST_TEXT].decode(errors="replace").strip()

    def document(self) -> Any:
        """Read it as JSON."""
        try:
            return json.loads(self.content)
        except ValueError:
            raise DiscoveryError(f"an answer that is no JSON: {self.text!r}") from None

    def table(self) -> dict[str, Any]:
        """Read it as a JSON object."""
        found = self.document()
        if not isinstance(found, dict):
            raise DiscoveryError(f"an answer that is no JSON object: {self.text!r}")
        return cast("dict[str, Any]", found)


Conversation: TypeAlias = Generator[Ask, Reply, T]
"""An `OSError` that is raised inside it says that there was no reply."""


@final
class Endpoints:
    """The addresses of one cluster. The one that answered last is asked first."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.urls = tuple(urls)
        self._current = 0

    @property
    def current(self) -> str:
        """The one to ask."""
        return self.urls[self._current]

    def turn(self) -> None:
        """Go on to the next."""
        self._current = (self._current + 1) % len(self.urls)


def in_turn(
    endpoints: Endpoints,
    method: str,
    path: str,
    *,
    params: Sequence[tuple[str, str]] = (),
    headers: Mapping[str, str] | None = None,
    document: object = None,
) -> Conversation[Reply]:
    """Ask one endpoint after the other, each once, until one answers with less than 500.

    What is asked may so be done twice. The last reply is returned if there was any, otherwise the last `OSError` is
    raised.
    """
    reply: Reply | None = None
    trouble: OSError | None = None
    for _ in endpoints.urls:
        url = endpoints.current + path
        try:
            reply = yield Ask(method=method, url=url, params=params, headers=headers or {}, document=document)
        except OSError as error:
            trouble = error
        else:
            if reply.status < _SERVER_ERROR:
                return reply
        endpoints.turn()
    if reply is not None:
        return reply
    assert trouble is not None
    raise trouble


async def speak(conversation: Conversation[T], client: httpx.AsyncClient) -> T:
    """Hold the conversation; return what comes of it."""
    try:
        ask = next(conversation)
        while True:
            try:
                response = await client.send(request_for(client, ask))
            except httpx.HTTPError as error:
                ask = conversation.throw(unreachable(ask.url, error))
            else:
                ask = conversation.send(_reply(response))
    except StopIteration as end:
        return cast("T", end.value)
    finally:
        conversation.close()


def speak_blocking(conversation: Conversation[T], client: httpx.Client) -> T:
    """Hold the conversation in a thread; return what comes of it."""
    try:
        ask = next(conversation)
        while True:
            try:
                response = client.send(request_for(client, ask))
            except httpx.HTTPError as error:
                ask = conversation.throw(unreachable(ask.url, error))
            else:
                ask = conversation.send(_reply(response))
    except StopIteration as end:
        return cast("T", end.value)
    finally:
        conversation.close()


def request_for(client: httpx.AsyncClient | httpx.Client, ask: Ask) -> httpx.Request:
    """Return what the client has to send."""
    content = b"" if ask.document is None else json.dumps(ask.document).encode()
    headers = {**ask.headers, **({"Content-Type": "application/json"} if content else {})}
    params = httpx.QueryParams([(name, value) for name, value in ask.params]) if ask.params else None
    request = client.build_request(ask.method, ask.url, params=params, headers=headers, content=content or None)
    request.stream = _Body(content)
    return request


@final
class _Body(httpx.AsyncByteStream, httpx.SyncByteStream):
    """A body that leaves nothing behind when its sending is cancelled; httpx's own is a generator."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        return iter((self._content,))

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Once(self._content)


@final
class _Once:
    def __init__(self, content: bytes) -> None:
        self._left: bytes | None = content

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        content, self._left = self._left, None
        if content is None:
            raise StopAsyncIteration
        return content


def _reply(response: httpx.Response) -> Reply:
    return Reply(response.status_code, response.headers, response.content)


def unreachable(url: str, error: httpx.HTTPError) -> OSError:
    """Return an error of the client as an `OSError`, which says where it happened."""
    kind = TimeoutError if isinstance(error, httpx.TimeoutException) else OSError
    return kind(f"{url}: {str(error) or type(error).__name__}")


def refused(reply: Reply, what: str) -> SourceFailed:
    """Return the error that a reply stands for, with the seconds for which the server asks to be left alone."""
    hint = reply.headers.get("Retry-After", "")
    return SourceFailed(f"{what}: {reply.status} {reply.text}", float(hint) if hint.isdecimal() else None)
