"""What EndpointSlices say."""

from __future__ import annotations

from typing import Any

import pytest

from resilient.discovery.slices import candidates, key_of, port_in, ports_of
from resilient.errors import DiscoveryError
from tests.discovery.kubernetes.traces import Trace


def slice_of(*endpoints: Any, **changes: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "orders-a"},
        "addressType": "IPv4",
        "endpoints": list(endpoints),
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        **changes,
    }


def endpoint(address: str = "10.0.0.1", **conditions: Any) -> dict[str, Any]:
    return {"addresses": [address], "conditions": conditions}


def addresses(found: Any, port: str | int = "http", terminating: Any = "fallback") -> list[tuple[str, int]]:
    return [(one.instance.address, one.rank) for one in candidates(found, port, terminating)]


@pytest.mark.parametrize(
    ("conditions", "rank"),
    [
        ({"ready": True, "serving": True, "terminating": False}, 3),
        ({}, 3),  # without a condition it is ready
        ({"ready": True}, 3),
        ({"ready": True, "serving": True, "terminating": True}, 3),  # publishNotReadyAddresses
        ({"ready": False, "serving": True, "terminating": True}, 1),
        ({"ready": False, "serving": True, "terminating": False}, None),
        ({"ready": False, "serving": False, "terminating": True}, None),
        ({"ready": False, "terminating": True}, None),  # without the condition it serves if it is ready
        ({"ready": False}, None),
    ],
)
def test_conditions_decide(conditions: dict[str, Any], rank: int | None) -> None:
    found = slice_of(endpoint(**conditions))
    assert addresses(found) == ([] if rank is None else [("10.0.0.1:8080", rank)])
    assert addresses(found, terminating="never") == ([("10.0.0.1:8080", 3)] if rank == 3 else [])


@pytest.mark.parametrize("absent", [{"conditions": None}, {}])
def test_conditions_may_be_missing_altogether(absent: dict[str, Any]) -> None:
    assert addresses(slice_of({"addresses": ["10.0.0.1"], **absent})) == [("10.0.0.1:8080", 3)]


def test_a_slice_may_have_no_endpoints_and_no_ports() -> None:
    assert addresses(slice_of(endpoints=None)) == []
    assert addresses(slice_of(endpoint(), ports=None)) == []
    for port in ({"name": "http"}, {"name": "http", "port": 0}, {"name": "http", "port": 65_536}):
        assert addresses(slice_of(endpoint(), ports=[port])) == []


def test_the_first_address_counts() -> None:
    assert addresses(slice_of({"addresses": ["10.0.0.1", "10.0.0.2"]})) == [("10.0.0.1:8080", 3)]


def test_a_name_may_be_another_port_in_each_slice_and_a_number_is_the_pods() -> None:
    ports = [{"name": "metrics", "port": 9100}, {"name": "http", "port": 9090, "protocol": "TCP"}]
    found = slice_of(endpoint(), ports=ports)
    assert addresses(found) == [("10.0.0.1:9090", 3)]
    assert addresses(found, 9100) == [("10.0.0.1:9100", 3)]
    assert addresses(found, 80) == []
    assert (port_in(found, "metrics"), port_in(found, "grpc")) == (9100, None)
    assert ports_of(found) == ["metrics (9100)", "http (9090)"]


def test_a_port_of_another_protocol_is_none() -> None:
    assert addresses(slice_of(endpoint(), ports=[{"name": "http", "port": 53, "protocol": "UDP"}])) == []


def test_ipv6_is_for_want_of_ipv4_and_names_are_left_out() -> None:
    assert addresses(slice_of(endpoint("fd00::1"), addressType="IPv6")) == [("[fd00::1]:8080", 2)]
    assert addresses(slice_of(endpoint("orders.example.com"), addressType="FQDN")) == []
    assert addresses(slice_of(endpoint("x"), addressType="Carrier pigeon")) == []


def test_a_pod_is_itself_and_its_successor_is_another() -> None:
    def name(**target: str) -> str:
        (found,) = candidates(slice_of({**endpoint(), "targetRef": target}), "http", "never")
        return found.instance.id

    assert name(kind="Pod", name="orders-0", uid="5187b18e-683e-4f0d-9dc8-e505a45d9e8c") == "orders-0.5187b18e"
    assert name(kind="Pod", name="orders-0", uid="89c5659d-ff36-4500-ad78-c2a985dc8552") == "orders-0.89c5659d"
    assert name(kind="Pod", name="orders-0") == "orders-0@10.0.0.1:8080"
    assert name(kind="Node", name="n1", uid="5187b18e") == "10.0.0.1:8080"
    assert name() == "10.0.0.1:8080"


def test_what_else_is_known_goes_with_it() -> None:
    found = slice_of(
        {
            "addresses": ["10.0.0.1"],
            "conditions": {"ready": False, "serving": True, "terminating": True},
            "targetRef": {"kind": "Pod", "name": "orders-1"},
            "nodeName": "node-a",
            "zone": "eu-1",
            "hints": {"forZones": [{"name": "eu-1"}, {"name": "eu-2"}]},
        }
    )
    (one,) = candidates(found, "http", "fallback")
    assert one.instance.zone == "eu-1"
    assert one.instance.metadata == {
        "pod": "orders-1",
        "node": "node-a",
        "for_zones": "eu-1,eu-2",
        "terminating": "true",
    }


@pytest.mark.parametrize(
    "broken",
    [
        slice_of(endpoint("10.0.0.256")),
        slice_of(endpoint("fd00::1")),
        slice_of(endpoint("10.0.0.1"), addressType="IPv6"),
        slice_of(endpoint("10.0.0.1\0")),
        slice_of({"addresses": []}),
        slice_of("10.0.0.1"),
        slice_of(endpoints={}),
        slice_of(endpoint(), ports="http"),
        slice_of({**endpoint(), "conditions": []}),
        slice_of({**endpoint(), "targetRef": "pod"}),
        slice_of({**endpoint(), "hints": {"forZones": ["a"]}}),
    ],
)
def test_what_is_no_slice_is_refused(broken: Any) -> None:
    with pytest.raises(DiscoveryError):
        candidates(broken, "http", "fallback")


@pytest.mark.parametrize("metadata", [None, {}, {"name": ""}, []])
def test_a_slice_has_a_name(metadata: Any) -> None:
    with pytest.raises(DiscoveryError):
        key_of({"metadata": metadata})


def test_those_of_a_real_server_are_understood() -> None:
    (found,) = Trace.load("list_selector").objects
    said = {key_of(one): addresses(one) for one in found["items"]}
    assert said == {
        "orders-a": [("10.0.0.1:8080", 3), ("10.0.0.2:8080", 1), ("10.0.0.3:8080", 3)],
        "orders-b": [("10.0.0.2:9090", 3), ("10.0.0.4:9090", 3)],
        "orders-fqdn": [],
    }
