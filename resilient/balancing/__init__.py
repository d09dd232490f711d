"""Balancing: which of a service's instances gets this call.

Snapshots of discovery go through filters (what is draining, ejected, out of zone, tried before) to a picker; the
attempt's end comes back and decides about the next ones.
"""

from __future__ import annotations

from resilient.balancing.affinity import Maglev, Rendezvous, RingHash
from resilient.balancing.balancer import Balancer
from resilient.balancing.explanation import Explanation, Standing
from resilient.balancing.filters import Draining, PreferZone, Priorities, SlowStart, Subset, TrafficSplit, ZoneHints
from resilient.balancing.health import Check, CheckFailed, HealthCheck, HttpCheck, TcpCheck
from resilient.balancing.keys import Key, Keyed, by_argument, by_header
from resilient.balancing.member import Filter, Filtering, Member, Split, Splitting
from resilient.balancing.orca import format_load, parse_load
from resilient.balancing.pick import Pick, Reason
from resilient.balancing.pickers import LeastRequest, PeakEwma, Picker, Random, RoundRobin
from resilient.balancing.policy import Balance
from resilient.balancing.probing import Asking, Probe, Probing
from resilient.balancing.reporting import Prequal, WeightedRoundRobin
from resilient.machines.comparison import Comparison
from resilient.machines.load import Load, Reporting
from resilient.machines.outlier import Ejection
from resilient.machines.picking import Candidate, Change, Observer, Picking
from resilient.machines.prequal import Prober

__all__ = [
    "Asking",
    "Balance",
    "Balancer",
    "Candidate",
    "Change",
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
    "Key",
    "Keyed",
    "LeastRequest",
    "Load",
    "Maglev",
    "Member",
    "Observer",
    "PeakEwma",
    "Pick",
    "Picker",
    "Picking",
    "PreferZone",
    "Prequal",
    "Priorities",
    "Probe",
    "Prober",
    "Probing",
    "Random",
    "Reason",
    "Rendezvous",
    "Reporting",
    "RingHash",
    "RoundRobin",
    "SlowStart",
    "Split",
    "Splitting",
    "Standing",
    "Subset",
    "TcpCheck",
    "TrafficSplit",
    "WeightedRoundRobin",
    "ZoneHints",
    "by_argument",
    "by_header",
    "format_load",
    "parse_load",
]
