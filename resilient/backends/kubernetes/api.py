"""Requests to the API server, over httpx."""

from __future__ import annotations

import json
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, final

import anyio.to_thread

from resilient.backends.kubernetes.access import Access
from resilient.backends.listwatch import Expired, SourceFailed
from resilient.backends.network import tidy

if TYPE_CHECKING:
    import httpx

__all__ = ["Api", "ApiFailed", "Event"]

_log = logging.getLogger("resilient.kubernetes")

T = TypeVar("T")

_CONNECT = 5.0
_READ = 30.0
_SLACK = 15.0
_CLOSE = 1.0
_PAGE = 500
"""Objects of one answer, as kubectl asks for."""
_MOST_PAGES = 100
_LARGEST_ANSWER = 64 * 1024 * 1024
_LARGEST_REFUSAL = 1024 * 1024
_LARGEST_LINE = 16 * 1024 * 1024
"""Bytes; the server itself refuses objects larger than some 3 MB."""
_GONE = 410


class ApiFailed(SourceFailed):
    """The API server answered with an error: its `status` and its `reason`, such as `NotFound` or `Conflict`."""

    def __init__(self, message: str, status: int, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, retry_after)
        self.status = status
        self.reason = reason


@final
@dataclass(frozen=True, slots=True)
class Event:
    """One line of a watch: `kind` is ADDED, MODIFIED, DELETED or BOOKMARK, `revision` where to resume after it."""

    kind: str
    object: Mapping[str, Any]
    revision: str


class Offload(Protocol):
    """How blocking work is done, such as reading a token."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]:
        """Do the work and return its result."""
        ...


async def _in_thread(work: Callable[[], T], /) -> T:
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)


@final
class Api:
    """Asks one API server. `find` tells where it is, anew for every step: certificates and tokens are replaced.

    Each list and each watch has a connection of its own, which ends with it: there is one in minutes, and nothing to
    be left behind. A dead peer is found by the system's keep-alive within a minute, a silent one by the time without a
    byte: `read` seconds (30.0) for an answer, and for a watch `slack` (15.0) more than it was to last. No step has a
    limit as a whole. Proxies of the environment are not used.

    Raises `ApiFailed` for what the server refuses, `SourceFailed` for what cannot be reached or read, and `Expired` for
    a revision that is too old.
    """

    def __init__(
        self, find: Callable[[], Access], *, read: float = _READ, slack: float = _SLACK, offload: Offload = _in_thread
    ) -> None:
        self._find = find
        self._read = read
        self._slack = slack
        self._offload = offload
        self._tls: tuple[object, ssl.SSLContext | None] = ((), None)
        self._warned: set[str] = set()

    async def namespace(self) -> str:
        """Return the namespace that is meant where none is named."""
        return (await self._offload(self._find)).namespace

    async def request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: object = None,
    ) -> Mapping[str, Any]:
        """Send one request, and return the answer's object."""
        content = None if body is None else json.dumps(body).encode()
        async with self._send(method, path, params or {}, read=self._read, content=content) as response:
            return _object(await _whole(response, _LARGEST_ANSWER))

    async def list_all(self, path: str, params: Mapping[str, str]) -> tuple[list[Mapping[str, Any]], str]:
        """Return all objects, in pages of 500, and the revision from which on they may be watched.

        If a page's token expires meanwhile, all are asked for again, at once.
        """
        try:
            return await self._pages(path, {**params, "limit": str(_PAGE)})
        except Expired:
            return await self._pages(path, params)

    async def watch(
        self, path: str, params: Mapping[str, str], revision: str, seconds: int
    ) -> AsyncGenerator[list[Event], None]:
        """Yield what happens after `revision`, the lines that came together as one, for at most `seconds`."""
        params = {
            **params,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": revision,
            "timeoutSeconds": str(seconds),
        }
        async with (
            self._send("GET", path, params, read=seconds + self._slack) as response,
            _chunks(response) as chunks,
        ):
            lines = _Lines()
            async for chunk in chunks:
                events, failure = lines.feed(chunk)
                if events:
                    yield events
                if failure is not None:
                    raise failure

    async def _pages(self, path: str, params: Mapping[str, str]) -> tuple[list[Mapping[str, Any]], str]:
        found: list[Mapping[str, Any]] = []
        token = ""
        for _ in range(_MOST_PAGES):
            page = await self.request("GET", path, {**params, "continue": token} if token else params)
            metadata = _mapping(page.get("metadata"))
            items: object = page.get("items")
            if not isinstance(items, list | None):
                raise SourceFailed("a list has no items")
            found += [_mapping(item) for item in cast("list[object]", items or [])]
            token = str(metadata.get("continue") or "")
            if not token:
                return found, str(metadata.get("resourceVersion") or "")
        raise SourceFailed(f"a list has more than {_MOST_PAGES} pages")

    @asynccontextmanager
    async def _send(
        self, method: str, path: str, params: Mapping[str, str], *, read: float, content: bytes | None = None
    ) -> AsyncGenerator[httpx.Response, None]:
        access, token, tls = await self._offload(self._prepare)
        import httpx  # which `_prepare` has done, in its thread

        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "resilient"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if content is not None:
            headers["Content-Type"] = "application/json"
        transport = httpx.AsyncHTTPTransport(
            verify=tls if tls is not None else False, trust_env=False, socket_options=_KEEP_ALIVE
        )
        tidy(transport)
        timeout = httpx.Timeout(read, connect=_CONNECT)
        extensions = {} if access.server_name is None else {"sni_hostname": access.server_name}
        try:
            async with (
                httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False) as client,
                client.stream(
                    method,
                    access.server.rstrip("/") + path,
                    params=params,
                    headers=headers,
                    content=content,
                    extensions=extensions,
                ) as response,
            ):
                self._warn(response.headers.get("warning"))
                if not response.is_success:
                    raise await _refusal(response)
                yield response
        except httpx.HTTPError as error:
            raise SourceFailed(f"{access.server}: {str(error) or type(error).__name__}") from error

    def _prepare(self) -> tuple[Access, str | None, ssl.SSLContext | None]:
        """Do what blocks: read files, make the TLS context once what it is made from has changed, import httpx."""
        import httpx

        del httpx
        access = self._find()
        token = access.bearer()
        made_from = (access.server, access.ca, access.certificate, access.key)
        if self._tls[0] != made_from:
            self._tls = (made_from, access.tls())
        return access, token, self._tls[1]

    def _warn(self, warning: str | None) -> None:
        """Log what the server warns of (a version of the API that will go), once."""
        if warning and warning not in self._warned and len(self._warned) < 100:  # noqa: PLR2004 - there are few
            self._warned.add(warning)
            _log.warning("the API server warns: %s", warning)


def _keep_alive() -> list[tuple[int, int, int]]:
    """Let the system find a peer that is gone without a word: after 30 s of silence, and three times 10 more."""
    found = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        option = getattr(socket, name, None)  # each system has some of them
        if option is not None:
            found.append((socket.IPPROTO_TCP, option, value))
    return found


_KEEP_ALIVE = _keep_alive()


@final
class _Lines:
    """Takes a watch apart into its events.

    At line feeds and nowhere else: JSON may hold what other readers take for the end of a line (U+0085, U+2028). A line
    that was cut off by the end of the watch is none.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> tuple[list[Event], Exception | None]:
        """Return the events that are complete now, and what ends the watch."""
        self._rest += chunk
        end = self._rest.rfind(b"\n", len(self._rest) - len(chunk)) + 1
        lines = bytes(self._rest[:end]).split(b"\n")
        del self._rest[:end]
        events: list[Event] = []
        try:
            for line in lines:
                if not line.strip():
                    continue
                event = _event(line)
                if event.kind == "ERROR":
                    return events, _failure(event.object, 0, None)
                events.append(event)
        except SourceFailed as failure:
            return events, failure
        if len(self._rest) > _LARGEST_LINE:
            return events, SourceFailed(f"a line of a watch is longer than {_LARGEST_LINE} bytes")
        return events, None


@asynccontextmanager
async def _chunks(response: httpx.Response) -> AsyncGenerator[AsyncIterator[bytes], None]:
    """Read a body, and leave it properly.

    httpx's iterators are generators in generators. One that is left before its end becomes garbage, which trio
    complains of; so its connection is closed, and it finds that out by itself.
    """
    chunks = response.aiter_raw()
    try:
        yield chunks
    finally:
        with anyio.move_on_after(_CLOSE, shield=True):
            await response.aclose()
            with suppress(Exception):
                async for _ in chunks:
                    pass


async def _whole(response: httpx.Response, most: int) -> bytes:
    content = bytearray()
    async with _chunks(response) as chunks:
        async for chunk in chunks:
            content += chunk
            if len(content) > most:
                raise SourceFailed(f"an answer is larger than {most} bytes")
    return bytes(content)


async def _refusal(response: httpx.Response) -> Exception:
    """Make an error of an answer that is one."""
    content = await _whole(response, _LARGEST_REFUSAL)
    status: Mapping[str, Any] = {}
    with suppress(SourceFailed):  # a proxy's page, say
        status = _object(content)
    return _failure(status, response.status_code, response.headers.get("retry-after"))


def _failure(status: Mapping[str, Any], code: int, header: str | None) -> Exception:
    """Make an error of a `Status` object, of the body of an answer or of a line of a watch."""
    code = code or (status["code"] if isinstance(status.get("code"), int) else 0)
    reason = str(status.get("reason") or "")
    message = f"{code} {status.get('message') or reason or 'without a reason'}"
    if code == _GONE or reason in {"Expired", "Gone"}:
        return Expired(message)
    hint = _mapping(status.get("details")).get("retryAfterSeconds") or header
    try:
        retry_after = None if hint is None else float(hint)
    except (TypeError, ValueError):
        retry_after = None
    return ApiFailed(message, code, reason, retry_after)


def _event(line: bytes) -> Event:
    fields = _object(line)
    what = _mapping(fields.get("object"))
    revision = _mapping(what.get("metadata")).get("resourceVersion")
    return Event(str(fields.get("type")), what, str(revision or ""))


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SourceFailed(f"an answer is no JSON: {error}") from None
    return _mapping(found)


def _mapping(value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SourceFailed(f"an answer is of another form than Kubernetes': {str(value)[:100]}")
    return cast("Mapping[str, Any]", value)
