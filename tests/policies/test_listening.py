"""Listeners written for pybreaker hear of our circuit breakers what they would hear of pybreaker's."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import pybreaker
import pytest

from resilient.context import current_runtime, use_runtime
from resilient.errors import CircuitOpen, ResilienceError
from resilient.http import classify_http
from resilient.pipeline import Pipeline
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.testing import virtual_time
from tests.policies.breakers import CLOSED, COOLDOWN, OPEN, outcome_of, remote, sensitive


class Diary(pybreaker.CircuitBreakerListener):
    """Notes everything that it is told."""

    def __init__(self) -> None:
        self.entries: list[tuple[Any, ...]] = []

    def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        assert callable(func)
        self.entries.append(("before_call", args, kwargs))

    def success(self, cb: Any) -> None:
        self.entries.append(("success",))

    def failure(self, cb: Any, exc: BaseException) -> None:
        self.entries.append(("failure", exc))

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        self.entries.append(("state_change", old_state.name, new_state.name))

    def names(self) -> list[str]:
        return [entry[0] for entry in self.entries]


class Faulty(pybreaker.CircuitBreakerListener):
    """Fails whatever it is told."""

    def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("before_call")

    def success(self, cb: Any) -> None:
        raise RuntimeError("success")

    def failure(self, cb: Any, exc: BaseException) -> None:
        raise RuntimeError("failure")

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        raise RuntimeError("state_change")


FAILURE = OSError("it failed")


def divide(a: int, *, by: int) -> float:
    if by == 0:
        raise FAILURE
    return a / by


def test_they_hear_the_same_as_from_pybreaker():
    ours, theirs = Diary(), Diary()

    def live(call: Any, cool_down: Any) -> None:
        """Through every state, with the breaker's `call`."""
        call(divide, 6, by=2)
        for _ in range(2):
            with pytest.raises(OSError, match="it failed"):
                call(divide, 6, by=0)
        cool_down()
        with pytest.raises(OSError, match="it failed"):
            call(divide, 6, by=0)
        cool_down()
        assert call(divide, 6, by=3) == 2

    other = pybreaker.CircuitBreaker(fail_max=2, reset_timeout=0, throw_new_error_on_trip=False, listeners=[theirs])
    live(other.call, lambda: None)
    with use_runtime(virtual_time.runtime()):
        breaker = CircuitBreaker(consecutive_failures=2, cooldown=COOLDOWN, listeners=[ours])
        live(Pipeline(breaker).call, lambda: current_runtime().pause(3 * COOLDOWN))
    assert ours.entries == theirs.entries
    assert ours.entries == [
        ("before_call", (6,), {"by": 2}),
        ("success",),
        ("before_call", (6,), {"by": 0}),
        ("failure", FAILURE),
        ("before_call", (6,), {"by": 0}),
        ("failure", FAILURE),
        ("state_change", pybreaker.STATE_CLOSED, pybreaker.STATE_OPEN),
        ("state_change", pybreaker.STATE_OPEN, pybreaker.STATE_HALF_OPEN),
        ("before_call", (6,), {"by": 0}),
        ("failure", FAILURE),
        ("state_change", pybreaker.STATE_HALF_OPEN, pybreaker.STATE_OPEN),
        ("state_change", pybreaker.STATE_OPEN, pybreaker.STATE_HALF_OPEN),
        ("before_call", (6,), {"by": 3}),
        ("state_change", pybreaker.STATE_HALF_OPEN, pybreaker.STATE_CLOSED),
        ("success",),
    ]


def test_the_failure_that_they_hear_of_is_the_very_exception(backend):
    async def main():
        diary = Diary()
        with pytest.raises(OSError, match="it failed") as caught:
            await Pipeline(sensitive(listeners=[diary])).run(remote, "badly")
        assert diary.entries[1] == ("failure", caught.value)
        assert diary.entries[1][1] is caught.value

    virtual_time.run(main, backend=backend)


def test_a_result_that_is_a_failure_has_an_error_of_ours(backend):
    async def ask() -> httpx.Response:
        return httpx.Response(500)

    async def main():
        diary = Diary()
        await Pipeline(sensitive(listeners=[diary]), classify=classify_http).run(ask)
        assert diary.names() == ["before_call", "failure", "state_change"]
        assert isinstance(diary.entries[1][1], ResilienceError)

    virtual_time.run(main, backend=backend)


def test_of_a_request_they_hear_the_request(backend):
    request = httpx.Request("GET", "http://stock/")

    async def send(_call: Any) -> httpx.Response:
        return httpx.Response(200)

    async def main():
        diary = Diary()
        pipeline = Pipeline(sensitive(listeners=[diary]), classify=classify_http)
        await pipeline.chain(pipeline.begin("GET", send, request))
        assert diary.entries == [("before_call", (request,), {}), ("success",)]

    virtual_time.run(main, backend=backend)


def test_what_decides_nothing_is_neither_a_success_nor_a_failure(backend):
    async def main():
        diary, full = Diary(), Bulkhead(1)
        guarded = Pipeline(sensitive(listeners=[diary]), full)(remote)
        with anyio.move_on_after(1.0):
            await guarded("never")
        async with full:
            assert await outcome_of(guarded) == "ConcurrencyExceeded"
        assert diary.names() == ["before_call"] * 2

    virtual_time.run(main, backend=backend)


def test_a_call_that_is_refused_and_a_circuit_opened_by_hand_are_told_as_pybreaker_would(backend):
    async def main():
        diary = Diary()
        breaker = sensitive(listeners=[diary])
        breaker.isolate()
        assert await outcome_of(Pipeline(breaker)(remote)) == "CircuitOpen"
        breaker.reset()
        assert diary.entries == [
            ("state_change", pybreaker.STATE_CLOSED, pybreaker.STATE_OPEN),
            ("state_change", pybreaker.STATE_OPEN, pybreaker.STATE_CLOSED),
        ]

    virtual_time.run(main, backend=backend)


def test_blocks_are_heard_of_too():
    diary = Diary()
    with sensitive(listeners=[diary]):
        pass
    assert diary.names() == ["before_call", "success"]


def test_a_faulty_listener_changes_nothing_and_keeps_nobody_from_hearing(backend, caplog: pytest.LogCaptureFixture):
    async def main():
        before, after = Diary(), Diary()
        breaker = sensitive(listeners=[before, Faulty(), after])
        guarded = Pipeline(breaker)(remote)
        assert await guarded() == "an answer"
        with pytest.raises(OSError, match="it failed"):
            await guarded("badly")
        assert breaker.state is OPEN
        with pytest.raises(CircuitOpen):
            await guarded()
        await anyio.sleep(COOLDOWN)
        assert await guarded() == "an answer"
        assert breaker.state is CLOSED
        assert before.entries == after.entries
        assert set(before.names()) == {"before_call", "success", "failure", "state_change"}

    virtual_time.run(main, backend=backend)
    assert len(caplog.records) == 9
    assert {record.exc_info[1].args[0] for record in caplog.records if record.exc_info and record.exc_info[1]} == {
        "before_call",
        "success",
        "failure",
        "state_change",
    }


def test_a_listener_may_use_the_breaker_that_it_listens_to(backend):
    class Impatient(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            if new_state.name == pybreaker.STATE_OPEN:
                breaker.reset()

    breaker = sensitive(listeners=[Impatient()])

    async def main():
        assert await outcome_of(Pipeline(breaker)(remote), "badly") == "OSError"
        assert breaker.state is CLOSED

    virtual_time.run(main, backend=backend)


def test_they_can_ask_the_breaker_what_they_can_ask_pybreakers():
    seen: list[tuple[object, ...]] = []

    class Curious(pybreaker.CircuitBreakerListener):
        def _ask(self, cb: Any) -> None:
            seen.append((cb.name, cb.current_state, cb.fail_counter, cb.fail_max, cb.reset_timeout))

        def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
            self._ask(cb)

        def failure(self, cb: Any, exc: BaseException) -> None:
            self._ask(cb)

    breaker = CircuitBreaker(consecutive_failures=3, cooldown=COOLDOWN, listeners=[Curious()], name="stock")
    by_ratio = CircuitBreaker(minimum_calls=7, listeners=[Curious()])
    for one in (breaker, by_ratio):
        with pytest.raises(OSError, match="it failed"), one:
            raise FAILURE
    assert seen == [
        ("stock", pybreaker.STATE_CLOSED, 0, 3, COOLDOWN),
        ("stock", pybreaker.STATE_CLOSED, 1, 3, COOLDOWN),
        ("circuit breaker", pybreaker.STATE_CLOSED, 0, 7, COOLDOWN),
        ("circuit breaker", pybreaker.STATE_CLOSED, 1, 7, COOLDOWN),
    ]


@pytest.mark.parametrize("listener", [Diary, object(), print, None])
def test_what_is_no_listener_is_refused(listener):
    with pytest.raises(TypeError, match=r"^listeners: .* is no pybreaker\.CircuitBreakerListener$"):
        CircuitBreaker(listeners=[listener])
