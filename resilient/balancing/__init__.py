"""Balancing: which of a service's instances gets this call.

Snapshots of discovery go through filters (what is draining, ejected, out of zone, tried before) to a picker; the
attempt's end comes back and decides about the next ones.
"""

from __future__ import annotations

from resilient.balancing.balancer import Balancer, Pick, Reason
from resilient.balancing.explanation import Explanation, Standing
from resilient.balancing.member import Filter, Member
from resilient.balancing.pickers import LeastRequest, PeakEwma, Picker, Random, RoundRobin
from resilient.balancing.policy import Balance
from resilient.machines.outlier import Ejection
from resilient.machines.picking import Candidate, Observer, Picking

__all__ = [
    "Balance",
    "Balancer",
    "Candidate",
    "Ejection",
    "Explanation",
    "Filter",
    "LeastRequest",
    "Member",
    "Observer",
    "PeakEwma",
    "Pick",
    "Picker",
    "Picking",
    "Random",
    "Reason",
    "RoundRobin",
    "Standing",
]
