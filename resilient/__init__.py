"""A service mesh without the sidecar: what a mesh's client side gives one call to a remote service, in your process.

Policies are stacked in a `Pipeline`, first listed outermost, around any function; a `Service` adds discovery,
balancing and idempotency keys, for functions and for `httpx` clients.

```python
import anyio

from resilient import CircuitBreaker, Pipeline, Retry, Timeout

orders = Pipeline(Timeout(2.0), Retry(on=OSError, attempts=3), CircuitBreaker())


@orders
async def status(order: int) -> str:
    return f"order {order} is on its way"


print(anyio.run(status, 7))
```

Every public name can be had from here and is loaded when it is first used: `import resilient` alone imports no
third-party package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resilient import asgi, balancing, discovery, http, idempotency, lab, testing
    from resilient.balancing import Balance
    from resilient.call import Attribute, Call, Next, Policy, Priority
    from resilient.context import current_call, detached, options, serving
    from resilient.errors import (
        CircuitOpen,
        ConcurrencyExceeded,
        ConfigError,
        DeadlineExceeded,
        DiscoveryError,
        ExpiredKey,
        IdempotencyError,
        InProgress,
        KeyReused,
        LeaseLost,
        NoInstance,
        OutcomeUnknown,
        Overloaded,
        RateLimited,
        Rejected,
        ResilienceError,
        StoreUnavailable,
    )
    from resilient.idempotency import Claim, once
    from resilient.instance import Instance
    from resilient.pipeline import Pipeline
    from resilient.policies.adaptive_limit import AdaptiveLimit
    from resilient.policies.adaptive_throttle import AdaptiveThrottle
    from resilient.policies.bulkhead import Bulkhead
    from resilient.policies.chaos import Chaos
    from resilient.policies.circuit_breaker import CircuitBreaker
    from resilient.policies.coalesce import Coalesce
    from resilient.policies.fallback import fallback
    from resilient.policies.hedge import Hedge
    from resilient.policies.rate_limit import RateLimit
    from resilient.policies.retry import Backoff, Retry, RetryBudget
    from resilient.policies.timeout import Timeout
    from resilient.runtime import Runtime
    from resilient.service import Honoured, Service
    from resilient.snapshot import Snapshot
    from resilient.stack import default_policies
    from resilient.verdict import Classifier, Outcome, Verdict, classify_function

__version__ = "0.1.0"

__all__ = [
    "AdaptiveLimit",
    "AdaptiveThrottle",
    "Attribute",
    "Backoff",
    "Balance",
    "Bulkhead",
    "Call",
    "Chaos",
    "CircuitBreaker",
    "CircuitOpen",
    "Claim",
    "Classifier",
    "Coalesce",
    "ConcurrencyExceeded",
    "ConfigError",
    "DeadlineExceeded",
    "DiscoveryError",
    "ExpiredKey",
    "Hedge",
    "Honoured",
    "IdempotencyError",
    "InProgress",
    "Instance",
    "KeyReused",
    "LeaseLost",
    "Next",
    "NoInstance",
    "Outcome",
    "OutcomeUnknown",
    "Overloaded",
    "Pipeline",
    "Policy",
    "Priority",
    "RateLimit",
    "RateLimited",
    "Rejected",
    "ResilienceError",
    "Retry",
    "RetryBudget",
    "Runtime",
    "Service",
    "Snapshot",
    "StoreUnavailable",
    "Timeout",
    "Verdict",
    "__version__",
    "asgi",
    "balancing",
    "classify_function",
    "current_call",
    "default_policies",
    "detached",
    "discovery",
    "fallback",
    "http",
    "idempotency",
    "lab",
    "once",
    "options",
    "serving",
    "testing",
]

_HOMES = {
    "AdaptiveLimit": "resilient.policies.adaptive_limit",
    "AdaptiveThrottle": "resilient.policies.adaptive_throttle",
    "Attribute": "resilient.call",
    "Backoff": "resilient.policies.retry",
    "Balance": "resilient.balancing",
    "Bulkhead": "resilient.policies.bulkhead",
    "Call": "resilient.call",
    "Chaos": "resilient.policies.chaos",
    "CircuitBreaker": "resilient.policies.circuit_breaker",
    "CircuitOpen": "resilient.errors",
    "Claim": "resilient.idempotency",
    "Classifier": "resilient.verdict",
    "Coalesce": "resilient.policies.coalesce",
    "ConcurrencyExceeded": "resilient.errors",
    "ConfigError": "resilient.errors",
    "DeadlineExceeded": "resilient.errors",
    "DiscoveryError": "resilient.errors",
    "ExpiredKey": "resilient.errors",
    "Hedge": "resilient.policies.hedge",
    "Honoured": "resilient.service",
    "IdempotencyError": "resilient.errors",
    "InProgress": "resilient.errors",
    "Instance": "resilient.instance",
    "KeyReused": "resilient.errors",
    "LeaseLost": "resilient.errors",
    "Next": "resilient.call",
    "NoInstance": "resilient.errors",
    "Outcome": "resilient.verdict",
    "OutcomeUnknown": "resilient.errors",
    "Overloaded": "resilient.errors",
    "Pipeline": "resilient.pipeline",
    "Policy": "resilient.call",
    "Priority": "resilient.call",
    "RateLimit": "resilient.policies.rate_limit",
    "RateLimited": "resilient.errors",
    "Rejected": "resilient.errors",
    "ResilienceError": "resilient.errors",
    "Retry": "resilient.policies.retry",
    "RetryBudget": "resilient.policies.retry",
    "Runtime": "resilient.runtime",
    "Service": "resilient.service",
    "Snapshot": "resilient.snapshot",
    "StoreUnavailable": "resilient.errors",
    "Timeout": "resilient.policies.timeout",
    "Verdict": "resilient.verdict",
    "classify_function": "resilient.verdict",
    "current_call": "resilient.context",
    "default_policies": "resilient.stack",
    "detached": "resilient.context",
    "fallback": "resilient.policies.fallback",
    "once": "resilient.idempotency",
    "options": "resilient.context",
    "serving": "resilient.context",
}
"""Where each public name is defined."""

_ROOMS = frozenset({"asgi", "balancing", "discovery", "http", "idempotency", "lab", "testing"})
"""Subpackages that can be reached as attributes, without an import of their own."""

if not TYPE_CHECKING:  # a checker would take any misspelt name for an Any

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            value = getattr(import_module(_HOMES[name]), name)
        elif name in _ROOMS:
            value = import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value  # the next access does not come here
        return value


def __dir__() -> list[str]:
    return __all__
