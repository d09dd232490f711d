"""Instances that are known beforehand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Self, final

import anyio

from resilient.discovery.documents import address
from resilient.discovery.location import Location
from resilient.discovery.schemes import Scheme
from resilient.instance import Instance
from resilient.runtime import Runtime
from resilient.snapshot import Snapshot

__all__ = ["SCHEME", "Static"]


@final
class Static:
    """A fixed set of instances: `Static([Instance(...), ...])`, or `static://host:port,host:port`.

    The URL's options `weight` and `zone` are one value for all, or as many as there are instances:
    `static://a:80,b:80?weight=3,1&zone=eu`. The address is the id; repeated ones count once.

    Raises `ValueError` for two different instances of one id.
    """

    def __init__(self, instances: Iterable[Instance]) -> None:
        self._snapshot = Snapshot(version=1, instances=tuple(dict.fromkeys(instances)))

    def __repr__(self) -> str:
        return f"Static({list(self._snapshot.instances)!r})"

    def watch(self) -> AsyncIterator[Snapshot]:
        """Yield the instances, and wait for ever."""
        return _Once(self._snapshot)


@final
class _Once:
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot: Snapshot | None = snapshot

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Snapshot:
        snapshot, self._snapshot = self._snapshot, None
        while snapshot is None:
            await anyio.Event().wait()
        return snapshot


def _connect(location: Location, runtime: Runtime | None) -> Static:
    del runtime
    location.allow("weight", "zone")
    if location.path:
        location.refuse("static:// has no path: static://host:port,host:port")
    endpoints = location.endpoints()
    weights = _each(location, "weight", len(endpoints))
    zones = _each(location, "zone", len(endpoints))
    try:
        return Static(
            Instance(
                id=address(host, port),
                host=host,
                port=port,
                weight=1.0 if weight is None else float(weight),
                zone=zone,
            )
            for (host, port), weight, zone in zip(endpoints, weights, zones, strict=True)
        )
    except ValueError as error:
        location.refuse(str(error))


def _each(location: Location, name: str, count: int) -> list[str] | list[None]:
    text = location.options.get(name)
    if text is None:
        return [None] * count
    values = text.split(",")
    if len(values) == 1:
        return values * count
    if len(values) != count:
        location.refuse(f"{name}={text}: one value, or one for each of the {count} instances")
    return values


SCHEME = Scheme(_connect)
