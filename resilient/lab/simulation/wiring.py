"""What lies between a caller's policies and the servers: nothing, httpx with a wire in memory, or whatever comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias, final

from resilient.lab.simulation.caller import Caller, Calling, Send
from resilient.lab.simulation.http_caller import http_in_memory
from resilient.lab.stacks import Stack
from resilient.lab.world.network import Network
from resilient.lab.world.server import Server
from resilient.service import Service

__all__ = ["WIRINGS", "Mode", "Way", "Wiring"]

Mode: TypeAlias = Literal["functions", "http"]


class Way(NamedTuple):
    """How the attempts of a caller get to a tier."""

    note: Callable[[str], object]
    """Notes that an attempt was sent to the instance of this id."""
    send: Send
    """Does that, and sends it over the simulated network."""


class Wiring(Protocol):
    """How the callers of a world reach its servers."""

    def address(self, name: str) -> tuple[str, int]:
        """Return where the new instance of that name listens: host and port."""
        ...

    def attach(self, server: Server, tier: str, network: Network) -> None:
        """Let a new server of a tier be reached there; beyond its address lies the simulated network."""
        ...

    def caller(self, service: Service, tier: str, way: Way, stack: Stack) -> Calling:
        """Make a caller of a tier."""
        ...


class _InMemory:
    def address(self, name: str) -> tuple[str, int]:
        return name, 80

    def attach(self, server: Server, tier: str, network: Network) -> None:
        """It is reached through the network alone."""


@final
class _Functions(_InMemory):
    def caller(self, service: Service, tier: str, way: Way, stack: Stack) -> Calling:
        return Caller(service, way.send, reckless=stack.reckless, tells=stack.tells)


@final
class _Http(_InMemory):
    def caller(self, service: Service, tier: str, way: Way, stack: Stack) -> Calling:
        return http_in_memory(service, way.send, reckless=stack.reckless, tells=stack.tells)


WIRINGS: Final[Mapping[Mode, Wiring]] = {"functions": _Functions(), "http": _Http()}
"""In "functions" callers are decorated functions, in "http" they are real `httpx` clients on a network in memory."""
