"""Open-loop load: calls begin when they are due, however slow the answers are.

A loop that waits for an answer before it sends the next call stops asking just when the service is slow, and so
never sees how slow it is for everybody else ("coordinated omission"). Here the arrivals are fixed beforehand, and
latency counts from the instant at which a call was due.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextvars import ContextVar
from itertools import accumulate, count, islice, takewhile
from typing import NamedTuple, TypeVar, final

import anyio

from resilient.context import current_runtime

__all__ = ["DROPPED", "OK", "UNFINISHED", "Record", "Request", "constant", "current_request", "drive", "poisson"]

T = TypeVar("T")

OK = "ok"
DROPPED = "dropped"
UNFINISHED = "unfinished"


class Record(NamedTuple):
    """What became of one call. Instants are seconds since the load began."""

    intended: float
    """When it was due."""
    started: float
    """When it began: later than intended where the generator itself was behind."""
    finished: float
    ok: bool
    outcome: str
    """`ok`; why it failed: the name of the exception, or what `judge` said; `dropped` or `unfinished`."""
    attempts: int
    """How often it was tried, as counted in `Request.attempts`."""

    @property
    def latency(self) -> float:
        """Seconds from the intended beginning to the end."""
        return self.finished - self.intended


@final
class Request:
    """One call on its way."""

    __slots__ = ("attempts", "intended", "number")

    def __init__(self, number: int, intended: float) -> None:
        self.number = number
        """0, 1, ... in the order of arrival."""
        self.intended = intended
        """When it was due, in seconds since the load began."""
        self.attempts = 0
        """For the innermost step to count up; a call that ends with 0 is recorded as one attempt."""


_request: ContextVar[Request | None] = ContextVar("resilient.lab.request", default=None)


def current_request() -> Request | None:
    """Return the request that this code works for: where a transport or a stand-in counts its attempts."""
    return _request.get()


def constant(rate: float, *, duration: float = math.inf, start: float = 0.0) -> Iterator[float]:
    """Yield instants `1 / rate` seconds apart, from `start` on, for `duration` seconds."""
    _check(rate, duration)
    return takewhile(lambda instant: instant < start + duration, (start + number / rate for number in count()))


def poisson(
    rate: float, random: Callable[[], float], *, duration: float = math.inf, start: float = 0.0
) -> Iterator[float]:
    """Yield the instants of a Poisson process: `rate` a second on average, each independent of the others.

    It is what many callers who know nothing of each other add up to; queues and limits are there for its bursts.
    `random` gives floats in [0, 1), such as `random.Random(seed).random`.
    """
    _check(rate, duration)
    gaps = (-math.log(1.0 - random()) / rate for _ in count())
    instants = accumulate(gaps, initial=start)
    next(instants)  # the start itself is no arrival
    return takewhile(lambda instant: instant < start + duration, instants)


def _check(rate: float, duration: float) -> None:
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"rate={rate!r}: a rate is a finite number of calls a second, more than 0")
    if not duration >= 0:
        raise ValueError(f"duration={duration!r}: a duration is a number of seconds, at least 0")


def _always_ok(_result: object) -> str:
    return OK


async def drive(
    call: Callable[[Request], Awaitable[T]],
    arrivals: Iterable[float],
    *,
    judge: Callable[[T], str] = _always_ok,
    max_calls: int = 100_000,
    max_seconds: float = 3600.0,
    max_in_flight: int = 1000,
    drain: float = 60.0,
    on_record: Callable[[Record], object] | None = None,
) -> list[Record]:
    """Make each call when it is due, and return what became of all, in the order of arrival.

    `call`
        The async function under load. An exception is a failed call; it does not end the run.
    `arrivals`
        When the calls are due: rising seconds from now on. See `constant` and `poisson`; a change of load is
        `itertools.chain(constant(50, duration=10), constant(80, start=10, duration=5))`.
    `judge`
        Says of a result whether it is `OK` or else why the call failed, for example `"503"`.
    `max_calls`, `max_seconds`
        No call begins beyond these (100,000 calls, an hour), so that endless arrivals end too.
    `max_in_flight`
        A call that is due while so many run is not made, and is recorded as `dropped`: a failure like any other.
        To queue it here would be a queue that no real caller has. (1000: enough for 100 a second that hang for 10 s.)
    `drain`
        Seconds to wait after the last arrival; what still runs then is cancelled and recorded as `unfinished`.
    `on_record`
        Receives each record when its call ends, for a live display.

    Time is the ambient runtime's, so it also runs in virtual time.
    """
    runtime = current_runtime()
    began = runtime.now()
    records: list[Record] = []
    in_flight = 0

    def elapsed(at_least: float) -> float:
        return max(at_least, runtime.now() - began)  # a sleep may end one rounding error early

    def keep(request: Request, started: float, outcome: str, attempts: int) -> None:
        record = Record(request.intended, started, elapsed(started), outcome == OK, outcome, attempts)
        records.append(record)
        if on_record is not None:
            on_record(record)

    async def make(request: Request) -> None:
        nonlocal in_flight
        _request.set(request)
        started = elapsed(request.intended)
        outcome = UNFINISHED
        try:
            result = await call(request)
        except Exception as error:  # noqa: BLE001 - whatever the service raises is a failed call
            outcome = type(error).__name__
        else:
            outcome = judge(result)
        finally:
            in_flight -= 1
            keep(request, started, outcome, max(1, request.attempts))

    async with anyio.create_task_group() as tasks:
        for number, intended in enumerate(islice(arrivals, max_calls)):
            if intended > max_seconds:
                break
            await runtime.sleep(max(0.0, began + intended - runtime.now()))
            request = Request(number, intended)
            if in_flight < max_in_flight:
                in_flight += 1
                tasks.start_soon(make, request)
            else:
                keep(request, elapsed(intended), DROPPED, 0)
        tasks.cancel_scope.deadline = anyio.current_time() + drain
    return sorted(records)
