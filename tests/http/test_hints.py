"""What a response says about when to come back."""

from __future__ import annotations

import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.http.hints import retry_after

NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT


def hint(**headers: str) -> float | None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return retry_after(httpx.Headers(named, encoding="utf-8"), NOW)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
        ("Sunday, 06-Nov-94 08:49:47 GMT", 10.0),
        ("Sun Nov  6 08:49:47 1994", 10.0),
        ("Sun, 06 Nov 1994 08:49:47 -0000", 10.0),
        ("Sun, 06 Nov 1994 09:49:47 +0100", 10.0),
        ("Sun, 06 Nov 1994 08:49:27 GMT", 0.0),
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ("١٢", None),
        ("9999999999", None),
        ("soon", None),
        ("", None),
        ("Sun, 99 Nov 1994 08:49:47 GMT", None),
        ("Sun, 06 Nov 99999 08:49:47 GMT", None),
        ("Sun, 06 Nov 1994 08:49:47 +9999", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert hint(retry_after=value) == seconds


@pytest.fixture
def far_from_greenwich(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_from_greenwich")
@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0000"])
def test_a_date_is_on_the_servers_own_clock(zone):
    date = f"Sun, 06 Nov 1994 10:00:00 {zone}"
    assert hint(retry_after="Sun, 06 Nov 1994 10:00:30 GMT", date=date) == 30.0
    assert hint(retry_after="Sun, 06 Nov 1994 08:49:47 GMT", date="broken") == 10.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ('"default";r=0;t=30', 30.0),
        ('"a";r=5;t=9, "b";r=0;t=30, "c" ; r=0 ; t=7', 30.0),
        ('"a,b";r=0;t=5', 5.0),
        ('"default";r=50;t=30', None),
        ('"default";r=0', None),
        ('"default";t=30', None),
        ("r=0", None),
        (";;;,,,", None),
    ],
)
def test_a_quota_that_is_used_up_says_when_it_is_filled_again(value, seconds):
    assert hint(ratelimit=value) == seconds


def test_retry_after_counts_first_if_it_can_be_read():
    assert hint(retry_after="3", ratelimit='"a";r=0;t=30') == 3.0
    assert hint(retry_after="soon", ratelimit='"a";r=0;t=30') == 30.0


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_no_junk_raises(value, date, limit):
    found = retry_after({"retry-after": value, "date": date, "ratelimit": limit}, NOW)
    assert found is None or found >= 0


@given(
    st.from_regex(
        r"(\w{3,9}, )?\d{1,5}[ -](Nov|Feb|x)[ -]\d{1,6} \d{1,3}:\d{1,3}(:\d{1,3})? ?(GMT|[+-]\d{1,9}|\w{1,5})?",
        fullmatch=True,
    )
)
def test_no_date_raises(value):
    found = retry_after({"retry-after": value}, NOW)
    assert found is None or found >= 0
