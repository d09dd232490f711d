"""The standard suite of failures, one small file each: its source, what naive policies do, what good ones do.

A scenario is made by the function `scenario` of its module; the function's arguments are the knobs that can be turned.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

from resilient.lab.scenario import Scenario

__all__ = ["find", "names"]


def names() -> list[str]:
    """The names of all scenarios, in kebab-case."""
    return sorted(module.name.replace("_", "-") for module in iter_modules(__path__))


def find(name: str) -> Callable[..., Scenario]:
    """Return the function that makes the scenario of this name; `ValueError` says which there are."""
    if name not in names():
        raise ValueError(f"scenario {name!r}: one of {', '.join(names())}")
    make: Callable[..., Scenario] = import_module(f"{__name__}.{name.replace('-', '_')}").scenario
    return make
