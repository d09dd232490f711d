"""The wiring of a world over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, final

import httpcore

from resilient.call import Call
from resilient.context import current_call
from resilient.http import Transport
from resilient.lab.calibration.listener import HOST, Listener, Port, Take
from resilient.lab.engine import Engine, Signal
from resilient.lab.simulation.caller import Calling
from resilient.lab.simulation.http_caller import Attached, HttpCaller
from resilient.lab.simulation.wiring import Way
from resilient.lab.stacks import Stack
from resilient.lab.world.job import Errand, Job
from resilient.lab.world.network import Network
from resilient.lab.world.server import Server
from resilient.service import Service

__all__ = ["ERRAND", "Sockets", "Tally"]

ERRAND = "Lab-Errand"
"""The header that carries the number of an errand."""

_CONNECTS, _CONNECTED, _NOT_CONNECTED = (f"connection.connect_tcp.{step}" for step in ("started", "complete", "failed"))
_TURNS = 5
"""Turns of its loop that asyncio needs to accept a connection that is half accepted, and to close it."""
_SENDS = "http11.send_request_headers.started"


@final
@dataclass(slots=True)
class Tally:
    """What became of the connections of one run."""

    opened: int = 0
    refused: int = 0
    unanswered: int = 0
    """Given up before anybody accepted or refused them."""


@final
class Sockets:
    """Callers are real `httpx` clients with `resilient.http.Transport`, and reach each server at a port of its own.

    Beyond the port lies the simulated network: what it delays, loses, repeats or changes is delayed, lost, repeated or
    changed between the socket and the server. `tells` is whether servers are told how long the caller waits.

    An asynchronous context manager: at the end of the block every port is closed, and every connection.
    """

    def __init__(self, engine: Engine, *, tells: bool) -> None:
        self.tally = Tally()
        self._engine = engine
        self._tells = tells
        self._ports: dict[str, Port] = {}
        self._listeners: list[Listener] = []
        self._servers: dict[str, Server] = {}
        # Kept to the end: what arrives after its caller has gone is worked on all the same.
        self._errands: dict[str, dict[int, Errand]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for listener in self._listeners:
            listener.close()
        for port in self._ports.values():
            port.close()
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    def address(self, name: str) -> tuple[str, int]:
        """Take a free port of the loopback interface for the instance of that name."""
        port = self._ports[name] = Port()
        return HOST, port.number

    def attach(self, server: Server, tier: str, network: Network) -> None:
        """Listen there while the server can be reached."""
        name = server.instance.id
        self._servers[name] = server
        listener = Listener(self._ports[name], server, self._engine, self._taker(server, tier, network))
        self._listeners.append(listener)
        listener.begin()

    def _taker(self, server: Server, tier: str, network: Network) -> Take:
        errands, now, tells = self._errands.setdefault(tier, {}), self._engine.now, self._tells

        def take(headers: Mapping[str, str], signal: Signal) -> Sequence[Job]:
            errand = errands[_number(headers[ERRAND.lower()])]
            left = headers.get("resilient-timeout-ms") if tells else None
            deadline = None if left is None else now() + int(left) / 1000
            return network.carry(errand, server, signal, deadline, headers.get("idempotency-key"))

        return take

    def caller(self, service: Service, tier: str, way: Way, stack: Stack) -> Calling:
        """Make an `httpx` client with ordinary connections."""
        errands = self._errands.setdefault(tier, {})

        def attach(errand: Errand) -> Attached:
            errands[errand.number] = errand
            follow = _Trace(errand, way.note, self._refused, self.tally)
            return Attached({ERRAND: str(errand.number)}, {"trace": follow})

        return HttpCaller(service, Transport(service), attach, reckless=stack.reckless)

    def _refused(self, instance: str) -> None:
        self._servers[instance].refused += 1


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise LookupError(f"{ERRAND}: {text}") from None


@final
class _Trace:
    """Counts the attempts of an errand where they are made: httpcore tells it what it does, step by step.

    The listeners could not count those that were refused.
    """

    def __init__(
        self, errand: Errand, note: Callable[[str], object], refused: Callable[[str], object], tally: Tally
    ) -> None:
        self._errand = errand
        self._note = note
        self._refused = refused
        self._tally = tally
        self._noted: list[Call] = []

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        """Take a step of httpcore's."""
        if event in {_CONNECTS, _SENDS}:
            call = current_call()
            assert call is not None
            if not any(call is one for one in self._noted):
                self._noted.append(call)
                self._note(_instance_of(call))
        elif event == _CONNECTED:
            self._tally.opened += 1
        elif event == _NOT_CONNECTED:
            self._errand.attempts += 1  # as those that arrive are counted at the other end
            if isinstance(info["exception"], httpcore.ConnectError):
                self._tally.refused += 1
                call = current_call()
                assert call is not None
                self._refused(_instance_of(call))
            else:
                self._tally.unanswered += 1


def _instance_of(call: Call) -> str:
    assert call.instance is not None
    return call.instance.id
