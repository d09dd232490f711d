"""How an instance is written into a node of ZooKeeper: by Apache Curator, or as a member of a Finagle server set."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, final

from resilient.discovery.documents import decode, instance_from
from resilient.errors import DiscoveryError
from resilient.instance import Instance

__all__ = ["FORMATS", "MEMBER", "Format", "Notation"]

Format: TypeAlias = Literal["curator", "serverset"]
"""The notation of Apache Curator's service discovery, or that of Finagle's server sets."""

MEMBER = "member_"
"""What the name of a server set's member begins with; what else is there is somebody else's."""


@final
@dataclass(frozen=True, slots=True)
class Notation:
    """One way to write an instance.

    `read` gets the node's name, its content and the name of an endpoint (server sets have several; None: the main one).
    It returns None for an instance that is not to be called, and raises a `DiscoveryError` for what is no instance.
    """

    read: Callable[[str, bytes, str | None], Instance | None]
    write: Callable[[str, Instance, float], bytes]
    """Gets the name of the service, the instance, and the second since the epoch."""


def _table(content: bytes) -> Mapping[str, Any]:
    found = decode(content, "json")
    if not isinstance(found, Mapping):
        raise DiscoveryError("it is no JSON object")
    return cast("Mapping[str, Any]", found)


def _instance(fields: Mapping[str, Any], extras: Mapping[str, Any]) -> Instance:
    """Make an instance of what every notation has, and of `weight`, `zone` and `metadata` where there are such."""
    known = {name: extras[name] for name in ("weight", "zone", "metadata") if extras.get(name) is not None}
    return instance_from({**fields, **known}, "the record")


def _extras(instance: Instance) -> dict[str, Any]:
    return {"weight": instance.weight, "zone": instance.zone, "metadata": dict(instance.metadata)}


def _read_curator(name: str, content: bytes, _endpoint: str | None) -> Instance | None:
    found = _table(content)
    if found.get("enabled") is False:
        return None
    port = found.get("port") if found.get("port") is not None else found.get("sslPort")
    fields = {"id": found.get("id") or name, "host": found.get("address"), "port": port}
    payload = found.get("payload")
    if not isinstance(payload, Mapping):
        return _instance(fields, {})
    extras = cast("Mapping[str, Any]", payload)
    if "metadata" not in extras:  # somebody else's payload: its texts are what is known of the instance
        texts = {
            key: value for key, value in extras.items() if key not in {"weight", "zone"} and isinstance(value, str)
        }
        extras = {"metadata": texts} | {key: extras[key] for key in ("weight", "zone") if key in extras}
    return _instance(fields, extras)


def _write_curator(service: str, instance: Instance, wall: float) -> bytes:
    document = {
        "name": service,
        "id": instance.id,
        "address": instance.host,
        "port": instance.port,
        "sslPort": None,
        "payload": _extras(instance),
        "registrationTimeUTC": round(wall * 1000),
        "serviceType": "DYNAMIC",
        "uriSpec": None,
    }
    return json.dumps(document).encode()


def _read_serverset(name: str, content: bytes, endpoint: str | None) -> Instance | None:
    found = _table(content)
    if found.get("status", "ALIVE") != "ALIVE":
        return None
    others: Mapping[str, Any] = found.get("additionalEndpoints") or {}
    chosen = found.get("serviceEndpoint") if endpoint is None else others.get(endpoint)
    if chosen is None and endpoint is not None:
        return None  # it has no such endpoint, which is no mistake
    if not isinstance(chosen, Mapping):
        raise DiscoveryError("it has no serviceEndpoint")
    place = cast("Mapping[str, Any]", chosen)
    metadata: Mapping[str, Any] = found.get("metadata") or {}
    extras: Mapping[str, Any] = found.get("resilient") or {"metadata": metadata}
    fields = {"id": extras.get("id") or name, "host": place.get("host"), "port": place.get("port")}
    return _instance(fields, extras)


def _write_serverset(_service: str, instance: Instance, _wall: float) -> bytes:
    document = {
        "serviceEndpoint": {"host": instance.host, "port": instance.port},
        "additionalEndpoints": {},
        "status": "ALIVE",
        "metadata": dict(instance.metadata),
        "resilient": {"id": instance.id, **_extras(instance)},  # for which the notation has no place
    }
    return json.dumps(document).encode()


FORMATS: Mapping[Format, Notation] = {
    "curator": Notation(_read_curator, _write_curator),
    "serverset": Notation(_read_serverset, _write_serverset),
}
