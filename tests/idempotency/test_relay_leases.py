"""Relays that share an outbox, lose it, and are ended, in virtual time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from resilient.backends.faces import DirectStore
from resilient.context import current_runtime
from resilient.errors import StoreUnavailable
from resilient.events import Event, MessageParked
from resilient.idempotency import Message
from resilient.runtime import Runtime
from resilient.testing.cancellation import for_each_cancellation
from tests.idempotency.office import Office, run_for


def test_a_long_delivery_keeps_its_lease(run, office: Office) -> None:
    async def main() -> None:
        office.takes = 100.0
        office.add("a")
        relays = [office.relay(lease=3.0, timeout=200.0) for _ in range(3)]
        await run_for(110, *relays)
        assert office.got == ["a"]
        assert (await office.outbox.stats()).delivered == 1

    run(main)


def test_two_relays_share_the_work_and_never_a_message(run, office: Office) -> None:
    async def main() -> None:
        office.takes = 1.0
        office.add(*map(str, range(40)))
        await run_for(60, office.relay(concurrency=2), office.relay(concurrency=2))
        assert sorted(office.got) == sorted(map(str, range(40)))
        assert office.most == 4

    run(main)


class Outage:
    """Makes an outbox fail as long as it is down."""

    def __init__(self, office: Office, *steps: str) -> None:
        self.down = True
        self.asked: list[float] = []
        for step in steps:
            setattr(office.outbox.blocking, step, self.wrap(getattr(office.outbox.blocking, step)))

    def wrap(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*args: Any, **kwargs: Any) -> Any:
            if self.down:
                self.asked.append(current_runtime().now())
                raise StoreUnavailable("unplugged")
            return step(*args, **kwargs)

        return asked


def test_a_database_that_fails_is_asked_again_ever_more_seldom(run, office: Office) -> None:
    async def main() -> None:
        office.add("a")
        outage = Outage(office, "claim")
        relay = office.relay()
        async with anyio.create_task_group() as group:
            group.start_soon(relay.run)
            await current_runtime().sleep(300)
            assert 60 < len(outage.asked) < 200
            assert all(later - earlier >= 0.05 for earlier, later in itertools.pairwise(outage.asked))
            for _ in range(100):
                relay.wake()  # whatever wakes it: it does not ask more often
                await current_runtime().sleep(0.001)
            assert len(outage.asked) < 202
            outage.down = False
            await current_runtime().sleep(6)
            assert office.got == ["a"]
            relay.stop()

    run(main)


def test_an_outage_is_an_error_for_whoever_flushes(run, office: Office) -> None:
    async def main() -> None:
        Outage(office, "claim")
        with pytest.raises(StoreUnavailable, match="unplugged"):
            await office.relay().flush()

    run(main)


def test_whoever_flushes_learns_that_an_outcome_could_not_be_written_down(run, office: Office) -> None:
    async def main() -> None:
        office.add("a")
        Outage(office, "settle")
        started = current_runtime().now()
        with pytest.raises(StoreUnavailable, match="unplugged"):
            await office.relay(lease=10.0).flush()
        assert 10 <= current_runtime().now() - started < 20
        assert office.got == ["a"]

    run(main)


def test_an_outcome_is_written_down_when_the_database_is_back(run, office: Office) -> None:
    async def main() -> None:
        office.add("a", "b")
        outage = Outage(office, "settle", "renew", "claim")
        outage.down = False
        relay = office.relay(lease=5.0)
        async with anyio.create_task_group() as group:
            group.start_soon(relay.run)
            await current_runtime().sleep(0.025)
            outage.down = True
            await current_runtime().sleep(60)
            assert sorted(office.got) == ["a", "b"]
            outage.down = False
            await current_runtime().sleep(10)
            assert sorted(office.got) == ["a", "b"]
            assert (await office.outbox.stats()).delivered == 2
            relay.stop()

    run(main)


def test_a_delivery_ends_with_its_lease_when_nobody_can_renew_it(run, office: Office) -> None:
    async def main() -> None:
        office.takes = 1000.0
        office.add("a")
        Outage(office, "renew")
        async with anyio.create_task_group() as group:
            relay = office.relay(lease=3.0, timeout=500.0, attempts=100)
            started = current_runtime().now()
            group.start_soon(relay.run)
            await current_runtime().sleep(2.9)
            assert office.now == 1
            await current_runtime().sleep(17)
            assert office.most == 1  # the next one begins after this one has ended
            gaps = [later - earlier for earlier, later in itertools.pairwise([started, *office.times])]
            assert len(office.times) > 4
            assert all(gap > 2.99 for gap in gaps[1:])
            relay.stop()

    run(main)


def steal(office: Office) -> None:
    """Claim what another relay holds, as if its lease were over."""
    connection = office.connect()
    with connection:
        connection.execute("UPDATE resilient_outbox SET fence = fence + 1, owner = 'thief'")
    connection.close()


def test_a_delivery_whose_lease_is_another_relays_is_ended(run, office: Office) -> None:
    async def main() -> None:
        office.takes = 100.0
        office.add("a")
        relay = office.relay(timeout=500.0, lease=30.0)
        async with anyio.create_task_group() as group:
            group.start_soon(relay.run)
            await current_runtime().sleep(1)
            assert office.now == 1
            steal(office)
            await current_runtime().sleep(10)
            assert office.now == 0
            relay.stop()

    run(main)


def test_the_outcome_of_a_delivery_that_is_another_relays_does_not_count(
    run, office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        office.takes = 5.0
        office.add("a")
        relay = office.relay()
        async with anyio.create_task_group() as group:
            group.start_soon(relay.run)
            await current_runtime().sleep(1)
            steal(office)
            await current_runtime().sleep(5)
            relay.stop()
        stats = await office.outbox.stats()
        assert (stats.in_flight, stats.delivered) == (1, 0)

    run(main)
    assert "the lease was lost" in caplog.text


def test_what_was_claimed_too_slowly_is_not_begun(run, tmp_path: Path) -> None:
    """Another relay may have it by now."""
    lag = [2.0]

    class Lagging(DirectStore):
        async def _call(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            result = fn(*args, **kwargs)
            await current_runtime().sleep(lag[0])
            return result

    async def main() -> None:
        office = Office(tmp_path, Lagging)
        office.add("a")
        relay = office.relay(lease=1.5, attempts=100)
        async with anyio.create_task_group() as group:
            group.start_soon(relay.run)
            await current_runtime().sleep(20)
            assert office.got == []
            lag[0] = 0.1
            await current_runtime().sleep(10)
            assert office.got == ["a"]
            relay.stop()

    run(main)


def test_a_message_whose_relays_died_is_parked_and_listeners_are_told(run, office: Office) -> None:
    async def main() -> None:
        told: list[Event] = []
        here = current_runtime()
        runtime = Runtime(now=here.now, wall=here.wall, sleep=here.sleep, random=here.random, emit=told.append)
        office.add("a")
        for _ in range(3):
            (message,) = office.outbox.blocking.claim(owner="dead", limit=1, lease=1.0, attempts=3).messages
            assert message.key == "a"
            await current_runtime().sleep(2)
        await office.relay(attempts=3, runtime=runtime).flush()
        assert office.got == []
        (parked,) = told
        assert isinstance(parked, MessageParked)
        assert parked.reason == "no relay that delivered it survived"

    run(main)


def test_a_relay_that_is_stopped_lets_deliveries_come_to_their_end(run, office: Office) -> None:
    async def main() -> None:
        office.takes = 3.0
        office.add("a", "b", "c")
        async with anyio.create_task_group() as group:
            relay = office.relay(concurrency=2, drain=5.0)
            group.start_soon(relay.run)
            await current_runtime().sleep(1)
            relay.stop()
        stats = await office.outbox.stats()
        assert (stats.delivered, stats.pending, stats.in_flight) == (2, 1, 0)
        assert office.now == 0

    run(main)


@pytest.mark.parametrize("drain", [0.0, 2.0])
def test_what_does_not_end_in_time_is_given_back_at_once_and_not_counted(run, office: Office, drain: float) -> None:
    async def main() -> None:
        office.takes = 1000.0
        office.add("a")
        started = current_runtime().now()
        await run_for(1, office.relay(timeout=500.0, drain=drain, lease=100.0))
        assert drain <= current_runtime().now() - started - 1 < drain + 0.2
        assert office.now == 0
        office.takes = 0.0
        seen: list[int] = []

        async def deliver(message: Message) -> None:
            seen.append(message.attempt)

        assert await office.relay(deliver).flush() == 1
        assert seen == [1]

    run(main)


def test_a_cancelled_relay_leaves_every_message_delivered_or_free(tmp_path: Path, backend: str) -> None:
    numbers = itertools.count()

    def fresh() -> Office:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        office = Office(folder)
        office.takes = 0.05
        office.add("a", "b", group="g")
        office.add("c")
        return office

    async def scenario(office: Office) -> None:
        relay = office.relay(lease=3000.0, drain=0.02)
        await relay.flush()

    async def check(office: Office) -> None:
        await current_runtime().sleep(3)
        assert office.now == 0
        stats = await office.outbox.stats()
        assert stats.in_flight == 0
        before = list(office.got)
        with anyio.fail_after(60):
            delivered = await office.relay().flush()
        assert delivered + stats.delivered == 3
        assert {"a", "b", "c"} == set(office.got)
        order = [key for key in office.got if key in "ab"]
        assert order == sorted(order)
        assert len(office.got) - len(before) == delivered

    assert for_each_cancellation(fresh, scenario=scenario, check=check, backend=backend) > 20
