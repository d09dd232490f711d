"""ZooKeeper through kazoo, whose client lives in threads of its own: from an event loop, and from a plain thread.

kazoo is an extra and has no types, so nothing else imports it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, final

import anyio
import anyio.to_thread

from resilient.errors import DiscoveryError
from resilient.waiting import running

__all__ = ["Ensemble", "Session", "WatchedClient"]

_log = logging.getLogger("resilient.discovery")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """Where the servers are, `host:port,host:port`, and who one is to them.

    `session` is the time to live of a session in seconds; the servers adapt it to theirs. `timeout` is how long a
    server has to answer. With `credentials` (user and password, of the digest scheme) what is created may be changed by
    nobody else.
    """

    hosts: str
    session: float
    timeout: float
    credentials: tuple[str, str] | None = None

    def client(self) -> Any:
        """Make a client of kazoo. It is not started."""
        try:
            kazoo = import_module("kazoo.client")
        except ImportError:
            raise DiscoveryError("zookeeper:// takes kazoo: pip install 'resilient-mesh[zookeeper]'") from None
        if self.credentials is None:
            return kazoo.KazooClient(hosts=self.hosts, timeout=self.session)
        security = import_module("kazoo.security")
        return kazoo.KazooClient(
            hosts=self.hosts,
            timeout=self.session,
            auth_data=[("digest", ":".join(self.credentials))],
            default_acl=[*security.CREATOR_ALL_ACL, *security.READ_ACL_UNSAFE],
        )


@final
class _Inbox:
    """What kazoo's threads tell the event loop."""

    def __init__(self) -> None:
        home: Any = running()
        self._schedule: Callable[[Callable[[], object]], object] = (
            home.call_soon_threadsafe if isinstance(home, asyncio.AbstractEventLoop) else home.run_sync_soon
        )
        self.changed: set[str] = set()
        self.connected = False
        self.lost: str | None = None
        self.news = anyio.Event()

    def do(self, act: Callable[[], object]) -> None:
        """Run `act` in the event loop, which may be gone by now. Called by kazoo."""
        with suppress(RuntimeError):
            self._schedule(act)

    def on_state(self, state: str) -> None:
        """Called by kazoo. A connection that is only suspended has lost its watches already."""

        def note() -> None:
            if state == "CONNECTED":
                self.connected = True
            elif self.connected:
                self.lost = f"the connection is {state.lower()}"
            self.news.set()

        self.do(note)

    def on_event(self, event: Any) -> None:
        """Called by kazoo. What has happened to the node is asked afterwards."""
        path = event.path

        def note() -> None:
            if path is not None:
                self.changed.add(path)
                self.news.set()

        self.do(note)


@final
class Session:
    """A connection, followed from an event loop of asyncio or trio, until it is lost or closed.

    Watches fire once. They are set by whatever reads, and the paths that have changed since come from `changes`.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble
        self._inbox = _Inbox()
        self._client: Any = None
        self._forgotten: weakref.finalize[Any, Any] | None = None

    async def open(self) -> None:
        """Connect."""
        inbox = self._inbox
        self._client = client = await anyio.to_thread.run_sync(self._ensemble.client)
        client.add_listener(inbox.on_state)
        self._forgotten = weakref.finalize(self, _close_later, client)
        self._forgotten.atexit = False
        client.start_async()
        with anyio.move_on_after(self._ensemble.timeout):
            while not inbox.connected:
                await inbox.news.wait()
                inbox.news = anyio.Event()
        if not inbox.connected:
            raise DiscoveryError(f"no connection to {self._ensemble.hosts} within {self._ensemble.timeout:g} s")

    def close(self) -> None:
        """End it, without waiting for it."""
        if self._forgotten is not None:
            self._forgotten()

    async def children(self, path: str) -> list[str] | None:
        """Return the names of a node's children, and watch for others; None: there is no such node (yet)."""
        while True:
            (found,) = await self._all([self._client.get_children_async(path, watch=self._inbox.on_event)])
            if found is not None:
                return list(found)
            (stat,) = await self._all([self._client.exists_async(path, watch=self._inbox.on_event)])
            if stat is None:
                return None

    async def contents(self, paths: Sequence[str]) -> list[bytes | None]:
        """Return what the nodes hold, and watch for changes of it; None: there is no such node."""
        watch = self._inbox.on_event
        found = await self._all([self._client.get_async(path, watch=watch) for path in paths])
        return [None if each is None else each[0] for each in found]

    async def changes(self, patience: float) -> set[str]:
        """Wait for the paths of changed nodes: none after `patience` seconds. Raises if the watches are lost."""
        inbox = self._inbox
        with anyio.move_on_after(patience):
            while not inbox.changed and inbox.lost is None:
                await inbox.news.wait()
                inbox.news = anyio.Event()
        if inbox.lost is not None:
            raise DiscoveryError(inbox.lost)
        changed, inbox.changed = inbox.changed, set()
        return changed

    async def _all(self, asked: Sequence[Any]) -> list[Any]:
        """Wait for results of kazoo; that there is no such node is None."""
        inbox = self._inbox
        done = anyio.Event()
        left = len(asked)

        def count() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                done.set()

        def told(_: object) -> None:
            inbox.do(count)

        for each in asked:
            each.rawlink(told)
        if asked:
            with anyio.move_on_after(self._ensemble.timeout):
                await done.wait()
            if not done.is_set():
                raise DiscoveryError(f"{self._ensemble.hosts} did not answer within {self._ensemble.timeout:g} s")
        return [_result(each) for each in asked]


def _result(asked: Any) -> Any:
    error = asked.exception
    if error is None:
        return asked.value
    if type(error).__name__ == "NoNodeError":
        return None
    raise DiscoveryError(f"{type(error).__name__} {error}".strip())


def _close_later(client: Any) -> None:
    """Close it from a thread: kazoo waits for its own, up to ten seconds."""
    threading.Thread(target=_close, args=(client,), name="zookeeper-close", daemon=True).start()


def _close(client: Any) -> None:
    try:
        client.stop()
        client.close()
    except Exception as error:  # noqa: BLE001 - whatever it is: nobody needs this client any more
        _log.debug("a connection to ZooKeeper was not closed: %r", error)


@final
class WatchedClient:
    """A client for plain threads, whose session ends if nobody calls `beat` for so many seconds.

    kazoo keeps a session alive from a thread of its own, however long the rest of the process hangs.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble
        self._client: Any = None
        self._beat = threading.Event()
        self._closed = False
        self._lock = threading.Lock()
        self.session: int | None = None
        self.sessions: set[int] = set()
        """The ids that the session has had; there is a new one after each that expired."""

    def beat(self) -> None:
        """Show that the process is alive, and connect if there is no session."""
        self._beat.set()
        with self._lock:
            client = self._client
            if client is None:
                client = self._ensemble.client()
                self._start(client)
                self._client = client
                threading.Thread(target=self._watch, args=(client,), name="zookeeper-beat", daemon=True).start()
        if not client.connected:
            raise DiscoveryError(f"no connection to {self._ensemble.hosts}")
        self.session = int(client.client_id[0])
        self.sessions.add(self.session)

    def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call one of kazoo's functions by its name; that there is no such node is None."""
        client = self._client
        if client is None:
            raise DiscoveryError(f"no connection to {self._ensemble.hosts}")
        asked = getattr(client, f"{name}_async")(*args, **kwargs)
        with suppress(Exception):  # it is in the result, if it is there
            asked.get(timeout=self._ensemble.timeout)
        if not asked.ready():
            raise DiscoveryError(f"{self._ensemble.hosts} did not answer within {self._ensemble.timeout:g} s")
        return _result(asked)

    def close(self) -> None:
        """End the session, and with it whatever it holds."""
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
        self._beat.set()
        if client is not None:
            _close(client)

    def _start(self, client: Any) -> None:
        try:
            client.start(timeout=self._ensemble.timeout)
        except Exception as error:
            _close_later(client)
            raise DiscoveryError(f"no connection to {self._ensemble.hosts}: {error}") from error

    def _watch(self, client: Any) -> None:
        while self._beat.wait(self._ensemble.session):
            self._beat.clear()
            if self._client is not client:
                return
        with self._lock:
            if self._client is client:
                self._client = None
        _log.warning("nothing was heard from this process for %g s: its session ends", self._ensemble.session)
        _close(client)
