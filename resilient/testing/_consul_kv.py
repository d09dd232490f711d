"""The key-value store of the fake Consul, with the locks of its sessions. No I/O, no clock: time is an argument."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

__all__ = ["Keys"]


@final
@dataclass(slots=True)
class _Entry:
    value: bytes
    flags: int
    created: int
    modified: int
    locked: int = 0
    """How often it was acquired, by whoever had not got it before."""
    session: str | None = None


@final
class Keys:
    """Keys and their values. `advance` is the raft index, raised by one."""

    def __init__(self, advance: Callable[[], int], index: int) -> None:
        self._advance = advance
        self._entries: dict[str, _Entry] = {}
        self._index = index
        """That of the last change."""
        self._delayed: dict[str, float] = {}
        """Until when nobody can acquire a key whose session ended."""

    def index_of(self, key: str, *, below: bool = False) -> int:
        """The index that changes with a key, or with any that begins so."""
        found = [entry.modified for name, entry in self._entries.items() if _is(name, key, below)]
        # What was deleted has no index any more: then it is that of the last change of any.
        return self._index if below or not found else found[0]

    def get(self, key: str, *, below: bool = False) -> list[dict[str, Any]]:
        """The entry of a key, or those of all that begin so."""
        return [_told(name, self._entries[name]) for name in sorted(self._entries) if _is(name, key, below)]

    def value(self, key: str) -> bytes | None:
        """The bare value of a key; None: there is none."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def names(self, prefix: str, separator: str) -> list[str]:
        """The keys that begin so; what follows the separator is left out."""
        found: dict[str, None] = {}
        for name in sorted(self._entries):
            if name.startswith(prefix):
                end = name.find(separator, len(prefix)) if separator else -1
                found[name if end < 0 else name[: end + len(separator)]] = None
        return [*found]

    def put(self, key: str, value: bytes, flags: int, *, cas: int | None = None) -> bool:
        """Write a value; with `cas` only if it was last changed at that index, or with 0 if there is none."""
        entry = self._entries.get(key)
        if cas is not None and cas != (0 if entry is None else entry.modified):
            return False
        self._write(key, value, flags, locked=0, session=None if entry is None else entry.session)
        return True

    def acquire(self, key: str, value: bytes, flags: int, session: str, now: float) -> bool:
        """Lock a key for a session and write its value, unless another has it, or had it until a moment ago."""
        entry = self._entries.get(key)
        holder = None if entry is None else entry.session
        if holder not in {None, session} or self._delayed.get(key, now) > now:
            return False
        locked = 0 if entry is None else entry.locked
        self._write(key, value, flags, locked=locked + (holder is None), session=session)
        return True

    def release(self, key: str, value: bytes, flags: int, session: str) -> bool:
        """Unlock a key that the session has, and write its value."""
        entry = self._entries.get(key)
        if entry is None or entry.session != session:
            return False
        self._write(key, value, flags, locked=entry.locked, session=None)
        return True

    def delete(self, key: str, *, below: bool = False, cas: int | None = None) -> bool:
        """Delete a key, or all that begin so; with `cas` only if it was last changed at that index."""
        entry = self._entries.get(key)
        if cas is not None and entry is not None and cas != entry.modified:
            return False
        gone = [name for name in self._entries if _is(name, key, below)]
        for name in gone:
            del self._entries[name]
        if gone:
            self._index = self._advance()
        return True

    def forsake(self, session: str, *, delete: bool, delay: float, now: float) -> None:
        """Unlock what a session has that ended, or delete it; nobody can lock it again for a while."""
        for name in [name for name, entry in self._entries.items() if entry.session == session]:
            self._delayed[name] = now + delay
            if delete:
                del self._entries[name]
                self._index = self._advance()
            else:
                entry = self._entries[name]
                self._write(name, entry.value, entry.flags, locked=entry.locked, session=None)

    def _write(self, key: str, value: bytes, flags: int, *, locked: int, session: str | None) -> None:
        entry = self._entries.get(key)
        if entry is None:
            self._index = self._advance()
            self._entries[key] = _Entry(value, flags, self._index, self._index, locked, session)
        elif (entry.value, entry.flags, entry.locked, entry.session) != (value, flags, locked, session):
            # What is written as it was has not changed, and wakes nobody.
            self._index = entry.modified = self._advance()
            entry.value, entry.flags, entry.locked, entry.session = value, flags, locked, session


def _is(name: str, key: str, below: bool) -> bool:  # noqa: FBT001 - private
    return name.startswith(key) if below else name == key


def _told(name: str, entry: _Entry) -> dict[str, Any]:
    told: dict[str, Any] = {
        "LockIndex": entry.locked,
        "Key": name,
        "Flags": entry.flags,
        "Value": b64encode(entry.value).decode() if entry.value else None,
    }
    if entry.session is not None:
        told["Session"] = entry.session
    return told | {"CreateIndex": entry.created, "ModifyIndex": entry.modified}
