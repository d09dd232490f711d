"""What callers know of the servers, some time after it became true."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Self, final

from resilient.instance import Instance
from resilient.lab.engine import Engine, Signal
from resilient.snapshot import Snapshot

__all__ = ["Registry"]


@final
class Registry:
    """The discovery of a tier: a change reaches all watchers after `lag` seconds."""

    def __init__(self, engine: Engine, instances: Sequence[Instance], *, lag: float = 0.0) -> None:
        self._engine = engine
        self._lag = lag
        self._version = 1
        self._snapshot = Snapshot(version=1, instances=tuple(instances))
        self._waiting: list[Signal] = []
        self.gone: dict[str, float] = {}
        """When the callers were told that an instance is not there any more, by its id."""

    def __repr__(self) -> str:
        return f"Registry({[instance.id for instance in self._snapshot.instances]!r}, lag={self._lag!r})"

    def change(self, instances: Sequence[Instance]) -> None:
        """Let these be the instances from now on; callers learn it later."""
        self._version += 1
        snapshot = Snapshot(version=self._version, instances=tuple(instances))
        self._engine.at(self._engine.now() + self._lag, self._publish, snapshot)

    def _publish(self, snapshot: Snapshot) -> None:
        now = self._engine.now()
        for instance in self._snapshot.instances:
            self.gone[instance.id] = now
        for instance in snapshot.instances:
            self.gone.pop(instance.id, None)
        self._snapshot = snapshot
        waiting, self._waiting = self._waiting, []
        for signal in waiting:
            if not signal.done():
                signal.set_result(None)

    def watch(self) -> AsyncIterator[Snapshot]:
        """Yield what is known, and every change of it."""
        return _Watch(self)

    async def after(self, version: int) -> Snapshot:
        """Wait for a snapshot that is newer than `version`."""
        while self._snapshot.version <= version:
            signal = self._engine.signal()
            self._waiting.append(signal)
            await signal
        return self._snapshot


@final
class _Watch:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._version = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Snapshot:
        snapshot = await self._registry.after(self._version)
        self._version = snapshot.version
        return snapshot
