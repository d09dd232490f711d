"""What every benchmark has in common but its figures: options, header, goals, and how a result is written down."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import resilient

__all__ = ["Verdict", "begin", "finish", "in_words", "options", "table"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal, and what came of it."""

    goal: str
    at_most: float
    figure: float
    met: bool


def options(description: str, *, seconds: float | None) -> argparse.ArgumentParser:
    """The options of every benchmark; `seconds` is None where nothing is measured by the clock."""
    parser = argparse.ArgumentParser(description=description)
    if seconds is not None:
        parser.add_argument(
            "--seconds", type=float, default=seconds, help="of measuring, in all (default: %(default)s)"
        )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the result there")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    return parser


def begin(parser: argparse.ArgumentParser, distributions: Iterable[str], *, otherwise: str = "") -> dict[str, Any]:
    """Return the header of a result; where something is not installed, exit and say what to install."""
    needed = sorted(set(distributions))
    missing = [name for name in needed if not _installed(name)]
    if missing:
        parser.error(
            f"not installed: {', '.join(missing)}. `pip install -r requirements/bench.txt` installs all that is "
            f"measured, `make bench` does so in an environment of its own{otherwise}"
        )
    return _header(needed)


def finish(given: argparse.Namespace, result: Mapping[str, Any], table_of_figures: str, verdicts: list[Verdict]) -> int:
    """Print a result, write it where that is asked for, and return the exit code."""
    print(in_words(result), table_of_figures, sep="\n\n")
    if verdicts:
        rows = [(v.goal, f"{v.at_most:g}", f"{v.figure:.3g}", "yes" if v.met else "NO") for v in verdicts]
        print("", table(("goal", "at most", "measured", "met"), rows, markdown=given.markdown), sep="\n")
    if given.json is not None:
        whole = {**result, "goals": [asdict(verdict) for verdict in verdicts]}
        given.json.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    return 1 if given.check and not all(verdict.met for verdict in verdicts) else 0


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _header(distributions: Iterable[str]) -> dict[str, Any]:
    """When and where figures were taken, and with which versions."""
    versions = {name: version(name) for name in distributions}
    return {
        "schema": 1,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "kernel": f"{platform.system()} {platform.release()}",
            "python": f"{platform.python_implementation()} {platform.python_version()}",
        },
        "versions": {"resilient": resilient.__version__, **versions},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def in_words(head: Mapping[str, Any]) -> str:
    """The header as one paragraph."""
    machine = head["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in head["versions"].items())
    return (
        f"{head['date']}, {machine['python']}, {machine['kernel']}, {machine['cpu']}, {machine['cores']} cores.\n"
        f"{versions}."
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool) -> str:
    """Align a table: its first column to the left, figures to the right."""
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip()

    rule = [("-" * (width - 1) + ":") if markdown and index else "-" * width for index, width in enumerate(widths)]
    return "\n".join([line(columns), line(rule), *map(line, rows)])
