"""A name server that does what a test tells it to, over UDP and TCP on one port of this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

Reply = dns.message.Message | bytes
Script = Callable[[dns.message.Message, bool], Reply | list[Reply] | None]
"""Gets a query, and whether it came over TCP; returns what to send: messages, bytes as they are, or None: silence."""


def respond(
    query: dns.message.Message,
    *answer: str,
    authority: str = "",
    additional: tuple[str, ...] = (),
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
    flags: int = dns.flags.RA,
) -> dns.message.Message:
    """A response with records that are written `name ttl IN type data`."""
    response = dns.message.make_response(query)
    response.flags |= flags
    response.set_rcode(rcode)
    sections = ((response.answer, answer), (response.authority, (authority,)), (response.additional, additional))
    for section, lines in sections:
        for line in filter(None, lines):
            name, ttl, kind_class, kind, data = line.split(maxsplit=4)
            rrset = dns.rrset.from_text(name, int(ttl), kind_class, kind, data)
            for known in section:
                if known.match(rrset.name, rrset.rdclass, rrset.rdtype, rrset.covers):
                    known.update(rrset)
                    break
            else:
                section.append(rrset)
    return response


def asked(query: dns.message.Message) -> str:
    """The question as `name type`."""
    (question,) = query.question
    return f"{question.name} {question.rdtype.name}"


class ScriptedDns:
    """`with ScriptedDns(script) as server:`; it listens at `server.address`, and was asked `server.queries`."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.queries: list[tuple[str, bool]] = []
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        for _ in range(50):  # a port that is free for both
            self._udp.bind(("127.0.0.1", 0))
            try:
                self._tcp.bind(self._udp.getsockname())
                break
            except OSError:
                self._udp.close()
                self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._tcp.listen()
        self.address: tuple[str, int] = self._tcp.getsockname()
        self._threads = [threading.Thread(target=serve) for serve in (self._serve_udp, self._serve_tcp)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bell:
            bell.sendto(b"", self.address)
        with suppress(OSError):
            self._tcp.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._udp.close()
        self._tcp.close()

    def _answers(self, data: bytes, *, tcp: bool) -> list[bytes]:
        query = dns.message.from_wire(data)
        self.queries.append((asked(query), tcp))
        replies = self.script(query, tcp) or []
        if not isinstance(replies, list):
            replies = [replies]
        return [one if isinstance(one, bytes) else one.to_wire(max_size=65535) for one in replies]

    def _serve_udp(self) -> None:
        while True:
            data, client = self._udp.recvfrom(65535)
            if not data:
                return
            for answer in self._answers(data, tcp=False):
                self._udp.sendto(answer, client)

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream, suppress(OSError):
                connection.settimeout(5)
                length = int.from_bytes(stream.read(2), "big")
                for answer in self._answers(stream.read(length), tcp=True):
                    connection.sendall(len(answer).to_bytes(2, "big") + answer)
