"""What tells two requests apart, and what names a step."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import hashlib
import uuid
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.idempotency import fingerprint
from resilient.idempotency.fingerprint import derive_key, digest, fingerprint_of


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Order:
    id: str
    lines: list[tuple[str, int]]
    price: Decimal
    colour: Colour = Colour.RED
    note: str | None = None


@dataclasses.dataclass
class Offer:
    id: str
    lines: list[tuple[str, int]]
    price: Decimal
    colour: Colour = Colour.RED
    note: str | None = None


class Model(pydantic.BaseModel):
    id: int


ORDER = Order("a", [("sku", 1)], Decimal("9.90"))

DIFFERENT: list[Any] = [
    None,
    True,
    1,
    1.5,
    "1",
    b"1",
    b"31",
    "",
    [],
    [1, 2],
    [2, 1],
    {"a": 1},
    {"a": "1"},
    {1, 2},
    {"1", "2"},
    ORDER,
    dataclasses.replace(ORDER, price=Decimal("9.91")),
    dataclasses.replace(ORDER, colour=Colour.BLUE),
    dataclasses.replace(ORDER, lines=[("sku", 2)]),
    Offer("a", [("sku", 1)], Decimal("9.90")),
    Colour.RED,
    Decimal(1),
    datetime.date(2026, 1, 2),
    datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    datetime.timedelta(seconds=1),
    uuid.UUID(int=1),
    Model(id=1),
    Model(id=2),
]


def test_different_values_have_different_fingerprints() -> None:
    assert len({fingerprint_of(value) for value in DIFFERENT}) == len(DIFFERENT)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"x", "y", "z"}, {"z", "y", "x"}),
        ((1, 2), [1, 2]),
        (MappingProxyType({"a": 1, "b": 2}), MappingProxyType({"b": 2, "a": 1})),
        (ORDER, dataclasses.replace(ORDER)),
        (Model(id=1), Model(id=1)),
    ],
)
def test_equal_values_have_equal_fingerprints(one: object, other: object) -> None:
    assert fingerprint_of(one) == fingerprint_of(other)


def test_it_is_the_same_in_every_process_and_release() -> None:
    value = {"price": Decimal("9.90"), "day": datetime.date(2026, 1, 2), "tags": {"a", "b"}, "lines": [("sku", 1)]}
    assert fingerprint_of(value).hex() == "e2b92820846bc5b5805ed225e2cc38848b07f6041110cef235366b8c1cdddead"


def test_what_has_no_lasting_value_is_refused_with_a_way_out() -> None:
    with pytest.raises(TypeError, match="pass fingerprint="):
        fingerprint_of({"connection": object()})


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_lists_of_fields_do_not_run_into_each_other(one: list[bytes], other: list[bytes]) -> None:
    assert (digest(one) == digest(other)) == (one == other)


def test_a_derived_key_is_a_uuid_of_its_names() -> None:
    name = digest([b"scope", b"key", b"charge"])
    sha1 = hashlib.sha1(fingerprint._NAMESPACE + name, usedforsecurity=False).digest()
    assert derive_key("scope", "key", "charge") == str(uuid.UUID(bytes=sha1[:16], version=5))
    assert (
        derive_key("scope", "key", "charge") == "80906a93-7707-5a10-9a60-d347e902c378"
    )  # a retry after an upgrade derives the same


def test_derived_keys_differ_in_every_name() -> None:
    names = [("a", "b", "c"), ("a", "b", "d"), ("a", "x", "c"), ("ab", "", "c"), ("", "ab", "c"), ("a", "bc", "")]
    assert len({derive_key(*name) for name in names}) == len(names)
