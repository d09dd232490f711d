"""A strict fake of a Consul agent, on a real socket: for tests of what follows or registers services in Consul.

There is no package of Consul to run in a test, so this one keeps to what its documentation says of the endpoints it
has: health of services with blocking queries, registration at the agent with TTL checks, sessions, and the key-value
store with its locks. What the documentation leaves open (how it refuses, when an index rises) is as in a real 1.8.7. It
is strict: an argument or a field that it does not know is refused, where a real server ignores it and the caller never
learns, and so is a TTL check without a time.

```python
import httpx
from resilient.testing.consul import FakeConsul

with FakeConsul() as consul:
    consul.register("orders", port=8080)
    found = httpx.get(f"{consul.url}/v1/health/service/orders?passing")
    assert found.json()[0]["Service"]["Port"] == 8080
    assert int(found.headers["X-Consul-Index"]) > 0
```

`python -m resilient.testing.consul 127.0.0.1:8500` runs it as a process of its own.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self, final

from resilient.testing._consul_catalog import Catalog, Refusal
from resilient.testing._consul_http import Question, Server, route

__all__ = ["FakeConsul"]


@final
class FakeConsul:
    """A Consul agent that is its own server: `with` it, or `start` and `stop` it.

    `port` is a free one if it is 0, and stays the same when it is started again. `index` is what the raft index begins
    with. `token`, if given, is asked for in every request. `shortest_deregistration` is what a shorter
    `DeregisterCriticalServiceAfter` is raised to, in seconds (60, as in a real one; less makes a test quick).

    Attributes that a test may change while it runs:

    `failure`
        None, or the status and text of every answer from then on: `(500, "No cluster leader")`, `(429, "rate limit")`.
    `headers`
        What the answers' headers are changed to: `{"X-Consul-Index": None}` leaves it out, `{"X-Consul-LastContact":
        "90000"}` is a follower that lost its leader 90 seconds ago.
    `jitter`
        By how much a blocking query may wait longer, as a share of its `wait` (1/16, as a real one).
    `requests`
        The path and the arguments of every request so far.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        index: int = 10,
        datacenter: str = "dc1",
        token: str | None = None,
        shortest_deregistration: float = 60.0,
    ) -> None:
        self.host = host
        self.port = port
        self.failure: tuple[int, str] | None = None
        self.headers: dict[str, str | None] = {}
        self.jitter = 1 / 16
        self.requests: list[tuple[str, dict[str, list[str]]]] = []
        self._token = token
        self._fresh: Callable[[int], Catalog] = lambda index: Catalog(
            node="node-1",
            node_address=host,
            datacenter=datacenter,
            index=index,
            shortest_deregistration=shortest_deregistration,
        )
        self.catalog = self._fresh(index)
        self._changed = threading.Condition()
        self._server: Server | None = None
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        """`http://host:port`."""
        return f"http://{self.host}:{self.port}"

    @property
    def index(self) -> int:
        """The raft index."""
        return self.catalog.index

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen. What was registered is still there, as after a crash of an agent with a disk."""
        assert self._server is None, "it runs already"
        server = Server((self.host, self.port), self._respond)
        self.port = server.server_address[1]
        self._server = server
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True),
            threading.Thread(target=self._keep_time, args=(server,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Break all connections off, as a crash does."""
        server = self._server
        if server is None:
            return
        with self._changed:
            self._server = None
            self._changed.notify_all()
        server.shutdown()
        server.server_close()
        for connection in list(server.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def restore(self, index: int = 1, *, keep: bool = True) -> None:
        """Let the raft index go back, as whoever restores a snapshot does. Without `keep` all services are gone.

        Queries that wait go on waiting: the index that they wait for may never come.
        """
        with self._changed:
            before, self.catalog = self.catalog, self._fresh(index)
            if keep:
                for each in before.agent_services().values():
                    body = {"ID": each["ID"], "Name": each["Service"]}
                    body |= {key: each[key] for key in ("Address", "Port", "Tags", "Meta", "Weights")}
                    self.catalog.register(body, self.now())

    def register(
        self,
        name: str,
        *,
        port: int,
        id: str | None = None,  # noqa: A002 - Consul's word
        address: str = "",
        tags: Sequence[str] = (),
        meta: Mapping[str, str] | None = None,
        weights: Mapping[str, int] | None = None,
        status: str | None = None,
    ) -> None:
        """Register an instance without a request. With a `status` it has a check of that status, for a day."""
        body: dict[str, Any] = {"ID": id or name, "Name": name, "Port": port, "Address": address, "Tags": list(tags)}
        body["Meta"] = dict(meta or {})
        if weights is not None:
            body["Weights"] = dict(weights)
        if status is not None:
            body["Check"] = {"TTL": "24h", "Status": status}
        with self._changed:
            self.catalog.register(body, self.now())
            self._changed.notify_all()

    def deregister(self, id: str) -> None:  # noqa: A002 - Consul's word
        """Remove an instance without a request."""
        with self._changed:
            self.catalog.deregister(id)
            self._changed.notify_all()

    def check(self, id: str, status: str) -> None:  # noqa: A002 - Consul's word
        """Let the check of an instance be "passing", "warning" or "critical"."""
        with self._changed:
            self.catalog.update_check(f"service:{id}", status, "", self.now())
            self._changed.notify_all()

    def instances(self) -> dict[str, Any]:
        """What is registered, by id."""
        with self._changed:
            return self.catalog.agent_services()

    # What its requests run in

    def now(self) -> float:
        """Monotonic seconds, of the real clock: whoever asks does so over a real socket."""
        return time.monotonic()

    def wait(self, seconds: float, over: Callable[[], bool]) -> None:
        """Let others work until it is over."""
        server = self._server
        self._changed.wait_for(
            lambda: over() or self._server is not server, seconds * (1 + self.jitter * random.random())
        )

    def _respond(self, ask: Question) -> tuple[int, Mapping[str, str], bytes] | None:
        server = self._server
        with self._changed:
            self.requests.append((ask.path, dict(ask.arguments)))
            before = self.catalog.index
            try:
                self._admit(ask)
                answer = route(self, ask)
                self._admit(ask)  # it may have begun to fail meanwhile
            except Refusal as refusal:
                return refusal.status, {"Content-Type": "text/plain"}, str(refusal).encode()
            if self._server is not server:
                return None
            if self.catalog.index != before or ask.method != "GET":
                self._changed.notify_all()
            headers: dict[str, str | None] = {"Content-Type": "application/json"}
            if answer.index is not None:
                headers |= {"X-Consul-Index": str(answer.index), "X-Consul-KnownLeader": "true"}
                headers |= {"X-Consul-LastContact": "0"} | self.headers
            content = b"" if answer.content is None else answer.content
            if not isinstance(content, bytes):
                content = json.dumps(content).encode()
            return answer.status, {name: value for name, value in headers.items() if value is not None}, content

    def _admit(self, ask: Question) -> None:
        if self.failure is not None:
            raise Refusal(*self.failure)
        if self._token is not None:
            bearer = ask.headers.get("authorization", "").removeprefix("Bearer ")
            given = ask.headers.get("x-consul-token") or bearer
            if not given:
                raise Refusal(403, "Permission denied: anonymous token lacks permission")
            if given != self._token:
                raise Refusal(403, "ACL not found")

    def _keep_time(self, server: Server) -> None:
        """Expire what is not renewed, when it is due."""
        with self._changed:
            while self._server is server:
                before = self.catalog.index
                due = self.catalog.expire(self.now())
                if self.catalog.index != before:
                    self._changed.notify_all()
                self._changed.wait(None if due is None else max(0.001, due - self.now()))


def _main() -> None:
    import sys

    host, _, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8500").rpartition(":")
    consul = FakeConsul(host=host, port=int(port))
    with consul:
        sys.stdout.write(f"{consul.url}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    _main()
