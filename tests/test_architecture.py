"""The rules of the house that no linter knows. (import-linter holds the rings, see pyproject.toml.)"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import resilient

PACKAGE = Path(resilient.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# The door to time, chance and names; what arms the timers of a loop, on that loop's clock; and what stands outside.
FREE = ("runtime.py", "deadline.py", "lab/", "testing/", "cli/")
CLOCKS_AND_DICE = ("time", "random", "secrets", "uuid")
CLOCKS_AND_SLEEPS = (
    "anyio.current_time",
    "anyio.sleep",
    "anyio.sleep_forever",
    "anyio.sleep_until",
    "asyncio.sleep",
    "datetime.datetime.now",
    "datetime.datetime.today",
    "datetime.datetime.utcnow",
    "os.urandom",
    "trio.current_time",
    "trio.sleep",
)
# Machines decide; they do not wait, look at a clock, lock or talk.
NOT_FOR_MACHINES = {"asyncio", "concurrent", "contextvars", "logging", "multiprocessing", "os", "select", "socket"}
NOT_FOR_MACHINES |= {"subprocess", "threading", *CLOCKS_AND_DICE}


def imported_names(tree: ast.Module) -> dict[str, str]:
    """What each imported name of a module stands for: `from time import monotonic as m` gives m: time.monotonic."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                names[name] = alias.name if alias.asname else name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{'.' * node.level}{node.module or ''}.{alias.name}"
    return names


def uses(source: str) -> Iterator[str]:
    """Every dotted name of `source` that begins at an import, written out in full."""
    tree = ast.parse(source)
    names = imported_names(tree)
    yield from names.values()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            head, _, rest = ast.unparse(node).partition(".")
            if head in names:
                yield f"{names[head]}.{rest}"


def reads_the_world(source: str) -> set[str]:
    return {name for name in uses(source) if name.partition(".")[0] in CLOCKS_AND_DICE or name in CLOCKS_AND_SLEEPS}


def foreign_to_a_machine(source: str) -> set[str]:
    allowed = sys.stdlib_module_names - NOT_FOR_MACHINES
    return {
        name
        for name in imported_names(ast.parse(source)).values()
        if name.partition(".")[0] not in allowed and not name.startswith("resilient.machines.")
    }


def coroutines(source: str) -> list[str]:
    asynchronous = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    return [ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, asynchronous)]


def borrowed_from_the_front(source: str) -> set[str]:
    return {
        name
        for name in imported_names(ast.parse(source)).values()
        if name == "resilient" or name.removeprefix("resilient.") in resilient._HOMES
    }


def named(paths: list[Path]) -> list[object]:
    return [pytest.param(path, id=path.relative_to(PACKAGE).as_posix()) for path in paths]


@pytest.mark.parametrize(
    "module", named([path for path in MODULES if not path.relative_to(PACKAGE).as_posix().startswith(FREE)])
)
def test_only_the_runtime_reads_time_and_chance(module: Path) -> None:
    assert reads_the_world(module.read_text()) == set()


@pytest.mark.parametrize("module", named([path for path in MODULES if path.parent.name == "machines"]))
def test_a_machine_is_plain_synchronous_python(module: Path) -> None:
    source = module.read_text()
    assert coroutines(source) == []
    assert foreign_to_a_machine(source) == set()


@pytest.mark.parametrize("module", named([path for path in MODULES if path != PACKAGE / "__init__.py"]))
def test_no_module_imports_from_the_front_of_the_package(module: Path) -> None:
    """It would tie every ring to the outermost one."""
    assert borrowed_from_the_front(module.read_text()) == set()


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.monotonic()",
        "import time as clock",
        "from time import monotonic",
        "def f():\n    import random",
        "import uuid\nuuid.uuid4()",
        "import anyio\nanyio.sleep(1)",
        "from anyio import sleep",
        "from datetime import datetime as d\nd.now()",
        "import datetime\ndatetime.datetime.now()",
    ],
)
def test_these_would_be_found_to_read_time_or_chance(source: str) -> None:
    assert reads_the_world(source)


def test_a_name_that_only_looks_like_a_clock_is_none() -> None:
    assert reads_the_world("def f(time, random):\n    return time.monotonic() + random()") == set()


@pytest.mark.parametrize(
    "source",
    [
        "import anyio",
        "import threading",
        "from resilient.errors import Rejected",
        "import resilient",
        "from . import x",
    ],
)
def test_these_would_be_found_foreign_to_a_machine(source: str) -> None:
    assert foreign_to_a_machine(source)


@pytest.mark.parametrize("source", ["import math", "from resilient.machines.window import Window"])
def test_these_may_be_imported_by_a_machine(source: str) -> None:
    assert foreign_to_a_machine(source) == set()


def test_a_coroutine_would_be_found() -> None:
    assert coroutines("async def f():\n    await g()")


@pytest.mark.parametrize("source", ["import resilient", "from resilient import Retry"])
def test_these_would_be_found_to_import_from_the_front(source: str) -> None:
    assert borrowed_from_the_front(source)
