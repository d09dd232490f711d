"""What goes wrong, and when.

A fault holds from second `at` for `seconds` (left out: to the end), at some servers of a tier: all, those whose places
in the tier are given, or those of a zone. Each applies itself to a server and undoes itself; where two of a kind
overlap, the end of the first ends both.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from resilient.context import current_runtime
from resilient.lab.world.job import Job, Reply
from resilient.lab.world.server import Server
from resilient.testing import virtual_time

if TYPE_CHECKING:
    from resilient.lab.simulation.world import World

__all__ = [
    "BlackHole",
    "Corruption",
    "Crash",
    "Fail",
    "Fault",
    "Partition",
    "Resize",
    "ServerFault",
    "SilentReplies",
    "Slow",
    "Stop",
    "Suspension",
    "WallClockShift",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(ABC):
    """Something that goes wrong from second `at` on, for `seconds`."""

    at: float = 0.0
    seconds: float = math.inf

    def __post_init__(self) -> None:
        if not (self.at >= 0 and self.seconds > 0):
            raise ValueError(f"at={self.at!r}, seconds={self.seconds!r}: a fault begins at 0 or later, and lasts")

    def schedule(self, world: World) -> None:
        """Arrange for its beginning and its end."""
        world.engine.at(world.began + self.at, self.begin, world)
        if self.seconds < math.inf:
            world.engine.at(world.began + self.at + self.seconds, self.end, world)

    @abstractmethod
    def begin(self, world: World) -> None:
        """Let it begin."""

    @abstractmethod
    def end(self, world: World) -> None:
        """Let it end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFault(Fault):
    """A fault of servers: of `tier` ("": the one that the users call), all or those at `places` or in `zone`."""

    tier: str = ""
    places: Sequence[int] | None = None
    zone: str | None = None

    def servers(self, world: World) -> list[Server]:
        """Those it concerns."""
        servers = world.fleet(self.tier).servers
        if self.places is not None and not all(0 <= place < len(servers) for place in self.places):
            raise ValueError(f"places={self.places!r} of {type(self).__name__}: the tier has 0 to {len(servers) - 1}")
        chosen = servers if self.places is None else [servers[place] for place in self.places]
        return [server for server in chosen if self.zone is None or server.zone == self.zone]

    def begin(self, world: World) -> None:
        """Let it begin at each of them."""
        for server in self.servers(world):
            self.apply(world, server)

    def end(self, world: World) -> None:
        """Let it end at each of them."""
        for server in self.servers(world):
            self.undo(world, server)

    def befall(self, world: World, server: Server) -> None:
        """Arrange for it at one server that joins: `at` counts from this moment, and nothing else says where."""
        now = world.engine.now()
        if self.at > 0:
            world.engine.at(now + self.at, self.apply, world, server)
        else:
            self.apply(world, server)
        if self.seconds < math.inf:
            world.engine.at(now + self.at + self.seconds, self.undo, world, server)

    @abstractmethod
    def apply(self, world: World, server: Server) -> None:
        """Do it to one server."""

    @abstractmethod
    def undo(self, world: World, server: Server) -> None:
        """Take it back."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Stop(ServerFault):
    """The servers stand still, then go on: an outage that leaves a full queue behind, a frozen process."""

    def apply(self, world: World, server: Server) -> None:
        """Stand still."""
        del world
        server.stop()

    def undo(self, world: World, server: Server) -> None:
        """Go on."""
        del world
        server.go_on()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Crash(ServerFault):
    """The servers die: what they worked on is lost, connections are refused; then they are back, empty."""

    def apply(self, world: World, server: Server) -> None:
        """Die."""
        del world
        server.die()

    def undo(self, world: World, server: Server) -> None:
        """Be back."""
        del world
        server.reachable = True


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BlackHole(ServerFault):
    """The servers accept calls and never answer any."""

    def apply(self, world: World, server: Server) -> None:
        """Answer no more."""
        del world
        server.answers = False

    def undo(self, world: World, server: Server) -> None:
        """Answer again."""
        del world
        server.answers = True


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Slow(ServerFault):
    """The servers take `factor` times as long for whatever they begin."""

    factor: float

    def apply(self, world: World, server: Server) -> None:
        """Be slow."""
        del world
        server.slowness = self.factor

    def undo(self, world: World, server: Server) -> None:
        """Be as quick as before."""
        del world
        server.slowness = 1.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Fail(ServerFault):
    """The servers fail the fraction `ratio` of calls with `status`, after `takes` seconds and without doing anything.

    Which calls fail is the same under every policy. `key` confines it to the calls that concern it.
    """

    ratio: float = 1.0
    status: int = 500
    takes: float = 0.001
    key: int | None = None

    def apply(self, world: World, server: Server) -> None:
        """Fail."""
        draw = world.chance.of_call(f"fails at {server.instance.id} from {self.at}")
        reply = Reply(self.status)

        def failing(job: Job) -> Reply | None:
            concerned = self.key is None or job.errand.key == self.key
            return reply if concerned and draw(job.errand.number, job.attempt) < self.ratio else None

        server.failing = failing
        server.failing_takes = self.takes

    def undo(self, world: World, server: Server) -> None:
        """Work again."""
        del world
        server.failing = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SilentReplies(ServerFault):
    """The servers do what they are asked, and the fraction `ratio` of their replies is lost: was it done or not?"""

    ratio: float = 1.0

    def apply(self, world: World, server: Server) -> None:
        """Lose replies."""
        draw = world.chance.of_call(f"silent at {server.instance.id} from {self.at}")
        server.silent = lambda job: draw(job.errand.number, job.attempt) < self.ratio

    def undo(self, world: World, server: Server) -> None:
        """Lose none."""
        del world
        server.silent = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Resize(ServerFault):
    """The servers have `workers` workers: capacity is lost, or gained."""

    workers: int

    def apply(self, world: World, server: Server) -> None:
        """Have that many."""
        del world
        server.resize(self.workers)

    def undo(self, world: World, server: Server) -> None:
        """Have as many as the tier says."""
        server.resize(world.fleet(self.tier).tier.workers)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Partition(Fault):
    """Nothing gets into or out of `zone`, and nobody is told."""

    zone: str

    def begin(self, world: World) -> None:
        """Cut it off."""
        world.network.cut.add(self.zone)

    def end(self, world: World) -> None:
        """Connect it."""
        world.network.cut.discard(self.zone)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption(Fault):
    """The network loses, repeats and changes what it carries: the given fractions of requests and replies."""

    lose_request: float = 0.0
    lose_reply: float = 0.0
    repeat: float = 0.0
    corrupt: float = 0.0

    def begin(self, world: World) -> None:
        """Be unreliable."""
        network = world.network
        network.lose_request, network.lose_reply = self.lose_request, self.lose_reply
        network.repeat, network.corrupt = self.repeat, self.corrupt

    def end(self, world: World) -> None:
        """Be reliable."""
        network = world.network
        network.lose_request = network.lose_reply = network.repeat = network.corrupt = 0.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WallClockShift(Fault):
    """Everybody's wall clock is `by` seconds ahead, or behind where that is negative, while it lasts.

    It jumps there and back at once, as when somebody sets it, or a time server does. Monotonic clocks do not notice.
    """

    by: float

    def begin(self, world: World) -> None:
        """Jump."""
        del world
        virtual_time.shift_wall(self.by)

    def end(self, world: World) -> None:
        """Jump back."""
        del world
        virtual_time.shift_wall(-self.by)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Suspension(Fault):
    """Everything stands still for `seconds`, callers too: a virtual machine that was suspended with all its processes.

    All clocks leap; whatever was due meanwhile (answers, timeouts, the calls of users) comes at once.
    """

    def __post_init__(self) -> None:
        Fault.__post_init__(self)
        if self.seconds == math.inf:
            raise ValueError(f"seconds={self.seconds!r}: a suspension ends")

    def begin(self, world: World) -> None:
        """Leap to its end."""
        del world
        current_runtime().pause(self.seconds)

    def end(self, world: World) -> None:
        """It is over already."""
