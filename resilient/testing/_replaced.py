"""Replace attributes of a module for a while."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType

__all__ = ["replaced"]


@contextmanager
def replaced(module: ModuleType, **values: object) -> Generator[None]:
    """Let names of `module` have other values in the block. A name that it does not have is an AttributeError."""
    originals = {name: getattr(module, name) for name in values}
    vars(module).update(values)
    try:
        yield
    finally:
        vars(module).update(originals)
