"""The defaults of a service as questions to the lab: of each setting its alternatives, and where they are tried.

The value that is default is read from the code, so that no default changes without its question: it must be among the
alternatives, and every argument that makes up the default stack is asked about here, or is in `UNMEASURED` with the
reason for its value, or in `ELSEWHERE`. Tests hold both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

from benchmarks.alternatives import (
    argument_of,
    class_name,
    in_percent,
    in_seconds,
    or_text,
    with_attempt_timeout,
    with_backoff,
    with_breaker,
    with_budget,
    with_ejection,
    with_ejection_or_none,
    with_peak_ewma,
    with_picker,
    with_policies,
    with_retry,
    with_throttle,
    with_timeout,
)
from resilient.balancing import Ejection, LeastRequest, PeakEwma, Prequal, Random, RoundRobin, WeightedRoundRobin
from resilient.lab.stacks import Stack
from resilient.policies.adaptive_throttle import AdaptiveThrottle
from resilient.policies.hedge import Hedge
from resilient.policies.honoured import Honoured
from resilient.policies.retry import Backoff, Retry, RetryBudget
from resilient.service import Service
from resilient.stack import default_policies

__all__ = ["ELSEWHERE", "QUESTIONS", "UNMEASURED", "Play", "Question"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """A scenario that a question is played in, and the metrics that answer it."""

    scenario: str
    metrics: Sequence[str]
    knobs: Mapping[str, Any] = field(default_factory=dict[str, Any])


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One setting.

    `make` returns the default stack with another value; `text` is how a value is written. `prescribed` is whether
    scenarios have a value of their own for it: then the lab's policies called default have that one.

    Raises `ValueError` where the default is not among the alternatives.
    """

    name: str
    asks: str
    setting: str
    default: object
    alternatives: Sequence[object]
    make: Callable[[Any], Stack]
    text: Callable[[Any], str] = str
    plays: Sequence[Play]
    prescribed: bool = False

    def __post_init__(self) -> None:
        if self.default not in self.alternatives:
            raise ValueError(f"{self.setting}: the default, {self.default!r}, is none of {self.alternatives!r}")

    def label(self, value: object) -> str:
        """The value as a row of a table is called."""
        return f"**{self.text(value)}** (default)" if value == self.default else self.text(value)


# -- where it is tried ----------------------------------------------------------------------------------------------

_PAUSES = Play(scenario="gc-pauses", metrics=("success", "success.after", "p50", "p99"))
_BLACK_HOLE = Play(scenario="black-hole", metrics=("success", "p99", "p999", "amplification"))
_HALF_DOWN = Play(scenario="half-down", metrics=("success.during", "p99.during", "amplification"))
_SINKHOLE = Play(scenario="sinkhole", metrics=("success", "p99", "share.app-0"))
_ZONE = Play(scenario="zonal-outage", metrics=("success.during", "p99.during", "amplification"))
_SLOW = Play(scenario="slow-instance", metrics=("p50", "p99", "p999", "share.app-0"))
_ANTAGONISTS = Play(scenario="antagonists", metrics=("success", "p50", "p99", "amplification"))
_HEALTHY = Play(scenario="balancing-healthy", metrics=("p50", "p99"))
_THIN = Play(scenario="thin-clients", metrics=("success", "p50", "p99", "amplification"))
_COLD = Play(scenario="cold-start", metrics=("success", "p50", "p99.joining", "share.warm"))
_DEPLOY = Play(scenario="rolling-deploy", metrics=("success", "p99", "amplification"))
_HOT_KEY = Play(scenario="hot-key", metrics=("success.cold", "success.hot", "amplification"))


def _failing(share: float, **knobs: Any) -> Play:
    knobs = {"failing": share, "duration": 40.0, **knobs}
    return Play(scenario="error-rate-sweep", metrics=("success", "p99", "amplification"), knobs=knobs)


def _storm(load: float, **knobs: Any) -> Play:
    knobs = {"load": load, "duration": 140.0, **knobs}
    return Play(scenario="metastable-retry-storm", metrics=("recovery", "goodput.after", "amplification"), knobs=knobs)


def _spike(**knobs: Any) -> Play:
    return Play(scenario="demand-spike", metrics=("recovery", "success", "amplification", "wasted"), knobs={**knobs})


_REFUSING = Play(
    scenario="demand-spike",
    metrics=("recovery", "goodput.during", "goodput.after", "amplification"),
    knobs={"queue": "bounded", "spike": 4.0, "seconds": 30.0, "duration": 80.0},
)

QUESTIONS: Sequence[Question] = (
    Question(
        name="timeout",
        asks="How long may a call take?",
        setting="default_policies(timeout=)",
        default=argument_of(default_policies, "timeout"),
        alternatives=(2.5, 5.0, 10.0, 30.0),
        make=with_timeout,
        text=in_seconds,
        plays=(_BLACK_HOLE, _ZONE),
        prescribed=True,
    ),
    Question(
        name="attempt-timeout",
        asks="How long may an attempt take?",
        setting="default_policies(attempt_timeout=)",
        default=argument_of(default_policies, "attempt_timeout"),
        alternatives=(0.25, 1.0, 2.5, 5.0),
        make=with_attempt_timeout,
        text=in_seconds,
        plays=(_BLACK_HOLE, _PAUSES, _spike(duration=60.0)),
        prescribed=True,
    ),
    Question(
        name="attempts",
        asks="How many attempts?",
        setting="Retry(attempts=)",
        default=Retry().attempts,
        alternatives=(1, 2, 3, 5),
        make=lambda attempts: with_retry(attempts=attempts),
        plays=(
            _failing(0.05),
            _failing(0.5),
            Play(scenario="multi-tier-amplification", metrics=("success", "amplification.during")),
        ),
    ),
    Question(
        name="backoff",
        asks="How long is the first wait between attempts?",
        setting="Backoff(base=)",
        default=Backoff().base,
        alternatives=(0.001, 0.05, 0.5),
        make=partial(with_backoff, "base"),
        text=in_seconds,
        plays=(_DEPLOY, _failing(0.05)),
    ),
    Question(
        name="budget",
        asks="How large a budget of retries?",
        setting="RetryBudget(ratio=)",
        default=RetryBudget().ratio,
        alternatives=(0.0, 0.1, 0.2, 0.5, None),
        make=partial(with_budget, "ratio"),
        text=or_text("no budget", in_percent),
        plays=(_failing(0.3), _storm(240.0)),
    ),
    Question(
        name="budget-floor",
        asks="How many retries a second for a client with little traffic?",
        setting="RetryBudget(floor=)",
        default=RetryBudget().floor,
        alternatives=(0.0, 1.0, 10.0),
        make=partial(with_budget, "floor"),
        text="{:g} a second".format,
        plays=(_failing(0.3, clients=10), _failing(0.3, clients=100)),
    ),
    Question(
        name="budget-ttl",
        asks="For how long is a budget saved up?",
        setting="RetryBudget(ttl=)",
        default=RetryBudget().ttl,
        alternatives=(2.0, 10.0, 60.0),
        make=partial(with_budget, "ttl"),
        text=in_seconds,
        plays=(_failing(0.3), _spike(duration=60.0)),
    ),
    Question(
        name="throttle",
        asks="How many calls are sent for each one that is accepted?",
        setting="AdaptiveThrottle(k=)",
        default=AdaptiveThrottle().k,
        alternatives=(None, 1.1, 2.0, 3.0),
        make=partial(with_throttle, "k"),
        text=or_text("no throttle", "{:g}".format),
        plays=(_REFUSING, _HOT_KEY),
    ),
    Question(
        name="throttle-window",
        asks="For how long does a refusal count?",
        setting="AdaptiveThrottle(window=)",
        default=AdaptiveThrottle().window,
        alternatives=(10.0, 30.0, 120.0),
        make=partial(with_throttle, "window"),
        text=in_seconds,
        plays=(_REFUSING, _HOT_KEY),
    ),
    Question(
        name="breaker",
        asks="A breaker for the whole service?",
        setting="Service(), a `CircuitBreaker` below its `Retry`",
        default=False,
        alternatives=(False, True),
        make=with_breaker,
        text=lambda wanted: "`CircuitBreaker()` below `Retry`" if wanted else "none but an instance's ejection",
        plays=(_failing(0.5), _HOT_KEY, _storm(280.0)),
    ),
    Question(
        name="ejection",
        asks="How long is an instance left out that fails?",
        setting="Ejection(duration=)",
        default=Ejection().duration,
        alternatives=(None, 0.5, 1.0, 2.0, 5.0),
        make=partial(with_ejection_or_none, "duration"),
        text=or_text("never", in_seconds),
        plays=(_PAUSES, _HALF_DOWN, _BLACK_HOLE, _ZONE),
    ),
    Question(
        name="consecutive-failures",
        asks="How many failures in a row eject?",
        setting="Ejection(consecutive_failures=)",
        default=Ejection().consecutive_failures,
        alternatives=(3, 5, 10, None),
        make=partial(with_ejection, "consecutive_failures"),
        text=or_text("rows do not count", str),
        plays=(_PAUSES, _HALF_DOWN, _BLACK_HOLE),
    ),
    Question(
        name="failure-ratio",
        asks="Which share of failures ejects?",
        setting="Ejection(failure_ratio=)",
        default=Ejection().failure_ratio,
        alternatives=(0.2, 0.5, 0.8, None),
        make=partial(with_ejection, "failure_ratio"),
        text=or_text("shares do not count", in_percent),
        plays=(_failing(0.3, clients=1), _failing(0.5, clients=1)),
    ),
    Question(
        name="minimum-calls",
        asks="From how many calls on does a share count?",
        setting="Ejection(minimum_calls=)",
        default=Ejection().minimum_calls,
        alternatives=(5, 20, 100),
        make=partial(with_ejection, "minimum_calls"),
        plays=(_failing(0.3, clients=1), _failing(0.5, clients=1)),
    ),
    Question(
        name="ejection-window",
        asks="Over how many seconds is the share taken?",
        setting="Ejection(window=)",
        default=Ejection().window,
        alternatives=(2.0, 10.0, 60.0),
        make=partial(with_ejection, "window"),
        text=in_seconds,
        plays=(_failing(0.5, clients=1),),
    ),
    Question(
        name="probes",
        asks="How many trials must succeed?",
        setting="Ejection(probes=)",
        default=Ejection().probes,
        alternatives=(1, 3),
        make=partial(with_ejection, "probes"),
        plays=(_HALF_DOWN, _BLACK_HOLE),
    ),
    Question(
        name="max-ejected",
        asks="How many instances may be out at once?",
        setting="Ejection(max_ejected=)",
        default=Ejection().max_ejected,
        alternatives=(0.1, 0.3, 0.5, 1.0),
        make=partial(with_ejection, "max_ejected"),
        text=in_percent,
        plays=(_PAUSES, _HALF_DOWN, _ZONE),
    ),
    Question(
        name="panic",
        asks="When are all used, healthy or not?",
        setting="Ejection(panic=)",
        default=Ejection().panic,
        alternatives=(0.0, 0.5, 0.8),
        make=partial(with_ejection, "panic"),
        text=lambda share: f"below {in_percent(share)} healthy" if share else "never",
        plays=(_DEPLOY,),
    ),
    Question(
        name="picker",
        asks="Which instance gets the call?",
        setting="Service(balancer=)",
        default=PeakEwma(),
        # The usual blackout, 10 s, is as long as some of the scenarios. Those that hash go by keys, not by load.
        alternatives=(
            Random(),
            RoundRobin(),
            WeightedRoundRobin(blackout=1.0),
            LeastRequest(),
            PeakEwma(),
            Prequal(),
        ),
        make=with_picker,
        text=class_name,
        plays=(_HEALTHY, _SLOW, _SINKHOLE, _THIN, _ANTAGONISTS, _PAUSES),
    ),
    Question(
        name="tau",
        asks="For how long does a latency count?",
        setting="PeakEwma(tau=)",
        default=PeakEwma().tau,
        alternatives=(1.0, 3.0, 10.0),
        make=partial(with_peak_ewma, "tau"),
        text=in_seconds,
        plays=(_SLOW, _ANTAGONISTS, _COLD, _PAUSES),
    ),
    Question(
        name="penalty",
        asks="As how slow does a failure count?",
        setting="PeakEwma(penalty=)",
        default=PeakEwma().penalty,
        alternatives=(1.0, 2.5, 5.0, 20.0),
        make=partial(with_peak_ewma, "penalty"),
        text=in_seconds,
        plays=(_PAUSES, _SINKHOLE, _DEPLOY),
    ),
    Question(
        name="initial",
        asks="What is expected of instances that are there from the start?",
        setting="PeakEwma(initial=)",
        default=PeakEwma().initial,
        alternatives=(0.001, 0.03, 1.0),
        make=partial(with_peak_ewma, "initial"),
        text=in_seconds,
        plays=(_HEALTHY,),
    ),
    Question(
        name="hedge",
        asks="Is a slow call sent a second time?",
        setting="default_policies(hedge=)",
        default=argument_of(default_policies, "hedge"),
        alternatives=(None, 0.05, 0.2),
        make=lambda delay: with_policies(lambda: {"hedge": None if delay is None else Hedge(delay)}),
        text=or_text("no", lambda delay: f"after {in_seconds(delay)}"),
        plays=(_SLOW, _ANTAGONISTS, _PAUSES),
    ),
    Question(
        name="idempotency",
        asks="Has a call a key, under which it may be repeated?",
        setting="Service(idempotency=)",
        default=argument_of(Service, "idempotency"),
        alternatives=(None, Honoured()),
        make=lambda key: with_policies(lambda: {"idempotency": key}),
        text=or_text("no", repr),
        plays=(Play(scenario="ambiguous-timeouts", metrics=("duplicated", "unknown", "success", "p99")),),
        prescribed=True,
    ),
)

UNMEASURED: Mapping[str, str] = {
    "Retry(on=)": "what may be repeated is no number: the verdict says it, see [policies](policies.md#one-verdict)",
    "Retry(backoff=)": "full jitter: [the herd at the door](lab-scenarios.md#the-herd-at-the-door) compares the kinds",
    "Backoff(cap=)": "5 s, which three attempts never reach; it bounds those who ask for more (Brooker, AWS 2015)",
    "Backoff(multiplier=)": "2, as everywhere; of three attempts only the second wait depends on it",
    "PeakEwma(longest=)": "300 s: a bound for what a `Retry-After` may ask for; no server of the lab asks for minutes",
    "Ejection(comparison=)": (
        "none: it needs a hundred calls of an instance in ten seconds, and a picker that looks at latencies sends an "
        "instance that fails a tenth of them about ten; for pickers that do not, `Comparison()`"
    ),
    "Service(health=)": (
        "none: a path of the instances that may be asked is known to you alone; "
        "[half down](lab-scenarios.md#half-of-the-fleet-is-down) has a column with checks"
    ),
    "Service(filters=)": "none: zones, subsets and splits are known to you alone, see [balancing](balancing.md)",
    "Service(startup=)": "5 s for the first answer of discovery, which in the lab is there at once",
}
"""Settings of the default stack that the lab has nothing to say about, and why each is what it is."""

ELSEWHERE = frozenset(
    {
        # They have parts, each of which has a question.
        *("default_policies(retry=)", "default_policies(throttle=)", "Retry(budget=)", "Service(ejection=)"),
        # The same as the argument of the service.
        "default_policies(idempotency=)",
        # The caller's, without a default that could be wrong.
        *("Retry(stop=)", "Retry(before_sleep=)", "Service(name=)", "Service(discovery=)", "Service(policies=)"),
        *("Service(classify=)", "Service(runtime=)"),
    }
)
"""Arguments that are no settings of their own."""
