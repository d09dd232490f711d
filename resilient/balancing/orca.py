"""Load reports on the wire: ORCA's `endpoint-load-metrics`, as text, JSON or protobuf."""

from __future__ import annotations

import json
import math
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from resilient.balancing.orca_binary import pairs_of_message
from resilient.machines.load import Load

__all__ = ["HEADER", "PROBE_PATH", "format_load", "load_of", "parse_load"]

HEADER = "endpoint-load-metrics"
"""Of a response: how busy whoever answers is."""

_BINARY_HEADER = f"{HEADER}-bin"
"""The same as protobuf alone, as gRPC has it."""

PROBE_PATH = "/.well-known/resilient-load"
"""Where an instance answers that, and nothing else: `GET` it, and read the header of the response."""

_NAMED = "named_metrics"
_LONGEST = 8192
_FIELDS = {
    "application_utilization": "application_utilization",
    "cpu_utilization": "cpu_utilization",
    "rps_fractional": "rps",
    "eps": "eps",
}
_CAMEL = {"applicationUtilization": "application_utilization", "cpuUtilization": "cpu_utilization"} | {
    "rpsFractional": "rps_fractional",
    "namedMetrics": _NAMED,
}


def load_of(headers: Mapping[str, str]) -> Load | None:
    """Return what the headers of a response say, in `endpoint-load-metrics` or in gRPC's `endpoint-load-metrics-bin`.

    `headers` are those of httpx, or names in small letters. None where they do not say it.
    """
    told = headers.get(HEADER)
    if told is not None:
        return parse_load(told)
    told = headers.get(_BINARY_HEADER)
    return None if told is None else parse_load(f"BIN {told}")


def parse_load(value: str) -> Load | None:
    """Return what a header says, or None.

    It is `TEXT cpu_utilization=0.3, ...`, `JSON {"cpu_utilization": 0.3, ...}`, or `BIN` and a protobuf message
    (`xds.data.orca.v3.OrcaLoadReport`) in base64. Numbers that are negative or not finite are ignored, and so is what
    cannot be read. Of the named metrics `rif` and `latency_ms` are what Prequal's probes are answered with.
    """
    form, _, body = value.strip().partition(" ")
    if len(body) > _LONGEST:
        return None
    try:
        return _load([*_pairs(form, body)])
    except (ValueError, RecursionError):
        return None


def format_load(load: Load) -> str:
    """Return the header that says it, as text."""
    named: dict[str, float] = dict(load.named)
    if load.in_flight is not None:
        named["rif"] = load.in_flight
    if load.latency is not None:
        named["latency_ms"] = load.latency * 1000
    pairs = [(wire, getattr(load, ours)) for wire, ours in _FIELDS.items()]
    pairs += [(f"{_NAMED}.{name}", number) for name, number in named.items()]
    return "TEXT " + ", ".join(f"{name}={number:.6g}" for name, number in pairs if number is not None)


def _pairs(form: str, body: str) -> Iterable[tuple[str, object]]:
    if form == "TEXT":
        return _pairs_of_text(body)
    if form == "BIN":  # gRPC leaves the padding out
        return pairs_of_message(b64decode(body + "=" * (-len(body) % 4), validate=True))
    document: Any = json.loads(body) if form == "JSON" else None
    return _pairs_of_document(cast("dict[str, Any]", document)) if isinstance(document, dict) else ()


def _pairs_of_text(body: str) -> Iterator[tuple[str, object]]:
    for entry in body.split(","):
        name, mark, number = entry.partition("=" if "=" in entry else ":")
        if mark:
            yield name.strip(), number.strip()


def _pairs_of_document(document: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for given, value in document.items():
        name = _CAMEL.get(given, given)
        if name != _NAMED:
            yield name, value
        elif isinstance(value, dict):
            for metric, number in cast("dict[str, object]", value).items():
                yield f"{_NAMED}.{metric}", number


def _load(pairs: Iterable[tuple[str, object]]) -> Load | None:
    """Keep what has a meaning."""
    fields: dict[str, Any] = {}
    named: dict[str, float] = {}
    for name, value in pairs:
        number = _number(value)
        if number is None:
            continue
        kind, _, metric = name.partition(".")
        if kind == _NAMED and metric:
            named[metric] = number
        elif name in _FIELDS:
            fields[_FIELDS[name]] = number
    if not fields and not named:
        return None
    if (rif := named.pop("rif", None)) is not None:
        fields["in_flight"] = int(rif)
    if (latency := named.pop("latency_ms", None)) is not None:
        fields["latency"] = latency / 1000
    return Load(**fields, named=named)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None
