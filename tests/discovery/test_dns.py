"""DNS as a source of instances, in virtual time: what a name server says is a script, and no socket is opened."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel
import dns.flags
import dns.message
import dns.rcode
import pytest

from resilient.discovery import Dns, DnsSrv, connect
from resilient.events import Event, SnapshotStale
from resilient.snapshot import Snapshot
from resilient.testing import virtual_time
from resilient.testing.cancellation import for_each_cancellation
from tests.servers.scripted_dns import asked, respond

SERVER = ("192.0.2.53", 53)
SRV = "_http._tcp.orders.test"


class Zone:
    """Records by question, such as `orders.test. A`: lists of records, an rcode, or an error to raise."""

    def __init__(self, records: dict[str, list[str] | dns.rcode.Rcode | OSError], *, soa: int = 7) -> None:
        self.records = records
        self.soa = f"test. {soa} IN SOA ns.test. root.test. 1 2 3 4 {soa}"
        self.additional: tuple[str, ...] = ()
        self.asked: list[tuple[float, str]] = []
        self.broken: OSError | None = None

    async def __call__(self, query: dns.message.Message, server: Any, *, tcp: bool) -> dns.message.Message:
        await anyio.lowlevel.checkpoint()
        self.asked.append((anyio.current_time(), asked(query)))
        found = self.broken or self.records.get(asked(query), dns.rcode.NXDOMAIN)
        if isinstance(found, OSError):
            raise found
        if isinstance(found, list):
            response = respond(query, *found, authority="" if found else self.soa, additional=self.additional)
        else:
            response = respond(query, rcode=found, authority=self.soa)
        return dns.message.from_wire(response.to_wire(max_size=65535))

    def times(self, question: str) -> list[float]:
        return [at for at, what in self.asked if what == question]


def a(*hosts: str, ttl: int = 10, name: str = "orders.test.") -> list[str]:
    return [f"{name} {ttl} IN {'AAAA' if ':' in host else 'A'} {host}" for host in hosts]


def ids(snapshot: Snapshot) -> list[str]:
    return [instance.id for instance in snapshot.instances]


def shares(snapshot: Snapshot) -> dict[str, float]:
    return {instance.id: instance.weight for instance in snapshot.instances}


async def nothing(watch: AsyncIterator[Snapshot], seconds: float = 60.0) -> None:
    with anyio.move_on_after(seconds):
        snapshot = await anext(watch)
        raise AssertionError(snapshot)


def orders(zone: Zone, **options: Any) -> Any:
    return Dns("orders.test", port=80, nameservers=[SERVER], exchange=zone, **options).watch()


def services(zone: Zone, **options: Any) -> AsyncIterator[Snapshot]:
    return DnsSrv(SRV, nameservers=[SERVER], exchange=zone, **options).watch()


def play(main: Callable[[], Any], backend: str, **options: Any) -> Any:
    return virtual_time.run(main, backend=backend, **options)


def test_each_address_is_an_instance(backend):
    async def main() -> None:
        first = await anext(orders(Zone({"orders.test. A": a("10.0.0.2", "10.0.0.1", "10.0.0.2")})))
        assert ids(first) == ["10.0.0.1:80", "10.0.0.2:80"]
        assert first.stale_since is None

    play(main, backend)


def test_it_is_asked_again_when_its_time_is_over_and_a_little_late(backend):
    async def main() -> None:
        zone = Zone({"orders.test. A": a("10.0.0.1", ttl=10)})
        watch = orders(zone)
        await anext(watch)
        await nothing(watch, 100.0)
        gaps = [
            after - before
            for before, after in zip(zone.times("orders.test. A"), zone.times("orders.test. A")[1:], strict=False)
        ]
        assert len(gaps) >= 9
        assert all(10.0 <= gap <= 11.0 for gap in gaps)
        assert len(set(gaps)) > 1
        zone.records["orders.test. A"] = a("10.0.0.2")
        assert ids(await anext(watch)) == ["10.0.0.2:80"]

    play(main, backend)


@pytest.mark.parametrize(("ttl", "least"), [(0, 2.0), (1, 2.0), (3, 3.0), (86_400, 20.0), (2**31 - 1, 20.0)])
def test_a_time_to_live_has_bounds(backend, ttl, least):
    async def main() -> None:
        zone = Zone({"orders.test. A": a("10.0.0.1", ttl=ttl)})
        watch = orders(zone, min_ttl=2.0, max_ttl=20.0)
        await anext(watch)
        await nothing(watch, 30.0)
        first, second, *_ = zone.times("orders.test. A")
        assert least <= second - first <= least * 1.1

    play(main, backend)


def test_an_error_keeps_the_last_good_instances_and_asks_again_with_backoff(backend):
    events: list[Event] = []

    async def main() -> None:
        zone = Zone({"orders.test. A": a("10.0.0.1", ttl=5)})
        watch = orders(zone)
        await anext(watch)
        zone.records["orders.test. A"] = dns.rcode.SERVFAIL
        stale = await anext(watch)
        assert (ids(stale), stale.stale_since) == (["10.0.0.1:80"], 0.0)
        zone.asked.clear()
        await nothing(watch, 600.0)
        times = zone.times("orders.test. A")
        assert 15 < len(times) < 130  # not each second, nor every five minutes
        assert all(after - before >= 1.0 for before, after in itertools.pairwise(times))
        zone.records["orders.test. A"] = a("10.0.0.1", "10.0.0.2")
        fresh = await anext(watch)
        assert (ids(fresh), fresh.stale_since) == (["10.0.0.1:80", "10.0.0.2:80"], None)

    play(main, backend, emit=events.append)
    assert [(type(event), event.name) for event in events] == [(SnapshotStale, "dns://orders.test:80")]


def test_a_timeout_at_the_beginning_is_waited_out(backend):
    async def main() -> None:
        zone = Zone({"orders.test. A": a("10.0.0.1")})
        zone.broken = TimeoutError()
        watch = orders(zone)
        await nothing(watch, 20.0)
        assert "no answer in 2 s" in watch.trouble
        zone.broken = None
        assert ids(await anext(watch)) == ["10.0.0.1:80"]
        assert watch.trouble is None

    play(main, backend)


@pytest.mark.parametrize("empty", [dns.rcode.NXDOMAIN, []])
def test_that_there_are_none_is_believed_after_a_grace_and_asked_again_by_the_soa(backend, empty):
    async def main() -> None:
        zone = Zone({"orders.test. A": a("10.0.0.1")}, soa=6)
        watch = orders(zone, grace=20.0)
        await anext(watch)
        zone.records["orders.test. A"] = empty
        zone.records["orders.test. AAAA"] = empty
        kept = await anext(watch)
        assert ids(kept) == ["10.0.0.1:80"]
        assert kept.stale_since is not None
        began = anyio.current_time()
        zone.asked.clear()
        assert ids(await anext(watch)) == []
        assert anyio.current_time() - began == pytest.approx(20.0)
        first, second, *_ = zone.times("orders.test. A")
        assert 6.0 <= second - first <= 6.6

    play(main, backend)


def test_that_there_are_none_is_believed_at_once_or_never_if_that_is_wanted(backend):
    async def main() -> None:
        zone = Zone({"orders.test. A": a("10.0.0.1")})
        failing, keeping = orders(zone, on_empty="fail"), orders(zone, on_empty="keep")
        await anext(failing)
        await anext(keeping)
        del zone.records["orders.test. A"]
        assert ids(await anext(failing)) == []
        assert ids(await anext(keeping)) == ["10.0.0.1:80"]
        await nothing(keeping, 1_000.0)

    play(main, backend)


def test_a_name_that_does_not_exist_is_an_answer(backend):
    async def main() -> None:
        zone = Zone({})
        assert ids(await anext(orders(zone))) == []
        assert [what for _, what in zone.asked] == ["orders.test. A"]  # NXDOMAIN holds for every type

    play(main, backend)


@pytest.mark.parametrize(
    ("family", "v4", "v6", "expected"),
    [
        ("any", ["10.0.0.1"], ["fd00::1"], ["10.0.0.1:80"]),
        ("any", [], ["fd00::1"], ["[fd00::1]:80"]),
        ("4", ["10.0.0.1"], ["fd00::1"], ["10.0.0.1:80"]),
        ("4", [], ["fd00::1"], []),
        ("6", ["10.0.0.1"], ["fd00::1"], ["[fd00::1]:80"]),
        ("both", ["10.0.0.1"], ["fd00::1"], ["10.0.0.1:80", "[fd00::1]:80"]),
    ],
)
def test_families(backend, family, v4, v6, expected):
    async def main() -> None:
        zone = Zone({"orders.test. A": a(*v4), "orders.test. AAAA": a(*v6)})
        assert ids(await anext(orders(zone, family=family))) == expected

    play(main, backend)


def test_services_are_instances_with_ports_shares_and_priorities(backend):
    async def main() -> None:
        zone = Zone(
            {
                f"{SRV}. SRV": [f"{SRV}. 10 IN SRV 1 30 8001 a.test.", f"{SRV}. 10 IN SRV 1 10 8002 b.test."],
                "a.test. A": a("10.0.0.1", "10.0.0.2", name="a.test."),
                "b.test. A": a("10.0.0.3", name="b.test."),
            }
        )
        found = await anext(services(zone))
        assert shares(found) == {"10.0.0.1:8001": 15.0, "10.0.0.2:8001": 15.0, "10.0.0.3:8002": 10.0}
        assert found.instances[2].metadata == {"target": "b.test", "priority": "1"}

    play(main, backend)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([0, 0, 0], [1.0, 1.0, 1.0]),
        ([0, 60], [1.0, 60.0]),
        ([0, 0, 9], [0.5, 0.5, 9.0]),  # RFC 2782: one of eleven draws, for the two together
        ([0], [1.0]),
    ],
)
def test_a_weight_of_zero_is_a_very_small_share(backend, weights, expected):
    async def main() -> None:
        zone = Zone({f"{SRV}. SRV": [f"{SRV}. 9 IN SRV 0 {w} {8000 + n} n{n}.test." for n, w in enumerate(weights)]})
        for n in range(len(weights)):
            zone.records[f"n{n}.test. A"] = a(f"10.0.0.{n}", name=f"n{n}.test.")
        assert [instance.weight for instance in (await anext(services(zone))).instances] == expected

    play(main, backend)


def test_two_targets_at_one_address_are_one_instance_with_both_shares(backend):
    async def main() -> None:
        zone = Zone({f"{SRV}. SRV": [f"{SRV}. 9 IN SRV 0 {w} 80 {name}.test." for name, w in (("a", 3), ("b", 4))]})
        zone.records |= {f"{name}.test. A": a("10.0.0.1", name=f"{name}.test.") for name in "ab"}
        assert shares(await anext(services(zone))) == {"10.0.0.1:80": 7.0}

    play(main, backend)


def two_priorities() -> Zone:
    zone = Zone({f"{SRV}. SRV": [f"{SRV}. 9 IN SRV 10 0 80 a.test.", f"{SRV}. 9 IN SRV 20 0 80 b.test."]})
    zone.records["a.test. A"] = a("10.0.0.1", name="a.test.")
    zone.records["b.test. A"] = a("10.0.0.2", name="b.test.")
    return zone


def test_all_priorities_are_listed_and_of_an_address_the_lowest(backend):
    async def main() -> None:
        zone = two_priorities()
        zone.records[f"{SRV}. SRV"] = [
            f"{SRV}. 9 IN SRV {p} 0 80 {n}.test." for p, n in ((30, "a"), (20, "b"), (10, "a"))
        ]
        found = await anext(services(zone))
        assert [(one.id, one.metadata["priority"]) for one in found.instances] == [
            ("10.0.0.1:80", "10"),
            ("10.0.0.2:80", "20"),
        ]

    play(main, backend)


def test_backups_keep_their_addresses_as_others_do(backend):
    async def main() -> None:
        zone = two_priorities()
        watch = services(zone)
        await anext(watch)
        zone.records["b.test. A"] = dns.rcode.SERVFAIL
        zone.records["a.test. A"] = a("10.0.0.3", name="a.test.")
        found = await anext(watch)
        assert (ids(found), found.stale_since) == (["10.0.0.2:80", "10.0.0.3:80"], None)

    play(main, backend)


def test_the_next_priority_is_used_where_none_of_the_first_has_an_address(backend):
    async def main() -> None:
        zone = two_priorities()
        watch = services(zone, backups=False)
        assert ids(await anext(watch)) == ["10.0.0.1:80"]
        assert zone.times("b.test. A") == []
        del zone.records["a.test. A"]
        assert ids(await anext(watch)) == ["10.0.0.2:80"]
        zone.records["a.test. A"] = a("10.0.0.3", name="a.test.")
        assert ids(await anext(watch)) == ["10.0.0.3:80"]

    play(main, backend)


def test_an_error_is_no_reason_for_the_next_priority_unless_nothing_is_known_of_the_first(backend):
    async def main() -> None:
        zone = two_priorities()
        watch = services(zone, backups=False)
        await anext(watch)
        zone.records["a.test. A"] = dns.rcode.SERVFAIL
        stale = await anext(watch)
        assert ids(stale) == ["10.0.0.1:80"]
        assert stale.stale_since is not None
        assert ids(await anext(services(zone))) == ["10.0.0.2:80"]

    play(main, backend)


def test_a_target_that_cannot_be_looked_up_keeps_its_addresses_while_the_others_go_on(backend, caplog):
    async def main() -> None:
        zone = Zone({f"{SRV}. SRV": [f"{SRV}. 9 IN SRV 0 0 80 {name}.test." for name in "abc"]})
        zone.records |= {f"{name}.test. A": a(f"10.0.0.{n}", name=f"{name}.test.") for n, name in enumerate("abc")}
        zone.records["c.test. A"] = dns.rcode.SERVFAIL
        watch = services(zone)
        assert ids(await anext(watch)) == ["10.0.0.0:80", "10.0.0.1:80"]
        zone.records["a.test. A"] = dns.rcode.SERVFAIL
        zone.records["b.test. A"] = a("10.0.0.7", name="b.test.")
        changed = await anext(watch)
        assert (ids(changed), changed.stale_since) == (["10.0.0.0:80", "10.0.0.7:80"], None)
        await nothing(watch)
        zone.records[f"{SRV}. SRV"] = [f"{SRV}. 9 IN SRV 0 0 80 b.test."]
        assert ids(await anext(watch)) == ["10.0.0.7:80"]
        zone.records[f"{SRV}. SRV"] = [f"{SRV}. 9 IN SRV 0 0 80 {name}.test." for name in "ab"]
        await nothing(watch)  # what was forgotten is not remembered

    play(main, backend)
    assert len([message for message in caplog.messages if "some targets could not be looked up" in message]) == 3


def test_a_lone_dot_says_that_there_is_no_service(backend):
    async def main() -> None:
        zone = Zone({f"{SRV}. SRV": [f"{SRV}. 9 IN SRV 0 0 80 ."]})
        assert ids(await anext(services(zone))) == []
        assert {what for _, what in zone.asked} == {f"{SRV}. SRV"}

    play(main, backend)


def test_addresses_that_are_sent_along_are_not_asked_for(backend):
    async def main() -> None:
        zone = Zone({f"{SRV}. SRV": [f"{SRV}. 20 IN SRV 0 0 80 {name}.test." for name in "ab"]})
        zone.additional = ("a.test. 4 IN A 10.0.0.1", "b.test. 20 IN A 10.0.0.2")
        watch = services(zone)
        assert ids(await anext(watch)) == ["10.0.0.1:80", "10.0.0.2:80"]
        await nothing(watch, 9.0)
        first, second, *_ = zone.times(f"{SRV}. SRV")
        assert 4.0 <= second - first <= 4.4
        assert {what for _, what in zone.asked} == {f"{SRV}. SRV"}

    play(main, backend)


def test_many_targets_are_looked_up_a_few_at_a_time(backend):
    class Slow(Zone):
        active = most = 0

        async def __call__(self, query: dns.message.Message, server: Any, *, tcp: bool) -> dns.message.Message:
            self.active += 1
            self.most = max(self.most, self.active)
            await anyio.sleep(0.1)
            self.active -= 1
            return await super().__call__(query, server, tcp=tcp)

    async def main() -> None:
        zone = Slow({f"{SRV}. SRV": [f"{SRV}. 20 IN SRV 0 0 80 n{n}.test." for n in range(40)]})
        zone.records |= {f"n{n}.test. A": a(f"10.0.0.{n}", name=f"n{n}.test.") for n in range(40)}
        assert len(ids(await anext(services(zone)))) == 40
        assert zone.most == 8
        assert anyio.current_time() == pytest.approx(0.1 + 5 * 0.1)

    play(main, backend)


def test_a_watch_goes_on_after_it_was_cancelled_at_any_moment(backend):
    async def scenario(watch: AsyncIterator[Snapshot]) -> None:
        await anext(watch)
        await anext(watch)

    async def check(watch: AsyncIterator[Snapshot]) -> None:
        with anyio.fail_after(600):
            while ids(await anext(watch)) != ["10.0.0.9:80"]:
                pass

    def fresh() -> AsyncIterator[Snapshot]:
        class Moving(Zone):
            async def __call__(self, query: dns.message.Message, server: Any, *, tcp: bool) -> dns.message.Message:
                number = min(len(self.times("a.test. A")), 9)
                self.records["a.test. A"] = a(f"10.0.0.{number}", name="a.test.")
                return await super().__call__(query, server, tcp=tcp)

        return services(Moving({f"{SRV}. SRV": [f"{SRV}. 2 IN SRV 0 0 80 a.test."]}))

    assert for_each_cancellation(fresh, scenario=scenario, check=check, backend=backend) > 3


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("dns://orders.test:8080", "Dns('orders.test', port=8080)"),
        (
            "dns://orders.test:80?nameserver=127.0.0.1:5353,[::1]:53,10.0.0.2&family=6&min_ttl=2&max_ttl=9&timeout=1",
            (
                "Dns('orders.test', port=80, nameservers=(('127.0.0.1', 5353), ('::1', 53), ('10.0.0.2', 53)), "
                "family='6', min_ttl=2.0, max_ttl=9.0, timeout=1.0)"
            ),
        ),
        ("dns+srv://_http._tcp.orders.test?on_empty=keep&grace=3", f"DnsSrv('{SRV}', on_empty='keep', grace=3.0)"),
        ("dns+srv://orders.service.consul", "DnsSrv('orders.service.consul')"),
    ],
)
def test_urls_lead_to_their_sources(url, expected):
    source = connect(url)
    assert type(source).__name__ == expected.partition("(")[0]
    made = eval(expected, {"Dns": Dns, "DnsSrv": DnsSrv})  # noqa: S307 - the table above
    assert repr(source) == repr(made)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("dns://orders.test", "is no host:port"),
        ("dns://orders.test:http", "is no host:port"),
        ("dns://a:1,b:1", "dns:// has one name"),
        ("dns://orders.test:80/path", "dns:// has no path"),
        ("dns://10.0.0.1:80", "is an address, and there is nothing to look up: static://"),
        ("dns://[::1]:80", "is an address"),
        ("dns://a..b:80", "is no host name"),
        ("dns://orders.test:0", "port=0"),
        ("dns://orders.test:80?ttl=3", "unknown option 'ttl'; the options of dns:// are nameserver, family, min_ttl"),
        ("dns://orders.test:80?family=5", "family=5: one of 4, 6, any, both"),
        ("dns://orders.test:80?min_ttl=0", "min_ttl=0: a finite number"),
        ("dns://orders.test:80?min_ttl=60", "min_ttl not above max_ttl"),
        ("dns://orders.test:80?timeout=inf", "timeout=inf: a finite number"),
        ("dns://orders.test:80?nameserver=localhost", "a name server cannot be looked up"),
        ("dns://orders.test:80?nameserver=", "is no host:port"),
        ("dns://orders.test:80?nameserver=127.0.0.1:99999", "a port is a whole number"),
        ("dns://orders.test:80?on_empty=panic", "on_empty=panic: one of keep, fail, grace"),
        ("dns+srv://_http._tcp.orders.test:80", "the ports are in the records"),
        ("dns+srv://", "is no host name"),
        ("dns+srv://orders?port=3", r"unknown option 'port'; the options of dns\+srv:// are"),
    ],
)
def test_a_bad_url_is_refused_with_what_is_allowed(url, reason):
    with pytest.raises(ValueError, match=reason):
        connect(url)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"family": "v4"}, "family='v4': one of 4, 6, any, both"),
        ({"timeout": 0}, "timeout=0"),
        ({"grace": 0}, "grace=0"),
        ({"nameservers": [("ns.test", 53)]}, "'ns.test' is no IP address"),
    ],
)
def test_bad_arguments_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        Dns("orders.test", port=80, **arguments)
