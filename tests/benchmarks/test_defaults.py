"""The questions to the lab about defaults: each is asked, and what is marked as the default is the default."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import defaults
from benchmarks.questions import ELSEWHERE, QUESTIONS, UNMEASURED, Play, Question
from resilient.balancing import Ejection, PeakEwma
from resilient.discovery import connect
from resilient.lab.stacks import Setting, stack
from resilient.policies.adaptive_throttle import AdaptiveThrottle
from resilient.policies.retry import Backoff, Retry, RetryBudget
from resilient.service import Service
from resilient.stack import default_policies

NOWHERE = "static://127.0.0.1:1"
PARTS: tuple[Callable[..., object], ...] = (
    default_policies,
    Service,
    Retry,
    Backoff,
    RetryBudget,
    AdaptiveThrottle,
    Ejection,
    PeakEwma,
)
EACH = pytest.mark.parametrize("question", QUESTIONS, ids=[one.name for one in QUESTIONS])


def described(service: Service) -> str:
    """All that a service is configured with."""
    return f"{service.pipeline!r} {service.balancer.picker!r} {service.balancer.ejection!r}"


def service_of(question: Question, value: object) -> Service:
    timeouts = {
        name: inspect.signature(default_policies).parameters[name].default for name in ("timeout", "attempt_timeout")
    }
    setting = Setting(name="orders", **timeouts)
    return question.make(value).make(setting, connect(NOWHERE))


@EACH
def test_what_is_marked_as_the_default_is_what_a_service_has_by_default(question: Question):
    assert described(service_of(question, question.default)) == described(Service("orders", NOWHERE))


@EACH
def test_the_others_differ_from_it_and_from_one_another(question: Question):
    services = [described(service_of(question, value)) for value in question.alternatives]
    assert len(set(services)) == len(services) >= 2
    assert [question.label(value) for value in question.alternatives if "(default)" in question.label(value)] == [
        question.label(question.default)
    ]


def test_a_default_that_is_not_among_the_alternatives_is_an_error():
    with pytest.raises(ValueError, match="the default, 4, is none of"):
        replace(next(one for one in QUESTIONS if one.name == "attempts"), default=4)


def test_every_argument_of_the_default_stack_is_asked_about_or_has_its_reason():
    arguments = {f"{part.__name__}({name}=)" for part in PARTS for name in inspect.signature(part).parameters}
    asked = {one.setting for one in QUESTIONS if "=" in one.setting}
    assert asked | set(UNMEASURED) | ELSEWHERE == arguments
    assert len(asked) + len(UNMEASURED) + len(ELSEWHERE) == len(arguments)


@EACH
def test_another_process_finds_each_alternative(question: Question):
    for index, value in enumerate(question.alternatives):
        name = defaults.policy_of(question, index)
        assert (name == "default") == (value == question.default and not question.prescribed)
        assert stack(name).name == name


@pytest.mark.parametrize("path", ["nothing/0", "tau", "tau/7", "tau/x"])
def test_what_is_no_alternative_is_not_found(path: str):
    with pytest.raises(ValueError, match=re.escape(path)):
        stack(f"benchmarks.defaults:FOUND.{path}")


def test_a_small_question_is_played_and_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    attempts = next(one for one in QUESTIONS if one.name == "attempts")
    play = Play(
        scenario="error-rate-sweep",
        metrics=("success", "amplification"),
        knobs={"failing": 0.5, "duration": 10.0, "load": 50.0},
    )
    result = tmp_path / "defaults.json"
    monkeypatch.setattr(defaults, "QUESTIONS", [replace(attempts, plays=(play,))])
    monkeypatch.setattr(defaults, "RESULT", result)

    assert defaults.main(["--seeds", "2", "--write"]) == 0

    printed, page = capsys.readouterr().out, result.with_suffix(".md").read_text()
    written = json.loads(result.read_text())
    assert set(written) == {"schema", "date", "machine", "versions", "seeds", "questions"}
    (answer,) = written["questions"]
    assert (answer["name"], answer["default"], written["seeds"]) == ("attempts", "3", 2)
    rows = answer["plays"][0]["alternatives"]
    assert [row["value"] for row in rows] == ["1", "2", "3", "5"]
    once, _, thrice, _ = (row["metrics"] for row in rows)
    assert once["success"]["value"] < thrice["success"]["value"]
    assert once["amplification"]["value"] == 1.0 < thrice["amplification"]["value"]
    assert "| **3** (default) " in page
    assert "<!-- --8<-- [start:attempts] -->" in page
    assert "How many attempts?" in printed

    assert defaults.main(["--seeds", "2"]) == 0
    assert "Same as in defaults.json: 1 of 1." in capsys.readouterr().out
    answer["plays"][0]["alternatives"][0]["metrics"]["success"]["value"] = 1.0
    result.write_text(json.dumps(written))
    assert defaults.main(["--seeds", "2", "--only", "att"]) == 0
    assert "Same as in defaults.json: 0 of 1. Different: attempts." in capsys.readouterr().out


def test_a_part_is_written_down_among_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    knobs = {"failing": 0.5, "duration": 8.0, "load": 20.0}
    play = Play(scenario="error-rate-sweep", metrics=("success",), knobs=knobs)
    two = [replace(one, plays=(play,)) for one in QUESTIONS if one.name in {"attempts", "probes"}]
    result = tmp_path / "defaults.json"
    monkeypatch.setattr(defaults, "QUESTIONS", two)
    monkeypatch.setattr(defaults, "RESULT", result)
    assert defaults.main(["--seeds", "2", "--write"]) == 0
    first, page = json.loads(result.read_text()), result.with_suffix(".md").read_text()

    other = json.loads(result.read_text())
    for answer in other["questions"]:
        answer["plays"] = []
    result.write_text(json.dumps(other))
    assert defaults.main(["--seeds", "2", "--write", "--only", "probes"]) == 0
    assert json.loads(result.read_text())["questions"] == [other["questions"][0], first["questions"][1]]
    assert result.with_suffix(".md").read_text() == page

    with pytest.raises(ValueError, match="questions that are not asked now have 2"):
        defaults.main(["--seeds", "1", "--write", "--only", "probes"])
    result.with_suffix(".md").write_text("")
    with pytest.raises(LookupError, match="no table of 'attempts'"):
        defaults.main(["--seeds", "2", "--write", "--only", "probes"])


def test_the_page_includes_every_question():
    docs = Path(__file__).parents[2] / "docs" / "lab-defaults.md"
    included = re.findall(r'--8<-- "benchmarks/results/defaults\.md:([\w-]+)"', docs.read_text(encoding="utf-8"))
    assert included == ["header", *(one.name for one in QUESTIONS), "unmeasured"]


def test_what_is_written_down_asks_what_is_asked_now():
    """If a default or an alternative changed, `make golden` writes the tables anew."""
    written = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "defaults.json").read_text())
    shown = [
        (answer["name"], answer["default"], [row["value"] for row in play["alternatives"]], play["scenario"])
        for answer in written["questions"]
        for play in answer["plays"]
    ]
    assert shown == [
        (one.name, one.text(one.default), [one.text(value) for value in one.alternatives], play.scenario)
        for one in QUESTIONS
        for play in one.plays
    ]
    figures = [
        (metric, figure)
        for answer in written["questions"]
        for play in answer["plays"]
        for row in play["alternatives"]
        for metric, figure in row["metrics"].items()
    ]
    assert [metric for metric, figure in figures if figure["value"] is None and not figure["never"]] == []
