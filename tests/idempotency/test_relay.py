"""What a relay does with the messages of an outbox, in virtual time."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import anyio
import pytest

from resilient.context import current_runtime, surroundings, use_runtime
from resilient.errors import CircuitOpen, InProgress
from resilient.events import DeliveryFailed, Event, MessageParked
from resilient.idempotency import Message, Outbox, Relay
from resilient.machines.backoff import Backoff
from resilient.runtime import Runtime
from tests.idempotency.office import SECOND, Office, run_for


def test_every_message_is_delivered(run, office: Office) -> None:
    async def main() -> None:
        office.add("a", "b", "c")
        assert await office.relay().flush() == 3
        assert sorted(office.got) == ["a", "b", "c"]
        assert await office.relay().flush() == 0
        assert (await office.outbox.stats()).delivered == 3

    run(main)


def test_a_relay_that_runs_notices_what_is_added(run, office: Office) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as group:
            relay = office.relay(poll=0.5)
            group.start_soon(relay.run)
            for key in "abc":
                await current_runtime().sleep(10)
                office.add(key)
                started = current_runtime().now()
                await current_runtime().sleep(0.6)
                assert office.got[-1] == key
                assert office.times[-1] - started <= 0.55
            await current_runtime().sleep(10)
            office.add("woken")
            relay.wake()
            started = current_runtime().now()
            await current_runtime().sleep(0.1)
            assert office.got[-1] == "woken"
            assert office.times[-1] - started < 0.1
            relay.stop()

    run(main)


def test_no_more_than_so_many_at_a_time(run, office: Office) -> None:
    async def main() -> None:
        office.takes = 1.0
        office.add(*map(str, range(20)))
        assert await office.relay(concurrency=3).flush() == 20
        assert office.most == 3

    run(main)


def test_messages_of_a_group_come_in_order_and_others_at_the_same_time(run, office: Office) -> None:
    async def main() -> None:
        office.takes = 0.1
        for number in range(5):
            office.add(f"x{number}", group="x")
            office.add(f"y{number}", group="y")
        await office.relay(concurrency=8).flush()
        assert [key for key in office.got if key[0] == "x"] == [f"x{number}" for number in range(5)]
        assert [key for key in office.got if key[0] == "y"] == [f"y{number}" for number in range(5)]
        assert office.most == 2

    run(main)


def test_a_failed_message_is_repeated_under_the_same_key_with_a_growing_wait(run, office: Office) -> None:
    attempts: list[Message] = []

    async def deliver(message: Message) -> None:
        await office.deliver(message)
        attempts.append(message)
        if len(attempts) < 5:
            raise ConnectionError("no")

    async def main() -> None:
        office.add("a", group="g")
        office.add("b", group="g")
        await run_for(600, office.relay(deliver, backoff=Backoff(base=10.0)))
        assert office.got == ["a"] * 5 + ["b"]
        assert [each.attempt for each in attempts] == [1, 2, 3, 4, 5, 1]
        assert len({each.fence for each in attempts[:5]}) == 5

    run(main)


def test_after_so_many_attempts_a_message_is_parked_and_holds_its_group(run, office: Office) -> None:
    async def deliver(message: Message) -> None:
        await office.deliver(message)
        if message.key == "poison":
            raise ValueError("cannot be read")

    async def main() -> None:
        office.add("poison", "behind", group="g")
        office.add("other")
        relay = office.relay(deliver, attempts=3, backoff=SECOND)
        await run_for(60, relay)
        assert sorted(office.got) == ["other", "poison", "poison", "poison"]
        (parked,) = await office.outbox.parked()
        assert (parked.key, parked.attempts, parked.error) == ("poison", 3, "ValueError: cannot be read")
        stats = await office.outbox.stats()
        assert (stats.parked, stats.waiting) == (1, 1)
        assert await office.outbox.discard(parked.id) == 1
        assert await relay.flush() == 1
        assert office.got[-1] == "behind"

    run(main)


def test_what_no_repetition_changes_is_parked_at_once(run, office: Office) -> None:
    async def deliver(message: Message) -> None:
        await office.deliver(message)
        raise ValueError("cannot be read")

    async def main() -> None:
        office.add("a")
        await run_for(60, office.relay(deliver, park_on=(ValueError,)))
        assert office.got == ["a"]
        assert (await office.outbox.stats()).parked == 1
        (parked,) = await office.outbox.parked()
        assert await office.outbox.requeue(parked.id) == 1
        assert await office.relay().flush() == 1

    run(main)


def test_what_was_never_attempted_does_not_count(run, office: Office) -> None:
    async def deliver(message: Message) -> None:
        await office.deliver(message)
        assert message.attempt == 1
        if len(office.got) < 30:
            raise CircuitOpen("the bank is down")

    async def main() -> None:
        office.add("a")
        await run_for(600, office.relay(deliver, attempts=2, backoff=SECOND))
        assert len(office.got) == 30
        assert (await office.outbox.stats()).delivered == 1

    run(main)


def test_the_receiver_may_ask_for_a_longer_wait(run, office: Office) -> None:
    async def deliver(message: Message) -> None:
        await office.deliver(message)
        if len(office.got) < 3:
            raise InProgress("busy", retry_after=20.0)

    async def main() -> None:
        office.add("a")
        await run_for(120, office.relay(deliver, backoff=Backoff(base=0.1, cap=30.0)))
        first, second, third = office.times
        assert 20 <= second - first < 23
        assert 20 <= third - second < 23

    run(main)


def test_a_hint_is_believed_up_to_the_cap(run, office: Office) -> None:
    async def deliver(message: Message) -> None:
        await office.deliver(message)
        raise InProgress("busy", retry_after=1e9)

    async def main() -> None:
        office.add("a")
        await run_for(100, office.relay(deliver, backoff=Backoff(base=0.1, cap=30.0)))
        assert len(office.got) == 4

    run(main)


def test_a_delivery_that_takes_too_long_fails(run, office: Office) -> None:
    async def main() -> None:
        office.takes = 1000.0
        office.add("a")
        relay = office.relay(timeout=2.0, attempts=2, backoff=SECOND)
        await run_for(30, relay)
        assert office.got == ["a", "a"]
        (parked,) = await office.outbox.parked()
        assert parked.error.startswith("TimeoutError")

    run(main)


def test_a_delivery_inherits_its_deadline_and_nothing_of_the_caller(run, office: Office) -> None:
    found: list[Any] = []

    async def deliver(message: Message) -> None:
        here = surroundings()
        found.append((here.deadline, here.options))
        assert here.deadline is not None
        assert 1.9 < here.deadline - current_runtime().now() <= 2.0

    async def main() -> None:
        from resilient import options

        office.add("a")
        with options(timeout=0.001):
            assert await office.relay(deliver, timeout=2.0).flush() == 1
        assert found[0][1] is None

    run(main)


def test_listeners_are_told(tmp_path: Path, run) -> None:
    told: list[Event] = []

    async def deliver(message: Message) -> None:
        raise ConnectionError("no")

    async def main() -> None:
        office = Office(tmp_path)
        here = current_runtime()
        runtime = Runtime(now=here.now, wall=here.wall, sleep=here.sleep, random=here.random, emit=told.append)
        with use_runtime(runtime):
            office.add("a")
            await run_for(60, office.relay(deliver, attempts=2, backoff=SECOND))

    run(main)
    failed, parked = told
    assert isinstance(failed, DeliveryFailed)
    assert (failed.name, failed.key, failed.attempt, failed.reason) == ("mail", "a", 1, "ConnectionError: no")
    assert isinstance(parked, MessageParked)
    assert (parked.name, parked.key, parked.attempt, parked.reason) == ("mail", "a", 2, "ConnectionError: no")


def test_a_plain_function_delivers_in_threads(tmp_path: Path, backend: str) -> None:
    got: list[str] = []
    connection = sqlite3.connect(tmp_path / "shop.db")
    outbox = Outbox(f"sqlite:///{tmp_path}/shop.db")
    with connection:
        for number in range(10):
            outbox.add(connection, "mail", {}, key=str(number), group="g")
    connection.close()

    def deliver(message: Message) -> None:
        got.append(message.key)

    async def main() -> int:
        async with outbox:
            return await Relay(outbox, deliver).flush()

    assert anyio.run(main, backend=backend) == 10
    assert got == [str(number) for number in range(10)]


def test_a_plain_function_may_return_a_coroutine(tmp_path: Path, backend: str) -> None:
    office = Office(tmp_path)
    office.add("a")

    def deliver(message: Message) -> object:
        return office.deliver(message)

    assert anyio.run(office.relay(deliver).flush, backend=backend) == 1
    assert office.got == ["a"]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"concurrency": 0}, "concurrency=0: at least 1"),
        ({"attempts": 0}, "attempts=0: at least 1"),
        ({"lease": 0.0}, "lease=0.0: a finite number of seconds, more than 0"),
        ({"timeout": -1.0}, "timeout=-1.0: a finite number"),
        ({"poll": float("nan")}, "poll=nan: a finite number"),
        ({"drain": -1.0}, "drain=-1.0: a finite number of seconds, at least 0"),
        ({"topics": "mail"}, "topics='mail': a list"),
        ({"topics": []}, r"topics=\[\]: a list"),
        ({"topics": [""]}, "topics=''"),
    ],
)
def test_terms_that_cannot_be_are_refused(office: Office, terms: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        office.relay(**terms)


def test_a_receiver_has_to_be_a_function(office: Office) -> None:
    with pytest.raises(TypeError, match="deliver='mail'"):
        Relay(office.outbox, "mail")  # type: ignore[arg-type]
