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


def _unchanged(members: Sequence[Member]) -> tuple[Sequence[float], float]:
    return [member.weight for member in members], math.inf


@final
@dataclass(frozen=True, slots=True)
class PreferZone:
    """Stay in one's own zone as long as there are enough healthy instances in it: it is nearer, and traffic is free.

    That is for first attempts. One that follows a failed one goes to any zone: if the zone is what failed, it costs a
    call one attempt and not all of them.

    `zone`
        Where this client is, as discovery calls it.
    `at_least`
        With fewer healthy instances in it (2), all zones are used alike. So a zone that fails is left once its
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
        """Leave the weights as they are."""
        return _unchanged(members)

    def split(self, members: Sequence[Member]) -> Split | None:
        """Keep the calls in the own zone, but for those that have to spill over."""
        near = tuple(member for member in members if member.instance.zone == self.zone)
        far = tuple(member for member in members if member.instance.zone != self.zone)
        if not far or sum(member.healthy for member in near) < self.at_least:
            return None
        stay = 1.0
        if self.clients is not None:
            capacity = math.fsum(member.weight for member in members)
            stay = min(1.0, math.fsum(member.weight for member in near) / capacity / self.clients)
        note = f"zone: {stay:.0%} of the first attempts stay in {self.zone}"
        return Split(groups=(near, far), shares=(stay, 1.0 - stay), loose=True, note=note)


@final
@dataclass(frozen=True, slots=True)
class ZoneHints:
    """Use the instances that discovery has assigned to this zone, in the manner of Kubernetes' topology hints.

    The hints are honoured only if every healthy instance has one, and one of them is for this zone: half of them tells
    of a moment at which they are being changed, and following it would send everything to a few. Otherwise all are
    used, and so they are by an attempt that follows a failed one.

    `zone`
        Where this client is.
    `metadata`
        What holds the zones an instance is for, separated by commas (`for_zones`, where `kubernetes://` discovery puts
        the hints of topology-aware routing).

    Raises `ValueError` for an empty zone or name.
    """

    zone: str
    metadata: str = "for_zones"
    name: ClassVar[str] = "zone hints"

    def __post_init__(self) -> None:
        _check_zone(self.zone)
        if not self.metadata:
            raise ValueError("metadata='': the name of the metadata that holds the hints")

    def filtering(self) -> ZoneHints:
        """Return itself: it remembers nothing."""
        return self

    def weigh(self, members: Sequence[Member], now: float, random: Chance) -> tuple[Sequence[float], float]:
        """Leave the weights as they are."""
        return _unchanged(members)

    def split(self, members: Sequence[Member]) -> Split | None:
        """Keep the calls at the instances that are for this zone."""
        zones = {member.id: self._zones(member) for member in members}
        ready = [zones[member.id] for member in members if member.healthy]
        near = tuple(member for member in members if self.zone in zones[member.id])
        far = tuple(member for member in members if self.zone not in zones[member.id])
        if not far or not all(ready) or not any(self.zone in hinted for hinted in ready):
            return None
        note = f"zone hints: first attempts go to the {len(near)} instances for {self.zone}"
        return Split(groups=(near, far), shares=(1.0, 0.0), loose=True, note=note)

    def _zones(self, member: Member) -> set[str]:
        hinted = (zone.strip() for zone in member.instance.metadata.get(self.metadata, "").split(","))
        return {zone for zone in hinted if zone}
