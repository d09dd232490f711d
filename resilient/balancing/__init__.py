"""Balancing: which of a service's instances gets this call.

Snapshots of discovery go through filters (what is draining, ejected, out of zone, tried before) to a picker; the
attempt's end comes back and decides about the next ones.
"""

from __future__ import annotations

from resilient.balancing.balancer import Balancer
from resilient.balancing.explanation import Explanation, Standing
from resilient.balancing.filters import Draining, PreferZone, SlowStart, Subset, TrafficSplit, ZoneHints
from resilient.balancing.health import Check, CheckFailed, HealthCheck, HttpCheck, TcpCheck
from resilient.balancing.member import Filter, Filtering, Member, Split, Splitting
from resilient.balancing.pick import Pick, Reason
from resilient.balancing.pickers import LeastRequest, PeakEwma, Picker, RoundRobin
from resilient.balancing.policy import Balance
from resilient.machines.comparison import Comparison
from resilient.machines.outlier import Ejection
from resilient.machines.picking import Candidate, Observer, Picking

__all__ = [
    "Balance",
    "Balancer",
    "Candidate",
    "Check",
    "CheckFailed",
    "Comparison",
    "Draining",
    "Ejection",
    "Explanation",
    "Filter",
    "Filtering",
    "HealthCheck",
    "HttpCheck",
    "LeastRequest",
    "Member",
    "Observer",
    "PeakEwma",
    "Pick",
    "Picker",
    "Picking",
    "PreferZone",
    "Reason",
    "RoundRobin",
    "SlowStart",
    "Split",
    "Splitting",
    "Standing",
    "Subset",
    "TcpCheck",
    "TrafficSplit",
    "ZoneHints",
]
