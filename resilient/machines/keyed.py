"""A bounded table of machines, one a key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar, final

__all__ = ["Keyed"]

M = TypeVar("M")


@final
class Keyed(Generic[M]):
    """Machines by key; beyond `limit` keys the one that was unused for longest is forgotten.

    Keys often come from outside, so there is a bound. A machine that was idle for long decides like a fresh one, and
    is forgotten safely; one that was not loses what it knew, so `limit` is chosen above the number of keys in use.
    Whoever holds a machine that is forgotten goes on with it; the next to ask for its key gets another.
    """

    __slots__ = ("_limit", "_make", "_table")

    def __init__(self, make: Callable[[], M], limit: int) -> None:
        self._make = make
        self._limit = limit
        self._table: OrderedDict[Hashable, M] = OrderedDict()

    def __getitem__(self, key: Hashable) -> M:
        machine = self._table.get(key)
        if machine is None:
            machine = self._table[key] = self._make()
            if len(self._table) > self._limit:
                self._table.popitem(last=False)
        else:
            self._table.move_to_end(key)
        return machine

    def __len__(self) -> int:
        return len(self._table)
