"""The timeouts of blocking steps are what is left of the call."""

from __future__ import annotations

from typing import Any

import pytest

from resilient.call import Call, new_call
from resilient.context import current_runtime, surroundings, use_runtime
from resilient.errors import DeadlineExceeded
from resilient.http.punctual import TimeLeft, make_punctual
from resilient.testing import virtual_time
from resilient.verdict import classify_function


async def nothing(call: Call) -> None:
    pass


def call(seconds: float) -> Call:
    here = surroundings()
    made = new_call("GET orders", nothing, None, here.runtime, classify_function, here)
    made.deadline = here.runtime.now() + seconds
    return made


class Inner:
    """A connection, and what opens it: remembers the timeouts that it is given."""

    def __init__(self) -> None:
        self.timeouts: list[float | None] = []
        self.written = b""

    def connect_tcp(self, *, timeout: float | None) -> Inner:
        self.timeouts.append(timeout)
        return self

    connect_unix_socket = connect_tcp

    def start_tls(self, context: Any, server_hostname: str | None, timeout: float | None) -> Inner:
        self.timeouts.append(timeout)
        return self

    def read(self, max_bytes: int, timeout: float | None) -> bytes:
        self.timeouts.append(timeout)
        return b"x"

    def write(self, buffer: bytes, timeout: float | None) -> None:
        self.timeouts.append(timeout)
        self.written += buffer
        current_runtime().pause(0.25)

    def get_extra_info(self, info: str) -> str:
        return info


class Transport:
    """As `httpx.HTTPTransport` is made."""

    def __init__(self, backend: Any) -> None:
        self._pool = self
        self._network_backend = backend

    def handle_request(self, request: Any) -> None:
        """It is synchronous."""


@pytest.fixture(autouse=True)
def virtual():
    with use_runtime(virtual_time.runtime()):
        yield


def test_a_timeout_is_what_was_left_as_a_number_and_what_is_left_when_asked():
    left = TimeLeft(call(2.0), None)
    half = TimeLeft(call(2.0), None, 0.5)
    usual = TimeLeft(call(2.0), 0.75)
    assert (left, half, usual) == (2.0, 1.0, 0.75)
    current_runtime().pause(1.5)
    assert (left, half, usual) == (2.0, 1.0, 0.75)
    assert (left.now(), half.now(), usual.now()) == (0.5, 0.25, 0.5)
    current_runtime().pause(0.5)
    for one in (left, half, usual):
        with pytest.raises(DeadlineExceeded, match="GET orders"):
            one.now()


def test_every_step_of_a_connection_gets_what_is_left():
    inner = Inner()
    transport = Transport(inner)
    make_punctual(transport)
    make_punctual(transport)  # once is enough
    left = TimeLeft(call(2.0), None)
    stream = transport._network_backend.connect_tcp(timeout=left)
    current_runtime().pause(0.5)
    stream = stream.start_tls(None, None, left)
    current_runtime().pause(0.5)
    assert stream.read(1, timeout=left) == b"x"
    stream.write(b"." * 150_000, timeout=left)
    assert stream.read(1, timeout=3.0) == b"x"
    assert stream.read(1, timeout=None) == b"x"
    assert inner.timeouts == [2.0, 1.5, 1.0, 1.0, 0.75, 0.5, 3.0, None]
    assert inner.written == b"." * 150_000
    assert stream.get_extra_info("socket") == "socket"
    assert transport._network_backend.connect_unix_socket(timeout=left).read(1, timeout=1.0) == b"x"
    current_runtime().pause(1.0)
    with pytest.raises(DeadlineExceeded):
        stream.read(1, timeout=left)


def test_any_other_transport_stays_as_it_is():
    class Asynchronous:
        def __init__(self) -> None:
            self._pool = self
            self._network_backend = self

    other = Asynchronous()
    make_punctual(other)
    make_punctual(object())
    assert other._network_backend is other
