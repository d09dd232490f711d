"""Calls that stay in their zone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from resilient.balancing.member import Member, Split
from resilient.machines.picking import Chance

__all__ = ["PreferZone", "ZoneHints"]


def _check_zone(zone: str) -> None:
    if not zone:
        raise ValueError("zone='': the zone that this client is in, as discovery calls it")


@final
@dataclass(frozen=True, slots=True)
class PreferZone:
    """Stay in one's own zone as long as there are enough healthy instances in it: it is nearer, and traffic is free.

    `zone`
        Where this client is, as discovery calls it.
    `at_least`
        With fewer healthy instances in it (2), all zones are used alike. So a zone that fails costs no calls once its
        instances are ejected, and a single instance never has to carry a whole zone.
    `clients`
        The share of the clients that are in this zone, between 0 and 1, if it is known. Where the zone has a smaller
        share of the capacity (its weights) than of the clients, only as many calls stay as it has capacity for; the
        rest spills over to the other zones, as much to each as it has capacity. By default everything stays: right
        where clients and instances are spread over the zones alike. The others' clients are taken to be spread as the
        others' capacity is.

    Raises `ValueError` for an argument out of its range. The spill-over is that of Envoy's zone aware routing.
    """

    zone: str
    at_least: int = 2
    clients: float | None = None
    name: ClassVar[str] = "zone"

    def __post_init__(self) -> None:
        _check_zone(self.zone)
        if self.at_least < 1:
            raise ValueError(f"at_least={self.at_least!r}: a number of healthy instances, at least 1")
        if self.clients is not None and not 0 < self.clients <= 1:
            raise ValueError(f"clients={self.clients!r}: a share of all clients, above 0 and at most 1, or None")

    def filtering(self) -> PreferZone:
        """Return itself: it remembers nothing."""
        return self

    def weigh(self, members: Sequence[Member], now: float, random: Chance) -> tuple[Sequence[float], float]:
        """Leave out the other zones, unless they have to help."""
        healthy = [member for member in members if member.healthy and member.weight > 0]
        if sum(map(self._near, healthy)) < self.at_least or self._spill(healthy) > 0:
            return [member.weight for member in members], math.inf
        return [member.weight if self._near(member) else 0.0 for member in members], math.inf

    def split(self, members: Sequence[Member]) -> Split | None:
        """Divide the calls between the own zone and the others where some have to spill over."""
        near = tuple(filter(self._near, members))
        far = tuple(member for member in members if not self._near(member))
        spill = self._spill(members)
        if len(near) < self.at_least or not far or spill == 0:
            return None
        note = f"zone {self.zone}: {1 - spill:.0%} of the calls stay, the rest spills over"
        return Split(groups=(near, far), shares=(1 - spill, spill), note=note)

    def _near(self, member: Member) -> bool:
        return member.instance.zone == self.zone

    def _spill(self, members: Sequence[Member]) -> float:
        """The share of the calls that there is no capacity for in this zone."""
        if self.clients is None:
            return 0.0
        capacity = math.fsum(member.weight for member in members)
        near = math.fsum(member.weight for member in members if self._near(member))
        return max(0.0, 1.0 - near / capacity / self.clients) if capacity else 0.0


@final
@dataclass(frozen=True, slots=True)
class ZoneHints:
    """Use the instances that discovery has assigned to this zone, in the manner of Kubernetes' topology hints.

    The hints are honoured only if every healthy instance has one, and one of them is for this zone: half of them tells
    of a moment at which they are being changed, and following it would send everything to a few. Otherwise all are
    used.

    `zone`
        Where this client is.
    `metadata`
        The metadata that holds the zones an instance is for, separated by commas (`hints`).

    Raises `ValueError` for an empty zone or name.
    """

    zone: str
    metadata: str = "hints"
    name: ClassVar[str] = "zone hints"

    def __post_init__(self) -> None:
        _check_zone(self.zone)
        if not self.metadata:
            raise ValueError("metadata='': the name of the metadata that holds the hints")

    def filtering(self) -> ZoneHints:
        """Return itself: it remembers nothing."""
        return self

    def weigh(self, members: Sequence[Member], now: float, random: Chance) -> tuple[Sequence[float], float]:
        """Leave out the instances that are for other zones."""
        zones = {member.id: self._zones(member) for member in members}
        ready = [zones[member.id] for member in members if member.healthy and member.weight > 0]
        if not all(ready) or not any(self.zone in hinted for hinted in ready):
            return [member.weight for member in members], math.inf
        return [member.weight if self.zone in zones[member.id] else 0.0 for member in members], math.inf

    def _zones(self, member: Member) -> set[str]:
        hinted = (zone.strip() for zone in member.instance.metadata.get(self.metadata, "").split(","))
        return {zone for zone in hinted if zone}
