"""One running copy of a service."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Instance"]

_PORTS = range(1, 65536)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """Where one instance of a service listens, and what discovery says of it.

    `id` is its identity: state (latency, ejection, connections) is kept under it and survives a change
    of everything else. `weight` is its share relative to the others (1.0; 0.0 takes no new calls).
    `zone` and `metadata` are what discovery knows beyond that.
    """

    id: str
    host: str
    port: int
    weight: float = 1.0
    zone: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("id='': an instance needs a name that is unique in its service")
        if not self.host:
            raise ValueError("host='': an instance needs a host name or an address")
        if self.port not in _PORTS:
            raise ValueError(f"port={self.port!r}: a port is a whole number between 1 and 65535")
        if not (self.weight >= 0 and math.isfinite(self.weight)):
            raise ValueError(f"weight={self.weight!r}: a weight is a finite number, at least 0")

    @property
    def address(self) -> str:
        """`host:port`, with brackets around an IPv6 address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
