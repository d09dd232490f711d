"""The checker itself: histories made by hand, each of which breaks one rule, or none."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.backends.store import Mode, Stats
from tests.torture.checker import Row, check, remains
from tests.torture.history import Event, Pen, Reader


class Story:
    """A history and its sink, told call by call."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.rows: list[Row] = []
        self._ops = map(str, count())

    def call(self, payload: str = "right") -> str:
        op = next(self._ops)
        self.events.append({"kind": "call", "op": op, "key": "k", "payload": payload})
        return op

    def begin(self, op: str, attempt: str, fence: int, payload: str = "right") -> None:
        self._add("begin", op, attempt=attempt, fence=fence, payload=payload)

    def write(self, attempt: str, *parts: int, payload: str = "right") -> None:
        self.rows += [Row("k", payload, attempt, part) for part in parts]

    def answer(self, op: str, by: str, fence: int, rows: list[str] | None = None) -> None:
        self._add("ok", op, reply={"by": by, "fence": fence, "rows": rows or [by, by]})

    def fail(self, op: str, error: str) -> None:
        self._add("error", op, error=error)

    def run(self, attempt: str = "a", fence: int = 1, payload: str = "right") -> None:
        """From the call to the reply."""
        op = self.call(payload)
        self.begin(op, attempt, fence, payload)
        self.write(attempt, 1, 2, payload=payload)
        self.answer(op, attempt, fence)

    def broken(self, mode: Mode = "transactional") -> set[str]:
        return {violation.rule for violation in check(self.events, self.rows, mode=mode).violations}

    def _add(self, kind: str, op: str, **fields: Any) -> None:
        self.events.append({"kind": kind, "op": op, "key": "k", **fields})


@pytest.fixture
def story() -> Story:
    return Story()


def test_nothing_is_wrong_with_a_run_and_its_replay(story: Story) -> None:
    story.run()
    story.answer(story.call(), "a", 1)
    story.fail(story.call("wrong"), "KeyReused")
    assert story.broken() == set()
    verdict = check(story.events, story.rows, mode="transactional")
    assert (verdict.keys, verdict.calls, verdict.replies, verdict.begun, verdict.followed) == (1, 3, 2, 1, 0)
    assert verdict.errors == {"KeyReused": 1}


def test_nothing_is_wrong_with_a_death_that_is_followed(story: Story) -> None:
    story.begin(story.call(), "a", 1)
    story.run("b", 2)
    assert story.broken() == set()


def test_an_effect_that_is_there_twice(story: Story) -> None:
    story.run()
    story.write("b", 2)
    assert story.broken() == {"I1"}
    assert check(story.events, story.rows, mode="fenced").duplicates == 1


@pytest.mark.parametrize("parts", [(), (1,)])
def test_a_success_without_its_effect(story: Story, parts: tuple[int, ...]) -> None:
    op = story.call()
    story.begin(op, "a", 1)
    story.write("a", *parts)
    story.answer(op, "a", 1)
    assert story.broken() == {"I1", "I2"}  # the reply also names what is not there
    assert check(story.events, story.rows, mode="fenced").lost == 1


@pytest.mark.parametrize(("mode", "rules"), [("transactional", {"I1"}), ("at_most_once", set())])
def test_half_an_effect_is_none_of_a_transaction(story: Story, mode: Mode, rules: set[str]) -> None:
    op = story.call()
    story.begin(op, "a", 1)
    story.write("a", 1)
    story.fail(story.call(), "OutcomeUnknown")
    assert story.broken(mode) == rules | ({"I4"} if mode == "transactional" else set())


def test_different_replies(story: Story) -> None:
    story.run("a", 1)
    story.answer(story.call(), "b", 2)
    assert story.broken() == {"I2", "I5", "whole"}
    assert check(story.events, story.rows, mode="transactional").divergent == 1


def test_a_reply_that_names_another_effect(story: Story) -> None:
    op = story.call()
    story.begin(op, "a", 1)
    story.write("a", 1, 2)
    story.answer(op, "a", 1, rows=["a", "b"])
    assert story.broken() == {"I2"}


def test_two_payloads_that_ran(story: Story) -> None:
    story.begin(story.call("wrong"), "a", 1, "wrong")
    story.run("b", 2)
    assert story.broken() == {"I3"}


def test_in_one_commit_a_payload_that_left_no_trace_does_not_count(story: Story) -> None:
    story.begin(story.call("wrong"), "a", 1, "wrong")
    story.run("b", 2)
    assert check(story.events, story.rows, mode="transactional", one_commit=True).violations == []
    story.write("a", 1, payload="wrong")
    found = check(story.events, story.rows, mode="transactional", one_commit=True).violations
    assert {violation.rule for violation in found} == {"I1", "I3"}


def test_an_effect_of_another_payload(story: Story) -> None:
    story.run()
    story.rows = [Row(row.key, "wrong", row.attempt, row.part) for row in story.rows]
    assert story.broken() == {"I3"}


def test_a_key_that_nobody_is_answered_for(story: Story) -> None:
    story.begin(story.call(), "a", 1)
    story.fail(story.call(), "InProgress")
    assert story.broken() == {"I4"}
    assert check(story.events, [], mode="fenced", finished=False).violations == []


def test_in_at_most_once_an_unknown_outcome_is_an_answer(story: Story) -> None:
    story.begin(story.call(), "a", 1)
    story.fail(story.call(), "OutcomeUnknown")
    assert story.broken("at_most_once") == set()
    assert story.broken("fenced") == {"I4"}
    assert check(story.events, [], mode="at_most_once").unknown == 1


def test_one_fence_for_two_executors(story: Story) -> None:
    story.begin(story.call(), "a", 1)
    story.run("b", 1)
    assert story.broken() == {"I5"}


def test_a_record_of_an_executor_that_was_followed(story: Story) -> None:
    op = story.call()
    story.begin(op, "a", 1)
    story.begin(story.call(), "b", 2)
    story.write("a", 1, 2)
    story.answer(op, "a", 1)
    assert story.broken() == {"I5"}


def test_busy_after_it_was_done(story: Story) -> None:
    story.run()
    story.fail(story.call(), "InProgress")
    assert story.broken() == {"whole"}


def test_an_executor_that_was_told_that_another_one_runs(story: Story) -> None:
    """Of a request that lost its lease: its effect may stand, and may have been recorded before."""
    story.run("b", 2)
    op = story.call()
    story.begin(op, "a", 1)
    story.fail(op, "InProgress")
    assert story.broken() == set()


def stats(records: int) -> Stats:
    return Stats(records=records, running=0, done=records, forgotten=0, oldest=0.0, size=0)


def test_what_a_collection_leaves_behind() -> None:
    assert remains(stats(3), stats(3)) == []
    assert remains(stats(3), stats(5), kept=2) == []
    assert [violation.rule for violation in remains(stats(3), stats(5))] == ["I6"]


def test_half_a_line_of_somebody_who_died_hides_no_other(tmp_path: Path) -> None:
    first, second = Pen(tmp_path / "history"), Pen(tmp_path / "history")
    reader = Reader(tmp_path / "history")
    first.write("call", key="a")
    assert [event["key"] for event in reader.read()] == ["a"]
    first.write_half("call", key="b")
    second.write("call", key="c")
    second.write("call", key="d")
    assert [event["key"] for event in reader.read()] == ["a", "c", "d"]
    first.close()
    second.close()


@given(st.lists(st.integers(0, 5)), st.integers(1, 4))
def test_a_reader_sees_every_line_once(tmp_path_factory: pytest.TempPathFactory, keys: list[int], step: int) -> None:
    path = tmp_path_factory.mktemp("history") / "history"
    pen, reader = Pen(path), Reader(path)
    for place, key in enumerate(keys):
        pen.write("call", key=key)
        if place % step == 0:
            reader.read()
    assert [event["key"] for event in reader.read()] == keys
    pen.close()
