"""Open-loop load: calls begin when they are due, however slow the answers are.

A loop that waits for an answer before it sends the next call stops asking just when the service is slow, and so
never sees how slow it is for everybody else ("coordinated omission"). Here the arrivals are fixed beforehand, and
latency counts from the instant at which a call was due.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextvars import ContextVar
from itertools import islice, takewhile
from typing import Any, NamedTuple, TypeVar, final

from resilient.lab.engine import Engine, Signal, open_engine

__all__ = ["DROPPED", "OK", "UNFINISHED", "Record", "Request", "current_request", "drive"]

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
    number: int = 0
    """Of the call, in the order of arrival."""

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
    keep: bool = True,
    engine: Engine | None = None,
) -> list[Record]:
    """Make each call when it is due, and return what became of all, in the order of arrival.

    `call`
        The async function under load. An exception is a failed call; it does not end the run.
    `arrivals`
        When the calls are due: rising seconds from now on. See `resilient.lab.arrivals`; a change of load is
        `itertools.chain(constant(50, duration=10), constant(80, start=10, duration=5))`.
    `judge`
        Says of a result whether it is `OK` or else why the call failed, for example `"503"`. What it raises ends the
        run.
    `max_calls`, `max_seconds`
        No call begins beyond these (100,000 calls, an hour), so that endless arrivals end too.
    `max_in_flight`
        A call that is due while so many run is not made, and is recorded as `dropped`: a failure like any other.
        To queue it here would be a queue that no real caller has. (1000: enough for 100 a second that hang for 10 s.)
    `drain`
        Seconds to wait after the last arrival; what still runs then is cancelled and recorded as `unfinished`.
    `on_record`
        Receives each record when its call ends, for a live display or to sum up at once.
    `keep`
        Whether to gather the records. Where not, memory is bounded by the calls in flight, and nothing is returned.
    `engine`
        What runs the calls; left out: one of its own.

    Time is the event loop's, so it also runs in virtual time.
    """
    if engine is None:
        async with open_engine() as own:
            return await drive(
                call,
                arrivals,
                judge=judge,
                max_calls=max_calls,
                max_seconds=max_seconds,
                max_in_flight=max_in_flight,
                drain=drain,
                on_record=on_record,
                keep=keep,
                engine=own,
            )
    load = _Load(engine, call, judge, on_record, [] if keep else None)
    load.begin(takewhile(lambda due: due <= max_seconds, islice(arrivals, max_calls)), max_in_flight)
    await load.arrived
    if load.in_flight:
        engine.at(engine.now() + drain, load.give_up)
        await load.over
    return sorted(load.records or ())


@final
class _Load:
    """A load on its way. All seconds are on the engine's clock, whose timers make the calls."""

    def __init__(
        self,
        engine: Engine,
        call: Callable[[Request], Awaitable[Any]],
        judge: Callable[[Any], str],
        on_record: Callable[[Record], object] | None,
        records: list[Record] | None,
    ) -> None:
        self.records = records
        self.arrived = engine.signal()
        """Told when the last call was due."""
        self.over = engine.signal()
        """Told when no call runs any more, or too long."""
        self._engine = engine
        self._began = engine.now()
        self._call = call
        self._judge = judge
        self._on_record = on_record
        self._running: dict[Request, float] = {}

    def begin(self, arrivals: Iterator[float], max_in_flight: int) -> None:
        engine, began = self._engine, self._began
        numbered = enumerate(arrivals)

        def arrange_next() -> None:
            arrival = next(numbered, None)
            if arrival is None:
                _tell(self.arrived)
            else:
                engine.at(began + arrival[1], arrive, *arrival)

        def arrive(number: int, intended: float) -> None:
            request = Request(number, intended)
            if len(self._running) < max_in_flight:
                self._running[request] = self._elapsed(intended)
                engine.spawn(self._make, request)
            else:
                self._keep(request, self._elapsed(intended), DROPPED, 0)
            arrange_next()

        arrange_next()

    async def _make(self, request: Request) -> None:
        _request.set(request)
        self._running[request] = self._elapsed(request.intended)
        outcome = UNFINISHED
        try:
            result = await self._call(request)
        except Exception as error:  # noqa: BLE001 - whatever the service raises is a failed call
            outcome = type(error).__name__
        else:
            outcome = self._judge(result)
        finally:
            self._end(request, outcome)

    def _end(self, request: Request, outcome: str) -> None:
        started = self._running.pop(request, None)
        if started is None:
            return  # it was given up
        self._keep(request, started, outcome, max(1, request.attempts))
        if not self._running and self.arrived.done():
            _tell(self.over)

    def give_up(self) -> None:
        """Record what still runs as unfinished; its tasks end with the engine."""
        for request in [*self._running]:
            self._end(request, UNFINISHED)

    @property
    def in_flight(self) -> int:
        """How many calls run."""
        return len(self._running)

    def _elapsed(self, at_least: float) -> float:
        return max(at_least, self._engine.now() - self._began)  # a timer may fire one rounding error early

    def _keep(self, request: Request, started: float, outcome: str, attempts: int) -> None:
        finished = self._elapsed(started)
        record = Record(request.intended, started, finished, outcome == OK, outcome, attempts, request.number)
        if self.records is not None:
            self.records.append(record)
        if self._on_record is not None:
            self._on_record(record)


def _tell(signal: Signal) -> None:
    if not signal.done():
        signal.set_result(None)
