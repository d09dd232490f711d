"""Pickers that go by what instances say of their own load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from resilient.balancing.orca import PROBE_PATH
from resilient.balancing.probing import Probe
from resilient.machines.picking import Picking
from resilient.machines.prequal import PrequalPicking
from resilient.machines.weighted import WeightedRoundRobinPicking

__all__ = ["Prequal", "WeightedRoundRobin"]

_LEAST_PERIOD = 0.1
_LEAST_POOL = 2
_MOST = 1000


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


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Prequal:
    """Use the quickest instance of those that are not loaded, by what a few have just said of themselves.

    With each call some instances are asked, in the background, how many requests are with them and how long one takes
    that finds so many there. So a client knows what everybody asks of an instance, and within milliseconds: what its
    own calls cannot show, least of all where many clients send little each. That makes tails short, above all where an
    instance is slow for moments (neighbours, garbage collection) or the load is high. The price is three requests for
    one, small ones: for calls that take longer than some milliseconds.

    Over HTTP instances are asked with `GET` of `path`, which `asgi.LoadReportMiddleware` answers, or anybody who
    returns the header `endpoint-load-metrics: TEXT named_metrics.rif=3, named_metrics.latency_ms=41`. Decorated
    functions need a `probe` of their own. The reason of a choice is `cold` (the quickest of those that are not loaded),
    `hot` (all are; the least loaded), or, while fewer than two answers are known, `fallback` (any).

    `probe`
        Asks an instance: an async function that returns a `Load` with `in_flight` and `latency`. None: over HTTP.
    `path`
        Where HTTP instances are asked (`/.well-known/resilient-load`).
    `timeout`
        After how many seconds an answer is no longer waited for (0.05). An answer that late would be stale, but within
        the 3 ms that C++ servers need for it an event loop of Python is now and then busy with something else.
    `pool`
        How many answers are kept (16).
    `probes`
        How many instances are asked for each call (3.0). Less than one, and answers get too old; more gain nothing.
    `removals`
        How many answers are taken out for each call, in turn the oldest and the worst (1.0), so that the bad ones are
        not what is left.
    `age`
        After how many seconds an answer is forgotten (1.0).
    `quantile`
        Which of the requests in flight that were told of late still are no load (2^-0.25, 0.84; 0.6 to 0.9 make little
        difference). Less looks more at the load, more looks at latency.
    `at_once`
        How many instances may be asked at the same time (32).

    Small sets of instances, up to 24 with these rates, have rules of their own, as there a few good ones would get
    everything: one answer of each instance, for one choice, half of the instances in the pool, and a quantile of 0.6.

    An instance that fails at once has nothing in flight. So a failure takes its answers out of the pool, and from the
    fifth in a row on it is not believed for a second, twice as long each time, up to 30. Ejection comes on top.

    Raises `ValueError` for an argument out of its range. Wydrowski et al., *Load is not what you should balance:
    Introducing Prequal* (NSDI 2024).
    """

    probe: Probe | None = None
    path: str = PROBE_PATH
    timeout: float = 0.05
    pool: int = 16
    probes: float = 3.0
    removals: float = 1.0
    age: float = 1.0
    quantile: float = 2**-0.25
    at_once: int = 32

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise ValueError(f"path={self.path!r}: it begins with a /")
        for name, seconds in (("timeout", self.timeout), ("age", self.age)):
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"{name}={seconds!r}: a finite number of seconds, more than 0")
        if not _LEAST_POOL <= self.pool <= _MOST:
            raise ValueError(f"pool={self.pool!r}: a number of answers, from {_LEAST_POOL} to {_MOST:,}")
        if not 1 <= self.at_once <= _MOST:
            raise ValueError(f"at_once={self.at_once!r}: a number of probes, from 1 to {_MOST:,}")
        if not 0 < self.probes <= _MOST:
            raise ValueError(f"probes={self.probes!r}: a number for each call, more than 0 and at most {_MOST:,}")
        if not 0 <= self.removals < self.probes:
            raise ValueError(f"removals={self.removals!r}: at least 0, and less than probes={self.probes!r} bring in")
        if not 0 <= self.quantile <= 1:
            raise ValueError(f"quantile={self.quantile!r}: a share, from 0 to 1")

    def picking(self) -> Picking:
        """Return a new machine."""
        return PrequalPicking(
            pool=self.pool, probes=self.probes, removals=self.removals, age=self.age, quantile=self.quantile
        )
