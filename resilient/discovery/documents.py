"""Instances written down in TOML or JSON."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, cast

from resilient.errors import DiscoveryError
from resilient.instance import Instance

__all__ = ["address", "decode", "fields_of", "instance_from", "instances_in", "merge"]

_FIELDS = ("id", "host", "port", "weight", "zone", "metadata")


def decode(content: bytes, kind: str) -> object:
    """Parse a whole document of `kind` "toml" or "json"; anything that is not complete is a `DiscoveryError`."""
    try:
        text = content.decode()
        # A JSON text that is cut off does not parse. TOML's may, with the half of a number at its end or without the
        # instances that were to follow; at least it rarely ends where a line does.
        if kind == "toml" and not text.endswith("\n"):
            raise DiscoveryError("it does not end with a line break, so it may have been cut off")
        return tomllib.loads(text) if kind == "toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DiscoveryError(f"it is not valid {kind.upper()}: {error}") from None


def instances_in(document: object) -> tuple[Instance, ...]:
    """Read a list of instances, or a table whose only key is `instances`."""
    if isinstance(document, Mapping):
        table = cast("Mapping[str, Any]", document)
        if unknown := [key for key in table if key != "instances"]:
            raise DiscoveryError(f"unknown key {unknown[0]!r}: a document has one, instances")
        if "instances" not in table:
            # Also what an empty TOML file is: that there are none has to be said, with instances = [].
            raise DiscoveryError("it has no instances; that there are none is said with an empty list")
        document = table["instances"]
    if not isinstance(document, list):
        raise DiscoveryError("instances is not a list")
    records = cast("list[object]", document)
    return merge(instance_from(record, f"instance {number}") for number, record in enumerate(records, 1))


def instance_from(record: object, where: str, *, besides: Collection[str] = ()) -> Instance:
    """Read one instance. `besides` are keys that are the caller's business."""
    if not isinstance(record, Mapping):
        raise DiscoveryError(f"{where} is not a table of {', '.join(_FIELDS)}")
    fields = {key: value for key, value in cast("Mapping[str, Any]", record).items() if key not in besides}
    for key, value in fields.items():
        if key not in _FIELDS:
            raise DiscoveryError(f"{where}: unknown key {key!r}; known are {', '.join(_FIELDS)}")
        if not _fits(key, value):
            raise DiscoveryError(f"{where}: {key}={value!r} is not {_MEANING[key]}")
    for key in ("host", "port"):
        if key not in fields:
            raise DiscoveryError(f"{where} has no {key}")
    fields.setdefault("id", address(fields["host"], fields["port"]))
    if "metadata" in fields:
        fields["metadata"] = MappingProxyType(dict(fields["metadata"]))
    try:
        return Instance(**fields)
    except ValueError as error:
        raise DiscoveryError(f"{where}: {error}") from None


def fields_of(instance: Instance) -> dict[str, Any]:
    """Return what `instance_from` reads."""
    return {
        "id": instance.id,
        "host": instance.host,
        "port": instance.port,
        "weight": instance.weight,
        "zone": instance.zone,
        "metadata": dict(instance.metadata),
    }


def address(host: str, port: int) -> str:
    """The id of an instance that was not given one."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def merge(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    """Count what is written twice once; one id for two different instances is a `DiscoveryError`."""
    found: dict[str, Instance] = {}
    for instance in instances:
        if found.setdefault(instance.id, instance) != instance:
            raise DiscoveryError(f"two different instances have the id {instance.id!r}")
    return tuple(found.values())


_MEANING = {
    "id": "a string",
    "host": "a string",
    "port": "a whole number",
    "weight": "a number",
    "zone": "a string",
    "metadata": "a table of strings",
}


def _fits(key: str, value: object) -> bool:
    match key:
        case "port":
            return isinstance(value, int) and not isinstance(value, bool)
        case "weight":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "zone":
            return value is None or isinstance(value, str)
        case "metadata":
            return isinstance(value, Mapping) and all(
                isinstance(text, str) for text in cast("Mapping[str, object]", value).values()
            )
        case _:
            return isinstance(value, str)
