"""The demo as a whole, small: real processes, real disasters."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rich.console import Console

from resilient.lab.demo import command
from resilient.lab.demo.evidence import Evidence
from resilient.lab.demo.experiment import run
from resilient.lab.demo.script import Settings
from resilient.lab.demo.verdict import judge

pytestmark = pytest.mark.timeout(180)

# Other tests share the machine: what is proven is that no order is lost or duplicated, not how fast they are.
SMALL = Settings(rate=60.0, duration=10.0, seed=7, attempt_timeout=1.5, deadline=10.0)


class Played(NamedTuple):
    """What came of the demo."""

    code: int
    text: str
    report: Path
    runs: list[Evidence]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """The demo, played once for all of these tests."""
    runs: list[Evidence] = []

    async def recorded(*arguments: Any) -> Evidence:
        runs.append(await run(*arguments))
        return runs[-1]

    out = tmp_path_factory.mktemp("demo") / "made" / "report.html"
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "run", recorded)
        code = command.run_demo(SMALL, out=out, console=Console(file=printed, width=100))
    return Played(code, printed.getvalue(), out, runs)


def test_the_demo_proves_what_it_is_to_prove(played):
    assert played.code == 0, played.text
    assert played.text.count("✔") == 4
    assert "Proven." in played.text
    for disaster in SMALL.disasters:
        assert played.text.count(disaster.title) == played.text.count(disaster.relief) == 2
    assert played.report.read_text().startswith("<!doctype html>")


def test_a_client_that_repeats_without_a_key_is_convicted(played):
    """As it would be, if it passed itself off as ours."""
    plain = next(one for one in played.runs if one.kind == "plain")
    assert plain.audit.duplicated
    lost, duplicated, _, tame = judge(plain, plain)
    assert lost.holds
    assert tame.holds
    assert not duplicated.holds
