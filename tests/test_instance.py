"""One running copy of a service."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle

import pytest

from resilient.instance import Instance


def instance(**changes: object) -> Instance:
    arguments: dict[str, object] = {"id": "a", "host": "10.0.0.1", "port": 80}
    return Instance(**(arguments | changes))  # type: ignore[arg-type]  # some of them are mistakes


def test_it_takes_its_full_share_and_is_nowhere_in_particular_unless_said_otherwise() -> None:
    assert (instance().weight, instance().zone, dict(instance().metadata)) == (1.0, None, {})


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("10.0.0.1", "10.0.0.1:80"),
        ("orders.internal", "orders.internal:80"),
        ("::1", "[::1]:80"),
        ("fe80::1%eth0", "[fe80::1%eth0]:80"),
    ],
)
def test_its_address_has_brackets_around_ipv6(host: str, address: str) -> None:
    assert instance(host=host).address == address


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", ""),
        ("host", ""),
        *[("port", value) for value in (0, -1, 65536, 80.5, math.nan, "80", None)],
        *[("weight", value) for value in (-0.1, math.inf, -math.inf, math.nan)],
    ],
)
def test_a_bad_argument_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name}={value!r}: .* (needs|is) a"):
        instance(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("port", 1), ("port", 65535), ("weight", 0.0), ("weight", 1000)])
def test_the_ends_of_the_ranges_are_allowed(name: str, value: float) -> None:
    assert getattr(instance(**{name: value}), name) == value


def test_it_is_a_value_that_can_be_a_key_whatever_its_metadata() -> None:
    assert instance(metadata={"version": "1"}) == instance(metadata={"version": "1"})
    assert instance(metadata={"version": "1"}) != instance(metadata={"version": "2"})
    assert hash(instance(metadata={"version": "1"})) == hash(instance(metadata={"version": "2"}))


def test_it_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        instance().weight = 2.0  # type: ignore[misc]  # the mistake is the test


@pytest.mark.parametrize("metadata", [{}, {"version": "1"}])
def test_it_can_be_pickled_copied_and_taken_apart(metadata: dict[str, str]) -> None:
    it = instance(metadata=metadata) if metadata else instance()
    assert pickle.loads(pickle.dumps(it)) == it  # noqa: S301 - our own bytes
    assert copy.deepcopy(it) == it
    assert Instance(**dataclasses.asdict(it)) == it
