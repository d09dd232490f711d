"""How many calls at once are good for the far side: found out from what becomes of them."""

from __future__ import annotations

from resilient.machines.concurrency.aimd import AimdRule
from resilient.machines.concurrency.correlated import CorrelatedRule
from resilient.machines.concurrency.gradient import Gradient2Rule
from resilient.machines.concurrency.limit import ConcurrencyLimit
from resilient.machines.concurrency.sample import LimitRule, Sample
from resilient.machines.concurrency.vegas import VegasRule

__all__ = ["AimdRule", "ConcurrencyLimit", "CorrelatedRule", "Gradient2Rule", "LimitRule", "Sample", "VegasRule"]
