"""Filters: which instances are there for this client, and with what weight.

They are given to a `Service` or a `Balancer` in the order in which they apply. What removes instances stands first
(`Draining`, `Subset`, `TrafficSplit` where it gives somebody nothing), what prefers some of the rest after it.
"""

from __future__ import annotations

from resilient.balancing.filters.draining import Draining
from resilient.balancing.filters.priorities import Priorities
from resilient.balancing.filters.slow_start import SlowStart
from resilient.balancing.filters.subset import Subset
from resilient.balancing.filters.traffic_split import TrafficSplit
from resilient.balancing.filters.zones import PreferZone, ZoneHints

__all__ = ["Draining", "PreferZone", "Priorities", "SlowStart", "Subset", "TrafficSplit", "ZoneHints"]
