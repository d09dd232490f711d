"""Runs for tests."""

from __future__ import annotations

from typing import Any

from resilient.lab.simulation import run as simulation

__all__ = ["run"]


def run(*arguments, **options) -> Any:
    """Play a run. A test knows which of its figures are numbers, and not None."""
    return simulation.run(*arguments, **options)
