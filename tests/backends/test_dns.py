"""A stub resolver and name servers of every temper, over real sockets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any, TypeVar

import anyio
import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import pytest

from resilient.backends.dns import Answer, Resolver, Server, Srv, check_name
from resilient.errors import DiscoveryError
from tests.servers.dnsmasq import free_port
from tests.servers.scripted_dns import Script, ScriptedDns, asked, respond

T = TypeVar("T")

SOA = "test. 60 IN SOA ns.test. root.test. 1 2 3 4 7"


def resolve(backend: str, ask: Callable[[Resolver], Awaitable[T]], *scripts: Script, timeout: float = 5.0) -> T:
    """Ask a resolver whose name servers follow these scripts."""

    async def main(resolver: Resolver) -> T:
        with anyio.fail_after(30):
            return await ask(resolver)

    with ExitStack() as stack:
        servers = [stack.enter_context(ScriptedDns(script)) for script in scripts]
        return anyio.run(main, Resolver([server.address for server in servers], timeout=timeout), backend=backend)


def address(resolver: Resolver) -> Awaitable[Answer[str]]:
    return resolver.addresses("orders.test", "A")


def services(resolver: Resolver) -> Awaitable[Any]:
    return resolver.services("_http._tcp.orders.test")


def good(query: dns.message.Message, tcp: bool) -> dns.message.Message:
    return respond(query, "orders.test. 9 IN A 10.0.0.1", "orders.test. 9 IN A 10.0.0.2")


def silent(query: dns.message.Message, tcp: bool) -> None:
    return None


def failing(rcode: dns.rcode.Rcode) -> Script:
    return lambda query, tcp: respond(query, rcode=rcode)


def test_addresses_come_with_their_time_to_live(backend):
    assert resolve(backend, address, good) == Answer(("10.0.0.1", "10.0.0.2"), 9.0)


def test_a_truncated_answer_is_asked_for_again_over_tcp(backend):
    many = [f"orders.test. 5 IN A 10.0.{number // 250}.{number % 250}" for number in range(1000)]
    ways: list[bool] = []

    def script(query: dns.message.Message, tcp: bool) -> dns.message.Message:
        ways.append(tcp)
        return respond(query, *many) if tcp else respond(query, *many[:3], flags=dns.flags.RA | dns.flags.TC)

    assert len(resolve(backend, address, script).records) == 1000
    assert ways == [False, True]


def test_what_is_cut_off_in_the_middle_of_a_record_is_asked_for_over_tcp(backend):
    def script(query: dns.message.Message, tcp: bool) -> dns.message.Message | bytes:
        if tcp:
            return good(query, tcp)
        wire = bytearray(good(query, tcp).to_wire())
        wire[2] |= 0x02  # TC
        return bytes(wire[:-3])

    assert len(resolve(backend, address, script).records) == 2


def test_a_server_that_truncates_over_tcp_too_is_passed_over(backend):
    def script(query: dns.message.Message, tcp: bool) -> dns.message.Message:
        return respond(query, flags=dns.flags.RA | dns.flags.TC)

    assert len(resolve(backend, address, script, good).records) == 2
    with pytest.raises(DiscoveryError, match="it truncates over TCP"):
        resolve(backend, address, script)


def test_a_server_that_breaks_off_over_tcp_is_passed_over(backend):
    def script(query: dns.message.Message, tcp: bool) -> dns.message.Message | None:
        return None if tcp else respond(query, flags=dns.flags.RA | dns.flags.TC)

    with pytest.raises(DiscoveryError, match="the connection broke"):
        resolve(backend, address, script)


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP, dns.rcode.FORMERR])
def test_a_server_that_fails_or_refuses_is_passed_over(backend, rcode):
    assert len(resolve(backend, address, failing(rcode), good).records) == 2
    with pytest.raises(DiscoveryError, match=dns.rcode.to_text(rcode)):
        resolve(backend, address, failing(rcode), failing(rcode))


def test_a_silent_server_is_passed_over_after_its_time_and_last_from_then_on(backend):
    heard: list[str] = []

    def quiet(query: dns.message.Message, tcp: bool) -> None:
        heard.append("quiet")

    async def twice(resolver: Resolver) -> None:
        for _ in range(2):
            assert len((await address(resolver)).records) == 2

    resolve(backend, twice, quiet, good, timeout=0.5)
    assert heard == ["quiet"]


def test_a_lost_datagram_is_sent_again(backend):
    heard: list[dns.message.Message] = []

    def script(query: dns.message.Message, tcp: bool) -> dns.message.Message | None:
        heard.append(query)
        return good(query, tcp) if len(heard) > 1 else None

    assert len(resolve(backend, address, script, timeout=0.5).records) == 2


def test_when_nobody_answers_the_error_names_everybody(backend):
    with pytest.raises(DiscoveryError, match=r"orders\.test\. A: 127.*no answer in 0\.1 s, 127.*no answer in 0\.1 s"):
        resolve(backend, address, silent, silent, timeout=0.1)


def test_a_closed_port_is_no_silence(backend):
    async def main() -> None:
        with pytest.raises(DiscoveryError, match="refused"), anyio.fail_after(5):
            await Resolver([("127.0.0.1", free_port())], timeout=60.0).addresses("orders.test", "A")

    anyio.run(main, backend=backend)


def test_answers_to_other_questions_and_garbage_are_not_heard(backend):
    def script(query: dns.message.Message, tcp: bool) -> list[dns.message.Message | bytes]:
        late = respond(query, "orders.test. 9 IN A 10.6.6.6")
        late.id ^= 1
        other = dns.message.make_response(dns.message.make_query("other.test", "A"))
        other.id = query.id
        return [b"\0" * 5, query, late, other, good(query, tcp)]

    assert resolve(backend, address, script).records == ("10.0.0.1", "10.0.0.2")


def test_an_answer_to_another_question_over_tcp_is_useless(backend):
    def script(query: dns.message.Message, tcp: bool) -> dns.message.Message:
        response = respond(query, flags=dns.flags.RA | dns.flags.TC)
        response.id ^= tcp
        return response

    with pytest.raises(DiscoveryError, match="answers another question"):
        resolve(backend, address, script)


@pytest.mark.parametrize(
    ("flags", "authority"),
    [
        (dns.flags.RA, "test. 60 IN NS ns.test."),  # a referral
        (0, ""),  # it neither knows the name nor asks others
    ],
)
def test_a_lame_server_is_passed_over(backend, flags, authority):
    def lame(query: dns.message.Message, tcp: bool) -> dns.message.Message:
        return respond(query, authority=authority, flags=flags)

    assert len(resolve(backend, address, lame, good).records) == 2
    with pytest.raises(DiscoveryError, match="lame"):
        resolve(backend, address, lame)


def test_a_server_older_than_edns_is_asked_plainly(backend):
    def old(query: dns.message.Message, tcp: bool) -> dns.message.Message:
        return respond(query, rcode=dns.rcode.FORMERR) if query.edns >= 0 else good(query, tcp)

    assert len(resolve(backend, address, old).records) == 2


def test_that_there_are_none_holds_as_long_as_the_soa_says(backend):
    def none(rcode: dns.rcode.Rcode, authority: str) -> Script:
        return lambda query, tcp: respond(query, rcode=rcode, authority=authority)

    assert resolve(backend, address, none(dns.rcode.NXDOMAIN, SOA)) == Answer((), 7.0, exists=False)
    assert resolve(backend, address, none(dns.rcode.NOERROR, SOA)) == Answer((), 7.0)
    short = SOA.replace(" 60 ", " 3 ")
    assert resolve(backend, address, none(dns.rcode.NXDOMAIN, short)).ttl == 3.0
    assert resolve(backend, address, none(dns.rcode.NXDOMAIN, "")).ttl == 5.0  # nobody says


def test_aliases_are_followed_and_the_shortest_time_counts(backend):
    def script(query: dns.message.Message, tcp: bool) -> dns.message.Message:
        return respond(
            query,
            "orders.test. 50 IN CNAME blue.test.",
            "blue.test. 4 IN CNAME b1.test.",
            "b1.test. 20 IN A 10.0.0.9",
        )

    assert resolve(backend, address, script) == Answer(("10.0.0.9",), 4.0)


def test_an_alias_out_of_the_zone_is_asked_for(backend):
    def script(query: dns.message.Message, tcp: bool) -> dns.message.Message:
        if asked(query) == "orders.test. A":
            return respond(query, "orders.test. 6 IN CNAME orders.example.", flags=dns.flags.AA)
        return respond(query, "orders.example. 20 IN A 10.0.0.9", flags=dns.flags.AA)

    assert resolve(backend, address, script) == Answer(("10.0.0.9",), 6.0)


def test_an_alias_to_nothing_is_an_authoritative_none(backend):
    def script(query: dns.message.Message, tcp: bool) -> dns.message.Message:
        return respond(query, "orders.test. 50 IN CNAME gone.test.", rcode=dns.rcode.NXDOMAIN, authority=SOA)

    assert resolve(backend, address, script) == Answer((), 7.0, exists=False)


def test_aliases_in_a_circle_are_an_error(backend):
    def at_once(query: dns.message.Message, tcp: bool) -> dns.message.Message:
        return respond(query, "orders.test. 5 IN CNAME b.test.", "b.test. 5 IN CNAME orders.test.")

    def one_by_one(query: dns.message.Message, tcp: bool) -> dns.message.Message:
        name, other = ("orders.test.", "b.test.") if asked(query).startswith("orders") else ("b.test.", "orders.test.")
        return respond(query, f"{name} 5 IN CNAME {other}")

    with pytest.raises(DiscoveryError, match="chain is too long"):
        resolve(backend, address, at_once)
    with pytest.raises(DiscoveryError, match="aliases in a circle"):
        resolve(backend, address, one_by_one)


def test_services_come_with_the_addresses_that_are_sent_along(backend):
    def script(query: dns.message.Message, tcp: bool) -> dns.message.Message:
        return respond(
            query,
            "_http._tcp.orders.test. 8 IN SRV 10 60 8001 A.test.",
            "_http._tcp.orders.test. 8 IN SRV 20 0 8002 b.test.",
            additional=("a.test. 3 IN A 10.0.0.1", "a.test. 3 IN AAAA fd00::1"),
        )

    found = resolve(backend, services, script)
    assert set(found.records) == {Srv(10, 60, 8001, "a.test."), Srv(20, 0, 8002, "b.test.")}
    assert found.ttl == 8.0
    assert found.addresses == {
        ("a.test.", "A"): Answer(("10.0.0.1",), 3.0),
        ("a.test.", "AAAA"): Answer(("fd00::1",), 3.0),
    }


def test_this_machine_is_known_without_a_question(backend):
    async def ask(resolver: Resolver) -> list[str]:
        found = [await resolver.addresses(name, "A") for name in ("localhost", "a.LOCALHOST.")]
        return [*found[0].records, *found[1].records, *(await resolver.addresses("localhost", "AAAA")).records]

    assert resolve(backend, ask, silent) == ["127.0.0.1", "127.0.0.1", "::1"]


@pytest.fixture
def resolv_conf(tmp_path, monkeypatch):
    """What stands for /etc/resolv.conf, whose name servers are not the tests' business."""
    read = dns.resolver.Resolver.read_resolv_conf
    file = tmp_path / "resolv.conf"
    monkeypatch.setattr(dns.resolver.Resolver, "read_resolv_conf", lambda self, _file: read(self, str(file)))
    return file


def test_the_name_servers_of_the_system_are_used_where_none_are_given(backend, resolv_conf):
    heard: list[Server] = []

    async def exchange(query: dns.message.Message, server: Server, *, tcp: bool) -> dns.message.Message:
        heard.append(server)
        raise ConnectionRefusedError

    async def main() -> None:
        resolver = Resolver(exchange=exchange)
        for servers in (["192.0.2.1", "2001:db8::1"], ["192.0.2.2"]):  # which may change meanwhile
            resolv_conf.write_text("search test\n" + "".join(f"nameserver {server}\n" for server in servers))
            with pytest.raises(DiscoveryError):
                await resolver.addresses("orders.test", "A")
            assert heard == [(server, 53) for server in servers]
            heard.clear()

    anyio.run(main, backend=backend)


def test_a_system_without_name_servers_is_trouble(backend, resolv_conf):
    async def main() -> None:
        with pytest.raises(DiscoveryError, match="no name server is configured on this machine"):
            await Resolver().addresses("orders.test", "A")

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("name", ["", ".", "a..b", "a b", "x" * 64 + ".test", "10.0.0.1", "::1", "a/b"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match=r"is no host name|is an address"):
        check_name(name)


@pytest.mark.parametrize("name", ["orders", "orders.test", "orders.test.", "_http._tcp.orders.test", "bücher.test"])
def test_names_are_accepted(name):
    check_name(name)


def test_without_its_package_the_extra_is_named():
    code = (
        "import sys; sys.modules['dns'] = None\n"
        "from resilient.discovery import connect\n"
        "try: connect('dns://orders:80')\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'resilient-mesh[dns]'" in told
