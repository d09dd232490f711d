"""Idempotency keys: once a logical call, outside of everything that repeats it."""

from __future__ import annotations

import uuid

import pytest

import resilient
from resilient.call import Call
from resilient.context import current_runtime
from resilient.errors import DeadlineExceeded
from resilient.pipeline import Pipeline
from resilient.policies.honoured import Honoured
from resilient.policies.retry import Backoff, Retry
from resilient.testing import virtual_time


def key_of_this_call() -> str | None:
    call = resilient.current_call()
    assert call is not None
    return call.idempotency_key


def test_every_attempt_carries_the_same_fresh_key(backend):
    keys: list[str | None] = []

    @Pipeline(Honoured(), Retry())
    async def charge() -> None:
        keys.append(key_of_this_call())
        if len(keys) % 3:
            raise OSError

    async def main():
        await charge()
        await charge()

    virtual_time.run(main, backend=backend)
    assert keys[0] == keys[1] == keys[2]
    assert keys[3] == keys[4] == keys[5] != keys[0]
    assert all(uuid.UUID(key) for key in keys if key is not None)


def test_a_key_of_the_caller_is_kept_and_a_repeatable_call_needs_none(backend):
    @Pipeline(Honoured())
    async def charge() -> str | None:
        return key_of_this_call()

    async def main():
        with resilient.options(idempotency_key="mine"):
            assert await charge() == "mine"
        with resilient.options(idempotent=True):
            assert await charge() is None

    virtual_time.run(main, backend=backend)


def test_a_key_can_be_made_from_the_call(backend):
    def from_order(call: Call) -> str:
        args, _ = call.request
        return f"order-{args[0]}"

    @Pipeline(Honoured(keys=from_order))
    async def charge(order: int) -> str | None:
        return key_of_this_call()

    async def main():
        return await charge(17)

    assert virtual_time.run(main, backend=backend) == "order-17"


def test_no_attempt_is_made_after_the_window_in_which_the_key_is_remembered(backend):
    made: list[float] = []

    @Pipeline(Honoured(window=60.0), Retry(attempts=100, backoff=Backoff(base=20, cap=20), budget=None))
    async def charge() -> None:
        made.append(current_runtime().now())
        raise ConnectionResetError

    async def main():
        with pytest.raises(ConnectionResetError) as caught:
            await charge()
        assert "deadline" in caught.value.__notes__[0]

    virtual_time.run(main, backend=backend)
    assert 60.0 - 20.0 < made[-1] < 60.0


def test_a_shorter_deadline_of_the_caller_stays(backend):
    @Pipeline(Honoured(window=60.0))
    async def charge() -> float | None:
        call = resilient.current_call()
        assert call is not None
        return call.remaining

    async def main():
        with resilient.options(timeout=1.0):
            assert await charge() == 1.0
        with resilient.serving(deadline=current_runtime().now()), pytest.raises(DeadlineExceeded):
            await charge()

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("window", [0, -1, float("inf"), float("nan")])
def test_a_window_that_is_none_is_refused(window):
    with pytest.raises(ValueError, match="window="):
        Honoured(window=window)
