"""What every inbox promises, whatever it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import resilient.backends.inbox
from resilient.backends.inbox import Failure, InboxStats, Known, Letter
from tests.contract.inboxes import DESKS, KEEP, Desk
from tests.tables import read_table


@pytest.fixture(params=sorted(DESKS))
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    made = DESKS[request.param](tmp_path)
    yield made
    made.close()


def letter(key: str = "a", payload: bytes = b"\x00\xff", stream: str | None = None, position: int | None = None):
    return Letter(key=key, payload=payload, stream=stream, position=position)


def test_of_a_new_message_nothing_is_known(desk: Desk) -> None:
    assert desk.inbox.look("c", letter()) == Known()
    assert desk.inbox.look("c", letter(stream="s", position=0)) == Known()
    assert desk.inbox.position("c", "s") is None


def test_a_position_is_committed_with_the_effect(desk: Desk) -> None:
    assert desk.write(desk.inbox.advance("c", "s", 5), commit=False)
    assert desk.inbox.position("c", "s") is None
    assert desk.write(desk.inbox.advance("c", "s", 5))
    assert desk.inbox.position("c", "s") == 5
    assert desk.inbox.look("c", letter(stream="s", position=6)) == Known(position=5)


def test_positions_only_rise(desk: Desk) -> None:
    assert desk.write(desk.inbox.advance("c", "s", 5))
    assert not desk.write(desk.inbox.advance("c", "s", 5))
    assert not desk.write(desk.inbox.advance("c", "s", 4))
    assert desk.write(desk.inbox.advance("c", "s", 2**63 - 1))
    assert desk.inbox.position("c", "s") == 2**63 - 1


def test_streams_and_consumers_are_apart(desk: Desk) -> None:
    assert desk.write(desk.inbox.advance("c", "s", 5))
    assert desk.inbox.position("c", "t") is None
    assert desk.inbox.position("d", "s") is None
    desk.fail(letter(), park=True)
    assert desk.inbox.look("d", letter()) == Known()
    assert desk.inbox.parked("d") == []
    assert desk.inbox.stats("d") == InboxStats(failing=0, parked=0, oldest=0.0)


def test_failed_attempts_are_remembered(desk: Desk) -> None:
    desk.fail(letter(), 1)
    assert desk.inbox.look("c", letter()) == Known(attempts=1)
    desk.fail(letter(), 2)
    assert desk.inbox.look("c", letter()) == Known(attempts=2)
    assert desk.inbox.parked("c") == []


def test_an_attempt_after_one_that_died_is_counted(desk: Desk) -> None:
    assert desk.inbox.begun("c", letter()) == 2
    assert desk.inbox.begun("c", letter()) == 3
    desk.fail(letter(), 3)
    assert desk.inbox.begun("c", letter()) == 4


def test_a_parked_message_is_kept_with_what_it_failed_with(desk: Desk) -> None:
    desk.fail(letter(stream="s", position=7), 1)
    desk.clock.advance(5)
    desk.fail(letter(stream="s", position=7), 2, park=True)
    desk.clock.advance(10 * KEEP)
    desk.fail(letter("other"), 1)
    (failure,) = desk.inbox.parked("c")
    assert failure.letter == letter(stream="s", position=7)
    assert (failure.attempts, failure.error) == (2, "attempt 2")
    assert failure.age == pytest.approx(5 + 10 * KEEP)


def test_parking_moves_the_stream_past_the_message(desk: Desk) -> None:
    desk.write(desk.inbox.advance("c", "s", 6))
    desk.fail(letter(stream="s", position=7), park=True)
    assert desk.inbox.position("c", "s") == 7
    desk.fail(letter("b", stream="s", position=3), park=True)
    assert desk.inbox.position("c", "s") == 7


def test_a_message_behind_one_that_failed_is_told_so(desk: Desk) -> None:
    desk.write(desk.inbox.advance("c", "s", 6))
    desk.fail(letter("a", stream="s", position=7))
    assert desk.inbox.look("c", letter("b", stream="s", position=8)).behind == 7
    assert desk.inbox.look("c", letter("a", stream="s", position=7)).behind is None
    assert desk.inbox.look("c", letter("b", stream="t", position=8)).behind is None
    desk.write(desk.inbox.advance("c", "s", 7))  # somebody else has processed it, and its failure came late
    assert desk.inbox.look("c", letter("b", stream="s", position=8)).behind is None


def test_what_is_processed_fails_no_more(desk: Desk) -> None:
    desk.fail(letter())
    desk.write(desk.inbox.done("c", "a"), commit=False)
    assert desk.state_of("a") == "failing"
    desk.write(desk.inbox.done("c", "a"))
    assert desk.state_of("a") == "absent"
    desk.fail(letter(), park=True)
    desk.inbox.clear("c", "a")
    assert desk.inbox.parked("c") == []


def test_parked_messages_are_listed_page_by_page_and_discarded(desk: Desk) -> None:
    for number in range(5):
        desk.fail(letter(str(number)), park=True)
    desk.fail(letter("failing"))
    page = desk.inbox.parked("c", limit=2)
    assert [each.letter.key for each in page] == ["0", "1"]
    assert [each.letter.key for each in desk.inbox.parked("c", after=page[-1].id)] == ["2", "3", "4"]
    assert desk.inbox.discard("d", [page[0].id]) == 0
    assert desk.inbox.discard("c", [page[0].id, page[0].id, 12345]) == 1
    assert len(desk.inbox.parked("c")) == 4
    assert desk.state_of("failing") == "failing"


def test_stats_count_what_failed(desk: Desk) -> None:
    desk.fail(letter("a"))
    desk.clock.advance(3)
    desk.fail(letter("b"), park=True)
    desk.clock.advance(4)
    stats = desk.inbox.stats("c")
    assert (stats.failing, stats.parked) == (1, 1)
    assert stats.oldest == pytest.approx(7.0)


def test_the_state_machine_is_the_documented_one(desk: Desk) -> None:
    table = read_table(resilient.backends.inbox.__doc__)
    assert len(table) == 10
    for before, event, after in table:
        key = f"{before}, {event}"
        if before != "absent":
            desk.fail(letter(key), park=before == "parked")
        assert desk.state_of(key) == before
        if event.startswith("begun"):
            attempts = desk.inbox.look("c", letter(key)).attempts
            assert desk.inbox.begun("c", letter(key)) == max(attempts, 1) + 1
        elif event.startswith("fail"):
            desk.fail(letter(key), 5, park="park" in event)
        elif event.startswith("done"):
            desk.write(desk.inbox.done("c", key))
        elif event == "discard":
            (failure,) = [each for each in desk.inbox.parked("c") if each.letter.key == key]
            assert isinstance(failure, Failure)
            desk.inbox.discard("c", [failure.id])
        else:
            desk.clock.advance(KEEP)
            desk.fail(letter("somebody else's"))
        assert desk.state_of(key) == after.partition(",")[0]
