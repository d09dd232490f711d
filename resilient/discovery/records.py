"""The records of a registry that is a folder: how they are written, read, and judged to be alive."""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, final
from urllib.parse import quote

from resilient.discovery.documents import decode, fields_of, instance_from
from resilient.errors import DiscoveryError
from resilient.instance import Instance

__all__ = ["FileEntry", "Record", "RecordFile", "Records", "read_records"]

_MOST = 10_000
_LARGEST = 64 * 1024
_LONGEST_NAME = 200
_LONGEST_TTL = 86_400.0
_FORGOTTEN = 3600.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What stands in one file: the instance, and who renewed it when, by the wall clock, for how long."""

    instance: Instance
    ttl: float
    renewed_at: float
    owner: str

    def encode(self) -> bytes:
        """Return the file's content."""
        fields = fields_of(self.instance) | {"ttl": self.ttl, "renewed_at": self.renewed_at, "owner": self.owner}
        return (json.dumps(fields, indent=1) + "\n").encode()

    @classmethod
    def decode(cls, content: bytes) -> Record:
        """Read a file's content; a `DiscoveryError` says what is wrong with it."""
        document = decode(content, "json")
        instance = instance_from(document, "the record", besides=("ttl", "renewed_at", "owner"))
        fields = cast("Mapping[str, Any]", document)
        ttl, renewed_at = (_number(name, fields.get(name)) for name in ("ttl", "renewed_at"))
        if not 0 < ttl <= _LONGEST_TTL:
            raise DiscoveryError(f"ttl={ttl!r} is not between 0 and {_LONGEST_TTL}")
        return cls(instance=instance, ttl=ttl, renewed_at=renewed_at, owner=str(fields.get("owner", "")))


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DiscoveryError(f"{name}={value!r} is not a number of seconds")
    return float(value)


def read_records(folder: Path) -> dict[str, bytes | None]:
    """Read every record in `folder`, by file name; None stands for one that could not be read."""
    found: dict[str, bytes | None] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.endswith(".json") or entry.name.startswith("."):
                continue
            if len(found) >= _MOST:
                raise DiscoveryError(f"{folder} has more than {_MOST} records")
            try:
                with Path(entry.path).open("rb") as file:
                    content = file.read(_LARGEST + 1)
            except FileNotFoundError:
                continue  # withdrawn a moment ago
            except OSError:
                found[entry.name] = None
            else:
                found[entry.name] = content if len(content) <= _LARGEST else None
    return found


@final
class _Sighting:
    """One record, and for how long it has been watched without a change."""

    __slots__ = ("age", "content", "record")

    def __init__(self, record: Record, content: bytes | None, age: float) -> None:
        self.record = record
        self.content = content
        self.age = age


@final
class Records:
    """Tells which records are alive. No I/O: what was read and both clocks are arguments.

    A record's age is the time for which it was watched without changing, on the reader's monotonic clock; beyond its
    time to live it is dead until it changes again. `longest_step` is how much an update may add to the ages: what is
    more than that was not watching but being suspended, or waiting for a disk.
    """

    def __init__(self, longest_step: float) -> None:
        self._longest_step = longest_step
        self._sightings: dict[str, _Sighting] = {}
        self._updated: float | None = None

    def update(self, found: Mapping[str, bytes | None], now: float, wall: float) -> tuple[Instance, ...]:
        """Take in what was read, and return the instances that are alive."""
        first = self._updated is None
        step = 0.0 if self._updated is None else min(now - self._updated, self._longest_step)
        self._updated = now
        before, self._sightings = self._sightings, {}
        for name, content in found.items():
            seen = before.get(name)
            if seen is not None and content == seen.content:
                seen.age += step
                self._sightings[name] = seen
                continue
            record = _parse(content)
            if record is not None:
                self._sightings[name] = _Sighting(record, content, _first_age(record, wall) if first else 0.0)
            elif seen is not None:
                seen.age += step
                self._sightings[name] = seen
        return self._alive()

    def _alive(self) -> tuple[Instance, ...]:
        alive: dict[str, Record] = {}
        for sighting in self._sightings.values():
            record = sighting.record
            other = alive.get(record.instance.id)
            if sighting.age <= record.ttl and (other is None or other.renewed_at < record.renewed_at):
                alive[record.instance.id] = record
        return tuple(record.instance for record in alive.values())


def _parse(content: bytes | None) -> Record | None:
    if content is None:
        return None
    try:
        return Record.decode(content)
    except DiscoveryError:
        return None


def _first_age(record: Record, wall: float) -> float:
    """How old a record is that was there before its reader: nobody has seen when it changed.

    A stamp in the future is the writer's clock going ahead: the record is as good as new.
    """
    return max(0.0, wall - record.renewed_at)


@final
class RecordFile:
    """One's own record in a folder. Blocking, and safe to use from several threads: a withdrawn record stays away.

    It is replaced as a whole (a temporary file, renamed), so a reader finds the old one or the new one.
    """

    def __init__(self, folder: Path, instance: Instance, ttl: float, owner: str) -> None:
        name = quote(instance.id, safe="").replace(".", "%2E", 1 if instance.id.startswith(".") else 0)
        if len(name) > _LONGEST_NAME:
            name = hashlib.sha256(instance.id.encode()).hexdigest()
        self.path = folder / f"{name}.json"
        self.withdrawing = False
        self._temporary = folder / f".{name}.{owner}.tmp"
        self._instance = instance
        self._ttl = ttl
        self._owner = owner
        self._lock = threading.Lock()

    def create(self, wall: float) -> None:
        """Make the folder, clear away what others left in it long ago, and write the record."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.write(wall)
        for name, content in read_records(self.path.parent).items():
            record = _parse(content)
            # Whoever is still there after all writes it again with the next renewal.
            if record is not None and wall - record.renewed_at > max(_FORGOTTEN, 10.0 * record.ttl):
                with suppress(OSError):
                    self.path.with_name(name).unlink()

    def write(self, wall: float) -> None:
        """Write the record, whether it is there or not, unless it was withdrawn."""
        record = Record(instance=self._instance, ttl=self._ttl, renewed_at=wall, owner=self._owner)
        with self._lock:
            if self.withdrawing:
                return
            try:
                with self._temporary.open("wb") as file:
                    file.write(record.encode())
                    file.flush()
                    os.fsync(file.fileno())
                self._temporary.replace(self.path)
            except OSError:
                with suppress(OSError):
                    self._temporary.unlink()
                raise
            _sync_folder(self.path.parent)

    def withdraw(self) -> None:
        """Remove the record, unless somebody else registered under this id since."""
        self.withdrawing = True
        with self._lock, suppress(FileNotFoundError):
            record = _parse(self.path.read_bytes())
            if record is None or record.owner == self._owner:
                self.path.unlink()
                _sync_folder(self.path.parent)


@final
class FileEntry:
    """The record as an entry of a registry, stamped by the wall clock of a runtime."""

    def __init__(self, record: RecordFile, wall: Callable[[], float]) -> None:
        self._record = record
        self._wall = wall

    @property
    def withdrawing(self) -> bool:
        """Has its withdrawal begun?"""
        return self._record.withdrawing

    def create(self) -> None:
        """Write it for the first time."""
        self._record.create(self._wall())

    def renew(self) -> None:
        """Write it with a new stamp."""
        self._record.write(self._wall())

    def withdraw(self) -> None:
        """Remove it, if it is one's own."""
        self._record.withdraw()

    def abandon(self) -> None:
        """Remove it here and now: a file is gone at once."""
        self._record.withdraw()


def _sync_folder(folder: Path) -> None:
    """Make a rename last, where a folder can be synced at all."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
