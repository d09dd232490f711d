"""A stub resolver: asks name servers what the instances of a service are, and for how long that holds.

dnspython makes and reads the messages; the sockets are anyio's, so it runs on asyncio and trio alike.
"""

from __future__ import annotations

import ipaddress
import math
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar, cast, final

import anyio
import anyio.to_thread
from anyio.streams.buffered import BufferedByteReceiveStream

from resilient.errors import DiscoveryError

try:
    import dns.exception
    import dns.flags
    import dns.message
    import dns.name
    import dns.rcode
    import dns.rdatatype
    import dns.resolver
    import dns.rrset
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("DNS needs dnspython: pip install 'resilient-mesh[dns]'", name=error.name) from None

__all__ = ["Answer", "Exchange", "Kind", "Resolver", "Server", "Srv", "SrvAnswer", "check_name", "check_server", "talk"]

T = TypeVar("T")

Server: TypeAlias = tuple[str, int]
"""The IP address and the port of a name server."""
Kind: TypeAlias = Literal["A", "AAAA"]

_PORT = 53
_PAYLOAD = 1232  # what passes every network in one piece (DNS flag day 2020)
_LONGEST_CHAIN = 8
_UNTOLD = 5.0  # what has no SOA record is not to be cached (RFC 2308), nor asked for without a pause
_NAME = re.compile(r"[\w.-]+")
_LOOPBACK: Mapping[Kind, str] = {"A": "127.0.0.1", "AAAA": "::1"}


@final
@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What the name servers said; `records` is empty where they said that there are none."""

    records: tuple[T, ...]
    ttl: float
    """For how many seconds it holds: the shortest on the way to it, or, of an empty one, what its SOA record says."""
    exists: bool = True
    """False: the name does not exist (NXDOMAIN), so there are no records of any other type either."""


@final
@dataclass(frozen=True, slots=True)
class Srv:
    """A record of RFC 2782. Its target ends with a dot; a lone dot says that there is no service."""

    priority: int
    weight: int
    port: int
    target: str


@final
@dataclass(frozen=True, slots=True)
class SrvAnswer:
    """SRV records, and the addresses of targets that were sent along unasked."""

    records: tuple[Srv, ...]
    ttl: float
    addresses: Mapping[tuple[str, Kind], Answer[str]]


class Exchange(Protocol):
    """How a question gets to a name server and its answer back."""

    async def __call__(self, query: dns.message.Message, server: Server, *, tcp: bool) -> dns.message.Message:
        """Return the response to `query`, whole or marked as truncated; an `OSError` says that there is none."""
        ...


class _Useless(Exception):
    """A name server answered, and its answer says nothing about the name."""


@final
class Resolver:
    """Asks one question at a time, of one name server after another.

    `nameservers` are asked in this order, beginning with the one that answered last; none: those that the system is
    configured with, read anew for each question. Each has `timeout` seconds (2.0: a recursive server that has to ask
    others rarely needs more, and a second one still fits into the time in which a service opens) for UDP, and as long
    again for TCP, which is used when the answer was truncated. A server that refuses, fails, or refers to others is
    passed over; those that did not answer at all get a second chance, since a datagram may be lost.

    Names are absolute, with or without a dot at their end: there is no search list. `localhost` and what ends with it
    is this machine, and nobody is asked (RFC 6761).
    """

    def __init__(
        self, nameservers: Sequence[Server] = (), *, timeout: float = 2.0, exchange: Exchange | None = None
    ) -> None:
        self._nameservers = tuple(nameservers)
        self._timeout = timeout
        self._exchange = talk if exchange is None else exchange
        self._preferred: Server | None = None

    async def addresses(self, name: str, kind: Kind) -> Answer[str]:
        """Ask for the addresses of a host; raise `DiscoveryError` if nobody knows whether it has any."""
        if f".{name}".rstrip(".").lower().endswith(".localhost"):
            return Answer((_LOOPBACK[kind],), math.inf)
        found, ttl, response = await self._look_up(name, kind)
        return Answer(_addresses(found), ttl, response.rcode() != dns.rcode.NXDOMAIN)

    async def services(self, name: str) -> SrvAnswer:
        """Ask for SRV records; raise `DiscoveryError` if nobody knows whether there are any."""
        found, ttl, response = await self._look_up(name, "SRV")
        along: dict[tuple[str, Kind], Answer[str]] = {}
        for rrset in response.additional:
            kind = dns.rdatatype.to_text(rrset.rdtype)
            if kind in _LOOPBACK:
                key = (rrset.name.to_text().lower(), cast("Kind", kind))
                along[key] = Answer(_addresses(rrset), rrset.ttl)
        records = tuple(
            Srv(record.priority, record.weight, record.port, record.target.to_text().lower())
            for record in cast("Sequence[Any]", found or ())
        )
        return SrvAnswer(records, ttl, along)

    async def _look_up(self, text: str, kind: str) -> tuple[dns.rrset.RRset | None, float, dns.message.Message]:
        """Follow a chain of aliases to its end; None: there are no such records."""
        name = dns.name.from_text(text)
        ttl = math.inf
        for _ in range(_LONGEST_CHAIN):
            response = await self._ask(name, kind)
            try:
                chain = cast("dns.message.QueryMessage", response).resolve_chaining()
            except dns.exception.DNSException as error:
                raise DiscoveryError(f"{text} {kind}: {error}") from None
            if (
                chain.answer is None
                and response.rcode() == dns.rcode.NOERROR
                and chain.cnames
                and not _has_soa(response)
            ):
                # An alias out of the zone of an authoritative server, which leaves the rest to whoever asks.
                ttl = min(ttl, *(alias.ttl for alias in chain.cnames))
                name = chain.canonical_name
                continue
            untold = chain.answer is None and not _has_soa(response)
            return chain.answer, float(min(ttl, _UNTOLD if untold else chain.minimum_ttl)), response
        raise DiscoveryError(f"{text} {kind}: more than {_LONGEST_CHAIN} aliases, or aliases in a circle")

    async def _ask(self, name: dns.name.Name, kind: str) -> dns.message.Message:
        servers = self._nameservers or await _system()
        if self._preferred in servers:
            servers = (self._preferred, *(server for server in servers if server != self._preferred))
        troubles: dict[Server, str] = {}
        for candidates in (servers, _silent(servers, troubles)):
            for server in candidates:
                try:
                    response = await self._ask_one(server, name, kind)
                except _Useless as error:
                    troubles[server] = str(error)
                except TimeoutError:
                    troubles[server] = ""
                except OSError as error:
                    troubles[server] = error.strerror or str(error) or type(error).__name__
                except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.IncompleteRead):
                    troubles[server] = "the connection broke"
                else:
                    self._preferred = server
                    return response
        told = ", ".join(
            f"{host} port {port}: {trouble or f'no answer in {self._timeout:g} s'}"
            for (host, port), trouble in troubles.items()
        )
        raise DiscoveryError(f"{name} {kind}: {told}")

    async def _ask_one(self, server: Server, name: dns.name.Name, kind: str) -> dns.message.Message:
        response = await self._send(server, dns.message.make_query(name, kind, payload=_PAYLOAD, use_edns=0))
        if response.rcode() == dns.rcode.FORMERR:  # it is older than EDNS
            response = await self._send(server, dns.message.make_query(name, kind))
        if response.rcode() not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
            raise _Useless(dns.rcode.to_text(response.rcode()))
        if not response.answer:
            if not response.flags & (dns.flags.AA | dns.flags.RA):
                raise _Useless("lame: it neither knows the name nor asks others")
            if response.rcode() == dns.rcode.NOERROR and not _has_soa(response) and _refers(response):
                raise _Useless("lame: it refers to other servers")
        return response

    async def _send(self, server: Server, query: dns.message.Message) -> dns.message.Message:
        with anyio.fail_after(self._timeout):
            response = await self._exchange(query, server, tcp=False)
        if response.flags & dns.flags.TC:
            with anyio.fail_after(self._timeout):
                response = await self._exchange(query, server, tcp=True)
            if response.flags & dns.flags.TC:
                raise _Useless("it truncates over TCP")
        return response


async def talk(query: dns.message.Message, server: Server, *, tcp: bool) -> dns.message.Message:
    """Exchange messages over a socket of their own, from a port that nobody can foretell."""
    wire = query.to_wire()
    if not tcp:
        return await _datagram(query, wire, server)
    async with await anyio.connect_tcp(*server) as stream:
        await stream.send(len(wire).to_bytes(2, "big") + wire)
        incoming = BufferedByteReceiveStream(stream)
        length = int.from_bytes(await incoming.receive_exactly(2), "big")
        response = _parse(query, await incoming.receive_exactly(length))
    if response is None:
        raise _Useless("it answers another question")
    return response


async def _datagram(query: dns.message.Message, wire: bytes, server: Server) -> dns.message.Message:
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    # Connected, so that only this server is heard, and a closed port is an error instead of a silence.
    with socket.socket(family, socket.SOCK_DGRAM) as connection:
        connection.setblocking(False)
        connection.connect(server)
        connection.send(wire)
        while True:
            await anyio.wait_readable(connection)
            try:
                data = connection.recv(65535)
            except BlockingIOError:  # its checksum was wrong
                continue
            response = _parse(query, data)
            if response is not None:
                return response


def _parse(query: dns.message.Message, data: bytes) -> dns.message.Message | None:
    """The response in `data`, or None if it is not one to `query`: late, forged or garbage."""
    try:
        response = dns.message.from_wire(data, ignore_trailing=True, raise_on_truncation=True)
    except dns.message.Truncated as error:
        response = cast("Any", error).message()
    except dns.exception.DNSException:
        return None
    return response if query.is_response(response) else None


def check_name(name: str) -> None:
    """Raise `ValueError` for what is no host name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        raise ValueError(f"{name!r} is an address, and there is nothing to look up: static://host:port")
    try:
        if not _NAME.fullmatch(name) or dns.name.from_text(name) == dns.name.root:
            raise ValueError(f"{name!r} is no host name")
    except (dns.exception.DNSException, UnicodeError) as error:
        raise ValueError(f"{name!r} is no host name: {error}") from None


def check_server(host: str, port: int) -> None:
    """Raise `ValueError` for what is no address of a name server."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{host!r} is no IP address: a name server cannot be looked up") from None
    if not 0 < port < 65536:  # noqa: PLR2004 - ports
        raise ValueError(f"{port!r}: a port is a whole number between 1 and 65535")


def _addresses(records: dns.rrset.RRset | None) -> tuple[str, ...]:
    # Sorted: name servers rotate them.
    return tuple(sorted(cast("str", record.address) for record in cast("Sequence[Any]", records or ())))


def _has_soa(response: dns.message.Message) -> bool:
    return any(rrset.rdtype == dns.rdatatype.SOA for rrset in response.authority)


def _refers(response: dns.message.Message) -> bool:
    return any(rrset.rdtype == dns.rdatatype.NS for rrset in response.authority)


def _silent(servers: Sequence[Server], troubles: Mapping[Server, str]) -> Iterator[Server]:
    """Those that did not answer, once all were asked."""
    yield from (server for server in servers if not troubles[server])


async def _system() -> tuple[Server, ...]:
    """What the system is configured with: the file may be on a disk that hangs."""
    read = partial(dns.resolver.Resolver, configure=True)
    try:
        configured = await anyio.to_thread.run_sync(read, abandon_on_cancel=True)
    except dns.resolver.NoResolverConfiguration as error:
        raise DiscoveryError(f"no name server is configured on this machine: {error}") from None
    return tuple((server, _PORT) for server in configured.nameservers if isinstance(server, str))
