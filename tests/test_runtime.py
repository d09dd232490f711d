"""The only door to time, chance, names and telemetry."""

from __future__ import annotations

import dataclasses
import random
import time
from uuid import UUID

import anyio
import pytest

from resilient.runtime import Runtime


def test_by_default_it_is_the_world_itself_and_nobody_listens() -> None:
    runtime = Runtime()
    assert (runtime.now, runtime.wall, runtime.pause) == (time.monotonic, time.time, time.sleep)
    assert (runtime.sleep, runtime.random, runtime.emit) == (anyio.sleep, random.random, None)


def test_a_new_id_is_a_random_uuid_and_never_the_same() -> None:
    names = [Runtime().new_id() for _ in range(100)]
    assert {UUID(name).version for name in names} == {4}
    assert len(set(names)) == 100


def test_it_is_replaced_as_a_whole_and_never_changed() -> None:
    runtime = dataclasses.replace(Runtime(), now=lambda: 7.0)
    assert runtime.now() == 7.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        runtime.now = time.monotonic  # type: ignore[misc]  # the mistake is the test
