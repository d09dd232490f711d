"""What every durable store promises, whatever it is made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio
import pytest

import resilient.backends.store
from resilient.backends.store import Abandoned, Answer, Busy, Mismatch, Replay, Run, Store
from tests.contract.stores import SHELVES, Clock, Shelf, forgets_by_itself
from tests.tables import read_table

LEASE = 30.0
TTL = 3600.0


@pytest.fixture(params=sorted(SHELVES))
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    return SHELVES[request.param](tmp_path)


@pytest.fixture
def check(shelf: Shelf, backend: str) -> Callable[[Callable[[Store, Clock], Awaitable[None]]], None]:
    """Runs a scenario with a store and its clock."""

    async def main(scenario: Callable[[Store, Clock], Awaitable[None]]) -> None:
        store = shelf.make()
        await scenario(store, shelf.clock)
        await store.close()

    return lambda scenario: anyio.run(partial(main, scenario), backend=backend)


async def begin(
    store: Store,
    key: str = "k",
    payload: bytes = b"payload",
    *,
    scope: str = "s",
    ttl: float = TTL,
    takeover: bool = True,
) -> Answer:
    return await store.begin(scope, key, payload, owner="me", lease=LEASE, ttl=ttl, takeover=takeover)


async def run(store: Store, key: str = "k", *, scope: str = "s", ttl: float = TTL) -> Run:
    answer = await begin(store, key, scope=scope, ttl=ttl)
    assert isinstance(answer, Run)
    return answer


def busy(answer: Answer) -> float:
    assert isinstance(answer, Busy)
    return answer.retry_after


def test_the_first_to_begin_runs(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        first = await run(store)
        assert (first.scope, first.key, first.owner) == ("s", "k", "me")
        assert (first.takeover, first.recovery_point, first.recovery_data) == (False, "started", None)

    check(scenario)


def test_a_duplicate_learns_how_long_the_lease_lasts(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        await run(store)
        clock.advance(10)
        assert busy(await begin(store)) == pytest.approx(20.0)

    check(scenario)


def test_a_result_is_replayed_byte_for_byte(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        for result in (b"", b"\x00\xff\n", b"x" * 100_000):
            first = await run(store, repr(result[:4]))
            assert await store.complete(first, result, ttl=TTL)
            assert await begin(store, first.key) == Replay(result)

    check(scenario)


def test_a_result_may_be_known_to_exist_without_being_kept(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        assert await store.complete(await run(store), None, ttl=TTL)
        assert await begin(store) == Replay(None)

    check(scenario)


def test_another_payload_is_a_mismatch_while_running_and_when_done(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        first = await run(store)
        assert await begin(store, payload=b"other") == Mismatch()
        await store.complete(first, b"result", ttl=TTL)
        assert await begin(store, payload=b"other") == Mismatch()

    check(scenario)


def test_another_payload_does_not_take_over(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        await run(store)
        clock.advance(LEASE)
        assert await begin(store, payload=b"other") == Mismatch()

    check(scenario)


def test_the_same_key_in_another_scope_is_another_operation(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        await store.complete(await run(store, scope="alice"), b"for alice", ttl=TTL)
        assert isinstance(await begin(store, scope="bob"), Run)
        assert await begin(store, scope="alice") == Replay(b"for alice")

    check(scenario)


def test_when_the_lease_is_over_the_next_one_takes_over_under_a_higher_fence(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        first = await run(store)
        clock.advance(LEASE)
        second = await run(store)
        assert second.takeover
        assert second.fence > first.fence

    check(scenario)


def test_whoever_was_taken_over_can_write_nothing_any_more(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        zombie = await run(store)
        clock.advance(LEASE)
        successor = await run(store)
        assert not await store.heartbeat(zombie, lease=LEASE)
        assert not await store.save(zombie, "charged", b"")
        assert not await store.complete(zombie, b"zombie", ttl=TTL)
        assert not await store.release(zombie)
        if "transactional" in store.modes:
            assert await store.transaction(zombie) is None
        assert await begin(store) == Busy(LEASE)
        assert await store.complete(successor, b"successor", ttl=TTL)
        assert await begin(store) == Replay(b"successor")

    check(scenario)


def test_what_is_done_stays_done(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        first = await run(store)
        await store.complete(first, b"result", ttl=TTL)
        assert not await store.heartbeat(first, lease=LEASE)
        assert not await store.save(first, "charged", b"")
        assert not await store.complete(first, b"again", ttl=TTL)
        assert not await store.release(first)
        if "transactional" in store.modes:
            assert await store.transaction(first) is None
        assert await begin(store) == Replay(b"result")

    check(scenario)


def test_an_executor_past_its_lease_that_nobody_followed_may_still_complete(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        first = await run(store)
        clock.advance(LEASE * 2)
        assert await store.complete(first, b"late", ttl=TTL)
        assert await begin(store) == Replay(b"late")

    check(scenario)


def test_a_heartbeat_renews_the_lease_and_nothing_else(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        first = await run(store)
        before = await store.lookup("s", "k")
        clock.advance(20)
        assert await store.heartbeat(first, lease=LEASE)
        assert await begin(store) == Busy(LEASE)
        after = await store.lookup("s", "k")
        assert before is not None
        assert after is not None
        assert (after.fence, after.owner, after.fingerprint) == (before.fence, before.owner, before.fingerprint)
        assert after.expires_in == before.expires_in - 20

    check(scenario)


def test_a_heartbeat_of_zero_ends_the_lease_without_giving_the_key_back(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        first = await run(store)
        assert await store.heartbeat(first, lease=0.0)
        assert await begin(store, takeover=False) == Abandoned()
        assert isinstance(await begin(store), Run)

    check(scenario)


def test_who_does_not_take_over_learns_that_it_was_abandoned(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        first = await run(store)
        assert isinstance(await begin(store, takeover=False), Busy)
        clock.advance(LEASE)
        assert await begin(store, takeover=False) == Abandoned()
        assert await store.complete(first, b"after all", ttl=TTL)
        assert await begin(store, takeover=False) == Replay(b"after all")

    check(scenario)


def test_a_released_key_runs_at_once_and_keeps_what_was_known(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        first = await run(store)
        await store.save(first, "reserved", b"42")
        assert await store.release(first)
        assert await begin(store, payload=b"other") == Mismatch()
        second = await begin(store, takeover=False)
        assert isinstance(second, Run)
        assert second.fence > first.fence
        assert (second.takeover, second.recovery_point, second.recovery_data) == (True, "reserved", b"42")
        assert not await store.complete(first, b"late", ttl=TTL)

    check(scenario)


def test_a_recovery_point_is_found_by_whoever_takes_over(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        first = await run(store)
        assert await store.save(first, "charged", b"receipt 7")
        clock.advance(LEASE)
        second = await run(store)
        assert (second.recovery_point, second.recovery_data) == ("charged", b"receipt 7")
        assert await store.save(second, "shipped", None)
        clock.advance(LEASE)
        third = await run(store)
        assert (third.recovery_point, third.recovery_data) == ("shipped", None)

    check(scenario)


def test_after_its_retention_a_key_is_a_new_operation_under_a_higher_fence(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        first = await run(store)
        await store.save(first, "charged", b"old")
        await store.complete(first, b"old", ttl=TTL)
        clock.advance(TTL - 0.01)
        assert await begin(store) == Replay(b"old")
        clock.advance(0.01)
        assert await store.lookup("s", "k") is None
        second = await begin(store, payload=b"other")
        assert isinstance(second, Run)
        assert second.fence > first.fence
        assert (second.takeover, second.recovery_point, second.recovery_data) == (False, "started", None)

    check(scenario)


def test_retention_counts_from_completion(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        first = await run(store)
        clock.advance(20)
        await store.complete(first, b"result", ttl=TTL)
        clock.advance(TTL - 1)
        assert await begin(store) == Replay(b"result")

    check(scenario)


def test_a_live_claim_outlives_its_retention(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        first = await run(store, ttl=10.0)
        clock.advance(20)
        assert await store.heartbeat(first, lease=LEASE)
        clock.advance(20)
        assert await store.gc() == 0
        assert busy(await begin(store)) == pytest.approx(10.0)
        assert await store.complete(first, b"long work", ttl=TTL)
        assert await begin(store) == Replay(b"long work")

    check(scenario)


def test_fences_rise_across_keys_and_across_gc(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        fences = []
        for round_ in range(3):
            for key in ("a", "b"):
                first = await run(store, key, ttl=10.0)
                fences.append(first.fence)
                await store.complete(first, b"", ttl=10.0)
            clock.advance(20)
            assert await store.gc() <= 2, round_
        assert fences == sorted(set(fences))

    check(scenario)


def test_a_fence_is_never_below_the_microsecond_it_was_given_in(check) -> None:
    """So that they rise even when all data is lost."""

    async def scenario(store: Store, clock: Clock) -> None:
        first = await run(store)
        assert first.fence >= int(clock.seconds * 1_000_000)
        clock.advance(-3600)
        assert (await run(store, "b")).fence > first.fence

    check(scenario)


def test_gc_removes_the_forgotten_in_batches_and_nothing_else(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        for number in range(5):
            await store.complete(await run(store, f"old {number}"), b"", ttl=10.0)
        await run(store, "crashed", ttl=10.0)
        await store.complete(await run(store, "young"), b"kept", ttl=TTL)
        assert await store.gc() == 0
        clock.advance(60)
        forgotten = 0 if forgets_by_itself(store) else 6
        assert (await store.stats()).forgotten == forgotten
        batches = [min(forgotten, 4), max(forgotten - 4, 0), 0]
        assert [await store.gc(4), await store.gc(4), await store.gc(4)] == batches
        assert await begin(store, "young") == Replay(b"kept")
        assert (await store.stats()).records == 1

    check(scenario)


def test_a_store_in_use_stays_as_small_as_its_retention_makes_it(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        for number in range(100):
            await store.complete(await run(store, str(number), ttl=10.0), b"", ttl=10.0)
            clock.advance(1)
        clock.advance(LEASE)
        await run(store, "next")
        assert (await store.stats()).records < 50

    check(scenario)


def test_stats_count_what_is_held(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        empty = await store.stats()
        assert (empty.records, empty.running, empty.done, empty.forgotten, empty.oldest) == (0, 0, 0, 0, 0.0)
        await store.complete(await run(store, "done"), b"result", ttl=TTL)
        clock.advance(5)
        await run(store, "running")
        stats = await store.stats()
        assert (stats.records, stats.running, stats.done, stats.forgotten) == (2, 1, 1, 0)
        assert stats.oldest == pytest.approx(5.0)
        assert stats.size > 0

    check(scenario)


def test_lookup_shows_the_record_and_changes_nothing(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        assert await store.lookup("s", "k") is None
        first = await run(store)
        clock.advance(10)
        record = await store.lookup("s", "k")
        assert record is not None
        assert (record.state, record.fence, record.owner) == ("running", first.fence, "me")
        assert record.lease_left == pytest.approx(20.0)
        assert record.expires_in == pytest.approx(TTL - 10)
        assert not record.released
        await store.complete(first, b"result", ttl=TTL)
        record = await store.lookup("s", "k")
        assert record is not None
        assert (record.state, record.result) == ("done", b"result")

    check(scenario)


def test_a_closed_store_is_opened_again_by_its_next_use(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        await store.complete(await run(store), b"result", ttl=TTL)
        await store.close()
        assert await begin(store) == Replay(b"result")

    check(scenario)


def test_another_process_finds_what_this_one_recorded(shelf: Shelf, backend: str) -> None:
    async def main() -> None:
        first, second = shelf.make(), shelf.make()
        await first.complete(await run(first), b"result", ttl=TTL)
        assert await begin(second) == Replay(b"result")
        await first.close()
        await second.close()

    anyio.run(main, backend=backend)


def test_of_many_who_begin_at_once_one_runs(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        answers: list[Answer] = []

        async def one() -> None:
            answers.append(await begin(store))

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(one)
        assert sum(isinstance(answer, Run) for answer in answers) == 1
        assert sum(isinstance(answer, Busy) for answer in answers) == 19

    check(scenario)


def test_the_blocking_face_sees_the_same_records(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        first = store.blocking.begin("s", "k", b"payload", owner="me", lease=LEASE, ttl=TTL)
        assert isinstance(first, Run)
        assert store.blocking.modes == store.modes
        assert await store.complete(first, b"result", ttl=TTL)
        assert store.blocking.begin("s", "k", b"payload", owner="me", lease=LEASE, ttl=TTL) == Replay(b"result")
        assert store.blocking.lookup("s", "k") is not None

    check(scenario)


def test_the_state_machine_is_the_one_that_the_docstring_draws(check) -> None:
    """Each row of the table is tried on the store."""

    async def scenario(store: Store, clock: Clock) -> None:
        for number, row in enumerate(read_table(resilient.backends.store.__doc__)):
            await try_row(store, clock, f"row {number}", row)

    check(scenario)


async def try_row(store: Store, clock: Clock, key: str, row: tuple[str, ...]) -> None:
    state, event, after, answer = row
    before = await reach(store, clock, key, state)
    what, _, conditions = event.partition(", ")
    if "the lease is over" in conditions:
        clock.advance(LEASE)
    if "the lease was released" in conditions:
        assert before is not None
        await store.release(before)
    if what.startswith("begin"):
        payload = b"other" if "another fingerprint" in conditions else b"payload"
        got: object = await begin(store, key, payload, takeover="takeover=False" not in what)
        shown = {Run: "`Run", Replay: "`Replay", Mismatch: "`Mismatch", Busy: "`Busy", Abandoned: "`Abandoned"}
        assert answer.startswith(shown[type(got)]), (state, event, got)
        if isinstance(got, Run):
            assert got.takeover == ("takeover=True" in answer)
            assert before is None or got.fence > before.fence
    elif what == "gc":
        assert (await store.gc() > 0) is not forgets_by_itself(store)
    else:
        assert before is not None
        expected = answer == "True"
        for name in ("heartbeat", "save", "release", "complete"):
            if name in event:
                assert await write(store, name, before) is expected, (state, event)
    record = await store.lookup("s", key)
    if after == "absent":
        assert record is None
    else:
        assert record is not None
        assert record.state == after.partition(",")[0]
        assert record.released == ("released" in after)


async def reach(store: Store, clock: Clock, key: str, state: str) -> Run | None:
    if state == "absent":
        return None
    first = await run(store, key)
    if state in {"done", "forgotten"}:
        await store.complete(first, b"result", ttl=TTL)
    if state == "forgotten":
        clock.advance(TTL + LEASE)
    return first


async def write(store: Store, name: str, claim: Run) -> bool:
    match name:
        case "heartbeat":
            return await store.heartbeat(claim, lease=LEASE)
        case "save":
            return await store.save(claim, "somewhere", None)
        case "release":
            return await store.release(claim)
        case _:
            return await store.complete(claim, b"result", ttl=TTL)
