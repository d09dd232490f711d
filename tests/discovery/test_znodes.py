"""What others write into ZooKeeper, and what we do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resilient.discovery.znodes import FORMATS, Format
from resilient.errors import DiscoveryError
from resilient.instance import Instance

A = Instance(id="a/1", host="10.0.0.1", port=80, weight=2.5, zone="z", metadata={"k": "v"})
PLAIN = Instance(id="b", host="10.0.0.1", port=80)


def read(kind: Format, document: Any, endpoint: str | None = None) -> Instance | None:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    return FORMATS[kind].read("node", content, endpoint)


@pytest.mark.parametrize("kind", ["curator", "serverset"])
@pytest.mark.parametrize("instance", [A, PLAIN])
def test_what_is_written_is_read(kind: Format, instance: Instance) -> None:
    assert read(kind, FORMATS[kind].write("orders", instance, 1_700_000_000.5)) == instance


def test_curators_fields_are_all_there() -> None:
    """Its Java side wants each of them."""
    written = json.loads(FORMATS["curator"].write("orders", A, 1_700_000_000.5))
    payload = written.pop("payload")
    assert payload == {"weight": 2.5, "zone": "z", "metadata": {"k": "v"}}
    assert written == {
        "name": "orders",
        "id": "a/1",
        "address": "10.0.0.1",
        "port": 80,
        "sslPort": None,
        "registrationTimeUTC": 1_700_000_000_500,
        "serviceType": "DYNAMIC",
        "uriSpec": None,
    }


CURATOR = {"name": "orders", "id": "x", "address": "10.0.0.7", "port": 8080, "payload": None, "sslPort": None}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Instance(id="x", host="10.0.0.7", port=8080)),
        ({"id": None}, Instance(id="node", host="10.0.0.7", port=8080)),
        ({"port": None, "sslPort": 8443}, Instance(id="x", host="10.0.0.7", port=8443)),
        ({"enabled": True}, Instance(id="x", host="10.0.0.7", port=8080)),
        ({"enabled": False}, None),
        ({"payload": "a text"}, Instance(id="x", host="10.0.0.7", port=8080)),
        (
            {"payload": {"@class": "com.example.Payload", "version": "1.4", "count": 3, "weight": 2, "zone": "eu"}},
            Instance(
                id="x",
                host="10.0.0.7",
                port=8080,
                weight=2.0,
                zone="eu",
                metadata={"@class": "com.example.Payload", "version": "1.4"},
            ),
        ),
    ],
)
def test_what_curator_writes_is_read(changes: dict[str, Any], expected: Instance | None) -> None:
    assert read("curator", CURATOR | changes) == expected


SERVERSET = {
    "serviceEndpoint": {"host": "10.0.0.7", "port": 8080},
    "additionalEndpoints": {"admin": {"host": "10.0.0.7", "port": 9990}},
    "status": "ALIVE",
    "shard": 3,
}


@pytest.mark.parametrize(
    ("changes", "endpoint", "expected"),
    [
        ({}, None, Instance(id="node", host="10.0.0.7", port=8080)),
        ({}, "admin", Instance(id="node", host="10.0.0.7", port=9990)),
        ({}, "http", None),
        ({"additionalEndpoints": None}, "http", None),
        ({"status": "DEAD"}, None, None),
        ({"status": "STOPPING"}, None, None),
        ({"metadata": {"k": "v"}}, None, Instance(id="node", host="10.0.0.7", port=8080, metadata={"k": "v"})),
    ],
)
def test_what_finagle_writes_is_read(changes: dict[str, Any], endpoint: str | None, expected: Instance | None) -> None:
    assert read("serverset", SERVERSET | changes, endpoint) == expected


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        ("curator", b""),
        ("curator", []),
        ("curator", {}),
        ("curator", CURATOR | {"port": "80"}),
        ("curator", CURATOR | {"payload": {"weight": "2"}}),
        ("serverset", b"{"),
        ("serverset", {"status": "ALIVE"}),
        ("serverset", SERVERSET | {"serviceEndpoint": {"host": "h"}}),
        ("serverset", SERVERSET | {"serviceEndpoint": "h:80"}),
    ],
)
def test_what_is_no_instance_is_trouble(kind: Format, document: Any) -> None:
    with pytest.raises(DiscoveryError):
        read(kind, document)
