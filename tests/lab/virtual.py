"""Async tests in virtual time, on each event loop."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable

from resilient.testing import virtual_time

__all__ = ["in_virtual_time"]


def in_virtual_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test of an async function; it may use fixtures and parameters."""

    @functools.wraps(test)
    def run(backend: str, **given: object) -> None:
        virtual_time.run(functools.partial(test, **given), backend=backend)

    here = inspect.Parameter("backend", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = inspect.Signature([here, *inspect.signature(test).parameters.values()])  # type: ignore[attr-defined]
    return run
