"""How HTTP is judged."""

from __future__ import annotations

from typing import Any

from resilient.context import current_runtime
from resilient.errors import DeadlineExceeded, Rejected
from resilient.http.body import Body, verdict_on_the_caller
from resilient.http.hints import retry_after
from resilient.http.package import package_of
from resilient.verdict import Classifier, Verdict, verdict_of_timeout

__all__ = ["classify_http", "verdict_of_status"]

_REFUSED_STREAM = 7
_STATUS = {
    408: Verdict.FAILED,
    409: Verdict.ANSWERED,
    425: Verdict.FAILED,
    429: Verdict.REFUSED,
    503: Verdict.OVERLOADED,
}


def verdict_of_status(status: int) -> Verdict:
    """The verdict on a status code alone, for whatever speaks HTTP's language; see `classify_http`."""
    if status < 400:  # noqa: PLR2004 - the classes of RFC 9110, 15
        return Verdict.OK
    return _STATUS.get(status, Verdict.FAILED if status >= 500 else Verdict.ANSWERED)  # noqa: PLR2004 - likewise


def _result(response: Any) -> Verdict:
    status: int = response.status_code
    if status == 409 and "retry-after" in response.headers:  # noqa: PLR2004 - likewise
        body = response.stream
        if isinstance(body, Body) and body.call.repeatable and body.call.idempotency_key is not None:
            return Verdict.PENDING
    return verdict_of_status(status)


def _error(error: BaseException) -> Verdict:
    if not isinstance(error, Exception):
        return Verdict.CANCELLED
    if isinstance(error, Rejected):
        return Verdict.LOCAL
    if (callers := verdict_on_the_caller(error)) is not None:
        return callers
    return verdict_of_timeout(error) if isinstance(error, DeadlineExceeded) else _transport_error(error)


def _transport_error(error: Exception) -> Verdict:
    try:
        package = package_of(error)
    except TypeError:
        return Verdict.UNREACHABLE if isinstance(error, ConnectionRefusedError) else Verdict.FAILED
    if isinstance(error, package.unreachable):
        return Verdict.UNREACHABLE
    if isinstance(error, package.refused):
        return Verdict.LOCAL
    return Verdict.REFUSED if _refused_stream(error) else Verdict.FAILED


def _refused_stream(error: Exception) -> bool:
    """Whether an HTTP/2 server refused the stream, by which it says that it did nothing (RFC 9113, 8.7).

    httpcore's exception has the event, and httpx's has that one as its cause. What else was being handled at that
    moment (its context) may be the refusal of another call.
    """
    events = [*error.args, *(error.__cause__.args if error.__cause__ is not None else ())]
    return any(getattr(event, "error_code", None) == _REFUSED_STREAM for event in events)


def _hint(ended: Any) -> float | None:
    """What a response asks to wait; of the exceptions, only our own can know."""
    if isinstance(ended, BaseException):
        hint = getattr(ended, "retry_after", None)
        return hint if isinstance(hint, int | float) else None
    if ended.status_code < 400:  # noqa: PLR2004 - likewise
        return None
    body = ended.stream
    runtime = body.call.runtime if isinstance(body, Body) else current_runtime()
    return retry_after(ended.headers, runtime.wall())


async def _discard(response: Any) -> bool:
    """Read what is small, so that the connection can be used again and the response can still be returned."""
    body = response.stream
    return isinstance(body, Body) and await body.set_aside()


def _spent(request: Any) -> str | None:
    """Why this request cannot be sent again, if it cannot."""
    body = request.stream
    return f"its body, {body.what}, was read and cannot be read again" if getattr(body, "begun", False) else None


classify_http = Classifier(error=_error, result=_result, hint=_hint, on_declares=False, discard=_discard, spent=_spent)
"""How HTTP is judged.

408, 425 and 5xx are `FAILED`, but 503 `OVERLOADED`; 429 is `REFUSED`; 409 with Retry-After under an honoured key
`PENDING`; any other 4xx `ANSWERED`. A failed connection is `UNREACHABLE`, a full pool `LOCAL`, an HTTP/2 stream that
the server refused `REFUSED`, every other transport error `FAILED`, a timeout too, unless the caller slept through it:
`PENDING`. Where the request's own body fails, nobody but the caller is to blame: `CANCELLED`.
"""
