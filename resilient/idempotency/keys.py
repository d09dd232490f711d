"""The header ``Idempotency-Key``: a string of structured fields (RFC 8941, RFC 9651)."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["check_key", "format_key", "parse_key"]

_LONGEST = 255
"""Characters; what Stripe allows, and what fits an index of every database."""

_BARE_ITEM = r'(?:"(?:[ !#-\[\]-~]|\\["\\])*"|:[A-Za-z0-9+/=]*:|\?[01]|@?-?\d[\d.]*|[A-Za-z*][\w!#$%&\'*+\-.^`|~:/]*)'
_PARAMETERS = rf"(?:; *[a-z*][a-z0-9_\-.*]*(?:={_BARE_ITEM})?)*"
_STRING = re.compile(rf'"((?:[ !#-\[\]-~]|\\["\\])*)"{_PARAMETERS}', re.ASCII)
_BARE = re.compile(r"[!#-+\--:<-\[\]-~]+")  # visible, without `"`, `,`, `;` and the backslash
_ESCAPED = re.compile(r'\\(["\\])')


def parse_key(values: Iterable[bytes]) -> str:
    r"""Return the key that the header's lines carry.

    The value is a string such as ``"8e03978e"``; parameters after it are ignored. A value without quotes is taken for
    the same key, as many clients send it; it can hold neither blanks nor ``" , ; \``. Raises `ValueError` for
    anything else: several lines, an empty key, one of more than 255 characters.
    """
    lines = [value.decode("latin-1").strip(" \t") for value in values]
    if len(lines) != 1:
        raise ValueError(f"Idempotency-Key is sent {len(lines)} times; it is sent once")
    (value,) = lines
    if string := _STRING.fullmatch(value):
        return check_key(_ESCAPED.sub(r"\1", string[1]))
    if _BARE.fullmatch(value):
        return check_key(value)
    raise ValueError(
        'Idempotency-Key is a string in double quotes, such as "8e03978e-40d5-43e8-bc93-6894a57f9324", of printable '
        "ASCII characters"
    )


def format_key(key: str) -> str:
    r"""Return the header's value for `key`: in quotes, with ``"`` and ``\`` escaped.

    Raises `ValueError` for a key that the header cannot carry.
    """
    escaped = check_key(key).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def check_key(key: str) -> str:
    """Return `key`; raise `ValueError` unless it has 1 to 255 printable ASCII characters."""
    if not (0 < len(key) <= _LONGEST and key.isascii() and key.isprintable()):
        shown = key if len(key) <= _LONGEST else f"{key[:20]}... ({len(key)} characters)"
        raise ValueError(f"idempotency key {shown!r}: a key has 1 to {_LONGEST} printable ASCII characters")
    return key
