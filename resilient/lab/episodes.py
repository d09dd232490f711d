"""What goes wrong now and then, at each server at moments of its own: pauses, and neighbours who are busy."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from resilient.lab.faults import ServerFault

if TYPE_CHECKING:
    from resilient.lab.simulation.world import World
    from resilient.lab.world.server import Server

__all__ = ["Bursts", "Episodes", "Pauses"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Episodes(ServerFault):
    """Something that comes and goes: at each server at moments of its own, about `every` seconds after the last one.

    Each lasts `length` seconds, or anything from `length` to `longest`.
    """

    length: float
    every: float
    longest: float | None = None

    def __post_init__(self) -> None:
        ServerFault.__post_init__(self)
        if not 0 < self.length <= (self.length if self.longest is None else self.longest):
            raise ValueError(f"length={self.length!r}, longest={self.longest!r}: seconds above 0, the shorter first")
        if not self.every > 0:
            raise ValueError(f"every={self.every!r}: seconds between two of them, more than 0")

    def apply(self, world: World, server: Server) -> None:
        """Begin the first one after a while."""
        engine = world.engine
        random = world.chance.stream(f"{type(self).__name__} of {server.instance.id} from {self.at}").random
        ends = engine.now() + self.seconds
        spread = 0.0 if self.longest is None else self.longest - self.length

        def come() -> None:
            self.come(server)
            engine.at(engine.now() + self.length + spread * random(), go)

        def go() -> None:
            self.go(server)
            later()

        def later() -> None:
            next_one = engine.now() - math.log(1.0 - random()) * self.every
            if next_one < ends:
                engine.at(next_one, come)

        later()

    def undo(self, world: World, server: Server) -> None:
        """None begins after the end."""

    @abstractmethod
    def come(self, server: Server) -> None:
        """Let one begin."""

    @abstractmethod
    def go(self, server: Server) -> None:
        """Let it end."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Pauses(Episodes):
    """The servers stand still now and then: collections of garbage, migrations of virtual machines."""

    def come(self, server: Server) -> None:
        """Stand still."""
        server.stop()

    def go(self, server: Server) -> None:
        """Go on."""
        server.go_on()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Bursts(Episodes):
    """The servers are `factor` times as slow now and then: somebody else on their machine is busy."""

    factor: float

    def come(self, server: Server) -> None:
        """Be slow."""
        server.slowness = self.factor

    def go(self, server: Server) -> None:
        """Be as quick as before."""
        server.slowness = 1.0
