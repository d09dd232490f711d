"""Instances in ZooKeeper: a node each, below a common one."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast, final, get_args
from urllib.parse import quote

from resilient.backends.listwatch import Changes, Listing
from resilient.backends.zookeeper import Ensemble, Session, WatchedClient
from resilient.context import current_runtime
from resilient.discovery.last_good import LastGood, OnEmpty
from resilient.discovery.location import Location
from resilient.discovery.reflector import Candidate, Candidates, Reflector
from resilient.discovery.registration import EntryFactory, RemoteEntry
from resilient.discovery.remote import COMMON, DEBOUNCE, GRACE, TIMEOUT, believing, check, versions
from resilient.discovery.schemes import Scheme
from resilient.discovery.znodes import FORMATS, MEMBER, Format
from resilient.errors import DiscoveryError
from resilient.instance import Instance
from resilient.runtime import Runtime
from resilient.snapshot import Snapshot

__all__ = ["SCHEME", "ZooKeeper"]

_log = logging.getLogger("resilient.discovery")

_SESSION = 10.0


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ZooKeeper:
    """The instances below a node in ZooKeeper: `zookeeper://host:port,host:port/services/orders`. Takes kazoo.

    Each child of the node is an instance. A node that does not exist has none. (If all paths of an application begin
    with one node, its chroot, so does this one.)

    `hosts`
        `host:port,host:port`.
    `path`
        The node: `/services/orders`.
    `format`
        "curator" (the default): the JSON of Apache Curator's service discovery, without the instances that are not
        enabled. "serverset": the members (`member_...`) of a server set of Finagle that are ALIVE.
    `endpoint`
        With "serverset": the additional endpoint to call, such as "http"; members without it are left out. None: the
        main one.
    `credentials`
        User and password of the digest scheme; in a URL `zookeeper://user:password@host:port/...`.
    `session`
        Seconds that a session lives without a sign of life (10). The servers adapt it to their own limits.
    `timeout`
        Seconds for a connection and for each answer (5).

    A content that is no instance is logged; what the node held before stays in force. Errors, and a connection that is
    suspended, keep the last instances; it is opened anew, and all nodes are read again, since watches are lost with it.
    `on_empty` and `grace` are as for every source, `debounce` is that of the reflector. Raises `ValueError` for a bad
    argument.
    """

    hosts: str
    path: str
    format: Format = "curator"
    endpoint: str | None = None
    credentials: tuple[str, str] | None = field(default=None, repr=False)
    session: float = _SESSION
    timeout: float = TIMEOUT
    on_empty: OnEmpty = "grace"
    grace: float = GRACE
    debounce: float = DEBOUNCE
    runtime: Runtime | None = field(default=None, repr=False)
    _versions: Iterator[int] = field(init=False, repr=False, default_factory=versions)

    def __post_init__(self) -> None:
        if not self.hosts:
            raise ValueError("hosts='': host:port, with commas between them")
        if not self.path.startswith("/") or not self.path.strip("/") or "//" in self.path:
            raise ValueError(f"path={self.path!r}: the path of a node, such as /services/orders")
        if self.format not in FORMATS:
            raise ValueError(f"format={self.format!r}: one of {', '.join(FORMATS)}")
        if self.endpoint is not None and self.format != "serverset":
            raise ValueError(f"endpoint={self.endpoint!r}: only a serverset has several")
        check(self, "session")

    def watch(self) -> AsyncIterator[Snapshot]:
        """Yield the instances, and again when they change."""
        name = f"zookeeper {self.path} at {self.hosts}"
        return Reflector(
            name,
            _Source(self, name),
            known=LastGood(self.on_empty, self.grace, self._versions),
            runtime=self.runtime or current_runtime(),
            debounce=self.debounce,
        )

    def enter(self, instance: Instance, ttl: float) -> EntryFactory:
        """Return what makes the entry of `instance`, for `register`."""
        return lambda runtime: _Entry(self, instance, ttl, runtime)

    def ensemble(self, session: float) -> Ensemble:
        """Return what a client has to know."""
        return Ensemble(hosts=self.hosts, session=session, timeout=self.timeout, credentials=self.credentials)

    def folder(self) -> str:
        """Return the path of the node, without a slash at its end."""
        return self.path.rstrip("/")

    def members(self, children: Iterable[str]) -> list[str]:
        """Return those that are instances."""
        return [name for name in children if self.format != "serverset" or name.startswith(MEMBER)]


@final
class _Source:
    """Reads all nodes, then those that change; remembers what each held, for when it holds what nobody can read."""

    def __init__(self, zookeeper: ZooKeeper, name: str) -> None:
        self._heartbeat = zookeeper.session / 3
        self.silence = self._heartbeat + 3 * zookeeper.timeout  # a backstop: kazoo finds dead connections by itself
        self._zookeeper = zookeeper
        self._name = name
        self._session: Session | None = None
        self._known: dict[str, Candidates] = {}
        self._round = 0

    async def listing(self) -> Listing[Candidates]:
        """Open a connection and read all nodes."""
        self._close()
        self._session = session = Session(self._zookeeper.ensemble(self._zookeeper.session))
        try:
            await session.open()
            objects, _ = await self._read(session, await self._members(session))
        except BaseException:
            self._close()
            raise
        self._known = objects
        return Listing(dict(objects), self._revision())

    async def watch(self, revision: str) -> AsyncGenerator[Listing[Candidates] | Changes[Candidates], None]:
        """Read what changes, over the same connection, for as long as it lasts."""
        del revision
        session = self._session
        if session is None:
            raise DiscoveryError("the connection is closed")
        folder = self._zookeeper.folder()
        try:
            while True:
                paths = await session.changes(self._heartbeat)
                removed: set[str] = set()
                changed = {path.removeprefix(f"{folder}/") for path in paths - {folder}}
                if folder in paths:
                    names = set(await self._members(session))
                    removed |= self._known.keys() - names
                    changed = (changed | (names - self._known.keys())) - removed
                put, gone = await self._read(session, sorted(changed))
                removed |= gone
                for name in removed:
                    self._known.pop(name, None)
                self._known |= put
                yield Changes(self._revision(), put, removed)
        finally:
            self._close()

    async def _members(self, session: Session) -> Sequence[str]:
        return self._zookeeper.members(await session.children(self._zookeeper.folder()) or ())

    async def _read(self, session: Session, names: Sequence[str]) -> tuple[dict[str, Candidates], set[str]]:
        """Read nodes; return what they hold, and which of them are gone."""
        contents = await session.contents([f"{self._zookeeper.folder()}/{name}" for name in names])
        found = dict(zip(names, contents, strict=True))
        put = {name: self._candidates(name, content) for name, content in found.items() if content is not None}
        return put, found.keys() - put.keys()

    def _candidates(self, name: str, content: bytes) -> Candidates:
        zookeeper = self._zookeeper
        try:
            instance = FORMATS[zookeeper.format].read(name, content, zookeeper.endpoint)
        except DiscoveryError as error:
            _log.warning("%s: the node %s: %s; what it said before stays in force", self._name, name, error)
            return self._known.get(name, ())
        return () if instance is None else (Candidate(instance),)

    def _revision(self) -> str:
        self._round += 1
        return str(self._round)

    def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()


@final
class _Entry(RemoteEntry):
    """An ephemeral node of one's own."""

    def __init__(self, zookeeper: ZooKeeper, instance: Instance, ttl: float, runtime: Runtime) -> None:
        super().__init__()
        self._zookeeper = zookeeper
        self._folder = zookeeper.folder()
        self._instance = instance
        self._runtime = runtime
        self._client = WatchedClient(zookeeper.ensemble(ttl))
        self._node: str | None = None

    def _create(self) -> None:
        try:
            self._client.beat()
            for path, _ in self._namesakes():
                self._client.ask("delete", path)  # of an earlier life, whose session has not expired yet
            self._write()
        except BaseException:
            self._client.close()
            raise

    def _renew(self) -> None:
        client = self._client
        client.beat()
        there = None if self._node is None else client.ask("exists", self._node)
        if there is not None and there.ephemeralOwner == client.session:
            return
        for path, owner in self._namesakes():
            if owner not in client.sessions:
                # A later life of the same instance; or two that were given one id.
                raise DiscoveryError(f"somebody else is registered as {path}")
            client.ask("delete", path)  # of a session of ours that is over, but has not expired yet
        self._write()

    def _withdraw(self) -> None:
        self._client.close()  # and with the session the node is gone

    def _write(self) -> None:
        sequence = self._zookeeper.format == "serverset"
        service = self._folder.rpartition("/")[2]
        content = FORMATS[self._zookeeper.format].write(service, self._instance, self._runtime.wall())
        path = f"{self._folder}/{MEMBER}" if sequence else self._path()
        self._node = str(self._client.ask("create", path, content, ephemeral=True, sequence=sequence, makepath=True))

    def _namesakes(self) -> list[tuple[str, int]]:
        """Return the nodes of this instance, with the sessions that they belong to."""
        client = self._client
        if self._zookeeper.format == "curator":
            there = client.ask("exists", self._path())
            return [] if there is None else [(self._path(), there.ephemeralOwner)]
        found: list[tuple[str, int]] = []
        for name in self._zookeeper.members(client.ask("get_children", self._folder) or ()):
            path = f"{self._folder}/{name}"
            content, there = client.ask("get", path) or (b"", None)
            with suppress(DiscoveryError):  # what cannot be read is not ours
                member = FORMATS["serverset"].read(name, content, None)
                if there is not None and member is not None and member.id == self._instance.id:
                    found.append((path, there.ephemeralOwner))
        return found

    def _path(self) -> str:
        return f"{self._folder}/{quote(self._instance.id, safe=':@[]')}"


def _zookeeper(location: Location, runtime: Runtime | None) -> ZooKeeper:
    location.allow("format", "endpoint", "session", *COMMON)
    if location.path.strip("/") == "":
        location.refuse("zookeeper://host:port/services/orders: the path is the node that has the instances below it")
    location.endpoints(credentials=True)
    try:
        return ZooKeeper(
            hosts=location.authority.rpartition("@")[2],
            path=location.path.rstrip("/"),
            format=cast("Format", location.choice("format", "curator", get_args(Format))),
            endpoint=location.options.get("endpoint"),
            credentials=location.credentials(),
            session=location.seconds("session", _SESSION),
            timeout=location.seconds("timeout", TIMEOUT),
            runtime=runtime,
            **believing(location),
        )
    except ValueError as error:
        location.refuse(str(error))


def _register(location: Location, instance: Instance, ttl: float) -> EntryFactory:
    return _zookeeper(location, None).enter(instance, ttl)


SCHEME = Scheme(_zookeeper, _register)
