"""What calls take from their surroundings, and what they do not."""

from __future__ import annotations

import contextvars
import math
from typing import Any

import anyio
import pytest

from resilient.call import Attribute, Call, Next, Priority
from resilient.context import (
    Options,
    current_call,
    current_runtime,
    detached,
    options,
    serving,
    surroundings,
    use_runtime,
)
from resilient.errors import DeadlineExceeded
from resilient.pipeline import Pipeline
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.runtime import Runtime
from resilient.testing import virtual_time

TENANT = Attribute("tenant", "nobody")
REGION = Attribute("region", "nowhere")


def at(second: float) -> Runtime:
    return Runtime(now=lambda: second)


@Pipeline()
def this_call() -> Call:
    """The call that is made here."""
    call = current_call()
    assert call is not None
    return call


@Pipeline()
def call_within() -> Call:
    """The call that is made inside of the one that is made here."""
    return this_call()


def test_there_is_no_current_call_outside_of_one():
    assert current_call() is None
    assert this_call().name == "this_call"
    assert current_call() is None


def test_inside_a_call_it_is_the_attempt(backend):
    attempts: list[tuple[str, int, bool]] = []

    @Pipeline(Timeout(5.0), Retry(on=OSError, backoff=lambda state: 1.0))
    async def work() -> None:
        call = current_call()
        assert call is not None
        await anyio.sleep(1)
        assert current_call() is call
        attempts.append((call.name, call.attempt, call.remaining == 4.0 - 2 * (call.attempt - 1)))
        if call.attempt < 2:
            raise OSError

    virtual_time.run(work, backend=backend)
    name = work.__qualname__
    assert attempts == [(name, 1, True), (name, 2, True)]


def test_options_are_for_the_calls_made_directly_in_their_block():
    with (
        use_runtime(at(100.0)),
        options(
            timeout=5.0,
            priority=Priority.SHEDDABLE,
            idempotency_key="key",
            idempotent=True,
            attributes={TENANT: "a"},
        ),
    ):
        for call in (this_call(), this_call()):
            assert (call.deadline, call.priority, call.idempotency_key) == (105.0, Priority.SHEDDABLE, "key")
            assert (call.repeatable, call.get(TENANT)) == (True, "a")
        inner = call_within()
        assert (inner.priority, inner.idempotency_key) == (Priority.CRITICAL, None)
        assert (inner.repeatable, inner.get(TENANT)) == (None, "nobody")
    assert this_call().deadline is None


def test_a_call_inside_a_call_has_no_more_time_than_that_one():
    """Also where nothing can interrupt: a plain function."""
    with use_runtime(at(100.0)):
        with options(timeout=5.0):
            assert call_within().deadline == 105.0
        assert Pipeline(Timeout(3.0))(call_within)().deadline == 103.0
        with serving(deadline=102.0):
            assert Pipeline(Timeout(3.0))(call_within)().deadline == 102.0
        assert Pipeline(Timeout(3.0))(Pipeline(Timeout(1.0))(call_within))().deadline == 101.0


def test_the_clean_up_and_the_background_work_of_an_ended_attempt_are_not_refused(backend):
    """Its deadline is spent; only that of its server still holds for them."""
    deadlines: list[float | None] = []

    @Pipeline()
    async def release() -> None:
        call = current_call()
        assert call is not None
        deadlines.append(call.deadline)

    @Pipeline(Timeout(1.0))
    async def hangs() -> None:
        try:
            await release()
            await anyio.sleep(100)
        finally:
            with anyio.CancelScope(shield=True):
                await release()

    async def main():
        for deadline in (50.0, None):
            with serving(deadline=deadline), pytest.raises(DeadlineExceeded):
                await hangs()

    virtual_time.run(main, backend=backend)
    assert deadlines == [1.0, 50.0, 2.0, None]


def test_the_servers_deadline_and_priority_reach_all_the_way_down():
    with use_runtime(at(0.0)), serving(deadline=7.0, priority=Priority.SHEDDABLE_PLUS), options(idempotency_key="key"):
        call = call_within()
        assert (call.deadline, call.priority) == (7.0, Priority.SHEDDABLE_PLUS)


def test_a_deadline_is_never_widened():
    with use_runtime(at(0.0)), serving(deadline=5.0):
        with serving(deadline=9.0):
            assert this_call().deadline == 5.0
        with serving(deadline=3.0):
            assert this_call().deadline == 3.0
        with serving(priority=Priority.CRITICAL_PLUS):
            assert this_call().deadline == 5.0
        with options(timeout=9.0):
            assert this_call().deadline == 5.0
        with options(deadline=9.0):
            assert this_call().deadline == 5.0
        with options(timeout=4.0, deadline=2.0):
            assert this_call().deadline == 2.0
            with options(deadline=4.5):
                assert this_call().deadline == 2.0


def test_nested_options_add_up_and_the_inner_one_wins():
    with (
        use_runtime(at(0.0)),
        options(timeout=1.0, priority=Priority.SHEDDABLE, idempotent=True, attributes={TENANT: "a", REGION: "x"}),
    ):
        with options(timeout=2.0, idempotent=False, attributes={TENANT: "b"}):
            call = this_call()
            assert (call.deadline, call.priority, call.repeatable) == (2.0, Priority.SHEDDABLE, False)
            assert (call.get(TENANT), call.get(REGION)) == ("b", "x")
        assert this_call().deadline == 1.0


def test_an_adapters_options_give_way_to_those_around_the_call():
    pipeline = Pipeline()

    async def step(call: Call) -> None: ...

    given = Options(timeout=3.0, priority=Priority.SHEDDABLE, attributes={TENANT: "route", REGION: "x"})
    with use_runtime(at(0.0)):
        call = pipeline.begin("GET orders", step, None, repeatable=True, options=given)
        assert (call.deadline, call.priority, call.repeatable) == (3.0, Priority.SHEDDABLE, True)
        with options(timeout=5.0, priority=Priority.CRITICAL, idempotent=False, attributes={TENANT: "caller"}):
            call = pipeline.begin("GET orders", step, None, repeatable=True, options=given)
        assert (call.deadline, call.priority, call.repeatable) == (3.0, Priority.CRITICAL, False)
        assert (call.get(TENANT), call.get(REGION)) == ("caller", "x")
        with serving(deadline=2.0):
            assert pipeline.begin("GET orders", step, None, options=given).deadline == 2.0


def test_detached_work_forgets_its_caller():
    forgotten: list[Call | None] = []

    @Pipeline()
    def background() -> Call:
        with detached():
            forgotten.append(current_call())
            return this_call()

    with use_runtime(at(1.0)), serving(deadline=5.0, priority=Priority.SHEDDABLE), options(idempotency_key="key"):
        with detached():
            call = this_call()
            assert (call.deadline, call.priority, call.idempotency_key) == (None, Priority.CRITICAL, None)
            assert current_runtime().now() == 1.0
        call = background()
        assert (call.deadline, call.priority, forgotten) == (None, Priority.CRITICAL, [None])


def test_blocks_inside_a_call_keep_it_current():
    @Pipeline()
    def work() -> None:
        call = current_call()
        with options(timeout=1.0), serving(deadline=math.inf):
            assert current_call() is call

    work()


def test_a_pipelines_own_runtime_is_that_of_what_runs_inside():
    theirs = at(5.0)

    @Pipeline(runtime=theirs)
    def work() -> Call:
        assert current_runtime() is theirs
        return this_call()

    assert work().runtime is theirs
    assert current_runtime() is not theirs


def test_a_deadline_is_translated_to_the_clock_of_a_pipelines_own_runtime():
    with use_runtime(at(100.0)), serving(deadline=103.0):

        @Pipeline(runtime=at(5.0))
        def work() -> tuple[float | None, float | None]:
            call = current_call()
            assert call is not None
            return call.deadline, this_call().deadline

        assert work() == (8.0, 8.0)


def test_threads_and_tasks_start_from_where_they_were_started(backend):
    async def child(seen: list[float | None]) -> None:
        seen.append(this_call().deadline)

    async def main():
        seen: list[float | None] = []
        async with anyio.create_task_group() as tasks:
            with serving(deadline=3.0):
                tasks.start_soon(child, seen)
            tasks.start_soon(child, seen)
        assert sorted(seen, key=str) == [3.0, None]

    virtual_time.run(main, backend=backend)


def test_a_foreign_policy_may_read_attributes(backend):
    seen: list[str] = []

    async def policy(call: Call, nxt: Next[Any]) -> Any:
        seen.append(call.get(TENANT))
        return await nxt(call)

    async def main():
        with options(attributes={TENANT: "a"}):
            await Pipeline(policy).run(anyio.sleep, 0)

    virtual_time.run(main, backend=backend)
    assert seen == ["a"]


def test_a_block_is_entered_once_at_a_time():
    block = options(timeout=1.0)
    with block, pytest.raises(RuntimeError, match="in use already"), block:
        raise AssertionError
    with block:
        assert surroundings().options == Options(timeout=1.0)
    assert surroundings().options is None


def test_a_block_is_no_decorator():
    """It would do nothing for an async function, which runs only after the block has been left."""
    assert not callable(options(timeout=1.0))


def test_a_block_that_raises_restores_what_was_before():
    with pytest.raises(KeyError), options(timeout=1.0):
        raise KeyError
    assert surroundings().options is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timeout": 0}, "timeout=0: a number of seconds, more than 0"),
        ({"timeout": -1.0}, "timeout=-1.0"),
        ({"timeout": math.nan}, "timeout=nan"),
        ({"deadline": math.nan}, "deadline=nan"),
        ({"idempotency_key": ""}, "idempotency_key='': a key is 1 to 255 printable ASCII characters"),
        ({"idempotency_key": "x" * 256}, "idempotency_key='xxx"),
        ({"idempotency_key": "naïve"}, "idempotency_key='naïve'"),
        ({"idempotency_key": "a\nb"}, "idempotency_key="),
    ],
)
def test_wrong_options_are_refused_where_they_are_written(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"^{message}"):
        options(**arguments)


def test_a_servers_deadline_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"^deadline=nan: a second on the scale of the ambient runtime"):
        serving(deadline=math.nan)


@pytest.mark.parametrize("block", [options, serving])
def test_a_priority_that_is_none_is_refused_where_it_is_written(block: Any):
    with pytest.raises(TypeError, match=r"^priority='high': one of SHEDDABLE, .*CRITICAL_PLUS"):
        block(priority="high")


def test_the_longest_key_is_accepted():
    with options(idempotency_key="x" * 255):
        assert this_call().idempotency_key == "x" * 255


def test_nothing_is_left_in_the_context_after_a_call():
    def changed_by_a_call() -> list[str]:
        before = contextvars.copy_context()
        this_call()
        return [name.name for name, value in contextvars.copy_context().items() if before.get(name) is not value]

    assert contextvars.copy_context().run(changed_by_a_call) == []
