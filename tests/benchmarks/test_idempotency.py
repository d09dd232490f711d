"""The benchmarks of exactly-once do what they say; how fast anything is, is not tested here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import idempotency, idempotency_peers
from benchmarks.idempotency import Figure
from benchmarks.idempotency_pairs import Pair, repeated
from benchmarks.idempotency_peers import QUESTIONS
from benchmarks.idempotency_subjects import SUBJECTS


def test_both_sides_of_every_store_do_their_work(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert idempotency.main(["--seconds", "0", "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert set(result) == {"schema", "date", "machine", "versions", "seconds", "figures", "goals"}
    assert {figure["store"] for figure in result["figures"]} == {"memory", "SQLite", "Valkey", "PostgreSQL"}
    assert all(figure["us"] > 0 for figure in result["figures"])
    assert len(result["goals"]) == 8


def test_a_goal_is_a_ratio_or_microseconds() -> None:
    work = repeated(lambda: None)
    pairs = [Pair("a", "x", work, at_most=3.0), Pair("a", "y", work, work, 1.2), Pair("a", "z", work, work)]

    def met(us: float, ratio: float) -> list[bool]:
        figures = [Figure("a", "x", us, None, None, None), Figure("a", "y", 9.0, 9.0 / ratio, ratio, None)]
        verdicts = idempotency.verdicts_on(pairs, [*figures, Figure("a", "z", 1.0, 1.0, 1.0, None)])
        return [verdict.met for verdict in verdicts]

    assert met(2.9, 1.19) == [True, True]
    assert met(3.1, 1.21) == [False, False]


def test_the_questions_are_answered_right_by_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("a later retry", "another body", "204", "a stream", "killed after the effect, one transaction")
    monkeypatch.setattr(idempotency_peers, "QUESTIONS", {question: QUESTIONS[question] for question in asked})
    file = tmp_path / "result.json"
    assert idempotency_peers.main(["--only", "resilient", "--check", "--json", str(file)]) == 0
    answers = json.loads(file.read_text())["answers"]
    assert [(answer["question"], answer["right"]) for answer in answers] == [(question, True) for question in asked]
    assert [answer["words"] for answer in answers][0:3] == ["the same", "422, 1 run", "1 run: 204"]


def test_the_committed_page_has_every_question_and_every_library() -> None:
    results = Path(__file__).parents[2] / "benchmarks" / "results"
    answers = json.loads((results / "idempotency-peers.json").read_text())["answers"]
    places = {(answer["question"], answer["subject"]) for answer in answers}
    assert places == {(question, subject) for question in QUESTIONS for subject in SUBJECTS}
    wrong = {answer["question"] for answer in answers if answer["subject"] == "resilient" and answer["right"] is False}
    assert wrong == {"killed after the effect"}  # which no record can keep from happening twice
    page = (results / "idempotency-peers.md").read_text()
    assert all(answer["words"] in page for answer in answers)
