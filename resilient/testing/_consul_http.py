"""The HTTP side of the fake Consul: what is asked, how it may be asked, and how long the answer waits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol, cast, final
from urllib.parse import parse_qs, unquote, urlsplit

from resilient.testing._consul_catalog import Catalog, Refusal, duration

__all__ = ["Answer", "Question", "Server", "World", "route"]

_DEFAULT_WAIT, _LONGEST_WAIT = 300.0, 600.0

_SWITCH = {"": True, "1": True, "t": True, "true": True, "0": False, "f": False, "false": False}


@final
@dataclass(slots=True)
class Question:
    """A request taken apart. `taken` are the arguments that somebody has understood."""

    method: str
    path: str
    arguments: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    taken: set[str]

    def argument(self, name: str, default: str = "") -> str:
        """Read an argument."""
        self.taken.add(name)
        return self.arguments.get(name, [default])[-1]

    def given(self, name: str) -> bool:
        """Was it given at all?"""
        self.taken.add(name)
        return name in self.arguments

    def switch(self, name: str) -> bool:
        """Read an argument that is on when it is named."""
        if not self.given(name):
            return False
        value = self.argument(name).lower()
        if value not in _SWITCH:
            raise Refusal(400, f"Invalid value for ?{name}")
        return _SWITCH[value]

    def document(self) -> Mapping[str, Any]:
        """Read the body."""
        try:
            found = json.loads(self.body or b"{}")
        except ValueError as error:
            raise Refusal(400, f"Request decode error: {error}") from None
        if not isinstance(found, dict):
            raise Refusal(400, "Request decode error: not an object")
        return cast("Mapping[str, Any]", found)

    def finish(self) -> None:
        """Refuse what nobody has understood: a real server ignores it, and the caller never learns."""
        for name in self.arguments:
            if name not in self.taken:
                raise Refusal(400, f"the fake knows no argument {name!r} of {self.path}")


@final
@dataclass(slots=True)
class Answer:
    """`index` is None for what cannot be waited for. Content in bytes is sent as it is."""

    content: Any
    index: int | None = None
    status: int = 200


class World(Protocol):
    """What the answers come from."""

    catalog: Catalog

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def wait(self, seconds: float, over: Callable[[], bool]) -> None:
        """Wait until it is over, or so many seconds, with the jitter of a real server."""
        ...


def route(world: World, ask: Question) -> Answer:
    """Answer a question. Called with the world locked, which `World.wait` lets go."""
    if ask.path.startswith(_KV):
        respond = _KEYS.get(ask.method)
        if respond is None:
            raise Refusal(405, f"method {ask.method} not allowed")
        return respond(world, ask, unquote(ask.path.removeprefix(_KV)))
    parts = [unquote(part) for part in ask.path.split("/")[1:]]
    for method, path, respond in _ROUTES:
        pattern = path.split("/")[1:]
        if method == ask.method and len(pattern) == len(parts):
            found = [part for part, wanted in zip(parts, pattern, strict=True) if wanted == "*"]
            if all(wanted in {"*", part} for part, wanted in zip(parts, pattern, strict=True)):
                return respond(world, ask, *found)
    raise Refusal(404, f"the fake knows no {ask.method} {ask.path}")


def _services(world: World, ask: Question) -> Answer:
    _consistency(world, ask)
    # Functions, because it may be restored meanwhile.
    return _blocking(world, ask, lambda: world.catalog.index, lambda: world.catalog.services())  # noqa: PLW0108


def _leader(_world: World, _ask: Question) -> Answer:
    return Answer("127.0.0.1:8300")


def _agent_services(world: World, _ask: Question) -> Answer:
    return Answer(world.catalog.agent_services())


def _agent_service(world: World, _ask: Question, name: str) -> Answer:
    return Answer(world.catalog.agent_service(name))


def _renew_session(world: World, _ask: Question, name: str) -> Answer:
    return Answer(world.catalog.renew_session(name, world.now()))


def _register(world: World, ask: Question) -> Answer:
    ask.switch("replace-existing-checks")
    return _done(ask, lambda: world.catalog.register(ask.document(), world.now()))


def _deregister(world: World, ask: Question, name: str) -> Answer:
    return _done(ask, lambda: world.catalog.deregister(name))


def _check(world: World, ask: Question, verb: str, name: str) -> Answer:
    status = {"pass": "passing", "warn": "warning", "fail": "critical"}.get(verb)
    if status is None:
        raise Refusal(404, f"the fake knows no check that could {verb}")
    note = ask.argument("note")
    return _done(ask, lambda: world.catalog.update_check(name, status, note, world.now()))


def _create_session(world: World, ask: Question) -> Answer:
    ask.finish()
    return Answer({"ID": world.catalog.create_session(ask.document(), world.now())})


def _destroy_session(world: World, ask: Question, name: str) -> Answer:
    return _done(ask, lambda: world.catalog.destroy_session(name, world.now()), content=True)


def _session(world: World, ask: Question, name: str) -> Answer:
    _consistency(world, ask)
    return _blocking(world, ask, lambda: world.catalog.index, lambda: world.catalog.session(name))


def _done(ask: Question, act: Callable[[], None], content: Any = None) -> Answer:
    ask.finish()
    act()
    return Answer(content)


def _health(world: World, ask: Question, name: str) -> Answer:
    passing = ask.switch("passing")
    ask.taken.add("tag")
    tags = ask.arguments.get("tag", [])
    _consistency(world, ask)
    return _blocking(
        world,
        ask,
        lambda: world.catalog.index_of(name),
        lambda: world.catalog.health(name, tags=tags, passing=passing),
    )


def _consistency(world: World, ask: Question) -> None:
    if ask.switch("stale") and ask.switch("consistent"):
        raise Refusal(400, "Cannot specify ?stale with ?consistent, conflicting semantics.")
    ask.taken.add("consistent")
    datacenter = ask.argument("dc")
    if datacenter and datacenter != world.catalog.datacenter:
        raise Refusal(500, "No path to datacenter")


def _blocking(world: World, ask: Question, index: Callable[[], int], content: Callable[[], Any]) -> Answer:
    """Wait until the index is higher than the one that was given.

    So one that is ahead of the server's, after a restart or a restored snapshot, waits for all its time, whatever
    happens meanwhile; and 0 does not wait.
    """
    given, wait = ask.argument("index", "0"), ask.argument("wait")
    ask.finish()
    if not given.isdecimal():
        raise Refusal(400, "Invalid index")
    try:
        seconds = duration(wait) if wait else 0.0
    except Refusal:
        raise Refusal(400, "Invalid wait time") from None
    seconds = min(seconds or _DEFAULT_WAIT, _LONGEST_WAIT)
    if int(given) > 0:
        world.wait(seconds, lambda: index() > int(given))
    return Answer(content(), index())


def _get_key(world: World, ask: Question, key: str) -> Answer:
    names, below, bare = ask.switch("keys"), ask.switch("recurse"), ask.switch("raw")
    separator = ask.argument("separator")
    if not (key or names or below):
        raise Refusal(400, "Missing key name")
    _consistency(world, ask)

    def content() -> Any:
        keys = world.catalog.keys
        if names:
            return keys.names(key, separator)
        return keys.value(key) if bare and not below else keys.get(key, below=below)

    answer = _blocking(world, ask, lambda: world.catalog.keys.index_of(key, below=names or below), content)
    if answer.content in ([], None):
        answer.content, answer.status = b"", 404
    return answer


def _put_key(world: World, ask: Question, key: str) -> Answer:
    given = [name for name in ("acquire", "cas", "release") if ask.given(name)]
    if len(given) > 1:
        raise Refusal(400, f"Conflicting flags: {'&'.join(f'{name}={ask.argument(name)}' for name in given)}")
    if not key:
        raise Refusal(400, "Missing key name")
    flags = _whole(ask.argument("flags", "0"))
    cas = _whole(ask.argument("cas")) if ask.given("cas") else None
    ask.finish()
    if len(ask.body) > _LARGEST:
        raise Refusal(413, f"Request body({len(ask.body)} bytes) too large, max size: {_LARGEST} bytes.")
    keys = world.catalog.keys
    if "acquire" not in given and "release" not in given:
        return Answer(keys.put(key, ask.body, flags, cas=cas))
    session = ask.argument(given[0])
    going_on = world.catalog.has_session(session)
    if "release" in given:
        return Answer(keys.release(key, ask.body, flags, session))
    if not going_on:
        raise Refusal(500, f'invalid session "{session}"')
    return Answer(keys.acquire(key, ask.body, flags, session, world.now()))


def _delete_key(world: World, ask: Question, key: str) -> Answer:
    below, cas = ask.switch("recurse"), _whole(ask.argument("cas")) if ask.given("cas") else None
    ask.finish()
    if not (key or below):
        raise Refusal(400, "Missing key name")
    if below and cas is not None:
        raise Refusal(400, "Conflicting flags: recurse&cas")
    return Answer(world.catalog.keys.delete(key, below=below, cas=cas))


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise Refusal(500, f'strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


_KV = "/v1/kv/"
_LARGEST = 524_288
_KEYS: Mapping[str, Callable[..., Answer]] = {"GET": _get_key, "PUT": _put_key, "DELETE": _delete_key}


_ROUTES: tuple[tuple[str, str, Callable[..., Answer]], ...] = (
    ("GET", "/v1/health/service/*", _health),
    ("GET", "/v1/catalog/services", _services),
    ("GET", "/v1/status/leader", _leader),
    ("GET", "/v1/agent/services", _agent_services),
    ("GET", "/v1/agent/service/*", _agent_service),
    ("PUT", "/v1/agent/service/register", _register),
    ("PUT", "/v1/agent/service/deregister/*", _deregister),
    ("PUT", "/v1/agent/check/*/*", _check),
    ("PUT", "/v1/session/create", _create_session),
    ("PUT", "/v1/session/renew/*", _renew_session),
    ("PUT", "/v1/session/destroy/*", _destroy_session),
    ("GET", "/v1/session/info/*", _session),
)


@final
class Server(ThreadingHTTPServer):
    """Answers each connection in a thread of its own."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], respond: Callable[[Question], tuple[int, Mapping[str, str], bytes] | None]
    ) -> None:
        self.respond = respond
        self.connections: set[Any] = set()
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


@final
class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def _home(self) -> Server:
        return cast("Server", self.server)

    def setup(self) -> None:
        super().setup()
        self._home.connections.add(self.connection)

    def finish(self) -> None:
        self._home.connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        self._respond()

    def do_PUT(self) -> None:
        self._respond()

    def do_DELETE(self) -> None:
        self._respond()

    def _respond(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        arguments = parse_qs(parts.query, keep_blank_values=True)
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self._home.respond(Question(self.command, parts.path, arguments, headers, body, set()))
        if answer is None:
            self.close_connection = True
            return
        status, fields, content = answer
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Keep quiet."""
