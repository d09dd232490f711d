"""All instances of a service at one moment."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from resilient.instance import Instance
from resilient.snapshot import Snapshot

A, B = (Instance(id=name, host="10.0.0.1", port=80) for name in "ab")


def test_it_is_fresh_unless_said_otherwise() -> None:
    assert Snapshot(version=1, instances=(A, B)).stale_since is None


def test_no_instances_is_an_answer_too() -> None:
    assert Snapshot(version=1, instances=()).instances == ()


def test_two_instances_with_one_id_are_refused() -> None:
    """State is kept under the id: two with the same would share their latency and their ejection."""
    moved = dataclasses.replace(A, host="10.0.0.2")
    with pytest.raises(ValueError, match=r"^instances: two instances with the id 'a'"):
        Snapshot(version=1, instances=(A, B, moved))


def test_two_ids_may_share_an_address() -> None:
    assert Snapshot(version=1, instances=(A, B)).instances == (A, B)


def test_it_is_a_value_that_does_not_change() -> None:
    snapshot = Snapshot(version=1, instances=(A,))
    assert snapshot == Snapshot(version=1, instances=(A,))
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot  # noqa: S301 - our own bytes
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot.version = 2  # type: ignore[misc]  # the mistake is the test
