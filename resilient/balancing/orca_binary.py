"""Load reports as protobuf messages: ORCA's `OrcaLoadReport`, read by hand: it has eight numbers and tables."""

from __future__ import annotations

import struct
from collections.abc import Iterator

__all__ = ["pairs_of_message"]

_NUMBERS = {1: "cpu_utilization", 2: "mem_utilization", 6: "rps_fractional", 7: "eps", 9: "application_utilization"}
_TABLES = {4: "request_cost", 5: "utilization", 8: "named_metrics"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
_KEY, _VALUE = 1, 2


def pairs_of_message(data: bytes) -> Iterator[tuple[str, object]]:
    """Yield names and numbers as the other forms have them: `eps`, `named_metrics.rif`. Unknown fields are passed over.

    Raises `ValueError` for what is no message.
    """
    for field, value in _fields(data):
        if field in _NUMBERS and isinstance(value, float):
            yield _NUMBERS[field], value
        elif field in _TABLES and isinstance(value, bytes):
            entry = dict(_fields(value))
            name, number = entry.get(_KEY, b""), entry.get(_VALUE, 0.0)  # what is the default is left out
            if isinstance(name, bytes) and isinstance(number, float):
                yield f"{_TABLES[field]}.{name.decode()}", number


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes | None]]:
    """The fields of a message, one after the other: 64 bits are a number here, 32 bits have no meaning."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in {_FIXED64, _FIXED32}:
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"field {tag >> 3}: there is no wire type {kind}")
        part = data[at : at + size]
        at += size
        if at > end:
            raise ValueError(f"field {tag >> 3}: it ends early")
        if kind == _FIXED64:
            (number,) = struct.unpack("<d", part)
            yield tag >> 3, number
        else:
            yield tag >> 3, part if kind == _BYTES else None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The whole number at a place, and where it ends."""
    number = 0
    for place, byte in enumerate(data[at : at + _LONGEST_VARINT]):
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:  # noqa: PLR2004 - its highest bit says that more follows
            return number, at + place + 1
    raise ValueError("a number that does not end")
