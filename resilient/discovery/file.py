"""Instances in a file, or in a folder with a file an instance."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast, final, get_args

from resilient.context import current_runtime
from resilient.discovery.documents import decode, instances_in
from resilient.discovery.last_good import LastGood, OnEmpty
from resilient.discovery.location import Location
from resilient.discovery.polling import Offload, Poll, in_thread
from resilient.discovery.protocol import Discovery
from resilient.discovery.records import FileEntry, RecordFile, Records, read_records
from resilient.discovery.registration import EntryFactory
from resilient.discovery.schemes import Scheme
from resilient.errors import DiscoveryError
from resilient.instance import Instance
from resilient.runtime import Runtime
from resilient.snapshot import Snapshot

__all__ = ["SCHEME", "File", "FileRegistry"]

_INTERVAL = 0.5
_GRACE = 30.0
_SETTLE = 0.05
_LOOKS = 10
_LARGEST = 4 * 1024 * 1024
_KINDS = {".toml": "toml", ".json": "json"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Polled:
    """What the two have in common."""

    path: str | os.PathLike[str] = field(kw_only=False)
    interval: float = _INTERVAL
    on_empty: OnEmpty = "grace"
    grace: float = _GRACE
    runtime: Runtime | None = field(default=None, repr=False)
    offload: Offload = field(default=in_thread, repr=False)
    _versions: Iterator[int] = field(init=False, repr=False, default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        if not (math.isfinite(self.interval) and self.interval > 0):
            raise ValueError(f"interval={self.interval!r}: a finite number of seconds, more than 0")
        LastGood(self.on_empty, self.grace)  # refuses what is wrong with them

    def _poll(self, ask: Callable[[], Awaitable[Iterable[Instance]]], runtime: Runtime) -> AsyncIterator[Snapshot]:
        known = LastGood(self.on_empty, self.grace, self._versions)  # the versions rise over all watches together
        return Poll(str(self.path), ask, interval=self.interval, known=known, runtime=runtime)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class File(_Polled):
    """The instances that a TOML or JSON file lists: `file:///path/instances.toml`.

    ```toml
    [[instances]]
    host = "10.0.0.7"
    port = 8080
    # and, where it is wanted: id (default: host:port), weight (1.0), zone, metadata = { version = "1.4" }
    ```

    The file is read every `interval` seconds (0.5: soon enough for a person who waits, and two reads of a small file
    cost nothing) and its content is compared, so a file that is replaced, and the swapped `..data` link of a Kubernetes
    mount, are seen as well as one that is written. A change is believed once it reads the same twice, 50 ms apart, and
    parses as a whole; otherwise the last good instances stay in force and are marked stale. That a file lists no
    instances has to be written down, as `instances = []`, and `on_empty` (with `grace` seconds) says what follows. A
    file that is not there is trouble like any other, and tried again.

    `offload` does the reading: in a worker thread, since a network file system may hang. `interval`, `on_empty` and
    `grace` are options of the URL. Raises `ValueError` for a bad argument.
    """

    def __post_init__(self) -> None:
        _Polled.__post_init__(self)  # a class with slots is made twice, which super() does not notice
        if Path(self.path).suffix not in _KINDS:
            raise ValueError(f"path={str(self.path)!r}: a file of instances is named *.toml or *.json")

    def watch(self) -> AsyncIterator[Snapshot]:
        """Yield the instances in the file, and again when they change."""
        runtime = self.runtime or current_runtime()
        believed: bytes | None = None
        instances: tuple[Instance, ...] = ()

        async def ask() -> Iterable[Instance]:
            nonlocal believed, instances
            content = await self.offload(self._read)
            if content != believed:
                content = await self._settled(content, runtime)
                instances = instances_in(decode(content, _KINDS[Path(self.path).suffix]))
                believed = content
            return instances

        return self._poll(ask, runtime)

    async def _settled(self, content: bytes, runtime: Runtime) -> bytes:
        """Wait until nobody is in the middle of writing."""
        for _ in range(_LOOKS):
            await runtime.sleep(_SETTLE)
            again = await self.offload(self._read)
            if again == content:
                return content
            content = again
        raise DiscoveryError("it is being written all the time")

    def _read(self) -> bytes:
        with Path(self.path).open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise DiscoveryError(f"it is larger than {_LARGEST} bytes")
        return content


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FileRegistry(_Polled):
    """The instances that have registered in a folder: `file:///path/registry/`, with the slash at the end.

    Each has a JSON file of its own, written by `register`. It is alive for its time to live after its record was last
    seen to change, measured with the reader's own monotonic clock and only while the reader looks: neither a clock that
    is wrong, nor a file system that hung, nor a process that was suspended makes anybody expire. Just started, a reader
    has seen no change yet; then, and only then, the wall-clock time in the record counts.

    A record that cannot be read or parsed keeps its last good content until it expires. A folder without live records
    is an authoritative empty answer (`on_empty`), one that is not there is trouble. `interval` and the rest are as for
    `File`.
    """

    def watch(self) -> AsyncIterator[Snapshot]:
        """Yield the instances that are registered, and again when they change."""
        runtime = self.runtime or current_runtime()
        # Longer than two rounds nobody was looking: time that counts against no one.
        records = Records(longest_step=2.0 * self.interval)

        async def ask() -> Iterable[Instance]:
            found = await self.offload(partial(read_records, Path(self.path)))
            return records.update(found, runtime.now(), runtime.wall())

        return self._poll(ask, runtime)


def _path(location: Location) -> str:
    if location.authority not in {"", "localhost"}:
        location.refuse("a file is on this machine: file:///path, with three slashes")
    if location.path in {"", "/"}:
        location.refuse("file:///path/instances.toml, or file:///path/registry/ for a folder")
    return location.path


def _connect(location: Location, runtime: Runtime | None) -> Discovery:
    location.allow("interval", "on_empty", "grace")
    path = _path(location)
    kind = FileRegistry if path.endswith("/") else File
    if kind is File and not path.endswith((".toml", ".json")):
        location.refuse("a file of instances is named *.toml or *.json; the name of a folder ends with a slash")
    return kind(
        path,
        interval=location.seconds("interval", _INTERVAL),
        on_empty=cast("OnEmpty", location.choice("on_empty", "grace", get_args(OnEmpty))),
        grace=location.seconds("grace", _GRACE),
        runtime=runtime,
    )


def _register(location: Location, instance: Instance, ttl: float) -> EntryFactory:
    location.allow("interval", "on_empty", "grace")  # so that both sides may use one URL
    path = _path(location)
    if not path.endswith("/"):
        location.refuse("one registers in a folder, and its name ends with a slash: file:///path/registry/")

    def enter(runtime: Runtime) -> FileEntry:
        return FileEntry(RecordFile(Path(path), instance, ttl, runtime.new_id()), runtime.wall)

    return enter


SCHEME = Scheme(_connect, _register)
