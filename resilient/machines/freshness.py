"""Values that are worth something for a while, and a little for a while longer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, NamedTuple, final

__all__ = ["Freshness", "Kept"]


class Kept(NamedTuple):
    """A value that was kept, and what it is good for now."""

    value: Any
    age: float
    """Seconds since it was kept."""
    fresh: bool
    """As good as a new one."""
    meanwhile: bool
    """Good enough while a new one is on its way."""
    fallback: bool
    """Better than an error."""


@final
class Freshness:
    """The values of the last `most` keys, by their age (RFC 5861).

    A value is fresh for `ttl` seconds. For `while_revalidating` more it is good enough while a new one is on its way,
    and for `if_error` more it is better than an error. After the longer of the two it is forgotten.
    """

    __slots__ = ("_if_error", "_kept", "_most", "_ttl", "_while_revalidating")

    def __init__(self, *, ttl: float, while_revalidating: float, if_error: float, most: int) -> None:
        self._ttl = ttl
        self._while_revalidating = while_revalidating
        self._if_error = if_error
        self._most = most
        self._kept: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Hashable, now: float) -> Kept | None:
        """What is kept of a key, unless it is good for nothing any more."""
        found = self._kept.get(key)
        if found is None:
            return None
        since, value = found
        age = now - since
        over = age - self._ttl
        fresh = over < 0
        meanwhile, fallback = over < self._while_revalidating, over < self._if_error
        if not (fresh or meanwhile or fallback):
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return Kept(value, age, fresh, fresh or meanwhile, fresh or fallback)

    def keep(self, key: Hashable, value: Any, now: float) -> None:
        """Keep a new value; beyond `most`, the key that was unused for longest is forgotten."""
        self._kept[key] = (now, value)
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
