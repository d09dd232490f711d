"""What a response says about when to come back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["retry_after"]

_USED_UP = re.compile(r";\s*r\s*=\s*0+\s*(?:;|$)")
_RESET = re.compile(r";\s*t\s*=\s*(\d{1,9})\s*(?:;|$)", re.ASCII)
_SECONDS = re.compile(r"\d{1,9}", re.ASCII)


def retry_after(headers: Mapping[str, str], wall: float) -> float | None:
    """Return the seconds that a response asks to wait, or None.

    `Retry-After` counts first, as seconds or as a date (RFC 9110, 10.2.3); then `RateLimit`, where a quota is
    used up (draft-ietf-httpapi-ratelimit-headers). What cannot be read is ignored. `wall` is the present second
    since the epoch.
    """
    asked = _until(headers.get("retry-after", ""), headers.get("date", ""), wall)
    return _reset(headers.get("ratelimit", "")) if asked is None else asked


def _until(value: str, date: str, wall: float) -> float | None:
    value = value.strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    until = _second(value)
    if until is None:
        return None
    sent = _second(date)  # the server's own clock is what it reckons with
    return max(0.0, until - (wall if sent is None else sent))


def _second(date: str) -> float | None:
    """The second since the epoch that an HTTP date stands for, or None if it is none."""
    try:
        moment = parsedate_to_datetime(date)
        # A zone of "-0000" leaves it naive, but means UTC all the same.
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):  # what the parser makes of junk is not documented
        return None


def _reset(limits: str) -> float | None:
    """The longest time until a quota that is used up is filled again."""
    resets = [
        float(reset[1])
        for quota in limits.split(",")
        if _USED_UP.search(quota) and (reset := _RESET.search(quota)) is not None
    ]
    return max(resets, default=None)
