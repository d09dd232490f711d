"""The fake API server: what it answers to what."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast, final
from urllib.parse import parse_qsl, unquote, urlsplit

import h11

from resilient.testing.kubernetes.objects import RESOURCES, Objects, Refused, Resource, refusal
from resilient.testing.kubernetes.requests import Seen, locate, selector_of, verb_of, version_of, whole_of
from resilient.testing.kubernetes.sockets import Connection, Gone, Listener
from resilient.testing.kubernetes.watching import Watch, asks_for_initial_events, encode

__all__ = ["FakeApiServer"]

_HEADERS = {"cache-control": "no-cache, private", "content-type": "application/json"}
_STEP = 0.02
_LEAVE = 1.0
_CHUNK = 16_384
_LONGEST_WATCH = 1800.0
_SLICES, *_ = RESOURCES


@final
class FakeApiServer:
    """An API server of Kubernetes on 127.0.0.1, for tests: strict, and as unpleasant as the real one.

    ::

        with FakeApiServer() as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1", "10.0.0.2"], port=8080)
            kubernetes = server.kubeconfig(tmp_path / "config")
            source = discovery.connect(f"kubernetes://shop/orders:http?kubeconfig={kubernetes}")

    It serves EndpointSlices, Leases and ConfigMaps: get, list (pages with `continue`), create, replace, delete and
    watch, as documented and as traces of real servers show it. Watches have a history: `compact` makes older versions
    expire (410 inside a 200), a version of the future hangs until the watch's time is over, an object that loses its
    label is DELETED, bookmarks come every `bookmarks` seconds (60; None: never).

    Everything that goes wrong can be made to: `kill`, `stop` and `start` (on the same port), `freeze` and `thaw` (a
    process that hangs while its connections live), `end_watches`, `compact`, `restore` (from a backup: versions go
    back), `token` (set another one: the old one is a 401), `forbid`, `fail_next`. `requests` is what it has been asked.

    `token`
        What a request has to show; None: nothing.
    `tls`
        The server's context; None: plain HTTP, as `kubectl proxy` speaks it.
    `initial_events`
        Whether a watch may ask for the present first (`sendInitialEvents`, since 1.32); False: 422, as before.
    `chunk`
        The size of the pieces in which long lines are sent.
    `patience`
        How long a list waits for a version of the future before its 504 (3.0).

    It runs in threads of its own, in any kind of program. Thread-safe.
    """

    def __init__(
        self,
        *,
        token: str | None = "secret",  # noqa: S107 - of a test
        tls: ssl.SSLContext | None = None,
        bookmarks: float | None = 60.0,
        initial_events: bool = True,
        chunk: int = _CHUNK,
        patience: float = 3.0,
    ) -> None:
        self.token = token
        self.objects = Objects()
        self.requests: list[Seen] = []
        self._bookmarks = bookmarks
        self._initial_events = initial_events
        self._chunk = chunk
        self._patience = patience
        self._forbidden: set[str] = set()
        self._failures: list[tuple[int, float | None]] = []
        self._watching = 0
        self._era = 0
        """Watches of an earlier one end."""
        self._lock = threading.Lock()
        self._listener = Listener(self._handle, tls)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.thaw()
        self._listener.stop(reset=False)
        self._listener.join()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{'http' if self._listener.tls is None else 'https'}://127.0.0.1:{self._listener.port}"

    @property
    def watches(self) -> list[Seen]:
        """The watches that were asked for."""
        return [one for one in self.requests if one.watch]

    @property
    def lists(self) -> list[Seen]:
        """All other requests to read."""
        return [one for one in self.requests if one.method == "GET" and not one.watch]

    @property
    def accepted(self) -> int:
        """How many connections there have been."""
        return self._listener.accepted

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return self._listener.connections

    def kubeconfig(self, path: Path, *, namespace: str = "default", ca: str | None = None) -> Path:
        """Write a kubeconfig (in JSON, which is YAML too) that leads here, and return its path.

        `ca` is a file with the certificate authority of the server.
        """
        cluster: dict[str, Any] = {"server": self.url}
        if ca is not None:
            cluster["certificate-authority"] = ca
        user = {} if self.token is None else {"token": self.token}
        context = {"cluster": "fake", "user": "tester", "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": cluster}],
            "users": [{"name": "tester", "user": user}],
            "contexts": [{"name": "fake", "context": context}],
        }
        path.write_text(json.dumps(config))
        return path

    # -- what happens in the cluster --------------------------------------------------------------------------------

    def put_slice(
        self,
        namespace: str,
        name: str,
        service: str,
        endpoints: Iterable[str | Mapping[str, Any]],
        *,
        port: int = 8080,
        port_name: str = "http",
        **changes: Any,
    ) -> None:
        """Create or replace an EndpointSlice. An endpoint is an address that is ready, or a whole one.

        `changes` replace fields of the slice: `addressType`, `ports`, `metadata`.
        """
        found = [
            {"addresses": [one], "conditions": {"ready": True, "serving": True, "terminating": False}}
            if isinstance(one, str)
            else dict(one)
            for one in endpoints
        ]
        new: dict[str, Any] = {
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "endpoints": found,
            "ports": [{"name": port_name, "protocol": "TCP", "port": port}],
            **changes,
        }
        self.objects.put(_SLICES, namespace, new)

    def delete_slice(self, namespace: str, name: str) -> None:
        """Delete an EndpointSlice."""
        self.objects.delete(_SLICES, namespace, name)

    def label_slice(self, namespace: str, name: str, service: str) -> None:
        """Let an EndpointSlice belong to another service."""
        found = deepcopy(self.objects.get(_SLICES, namespace, name))
        found["metadata"]["labels"] = {"kubernetes.io/service-name": service}
        self.objects.put(_SLICES, namespace, found)

    # -- what goes wrong --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to listen; after `kill` and `stop` on the same port, with the objects there were."""
        self._listener.start()

    def kill(self) -> None:
        """End as after SIGKILL: connections are reset, new ones are refused."""
        self._listener.stop(reset=True)

    def stop(self) -> None:
        """End as after SIGTERM: watches end cleanly, new connections are refused."""
        self.end_watches()
        deadline = time.monotonic() + _LEAVE
        while self._watching and time.monotonic() < deadline:
            time.sleep(_STEP)
        self._listener.stop(reset=False)

    def freeze(self) -> None:
        """Hang as after SIGSTOP: connections are accepted and stay open, nothing is answered."""
        self._listener.freeze()

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self._listener.thaw()

    def end_watches(self) -> None:
        """End all watches cleanly, as when their time is over."""
        with self.objects.changed:
            self._era += 1
            self.objects.changed.notify_all()

    def compact(self) -> None:
        """Forget the history: watches and pages from before now are expired."""
        self.objects.compact()

    def restore(self, revision: int, keep: Callable[[dict[str, Any]], bool] = bool) -> None:
        """Go back to an earlier resource version, as from a backup, with the objects of which `keep` is true."""
        self.objects.restore(revision, keep)

    def forbid(self, *verbs: str) -> None:
        """Refuse these verbs (`list`, `watch`, `get`, ...) from now on with 403, and no others."""
        self._forbidden = set(verbs)

    def fail_next(self, *statuses: int, retry_after: float | None = None) -> None:
        """Answer the next requests with these HTTP statuses."""
        with self._lock:
            self._failures += [(status, retry_after) for status in statuses]

    # -- requests ---------------------------------------------------------------------------------------------------

    def _handle(self, connection: Connection, request: h11.Request, body: bytes) -> None:
        target = urlsplit(request.target.decode("ascii"))
        headers = {name.decode(): value.decode("latin-1") for name, value in request.headers}
        params = dict(parse_qsl(target.query, keep_blank_values=True))
        seen = Seen(time.monotonic(), request.method.decode(), unquote(target.path), params, headers)
        self.requests.append(seen)
        try:
            self._admit(seen)
            self._route(connection, seen, body)
        except Refused as refused:
            details: Mapping[str, Any] = refused.status.get("details") or {}
            hint = details.get("retryAfterSeconds")
            extra = {} if hint is None else {"retry-after": str(hint)}
            connection.answer(refused.code, {**_HEADERS, **extra}, encode(refused.status))

    def _admit(self, seen: Seen) -> None:
        with self._lock:
            failure = self._failures.pop(0) if self._failures else None
        if failure is not None:
            status, retry_after = failure
            details = None if retry_after is None else {"retryAfterSeconds": retry_after}
            raise refusal(status, "InternalError", "it was told to fail", details)
        if self.token is not None and seen.headers.get("authorization") != f"Bearer {self.token}":
            raise refusal(401, "Unauthorized", "Unauthorized")

    def _route(self, connection: Connection, seen: Seen, body: bytes) -> None:
        resource, namespace, name = locate(seen.path)
        verb = verb_of(seen, name)
        if verb in self._forbidden:
            where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
            raise refusal(
                403,
                "Forbidden",
                f'{resource.plural}.{resource.group} is forbidden: User "tester" cannot {verb} resource '
                f'"{resource.plural}" in API group "{resource.group}" {where}',
                {"group": resource.group, "kind": resource.plural},
            )
        if verb == "watch":
            self._watch(connection, seen, resource, namespace)
            return
        connection.answer(*self._answer(seen, verb, resource, namespace, name, body))

    def _answer(
        self, seen: Seen, verb: str, resource: Resource, namespace: str | None, name: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        objects = self.objects
        if verb == "list":
            self._wait_for_version(seen)
            selector, limit = selector_of(seen), whole_of(seen, "limit")
            found = objects.page(resource, namespace, selector, limit, seen.params.get("continue", ""))
            return 200, _HEADERS, encode(found)
        if namespace is None:
            raise refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        if verb == "get":
            return 200, _HEADERS, encode(objects.get(resource, namespace, name))
        if verb == "delete":
            objects.delete(resource, namespace, name)
            return 200, _HEADERS, encode({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
        try:
            new: Any = json.loads(body)
        except ValueError:
            raise refusal(400, "BadRequest", "the object provided is unrecognized") from None
        if not isinstance(new, dict) or cast("dict[str, Any]", new).get("kind", resource.kind) != resource.kind:
            raise refusal(400, "BadRequest", f"the object provided is not a valid {resource.kind}")
        if verb == "create":
            return 201, _HEADERS, encode(objects.create(resource, namespace, cast("dict[str, Any]", new)))
        return 200, _HEADERS, encode(objects.replace(resource, namespace, name, cast("dict[str, Any]", new)))

    def _wait_for_version(self, seen: Seen) -> None:
        """Keep a list that asks for the future waiting, as a server does that lags behind."""
        wanted = version_of(seen)
        with self.objects.changed:
            self.objects.changed.wait_for(lambda: self.objects.revision >= wanted, self._patience)
            current = self.objects.revision
        if current < wanted:
            raise refusal(
                504,
                "Timeout",
                f"Timeout: Too large resource version: {wanted}, current: {current}",
                {
                    "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                    "retryAfterSeconds": 1,
                },
            )

    def _watch(self, connection: Connection, seen: Seen, resource: Resource, namespace: str | None) -> None:
        wants = seen.params.get("allowWatchBookmarks") in {"1", "true"}
        watch = Watch(
            resource=resource,
            namespace=namespace,
            selector=selector_of(seen),
            since=version_of(seen),
            initial=asks_for_initial_events(seen.params, known=self._initial_events),
            seconds=float(whole_of(seen, "timeoutSeconds") or _LONGEST_WATCH),
            bookmarks=self._bookmarks if wants else None,
        )
        era = self._era
        lines = watch.lines(self.objects, lambda: self._era != era)
        self._count(1)
        try:
            connection.begin(200, {**_HEADERS, "transfer-encoding": "chunked"})
            for line in lines:
                if not line and connection.left:
                    raise Gone
                connection.write(line[start : start + self._chunk] for start in range(0, len(line), self._chunk))
            connection.end()
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self._watching += change
