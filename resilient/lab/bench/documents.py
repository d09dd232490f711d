"""Scenarios and policy stacks as TOML files.

A scenario has the fields of `resilient.lab.scenario.Scenario`. Wherever there are several kinds of something, the kind
is the name of a table that holds its arguments:

```toml
name = "my-storm"
duration = 120
timeout = 10.0
attempt_timeout = 1.0
trigger = [30, 40]

[[tiers]]
name = "db"
workers = 30
service_time.exponential = { mean = 0.1 }
queue.fifo = { limit = 200 }

[load]
writes = 0.1
arrivals.poisson = { rate = 280 }

[[faults]]
stop = { at = 30, seconds = 10 }

[[bands]]
policy = "default"
metric = "recovery"
high = 5
```

A stack is a table `[policies.NAME]` with a table for each policy, the outermost first, and a `balancer`:

```toml
[policies.careful]
balancer = "least_request"
timeout = { seconds = 5.0 }
retry = { attempts = 2, budget = { ratio = 0.05 } }
circuit_breaker = { consecutive_failures = 5 }
balance = {}
attempt = { seconds = 0.5 }
```
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast, final

from resilient.balancing import Balance, LeastRequest, PeakEwma, RoundRobin
from resilient.call import Priority
from resilient.discovery import Discovery
from resilient.lab import arrivals, episodes, faults, membership
from resilient.lab.scenario import Band, Computations, Load, OpenLoop, Scenario, Tier, Users, Zipf
from resilient.lab.stacks import Setting, Stack
from resilient.lab.world import queues, service_times
from resilient.policies.adaptive_throttle import AdaptiveThrottle
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.hedge import Hedge
from resilient.policies.honoured import Honoured
from resilient.policies.rate_limit import RateLimit
from resilient.policies.retry import Backoff, Retry, RetryBudget
from resilient.policies.timeout import Timeout
from resilient.service import Service

__all__ = ["read_scenario", "read_stack"]

Table = Mapping[str, Any]
Kinds = Mapping[str, Callable[..., Any]]

_SERVICE_TIMES: Kinds = {
    "exponential": service_times.Exponential,
    "lognormal": service_times.Lognormal,
    "bimodal": service_times.Bimodal,
    "empirical": service_times.Empirical,
    "constant": service_times.Constant,
}
_QUEUES: Kinds = {
    "fifo": queues.Fifo,
    "adaptive_lifo": queues.AdaptiveLifo,
    "codel": queues.CoDel,
    "priorities": queues.Priorities,
}
_ARRIVALS: Kinds = {
    "constant": arrivals.constant,
    "poisson": arrivals.poisson,
    "ramp": arrivals.ramp,
    "spike": arrivals.spike,
    "bursts": arrivals.bursts,
    "replay": arrivals.replay,
}
_FAULTS: Kinds = {
    "stop": faults.Stop,
    "crash": faults.Crash,
    "black_hole": faults.BlackHole,
    "slow": faults.Slow,
    "fail": faults.Fail,
    "silent_replies": faults.SilentReplies,
    "resize": faults.Resize,
    "pauses": episodes.Pauses,
    "bursts": episodes.Bursts,
    "partition": faults.Partition,
    "corruption": faults.Corruption,
    "rolling": membership.Rolling,
    "join": membership.Join,
    "delisting": membership.Delisting,
}
_BALANCERS: Kinds = {"round_robin": RoundRobin, "least_request": LeastRequest, "peak_ewma": PeakEwma}


@final
class _Reader:
    """Makes objects of tables, and says where in the file something is wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def refuse(self, where: str, problem: str) -> NoReturn:
        raise ValueError(f"{self.path}: {where}: {problem}")

    def table(self, value: object, where: str) -> Table:
        if not isinstance(value, dict):
            self.refuse(where, f"expected a table, got {value!r}")
        return cast("Table", value)

    def tables(self, value: object, where: str) -> Iterator[tuple[Table, str]]:
        if not isinstance(value, list):
            self.refuse(where, f"expected [[{where}]] tables, got {value!r}")
        for number, one in enumerate(cast("list[object]", value)):
            yield self.table(one, f"{where}[{number}]"), f"{where}[{number}]"

    def make(self, maker: Callable[..., Any], arguments: Table, where: str, **more: Any) -> Any:
        """Call `maker`, with an error that names its arguments."""
        known = [name for name in inspect.signature(maker).parameters if name not in more and name != "random"]
        unknown = [name for name in arguments if name not in known]
        if unknown:
            self.refuse(where, f"no argument {unknown[0]!r}; there are {', '.join(known) or 'none'}")
        try:
            return maker(**arguments, **more)
        except (TypeError, ValueError) as error:
            self.refuse(where, str(error))

    def kind(self, value: object, kinds: Kinds, where: str) -> tuple[Callable[..., Any], Table, str]:
        """The maker and its arguments, of a table of one table."""
        table = self.table(value, where)
        if len(table) != 1 or next(iter(table)) not in kinds:
            self.refuse(where, f"expected one of {', '.join(kinds)}, got {', '.join(table) or 'nothing'}")
        ((name, arguments),) = table.items()
        where = f"{where}.{name}"
        return kinds[name], self.table(arguments, where), where

    def one_of(self, value: object, kinds: Kinds, where: str) -> Any:
        return self.make(*self.kind(value, kinds, where))


def _load_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from error


# -- scenarios ------------------------------------------------------------------------------------------------------


def read_scenario(path: Path, knobs: Table) -> Scenario:
    """Read a scenario, with the values at the paths that `knobs` names replaced.

    Raises `ValueError` naming the file, the place in it, and what is allowed there.
    """
    document = _load_file(path)
    reader = _Reader(path)
    for name, value in knobs.items():
        _turn(reader, document, name, value)
    fields = dict(document)
    for name in ("title", "source", "naive", "good"):
        fields.setdefault(name, "")
    fields.setdefault("name", path.stem)
    fields["tiers"] = [_tier(reader, table, where) for table, where in reader.tables(document.get("tiers"), "tiers")]
    if "duration" not in fields:
        reader.refuse("duration", "missing: seconds of load")
    fields["load"] = _load(reader, reader.table(document.get("load"), "load"), float(fields["duration"]))
    fields["faults"] = _faults(reader, document.get("faults", []), "faults")
    fields["bands"] = [
        reader.make(Band, table, where) for table, where in reader.tables(document.get("bands", []), "bands")
    ]
    if "latency" in fields:
        fields["latency"] = reader.one_of(fields["latency"], _SERVICE_TIMES, "latency")
    if "trigger" in fields:
        fields["trigger"] = tuple(fields["trigger"])
    made: Scenario = reader.make(Scenario, fields | {"knobs": dict(knobs)}, "the scenario")
    return made


def _turn(reader: _Reader, document: dict[str, Any], name: str, value: Any) -> None:
    """Replace the value at a path such as `tiers.0.workers`, which has to be there."""
    *path, last = name.split(".")
    place: Any = document
    for step in path:
        place = _within(reader, place, step, name)
    _within(reader, place, last, name)
    place[int(last) if isinstance(place, list) else last] = value


def _within(reader: _Reader, place: object, step: str, name: str) -> Any:
    items: dict[str, Any] = {}
    if isinstance(place, list):
        items = {str(index): item for index, item in enumerate(cast("Sequence[Any]", place))}
    elif isinstance(place, dict):
        items = cast("dict[str, Any]", place)
    if step not in items:
        reader.refuse(f"knob {name}", f"nothing there called {step!r}; there is {', '.join(items) or 'a value'}")
    return items[step]


def _tier(reader: _Reader, table: Table, where: str) -> Tier:
    fields = dict(table)
    fields["service_time"] = reader.one_of(table.get("service_time"), _SERVICE_TIMES, f"{where}.service_time")
    if "queue" in table:
        queue = reader.kind(table["queue"], _QUEUES, f"{where}.queue")
        reader.make(*queue)  # now, so that a mistake is found here and not in the first run
        fields["queue"] = partial(queue[0], **queue[1])
    made: Tier = reader.make(Tier, fields, where)
    return made


def _faults(reader: _Reader, value: object, where: str) -> list[Any]:
    """Faults, those that befall servers which join among them."""
    made: list[Any] = []
    for table, place in reader.tables(value, where):
        maker, arguments, inside = reader.kind(table, _FAULTS, place)
        fields = dict(arguments)
        if "joining" in fields:
            fields["joining"] = _faults(reader, fields["joining"], f"{inside}.joining")
        made.append(reader.make(maker, fields, inside))
    return made


def _load(reader: _Reader, table: Table, duration: float) -> Load:
    fields = dict(table)
    if "priorities" in fields:
        shares = reader.table(fields["priorities"], "load.priorities")
        names = {priority.name.lower(): priority for priority in Priority}
        unknown = [name for name in shares if name not in names]
        if unknown:
            reader.refuse("load.priorities", f"no priority {unknown[0]!r}; there are {', '.join(names)}")
        fields["priorities"] = {names[name]: share for name, share in shares.items()}
    if "keys" in fields:
        fields["keys"] = reader.make(Zipf, reader.table(fields["keys"], "load.keys"), "load.keys")
    kind = next((name for name in ("arrivals", "users", "computations") if name in fields), None)
    if kind is None:
        reader.refuse("load", "expected arrivals, users or computations")
    arguments = fields.pop(kind)
    where = f"load.{kind}"
    if kind == "arrivals":
        fields["arrivals"] = _arrivals(reader, arguments, where, duration)
        return cast("Load", reader.make(OpenLoop, fields, "load"))
    fields |= reader.table(arguments, where)
    if "think" in fields:
        fields["think"] = reader.one_of(fields["think"], _SERVICE_TIMES, f"{where}.think")
    return cast("Load", reader.make(Users if kind == "users" else Computations, fields, "load"))


def _arrivals(
    reader: _Reader, value: object, where: str, duration: float
) -> Callable[[Callable[[], float]], Iterator[float]]:
    maker, arguments, where = reader.kind(value, _ARRIVALS, where)
    parameters = inspect.signature(maker).parameters
    fixed: dict[str, Any] = {"duration": duration} if "duration" in parameters and "duration" not in arguments else {}

    def instants(random: Callable[[], float]) -> Iterator[float]:
        more = fixed | ({"random": random} if "random" in parameters else {})
        made: Iterator[float] = reader.make(maker, arguments, where, **more)
        return made

    next(instants(lambda: 0.5), None)  # now, so that a mistake is found here and not in the first run
    return instants


# -- stacks ---------------------------------------------------------------------------------------------------------


def _retry(**arguments: Any) -> Retry:
    if isinstance(arguments.get("backoff"), dict):
        arguments["backoff"] = Backoff(**arguments["backoff"])
    if isinstance(arguments.get("budget"), dict):
        arguments["budget"] = RetryBudget(**arguments["budget"])
    elif arguments.get("budget") is False:  # TOML has no null
        arguments["budget"] = None
    return Retry(**arguments)


_retry.__signature__ = inspect.signature(Retry)  # type: ignore[attr-defined]  # what the errors list

_POLICIES: Kinds = {
    "timeout": Timeout,
    "honoured": Honoured,
    "retry": _retry,
    "hedge": Hedge,
    "adaptive_throttle": AdaptiveThrottle,
    "circuit_breaker": CircuitBreaker,
    "rate_limit": RateLimit,
    "bulkhead": Bulkhead,
    "balance": Balance,
    "attempt": Timeout,
}


def read_stack(path: Path, name: str) -> Stack:
    """Read the policies `[policies.NAME]` of a file.

    Raises `ValueError` naming the file, the place in it, and what is allowed there.
    """
    reader = _Reader(path)
    stacks = reader.table(_load_file(path).get("policies"), "policies")
    if name not in stacks:
        reader.refuse("policies", f"none is called {name!r}; there are {', '.join(stacks) or 'none'}")
    where = f"policies.{name}"
    tables = dict(reader.table(stacks[name], where))
    balancer = tables.pop("balancer", "peak_ewma")
    if balancer not in _BALANCERS:
        reader.refuse(f"{where}.balancer", f"{balancer!r}: one of {', '.join(_BALANCERS)}")
    unknown = [policy for policy in tables if policy not in _POLICIES]
    if unknown:
        reader.refuse(where, f"no policy {unknown[0]!r}; there are balancer, {', '.join(_POLICIES)}")

    def policies() -> Sequence[Any]:
        return [
            reader.make(_POLICIES[policy], reader.table(arguments, f"{where}.{policy}"), f"{where}.{policy}")
            for policy, arguments in tables.items()
        ]

    def make(setting: Setting, discovery: Discovery) -> Service:
        return Service(setting.name, discovery, balancer=_BALANCERS[balancer](), policies=policies())

    policies()
    return Stack(name=f"{path}:{name}", make=make)
