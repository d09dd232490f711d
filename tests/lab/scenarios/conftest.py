"""Scenarios are played without their coverage being counted.

A run is a hundred thousand calls through the same few lines, each of which has tests of its own; to count them takes
several times as long as to play them.
"""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _uncounted(no_cover: None) -> None: ...
