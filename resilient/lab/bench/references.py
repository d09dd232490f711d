"""From what a user types to scenarios, their knobs and their values."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias, cast

from resilient.lab.bench.documents import read_scenario, read_stack
from resilient.lab.scenario import Scenario
from resilient.lab.scenarios import find
from resilient.lab.stacks import Stack, stack

__all__ = ["Knobs", "find_policy", "knobs_of", "make_scenario", "parse_knobs", "parse_range"]

Knobs: TypeAlias = Mapping[str, Any]
_MOST_VALUES = 1000


def make_scenario(reference: str, knobs: Knobs | None = None) -> Scenario:
    """Return the scenario that `reference` names, with `knobs` turned.

    A reference is the name of one that comes with the library, a file `path/to/scenario.toml`, or `module:function`
    for a function that returns a `Scenario`. Knobs are that function's keyword arguments, or the paths of a file's
    values (`load.arrivals.poisson.rate`).

    Raises `ValueError` for a reference or a knob that is none, and says what there is.
    """
    given = dict(knobs or {})
    if reference.endswith(".toml"):
        return read_scenario(Path(reference), given)
    make = _function(reference)
    known = knobs_of(reference)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"{reference} has no knob {unknown[0]!r}: {_listed(known)}")
    made = make(**given)
    return replace(made, knobs=known | given)


def _function(reference: str) -> Callable[..., Scenario]:
    module, colon, name = reference.partition(":")
    if not colon:
        return find(reference)
    try:
        make: Any = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"scenario {reference!r}: {error}") from error
    return cast("Callable[..., Scenario]", make)


def knobs_of(reference: str) -> dict[str, Any]:
    """The knobs of a scenario that is a function, with their defaults."""
    parameters = inspect.signature(_function(reference)).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}


def _listed(knobs: Knobs) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in knobs.items()) or "it has none"


def parse_knobs(texts: Sequence[str]) -> dict[str, Any]:
    """Read `load=300` and the like; a value that is no Python literal is a text."""
    knobs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ValueError(f"{text!r}: a knob is written as name=value")
        knobs[name] = _literal(value)
    return knobs


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse_range(text: str) -> tuple[str, list[Any]]:
    """Read the values that a knob is to have in turn: `load=100..300:20`, or `queue=fifo,lifo`.

    Raises `ValueError` for what is neither, and for more than 1,000 values.
    """
    name, equals, values = text.partition("=")
    if not (name and equals and values):
        raise ValueError(f"{text!r}: written as name=first..last:step, or name=value,value,...")
    if ".." not in values:
        return name, [_literal(value) for value in values.split(",")]
    span, _, by = values.partition(":")
    first, _, last = span.partition("..")
    try:
        low, high, step = float(first), float(last), float(by)
    except ValueError:
        raise ValueError(f"{text!r}: first, last and step of a range are numbers: load=100..300:20") from None
    if not (step > 0 and low <= high and (high - low) / step < _MOST_VALUES):
        raise ValueError(f"{text!r}: a range rises by a positive step, to at most {_MOST_VALUES:,} values")
    whole = all(number == int(number) for number in (low, high, step))
    count = int((high - low) / step + 1e-9) + 1
    return name, [int(low + n * step) if whole else low + n * step for n in range(count)]


def find_policy(reference: str, scenario: Scenario) -> Stack:
    """Return the policies that `reference` names: one of the scenario's contenders, those of a file, or a known name.

    In a file `stacks.toml:NAME` is the table `[policies.NAME]`; see `resilient.lab.stacks` for the other names.
    """
    if reference in scenario.contenders:
        return scenario.contenders[reference]
    path, toml, name = reference.partition(".toml:")
    if toml:
        return read_stack(Path(f"{path}.toml"), name)
    try:
        return stack(reference)
    except ValueError as error:
        contenders = ", ".join(scenario.contenders)
        raise ValueError(f"{error}; of {scenario.name}: {contenders}" if contenders else str(error)) from error
