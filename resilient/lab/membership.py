"""Who is there changes: deployments, scaling, and what discovery knows of it.

Callers learn of a change as late as discovery tells them: the `lag` of the tier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from resilient.lab.faults import Fault, ServerFault

if TYPE_CHECKING:
    from resilient.lab.simulation.world import World
    from resilient.lab.world.server import Server

__all__ = ["Delisting", "Join", "Rolling"]


def _receive(world: World, servers: Sequence[Server], faults: Sequence[ServerFault]) -> None:
    for server in servers:
        for fault in faults:
            fault.befall(world, server)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Join(Fault):
    """`number` servers join a tier at second `at`, and stay. `joining` is what is wrong with them, from then on."""

    tier: str = ""
    number: int = 1
    joining: Sequence[ServerFault] = ()

    def begin(self, world: World) -> None:
        """Join."""
        _receive(world, world.fleet(self.tier).join(self.number), self.joining)

    def end(self, world: World) -> None:
        """They stay."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Rolling(Fault):
    """A deployment: every `every` seconds the oldest `batch` servers of a tier leave, and as many new ones join.

    Those that leave are gone at once, or go on serving for `drain` seconds: longer than discovery takes, nobody meets
    a server that is gone. `joining` is what is wrong with a new one, from when it joins.
    """

    tier: str = ""
    every: float
    batch: int = 1
    drain: float = 0.0
    joining: Sequence[ServerFault] = ()

    def begin(self, world: World) -> None:
        """Replace the first, and arrange for the next."""
        now = world.engine.now()
        if now < world.began + self.at + self.seconds:
            _receive(world, world.fleet(self.tier).replace(self.batch, drain=self.drain), self.joining)
            world.engine.at(now + self.every, self.begin, world)

    def end(self, world: World) -> None:
        """No replacement begins after the end."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Delisting(ServerFault):
    """Discovery does not know the servers, though they are there: their lease ran out, or their checks fail."""

    def begin(self, world: World) -> None:
        """Forget all of them at once."""
        world.fleet(self.tier).delist(self.servers(world))

    def end(self, world: World) -> None:
        """Know them again."""
        world.fleet(self.tier).relist(self.servers(world))

    def apply(self, world: World, server: Server) -> None:
        """Forget one."""
        world.fleet(self.tier).delist([server])

    def undo(self, world: World, server: Server) -> None:
        """Know it again."""
        world.fleet(self.tier).relist([server])
