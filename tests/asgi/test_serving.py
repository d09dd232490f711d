"""The deadline and priority of a request reach the calls that serve it."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import resilient
from resilient import DeadlineExceeded, Pipeline, Priority, Timeout
from resilient.asgi.serving import ServingMiddleware, remaining_time
from resilient.testing import virtual_time


async def serve(headers: list[tuple[bytes, bytes]], *, kind: str = "http", **arguments: Any) -> tuple[float, Priority]:
    """Serve one request with a handler that reports what its calls inherit."""
    seen: list[tuple[float, Priority]] = []

    @Pipeline(Timeout(1000.0))
    async def inner() -> None:
        call = resilient.current_call()
        assert call is not None
        assert call.remaining is not None
        seen.append((call.remaining, call.priority))

    async def app(scope, receive, send):
        await inner()

    async def receive():
        return {}

    async def send(message):
        pass

    await ServingMiddleware(app, **arguments)({"type": kind, "headers": headers}, receive, send)
    return seen[0]


def test_calls_inherit_what_the_caller_has_left(backend):
    async def main():
        return await serve([(b"resilient-timeout-ms", b"1500"), (b"resilient-priority", b"sheddable-plus")])

    assert virtual_time.run(main, backend=backend) == (1.5, Priority.SHEDDABLE_PLUS)


def test_a_request_that_says_nothing_or_too_much_has_the_longest_time(backend):
    async def main():
        assert await serve([]) == (60.0, Priority.CRITICAL)
        assert await serve([(b"resilient-timeout-ms", b"999999999")], longest=5.0) == (5.0, Priority.CRITICAL)

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize(
    ("trusted", "asked", "granted"),
    [
        (False, b"critical-plus", Priority.CRITICAL),
        (False, b"sheddable", Priority.SHEDDABLE),
        (True, b"critical-plus", Priority.CRITICAL_PLUS),
        (True, b"nonsense", Priority.CRITICAL),
    ],
)
def test_only_a_trusted_edge_raises_a_priority(backend, trusted, asked, granted):
    async def main():
        return await serve([(b"resilient-priority", asked)], trust_priority=trusted)

    assert virtual_time.run(main, backend=backend)[1] is granted


def test_a_request_that_comes_too_late_makes_no_calls(backend):
    async def main():
        with pytest.raises(DeadlineExceeded) as caught:
            await serve([(b"grpc-timeout", b"0m")])
        assert not caught.value.sent

    virtual_time.run(main, backend=backend)


def test_what_is_no_request_passes_untouched(backend):
    async def main():
        return await serve([(b"resilient-timeout-ms", b"1")], kind="websocket")

    assert virtual_time.run(main, backend=backend) == (1000.0, Priority.CRITICAL)


@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [
        (b"resilient-timeout-ms", b"250", 0.25),
        (b"x-envoy-expected-rq-timeout-ms", b"250", 0.25),
        (b"grpc-timeout", b"2H", 7200.0),
        (b"grpc-timeout", b"3M", 180.0),
        (b"grpc-timeout", b"4S", 4.0),
        (b"grpc-timeout", b"5m", 0.005),
        (b"grpc-timeout", b"6u", 6e-6),
        (b"grpc-timeout", b"7n", 7e-9),
        (b"grpc-timeout", b"123456789S", None),
        (b"grpc-timeout", b"-1S", None),
        (b"resilient-timeout-ms", b"soon", None),
        (b"resilient-timeout-ms", b"", None),
        (b"timeout", b"1", None),
    ],
)
def test_the_headers_of_others_are_understood(name, value, seconds):
    assert remaining_time([(name, value)]) == (None if seconds is None else pytest.approx(seconds))


def test_the_shortest_of_several_counts():
    assert remaining_time([(b"resilient-timeout-ms", b"900"), (b"grpc-timeout", b"1S")]) == 0.9


def test_a_limit_that_is_none_is_refused():
    with pytest.raises(ValueError, match="longest=0"):
        ServingMiddleware(anyio.sleep, longest=0)  # type: ignore[arg-type]  # it is never called
