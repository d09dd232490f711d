"""What calls that belong together have in common."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

from resilient.call import Call

__all__ = ["Key", "Keyed", "by_argument", "by_header"]

Key: TypeAlias = Callable[[Call], Hashable]
"""The key of a call: a str, bytes, int, UUID or a tuple of them; None where it has none."""


@runtime_checkable
class Keyed(Protocol):
    """A picker that goes by a key."""

    @property
    def key(self) -> Key:
        """Gives the key of a call."""
        ...


def by_header(name: str) -> Key:
    """The key is what a header of the HTTP request says: `by_header("X-User")`. A request without it has none."""
    if not name:
        raise ValueError("name='': the name of a header")

    def key(call: Call) -> Hashable:
        headers: Any = getattr(call.request, "headers", None)
        return None if headers is None else cast("str | None", headers.get(name))

    return key


def by_argument(name: str, position: int | None = None) -> Key:
    """The key is an argument of the decorated function: `by_argument("user_id")`.

    That is how callers pass it by name. `position` is for those that do not: 0 is the first one that they pass, which
    for a method is the object itself; the instance that a service adds does not count. A call without it has none.
    """
    if position is not None and position < 0:
        raise ValueError(f"position={position!r}: at least 0, the first argument that callers pass")

    def key(call: Call) -> Hashable:
        args, kwargs = call.arguments
        if name in kwargs:
            found: Hashable = kwargs[name]
            return found
        return args[position] if position is not None and position < len(args) else None

    return key
