"""Keys that can be made again."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import current_call
from resilient.idempotency import derived
from resilient.pipeline import Pipeline
from resilient.policies.honoured import Honoured

SPACE = uuid.UUID("8e03978e-40d5-43e8-bc93-6894a57f9324")
PARTS = st.text(min_size=1) | st.integers()


def key_for(name: Any, namespace: object = SPACE) -> str:
    @Pipeline(Honoured(keys=derived(namespace, lambda call: call.arguments[0][0])))
    def pay(order: Any) -> str:
        call = current_call()
        assert call is not None
        assert call.idempotency_key is not None
        return call.idempotency_key

    return pay(name)


@pytest.mark.parametrize(
    ("name", "text"), [("a", '"a"'), (17, "17"), (("charge", 17), '["charge",17]'), (("ä", "b"), '["ä","b"]')]
)
def test_a_derived_key_is_what_uuid5_makes_of_the_name_in_any_language(name, text):
    assert key_for(name) == str(uuid.uuid5(SPACE, text))


def test_the_namespace_may_be_a_uuid_or_its_text():
    assert key_for("a") == key_for("a", str(SPACE)) == key_for("a", SPACE.hex.upper()) != key_for("a", uuid.UUID(int=1))


@given(st.lists(PARTS, min_size=1).map(tuple) | PARTS, st.lists(PARTS, min_size=1).map(tuple) | PARTS)
def test_two_names_never_share_a_key(one, other):
    assert (key_for(one) == key_for(other)) == (one == other)


@pytest.mark.parametrize("name", [None, "", (), ("a", None), 1.5, True, ("a", ""), b"a", ["a"]])
def test_a_name_that_is_missing_sends_nothing(name):
    with pytest.raises(TypeError, match="the name of its key is"):
        key_for(name)


@pytest.mark.parametrize("namespace", ["", "orders", None, "8e03978e-40d5-43e8-bc93-6894a57f932"])
def test_a_namespace_is_a_uuid(namespace):
    with pytest.raises(ValueError, match=r"namespace=.*a UUID"):
        derived(namespace, lambda call: "a")
