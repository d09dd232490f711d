"""What the EndpointSlices of a Kubernetes service say of its instances. No I/O."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, cast

from resilient.discovery.documents import address
from resilient.discovery.reflector import Candidate
from resilient.errors import DiscoveryError
from resilient.instance import Instance

__all__ = ["Terminating", "candidates", "key_of", "port_in", "ports_of"]

Terminating: TypeAlias = Literal["fallback", "never"]
"""What becomes of endpoints that are being terminated but still serve.

`fallback` calls them if there is no ready one: better than nobody, and what kube-proxy does. `never` does not.
"""

_READY, _V4 = 2, 1
"""What makes an endpoint's rank: it is ready; and of two families of addresses, IPv4. So a pod of a dual-stack service
is one instance, and IPv6 is for those who have nothing else."""
_FAMILIES = {"IPv4": _V4, "IPv6": 0}
_SOCKETS = {_V4: socket.AF_INET, 0: socket.AF_INET6}
_UID = 8
_PORTS = range(1, 65536)


def key_of(found: Mapping[str, Any]) -> str:
    """Return the name of a slice."""
    name = _table(found.get("metadata"), "metadata").get("name")
    if not name:
        raise DiscoveryError("an EndpointSlice has no name")
    return str(name)


def ports_of(found: Mapping[str, Any]) -> list[str]:
    """Return the ports of a slice as a person wants to read them: `http (8080)`."""
    return [f"{port.get('name') or 'unnamed'} ({port.get('port') or 'any'})" for port in _ports(found)]


def candidates(found: Mapping[str, Any], port: str | int, terminating: Terminating) -> list[Candidate]:
    """Return the endpoints of one slice that may be called at `port`, which is a name or a number.

    Without a `ready` condition an endpoint is ready, and without a `serving` one it serves if it is ready. Addresses
    that are names (FQDN) are left out, as kube-proxy does; of several addresses of an endpoint the first one counts.
    """
    family = _FAMILIES.get(str(found.get("addressType")))
    number = port_in(found, port)
    if family is None or number is None:
        return []
    return list(_endpoints(found, number, family, terminating))


def _endpoints(found: Mapping[str, Any], port: int, family: int, terminating: Terminating) -> Iterator[Candidate]:
    for endpoint in _tables(found.get("endpoints"), "endpoints"):
        conditions = _table(endpoint.get("conditions"), "conditions")
        ready = conditions.get("ready") is not False
        serving = ready if conditions.get("serving") is None else conditions["serving"] is True
        leaving = conditions.get("terminating") is True
        if not ready and not (leaving and serving and terminating == "fallback"):
            continue
        addresses = endpoint.get("addresses")
        host = str(cast("list[object]", addresses)[0]) if isinstance(addresses, list) and addresses else ""
        try:
            socket.inet_pton(_SOCKETS[family], host)  # thousands of them: ten times as fast as `ipaddress`
        except (OSError, ValueError):
            raise DiscoveryError(f"an endpoint has the address {host!r}") from None
        target = _table(endpoint.get("targetRef"), "targetRef")
        yield Candidate(
            Instance(
                id=_identity(target, host, port),
                host=host,
                port=port,
                zone=str(endpoint["zone"]) if endpoint.get("zone") else None,
                metadata=MappingProxyType(_metadata(endpoint, target, leaving=leaving and not ready)),
            ),
            (_READY if ready else 0) + family,
        )


def _identity(target: Mapping[str, Any], host: str, port: int) -> str:
    """Name an instance: a pod keeps its name for life, and its successor has another one.

    A StatefulSet gives names again, and the network gives addresses again; the uid tells them apart.
    """
    if target.get("kind") == "Pod" and target.get("name"):
        uid = target.get("uid")
        return f"{target['name']}.{str(uid)[:_UID]}" if uid else f"{target['name']}@{address(host, port)}"
    return address(host, port)


def _metadata(endpoint: Mapping[str, Any], target: Mapping[str, Any], *, leaving: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    if target.get("kind") == "Pod" and target.get("name"):
        found["pod"] = str(target["name"])
    if endpoint.get("nodeName"):
        found["node"] = str(endpoint["nodeName"])
    hints = _table(endpoint.get("hints"), "hints")
    zones = [str(zone["name"]) for zone in _tables(hints.get("forZones"), "forZones") if zone.get("name")]
    if zones:
        found["for_zones"] = ",".join(zones)
    if leaving:
        found["terminating"] = "true"
    return found


def port_in(found: Mapping[str, Any], wanted: str | int) -> int | None:
    """Return the port of a slice, None if it has no such: the same name may be another number in each of them."""
    for port in _ports(found):
        number = port.get("port")
        if (
            isinstance(number, int)
            and number in _PORTS
            and wanted in (port.get("name"), number)
            and port.get("protocol", "TCP") == "TCP"
        ):
            return number
    return None


def _ports(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return _tables(found.get("ports"), "ports")


def _table(value: object, name: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise DiscoveryError(f"{name} of an EndpointSlice is of another form")
    return cast("Mapping[str, Any]", value)


def _tables(value: object, name: str) -> list[Mapping[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise DiscoveryError(f"{name} of an EndpointSlice is of another form")
    return [_table(item, name) for item in cast("list[object]", value)]
