"""What is promised of the package as a whole: its names, its weight, its metadata."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import resilient
from resilient import errors

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run_python(*arguments: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def requirement_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=]", requirement)[0] for requirement in requirements}


@pytest.mark.parametrize("name", resilient.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(resilient, name) is not None


def test_what_checkers_see_is_what_can_be_imported() -> None:
    """The names stand three times: for readers, for type checkers, for the run time."""
    tree = ast.parse(Path(resilient.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    rooms = dict.fromkeys(resilient._ROOMS, "resilient")
    assert seen == resilient._HOMES | rooms
    assert {*seen, "__version__"} == set(resilient.__all__)


def test_every_error_is_public() -> None:
    assert set(errors.__all__) <= set(resilient.__all__)


def test_dir_lists_the_public_names() -> None:
    assert dir(resilient) == sorted(resilient.__all__)


def test_a_misspelt_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="module 'resilient' has no attribute 'Retyr'"):
        _ = resilient.Retyr  # type: ignore[attr-defined]  # the mistake is the test; and mypy sees it


def test_a_room_is_reached_without_an_import_of_its_own() -> None:
    assert run_python("-c", "import resilient; print(resilient.testing.__name__)") == "resilient.testing\n"


def test_import_loads_no_third_party_package() -> None:
    loaded = run_python("-c", "import resilient, sys; print(*{name.partition('.')[0] for name in sys.modules})").split()
    assert "resilient" in loaded
    assert set(loaded) & requirement_names(PROJECT["dependencies"]) == set()


def seconds_to_import(module: str) -> float:
    program = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
    return float(run_python("-c", program))


def test_import_takes_no_longer_than_that_of_anyio() -> None:
    pairs = [(seconds_to_import("resilient"), seconds_to_import("anyio")) for _ in range(5)]
    ours, theirs = (min(column) for column in zip(*pairs, strict=True))
    assert ours < 1.2 * theirs


@pytest.mark.parametrize("target", [*PROJECT["scripts"].values(), *PROJECT["entry-points"]["pytest11"].values()])
def test_every_entry_point_exists(target: str) -> None:
    assert EntryPoint(name="", value=target, group="").load() is not None


def test_the_extra_all_holds_every_other_extra() -> None:
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    assert everything == f"resilient-mesh[{','.join(sorted(extras.keys() - {'all'}))}]"


def test_exactly_five_packages_are_required() -> None:
    assert requirement_names(PROJECT["dependencies"]) == {"anyio", "httpx", "limits", "pybreaker", "tenacity"}


@pytest.mark.parametrize("lock", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_a_lock_pins_everything_and_names_no_place(lock: Path) -> None:
    lines = [line for line in lock.read_text().splitlines() if not line.lstrip().startswith("#")]
    assert lines
    for line in lines:
        assert re.fullmatch(r"[a-z0-9.-]+==[\w.+]+( ; [\w .<>=!'()]+)?", line)


def test_the_types_are_shipped() -> None:
    assert (Path(resilient.__file__).parent / "py.typed").exists()
