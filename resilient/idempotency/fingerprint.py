"""What tells two requests under one key apart, and what names the steps of one."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, cast

__all__ = ["derive_key", "digest", "fingerprint_of", "uuid5"]

_VERSION = b"1"
_NAMESPACE = bytes.fromhex("5b2c4d0e8f6a4e0db1f27c3a9d5e6f10")
"""The UUID under which keys are derived. It must never change: a retry has to derive the same keys."""

_SAID_BY_STR = {
    "datetime.date",
    "datetime.datetime",
    "datetime.time",
    "datetime.timedelta",
    "decimal.Decimal",
    "uuid.UUID",
}


def digest(fields: Iterable[bytes]) -> bytes:
    """Return SHA-256 over the fields, each preceded by its length: no two lists of fields read the same."""
    parts = [_VERSION]
    for part in fields:
        parts += (len(part).to_bytes(8, "big"), part)
    return hashlib.sha256(b"".join(parts)).digest()


def derive_key(*names: str) -> str:
    """Return the UUID (version 5, RFC 9562) that belongs to these names: the same on every machine, always."""
    return uuid5(_NAMESPACE, digest(text.encode() for text in names))


def uuid5(namespace: bytes, name: bytes) -> str:
    """Return the UUID of version 5 (RFC 9562) that `name` has in `namespace`."""
    value = bytearray(hashlib.sha1(namespace + name, usedforsecurity=False).digest()[:16])
    value[6] = value[6] & 0x0F | 0x50
    value[8] = value[8] & 0x3F | 0x80
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def fingerprint_of(value: object) -> bytes:
    """Return a digest that equal values share, in every process.

    Understands what JSON can say, tuples, sets, bytes, dates, `Decimal`, UUIDs, enums, dataclasses and pydantic
    models. Raises `TypeError` for anything else: its `repr` could hold an address, and then no retry would match.
    """
    return digest([_dump(value)])


def _dump(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, default=_plain).encode()


def _plain(value: Any) -> dict[str, Any]:
    """What JSON cannot say, under the name of its type."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    anything = value  # what the checks below do not narrow
    content: Any
    if dataclasses.is_dataclass(value):
        content = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, Mapping):
        content = dict(anything)
    elif isinstance(value, set | frozenset):
        content = sorted(_dump(item).decode() for item in cast("set[Any]", value))
    elif isinstance(value, bytes | bytearray):
        content = value.hex()
    elif isinstance(value, enum.Enum):
        content = value.name
    elif kind in _SAID_BY_STR:
        content = str(value)
    elif hasattr(value, "model_dump_json"):  # pydantic
        content = value.model_dump_json()
    else:
        raise TypeError(
            f"no fingerprint of {value!r}: pass fingerprint=, a function of the arguments that returns what makes two "
            "calls the same"
        )
    return {kind: content}
