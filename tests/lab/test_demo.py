"""The demo as a whole, small: real processes, real disasters."""

from __future__ import annotations

import io

import anyio
import pytest
from rich.console import Console

from resilient.lab.demo import command
from resilient.lab.demo.callers import CALLERS
from resilient.lab.demo.experiment import run
from resilient.lab.demo.live import Show
from resilient.lab.demo.script import Settings
from resilient.lab.demo.verdict import judge

pytestmark = pytest.mark.timeout(180)

# Other tests share the machine: what is proven is that no order is lost or duplicated, not how fast they are.
SMALL = Settings(rate=60.0, duration=10.0, seed=7, attempt_timeout=1.5, deadline=10.0)


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_demo_proves_what_it_is_to_prove(tmp_path, console):
    out = tmp_path / "made" / "report.html"
    assert command.run_demo(SMALL, out=out, console=console) == 0, printed(console)
    text = printed(console)
    assert text.count("✔") == 4
    assert "Proven." in text
    for disaster in SMALL.disasters:
        assert text.count(disaster.title) == text.count(disaster.relief) == 2
    assert out.read_text().startswith("<!doctype html>")


def test_a_client_that_repeats_without_a_key_is_convicted(tmp_path, console, monkeypatch):
    monkeypatch.setitem(CALLERS, "resilient", CALLERS["plain"])
    with Show(console, SMALL) as show:
        evidence = anyio.run(run, "resilient", SMALL, tmp_path, show)
    assert evidence.audit.duplicated
    lost, duplicated, _, tame = judge(evidence, evidence)
    assert lost.holds
    assert tame.holds
    assert not duplicated.holds
