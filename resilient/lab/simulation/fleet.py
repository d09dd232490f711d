"""The servers of a tier, and what discovery says of them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import final

from resilient.instance import Instance
from resilient.lab.engine import Engine
from resilient.lab.scenario import Tier
from resilient.lab.simulation.wiring import Wiring
from resilient.lab.world.chance import Chance
from resilient.lab.world.job import Job
from resilient.lab.world.network import Network
from resilient.lab.world.registry import Registry
from resilient.lab.world.server import Handler, Records, Server

__all__ = ["Fleet"]


@final
class Fleet:
    """The running servers of a tier. `by_id` has those that have left, too: callers may not know it yet."""

    def __init__(
        self,
        tier: Tier,
        engine: Engine,
        chance: Chance,
        network: Network,
        wiring: Wiring,
        *,
        handler: Callable[[Instance], Handler] | None = None,
        effect: Callable[[Job], object] | None = None,
        joined: Callable[[Server], object] | None = None,
    ) -> None:
        self.tier = tier
        self.sent = 0
        """Attempts that were sent to it, whether or not they arrived."""
        self.sent_to: dict[str, int] = {}
        self.log = array("d")
        """When they were sent, where the tier keeps a log."""
        self.astray = 0
        """Attempts at servers of which discovery had told the callers that they are gone."""
        self._engine = engine
        self._network = network
        self._wiring = wiring
        self._draw = chance.of_call(f"service times of {tier.name}")
        self._records = Records() if tier.honours_keys else None
        self._handler = handler
        self._effect = effect
        self._joined = joined
        self._delisted: dict[str, None] = {}
        self._reports = False
        self._numbers = count()
        self.by_id: dict[str, Server] = {}
        self.servers = [self._new() for _ in range(tier.instances)]
        self.registry = Registry(engine, [server.instance for server in self.servers], lag=tier.lag)

    def _new(self) -> Server:
        tier, number = self.tier, next(self._numbers)
        name = f"{tier.name}-{number}"
        host, port = self._wiring.address(name)
        instance = Instance(id=name, host=host, port=port, zone=tier.zones[number % len(tier.zones)])
        server = Server(
            instance,
            self._engine,
            self._draw,
            workers=tier.workers,
            service_time=tier.service_time,
            queue=tier.queue,
            partition=tier.partition,
            records=self._records,
            handler=None if self._handler is None else self._handler(instance),
            effect=self._effect,
        )
        server.reports = self._reports
        self.by_id[instance.id] = server
        self._wiring.attach(server, tier.name, self._network)
        return server

    def report_loads(self) -> None:
        """Let every reply say how busy its server is. It takes time to measure, so only where somebody listens."""
        self._reports = True
        for server in self.by_id.values():
            server.reports = True

    def join(self, number: int) -> list[Server]:
        """Let `number` new servers join; discovery follows."""
        joined = [self._new() for _ in range(number)]
        self.servers += joined
        if self._joined is not None:
            for server in joined:
                self._joined(server)
        self.announce()
        return joined

    def replace(self, number: int, *, drain: float = 0.0) -> list[Server]:
        """Let the oldest `number` servers leave, and as many new ones join, which it returns; discovery follows.

        Those that leave go on serving for `drain` seconds, and then die with whatever they still have.
        """
        leaving, self.servers = self.servers[:number], self.servers[number:]
        for server in leaving:
            if drain > 0:
                self._engine.at(self._engine.now() + drain, server.die)
            else:
                server.die()
        return self.join(len(leaving))

    def delist(self, servers: Iterable[Server]) -> None:
        """Let discovery forget the servers, though they are there: their lease ran out, or their checks fail."""
        self._delisted.update(dict.fromkeys(server.instance.id for server in servers))
        self.announce()

    def relist(self, servers: Iterable[Server]) -> None:
        """Let discovery know them again."""
        for server in servers:
            self._delisted.pop(server.instance.id, None)
        self.announce()

    def announce(self) -> None:
        """Tell discovery who is there."""
        instances = (server.instance for server in self.servers)
        self.registry.change([instance for instance in instances if instance.id not in self._delisted])

    @property
    def queued(self) -> int:
        """Calls that wait for a worker."""
        return sum(server.queued for server in self.servers)

    def call_seconds(self, now: float) -> tuple[float, float]:
        """The call-seconds spent inside all its servers, counted in two ways; see `Server.call_seconds`."""
        counted = [server.call_seconds(now) for server in self.by_id.values()]
        return math.fsum(area for area, _ in counted), math.fsum(stayed for _, stayed in counted)

    def counts(self) -> Mapping[str, int]:
        """Of its servers: calls `served`, of these `wasted` on callers that had gone, and connections `refused`."""
        servers = self.by_id.values()
        return {
            "served": sum(server.served for server in servers),
            "wasted": sum(server.wasted for server in servers),
            "refused": sum(server.refused for server in servers),
        }
