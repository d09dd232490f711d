"""How HTTP is judged."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import httpx2
import pytest

from resilient.errors import CircuitOpen, DeadlineExceeded
from resilient.http import classify_http
from resilient.verdict import Verdict


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.OK),
        (204, Verdict.OK),
        (304, Verdict.OK),
        (400, Verdict.ANSWERED),
        (404, Verdict.ANSWERED),
        (408, Verdict.FAILED),
        (409, Verdict.ANSWERED),
        (425, Verdict.FAILED),
        (429, Verdict.REFUSED),
        (500, Verdict.FAILED),
        (501, Verdict.FAILED),
        (503, Verdict.OVERLOADED),
        (599, Verdict.FAILED),
    ],
)
def test_a_response_is_judged_by_its_status(status, verdict):
    assert classify_http.judge_result(httpx.Response(status)).verdict is verdict


@pytest.mark.parametrize("package", [httpx, httpx2])
def test_an_exception_is_judged_by_what_was_sent(package: Any):
    for verdict, kinds in {
        Verdict.UNREACHABLE: ("ConnectError", "ConnectTimeout"),
        Verdict.LOCAL: ("PoolTimeout", "UnsupportedProtocol", "LocalProtocolError"),
        Verdict.FAILED: ("ReadError", "WriteError", "ReadTimeout", "WriteTimeout", "RemoteProtocolError", "CloseError"),
    }.items():
        for kind in kinds:
            assert classify_http.error(getattr(package, kind)("it")) is verdict, kind


def test_other_exceptions():
    assert classify_http.error(ConnectionRefusedError()) is Verdict.UNREACHABLE
    assert classify_http.error(RuntimeError()) is Verdict.FAILED
    assert classify_http.error(CircuitOpen("it")) is Verdict.LOCAL
    assert classify_http.error(DeadlineExceeded("it", sent=False)) is Verdict.LOCAL
    assert classify_http.error(DeadlineExceeded("it")) is Verdict.FAILED
    assert classify_http.error(DeadlineExceeded("it", overslept=True)) is Verdict.PENDING
    assert classify_http.error(KeyboardInterrupt()) is Verdict.CANCELLED


class Event:
    """As h2's `StreamReset`."""

    def __init__(self, error_code: int) -> None:
        self.error_code = error_code


def refused(error_code: int) -> httpx.RemoteProtocolError:
    try:
        try:
            raise ValueError(Event(error_code))  # as httpcore's, which carries the event
        except ValueError as cause:
            raise httpx.RemoteProtocolError("reset") from cause
    except httpx.RemoteProtocolError as error:
        return error


def test_a_stream_that_the_server_refused_had_no_effect():
    assert classify_http.error(refused(7)) is Verdict.REFUSED
    assert classify_http.error(refused(8)) is Verdict.FAILED


def test_a_refusal_that_is_being_handled_says_nothing_of_the_call_made_meanwhile():
    try:
        raise refused(7)
    except httpx.RemoteProtocolError:
        try:
            raise httpx.ReadError("lost")
        except httpx.ReadError as error:
            second = error
    assert second.__context__ is not None
    assert classify_http.error(second) is Verdict.FAILED


def test_what_others_call_retry_after_is_no_hint():
    error = RuntimeError()
    error.retry_after = timedelta(seconds=3)  # type: ignore[attr-defined]  # as other libraries do
    assert classify_http.judge_error(error).retry_after is None
    assert classify_http.judge_error(CircuitOpen("it", retry_after=3.0)).retry_after == 3.0


def test_only_what_fails_asks_to_wait():
    headers = {"retry-after": "3"}
    assert classify_http.judge_result(httpx.Response(429, headers=headers)).retry_after == 3.0
    assert classify_http.judge_result(httpx.Response(301, headers=headers)).retry_after is None
