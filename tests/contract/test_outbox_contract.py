"""What every outbox promises, whatever it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import resilient.backends.outbox
from resilient.backends.borrowed import perform
from resilient.backends.outbox import Message, OutboxStats, Settlement
from resilient.errors import KeyReused
from tests.contract.outboxes import KEEP, POSTS, Post, draft
from tests.tables import read_table


@pytest.fixture(params=sorted(POSTS))
def post(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Post]:
    made = POSTS[request.param](tmp_path)
    yield made
    made.close()


def keys(messages: list[Message]) -> list[str]:
    return [message.key for message in messages]


def test_what_was_added_can_be_claimed(post: Post) -> None:
    assert post.add(draft("a", payload=b"\x00\xff", group="g", headers={"trace": "1"})) == [True]
    post.clock.advance(2)
    (message,) = post.claim().messages
    assert (message.topic, message.key, message.payload, message.group) == ("mail", "a", b"\x00\xff", "g")
    assert (message.headers, message.attempt) == ({"trace": "1"}, 1)
    assert message.age == pytest.approx(2.0)


def test_what_was_rolled_back_never_was(post: Post) -> None:
    connection = post.connect()
    perform(connection, post.outbox.add(draft("a")))
    connection.rollback()
    connection.close()
    assert post.claim().messages == []
    assert post.add(draft("a")) == [True]


def test_what_is_not_committed_yet_is_not_claimed(post: Post) -> None:
    post.add(draft("a"))
    post.settle(post.claim().messages[0])
    with post.transaction() as connection:
        perform(connection, post.outbox.add(draft("b")))
        assert post.outbox.stats().pending == 0
    assert keys(post.claim().messages) == ["b"]


def test_the_same_message_is_added_once(post: Post) -> None:
    assert post.add(draft("a"), draft("a"), draft("a", topic="bank")) == [True, False, True]
    post.settle(post.claim().messages[0])
    assert post.add(draft("a")) == [False]
    assert post.outbox.stats().pending == 1


@pytest.mark.parametrize("changed", [{"payload": b"other"}, {"group": "other"}])
def test_a_known_key_with_another_message_is_refused(post: Post, changed) -> None:
    post.add(draft("a"))
    with pytest.raises(KeyReused, match="key='a'"):
        post.add(draft("a", **changed))


def test_a_claimed_message_is_nobody_elses(post: Post) -> None:
    post.add(draft("a"), draft("b"))
    assert keys(post.claim(1).messages) == ["a"]
    assert keys(post.claim().messages) == ["b"]
    assert post.claim().messages == []


def test_messages_are_claimed_in_the_order_in_which_they_are_due(post: Post) -> None:
    post.add(draft("late", delay=5.0), draft("a"), draft("b"))
    assert keys(post.claim().messages) == ["a", "b"]
    post.clock.advance(5)
    assert keys(post.claim().messages) == ["late"]


def test_a_relay_claims_its_own_topics(post: Post) -> None:
    post.add(draft("a"), draft("b", topic="bank"), draft("c", topic="news"))
    assert keys(post.claim(topics=["bank", "news"]).messages) == ["b", "c"]
    assert keys(post.claim().messages) == ["a"]


def test_when_the_lease_is_over_another_relay_follows_under_a_higher_fence(post: Post) -> None:
    post.add(draft("a"))
    (first,) = post.claim().messages
    post.clock.advance(29.9)
    assert post.claim().messages == []
    post.clock.advance(0.1)
    (second,) = post.claim().messages
    assert second.fence > first.fence
    assert second.attempt == 2


@pytest.mark.parametrize("state", ["delivered", "failed", "parked"])
def test_whoever_lost_the_lease_can_settle_nothing(post: Post, state: str) -> None:
    post.add(draft("a"))
    (zombie,) = post.claim().messages
    post.clock.advance(30)
    (heir,) = post.claim().messages
    assert not post.settle(zombie, state)
    assert post.outbox.renew([zombie], lease=30.0) == set()
    assert post.state_of("a") == "pending"
    assert post.settle(heir)
    assert not post.settle(heir)


def test_a_renewed_lease_begins_anew(post: Post) -> None:
    post.add(draft("a"))
    (message,) = post.claim().messages
    post.clock.advance(20)
    assert post.outbox.renew([message], lease=30.0) == {message.id}
    post.clock.advance(20)
    assert post.claim().messages == []
    post.clock.advance(10)
    assert keys(post.claim().messages) == ["a"]


def test_a_failed_message_is_due_after_its_delay(post: Post) -> None:
    post.add(draft("a"))
    assert post.settle(post.claim().messages[0], "failed", delay=5.0, error="no")
    post.clock.advance(4.9)
    assert post.claim().messages == []
    post.clock.advance(0.1)
    assert post.claim().messages[0].attempt == 2


def test_an_attempt_that_does_not_count_is_not_counted(post: Post) -> None:
    post.add(draft("a"))
    for _ in range(10):
        (message,) = post.claim().messages
        assert message.attempt == 1
        assert post.settle(message, "failed", counted=False)


def test_a_message_whose_relays_all_died_is_parked(post: Post) -> None:
    post.add(draft("a"))
    for attempt in (1, 2, 3):
        (message,) = post.claim().messages
        assert message.attempt == attempt
        post.clock.advance(30)
    claimed = post.claim()
    assert claimed.messages == []
    assert keys(claimed.parked) == ["a"]
    (parked,) = post.outbox.parked()
    assert (parked.key, parked.attempts, parked.error) == ("a", 3, "no relay that delivered it survived")


def test_a_parked_message_waits_for_somebody(post: Post) -> None:
    post.add(draft("a", payload=b"data", headers={"h": "v"}))
    post.clock.advance(1)
    assert post.settle(post.claim().messages[0], "parked", error="ValueError: no")
    post.clock.advance(1000)
    assert post.claim().messages == []
    (parked,) = post.outbox.parked()
    assert (parked.topic, parked.payload, parked.headers, parked.group) == ("mail", b"data", {"h": "v"}, None)
    assert (parked.attempts, parked.error) == (1, "ValueError: no")
    assert parked.age == pytest.approx(1001.0)
    assert post.outbox.requeue([parked.id, 12345]) == 1
    assert post.outbox.requeue([parked.id]) == 0
    (message,) = post.claim().messages
    assert (message.id, message.attempt) == (parked.id, 1)


def test_a_discarded_message_is_given_up_and_its_key_stays_known(post: Post) -> None:
    post.add(draft("a"), draft("b"))
    for message in post.claim().messages:
        post.settle(message, "parked")
    first, second = post.outbox.parked()
    assert post.outbox.discard([first.id, 12345]) == 1
    assert post.outbox.discard([first.id]) == 0
    assert post.outbox.requeue([first.id]) == 0
    assert [each.id for each in post.outbox.parked()] == [second.id]
    assert post.add(draft("a")) == [False]


def test_parked_messages_are_listed_page_by_page(post: Post) -> None:
    post.add(*(draft(str(number)) for number in range(5)))
    for message in post.claim().messages:
        post.settle(message, "parked")
    page = post.outbox.parked(limit=2)
    assert [each.key for each in page] == ["0", "1"]
    assert [each.key for each in post.outbox.parked(limit=10, after=page[-1].id)] == ["2", "3", "4"]


def test_a_group_is_delivered_one_after_another(post: Post) -> None:
    post.add(*(draft(f"{group}{number}", group=group) for number in range(3) for group in "xy"), draft("free"))
    assert sorted(keys(post.claim().messages)) == ["free", "x0", "y0"]
    assert post.claim().messages == []


def test_the_next_of_a_group_follows_at_once(post: Post) -> None:
    post.add(*(draft(str(number), group="g") for number in range(4)))
    for number in range(4):
        (message,) = post.claim().messages
        assert message.key == str(number)
        assert post.settle(message)
    assert post.claim().messages == []


def test_a_group_waits_for_the_retry_of_its_first(post: Post) -> None:
    post.add(draft("a", group="g"), draft("b", group="g"))
    post.settle(post.claim().messages[0], "failed", delay=60.0)
    post.clock.advance(30)
    assert post.claim().messages == []
    post.clock.advance(30)
    assert keys(post.claim().messages) == ["a"]


def test_a_group_waits_for_a_message_with_a_delay(post: Post) -> None:
    post.add(draft("a", group="g", delay=10.0), draft("b", group="g"))
    assert post.claim().messages == []
    post.clock.advance(10)
    assert keys(post.claim().messages) == ["a"]


@pytest.mark.parametrize("rescue", ["requeue", "discard"])
def test_a_parked_message_holds_its_group_until_somebody_decides(post: Post, rescue: str) -> None:
    post.add(draft("a", group="g"), draft("b", group="g"), draft("other", group="h"))
    for message in post.claim().messages:
        post.settle(message, "parked" if message.group == "g" else "delivered")
    assert post.claim().messages == []
    assert post.add(draft("c", group="g")) == [True]
    assert post.claim().messages == []
    (parked,) = post.outbox.parked()
    assert getattr(post.outbox, rescue)([parked.id]) == 1
    assert keys(post.claim().messages) == (["a"] if rescue == "requeue" else ["b"])


def test_groups_of_two_topics_have_nothing_to_do_with_each_other(post: Post) -> None:
    post.add(draft("a", group="g"), draft("b", topic="bank", group="g"))
    assert keys(post.claim().messages) == ["a", "b"]


def test_many_messages_behind_one_do_not_hide_the_others(post: Post) -> None:
    post.add(*(draft(f"g{number}", group="g") for number in range(600)), draft("other"))
    assert keys(post.claim().messages) == ["g0"]
    assert keys(post.claim().messages) == ["other"]


def test_gc_removes_in_batches_what_was_settled_long_ago_and_nothing_else(post: Post) -> None:
    post.add(*(draft(str(number)) for number in range(6)))
    delivered, parked, *rest = post.claim(5).messages
    post.settle(parked, "parked")
    for message in rest:
        post.settle(message)
    post.clock.advance(KEEP / 2)
    (pending,) = [each for each in post.claim().messages if each.key == "5"]
    post.settle(pending, "failed")
    assert post.outbox.gc() == 0
    post.clock.advance(KEEP / 2)
    assert [post.outbox.gc(2), post.outbox.gc(2), post.outbox.gc(2)] == [2, 1, 0]
    assert post.outbox.stats().delivered == 0
    assert [post.state_of(key) for key in ("0", "1", "2", "5")] == ["pending", "parked", None, "pending"]
    assert delivered.key == "0"


def test_an_outbox_in_use_stays_as_small_as_its_retention_makes_it(post: Post) -> None:
    for number in range(100):
        post.add(draft(str(number)))
        post.settle(post.claim().messages[0])
        post.clock.advance(KEEP / 20)
    assert post.outbox.stats().delivered < 25


def test_stats_count_what_is_held(post: Post) -> None:
    assert post.outbox.stats() == OutboxStats(pending=0, in_flight=0, waiting=0, parked=0, delivered=0, oldest=0.0)
    post.add(draft("delivered"), draft("parked"))
    for message in post.claim().messages:
        post.settle(message, message.key)
    post.clock.advance(7)
    post.add(draft("a", group="g"), draft("b", group="g"), draft("later", delay=60.0))
    post.claim()
    post.clock.advance(5)
    stats = post.outbox.stats()
    assert (stats.pending, stats.in_flight, stats.waiting, stats.parked, stats.delivered) == (2, 1, 1, 1, 1)
    assert stats.oldest == pytest.approx(5.0)


def test_several_outcomes_are_written_together(post: Post) -> None:
    post.add(*(draft(key) for key in "abc"))
    a, b, c = post.claim().messages
    post.settle(b)
    outcomes = [Settlement(message=each, state="delivered") for each in (a, b, c)]
    assert post.outbox.settle(outcomes) == {a.id, c.id}


def test_threads_never_claim_the_same_message(post: Post) -> None:
    post.add(*(draft(str(number), group=str(number % 7) if number % 2 else None) for number in range(60)))

    def one(_: int) -> list[int]:
        messages = post.claim(5).messages
        return [message.id for message in messages if post.settle(message)]

    with ThreadPoolExecutor(6) as pool:
        settled = [each for ids in pool.map(one, range(80)) for each in ids]
    while messages := post.claim().messages:
        settled += [message.id for message in messages if post.settle(message)]
    assert sorted(settled) == sorted(set(settled))
    assert len(settled) == 60


def test_the_state_machine_is_the_documented_one(post: Post) -> None:
    table = read_table(resilient.backends.outbox.__doc__)
    assert len(table) == 13
    for before, event, after in table:
        key = f"{before}, {event}"
        reach(post, key, before, event)
        assert (post.state_of(key) or "absent") == after.partition(":")[0].partition(",")[0], key


def reach(post: Post, key: str, before: str, event: str) -> None:
    """Bring a message into the state `before` and let `event` happen."""
    first = draft(f"{key} (first)", group=key)
    if "earlier one" in event or before == "waiting":
        post.add(first)
    post.add(draft(key, group=key))
    if before == "absent":
        return
    if "no attempt" in event:
        for _ in range(4):
            post.clock.advance(30)
            post.claim(100)
        return
    mine = {message.key: message for message in post.claim(100).messages}
    if before == "waiting":
        assert post.state_of(key) == "waiting"
        assert post.settle(mine[first.key])
    elif event.startswith("renew"):
        assert post.outbox.renew([mine[key]], lease=30.0)
    elif event.startswith("settle"):
        assert post.settle(mine[key], event.partition(": ")[2])
    elif before == "parked":
        assert post.settle(mine[key], "parked")
        assert getattr(post.outbox, event)([mine[key].id])
    elif event.startswith("gc"):
        assert post.settle(mine[key], "parked" if before == "discarded" else "delivered")
        post.outbox.discard([mine[key].id])
        post.clock.advance(KEEP)
        post.outbox.gc()
    else:
        assert (key in mine) == ("earlier one" not in event)
