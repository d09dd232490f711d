"""Pickers that go by what instances say of their own load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from resilient.machines.picking import Picking
from resilient.machines.weighted import WeightedRoundRobinPicking

__all__ = ["WeightedRoundRobin"]

_LEAST_PERIOD = 0.1


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedRoundRobin:
    """Use one instance after the other, each as often as it can take by its own account.

    Each response says in its header `endpoint-load-metrics` how busy the instance is (`asgi.LoadReportMiddleware`
    writes it, vLLM and others do; for decorated functions `Service.report` says it). An instance that does more
    requests a second for the same utilisation gets more of them: for machines that differ, where nobody wants to keep
    weights by hand. It adapts within seconds, not with each request; for that there is `Prequal`.

    `penalty`
        How much errors count: the utilisation that one error in each request adds (1.0). 0 ignores them.
    `blackout`
        For how many seconds reports have to come before they count (10.0): what has just started is not yet what it
        will be.
    `expiry`
        After how many seconds without a report the last one no longer counts (180.0).
    `period`
        How often, in seconds, weights are taken over (1.0, at least 0.1).
    `metrics`
        Named metrics of the report that are utilisations too, the largest of which counts where the application says
        nothing of its own: `("kv_cache_usage_perc",)`.

    An instance without a weight gets as much as the average one. While fewer than two have one it is plain round robin,
    with the reason `fallback`. An instance's weight in discovery multiplies its own. Raises `ValueError` for an
    argument out of its range. gRPC's A58 and A114.
    """

    penalty: float = 1.0
    blackout: float = 10.0
    expiry: float = 180.0
    period: float = 1.0
    metrics: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, value in (("penalty", self.penalty), ("blackout", self.blackout)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}={value!r}: a finite number, at least 0")
        if not (math.isfinite(self.expiry) and self.expiry > 0):
            raise ValueError(f"expiry={self.expiry!r}: a finite number of seconds, more than 0")
        if not (math.isfinite(self.period) and self.period >= _LEAST_PERIOD):
            raise ValueError(f"period={self.period!r}: a finite number of seconds, at least {_LEAST_PERIOD}")
        if isinstance(self.metrics, str):
            raise TypeError(f"metrics={self.metrics!r}: a sequence of names, not one of them")

    def picking(self) -> Picking:
        """Return a new machine."""
        return WeightedRoundRobinPicking(
            penalty=self.penalty,
            blackout=self.blackout,
            expiry=self.expiry,
            period=self.period,
            metrics=tuple(self.metrics),
        )
