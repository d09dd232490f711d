"""All instances of a service at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from resilient.instance import Instance

__all__ = ["Snapshot"]

_ID = attrgetter("id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What discovery knows: immutable, complete, versioned.

    `version` rises with every change. `stale_since` is the monotonic second since when the source has
    not confirmed it (None: it is fresh); the instances are then the last ones known to be good, since
    an error must never empty the set.
    """

    version: int
    instances: tuple[Instance, ...]
    stale_since: float | None = None

    def __post_init__(self) -> None:
        if len(set(map(_ID, self.instances))) == len(self.instances):  # thousands of them, at every change
            return
        seen: set[str] = set()
        for instance in self.instances:
            if instance.id in seen:
                raise ValueError(f"instances: two instances with the id {instance.id!r}; ids are unique in a snapshot")
            seen.add(instance.id)
