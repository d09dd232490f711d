"""Runs every example of the README, the documentation and the docstrings: `make examples`.

A block fenced as `python` is a program, or goes on where the block above it in the same file ended. It runs as
`__main__`, in an empty folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sybil import Document, Example, Region, Sybil
from sybil.document import PythonDocStringDocument
from sybil.evaluators.python import PythonEvaluator
from sybil.example import NotEvaluated
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

from tests.servers.sharing import end_all, shared

# Whatever follows the language (a title, marked lines) does not keep a block from being run.
_find_blocks = RawFencedCodeBlockLexer(re.compile(r"py(thon)?\b[^\n]*\n"))
_run = PythonEvaluator()


def _parse(document: Document) -> Iterator[Region]:
    for block in _find_blocks(document):
        block.parsed = block.lexemes["source"]
        block.evaluator = _run
        yield block


class _Docstrings(PythonDocStringDocument):
    def import_document(self, _example: Example) -> None:
        raise NotEvaluated  # an example imports what it uses, as its reader has to


class _Examples(Sybil):
    def should_parse(self, path: Path) -> bool:
        top, *_ = path.relative_to(self.path).parts
        return path.suffix == (".py" if top == "resilient" else ".md") and top in {"README.md", "docs", "resilient"}


def _as_program(namespace: dict[str, Any]) -> None:
    namespace["__name__"] = "__main__"


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what an example writes out of the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def servers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an example finds in its environment: real servers, for documents that name them."""
    if "REDIS_URL" in request.node.example.document.text:
        from tests.servers.valkey import Valkey

        monkeypatch.setenv("REDIS_URL", shared(Valkey).url)


def pytest_sessionfinish() -> None:
    """Leave no server behind."""
    end_all()


pytest_collect_file = _Examples(
    parsers=[_parse],
    document_types={".py": _Docstrings},
    setup=_as_program,
    fixtures=["empty_folder", "servers"],
).pytest()
