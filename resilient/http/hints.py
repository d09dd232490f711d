"""What a response says about when to come back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["retry_after"]

_LEAST_REMAINING = re.compile(r";\s*r\s*=\s*0+\s*(?:;|$)")
_RESET = re.compile(r";\s*t\s*=\s*(\d{1,9})\s*(?:;|$)")
_SECONDS = re.compile(r"\d{1,9}")


def retry_after(headers: Mapping[str, str], wall: float) -> float | None:
    """Return the seconds that a response asks to wait, or None.

    `Retry-After` counts first, as seconds or as a date (RFC 9110, 10.2.3); then `RateLimit`, where a quota is
    used up (draft-ietf-httpapi-ratelimit-headers). What cannot be read is ignored. `wall` is the present second
    since the epoch.
    """
    value = headers.get("retry-after")
    if value is not None:
        value = value.strip()
        if _SECONDS.fullmatch(value):
            return float(value)
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        if date.tzinfo is None:  # "-0000" says that it is UTC all the same
            date = date.replace(tzinfo=UTC)
        # The server's own clock is what its date is on.
        sent = headers.get("date")
        try:
            now = wall if sent is None else parsedate_to_datetime(sent).timestamp()
        except ValueError:
            now = wall
        return max(0.0, date.timestamp() - now)
    limits = headers.get("ratelimit")
    if limits is None:
        return None
    resets = [
        float(reset[1])
        for item in limits.split(",")
        if _LEAST_REMAINING.search(item) and (reset := _RESET.search(item)) is not None
    ]
    return max(resets, default=None)
