"""What is particular to etcd, with a real one."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx
import pytest
import trustme

from resilient.backends.conversation import Endpoints, speak_blocking
from resilient.backends.etcd import Etcd as Protocol
from resilient.backends.etcd import prefix_end
from resilient.backends.listwatch import Changes, Expired
from resilient.discovery import connect, register
from resilient.discovery.etcd import Etcd, _Source
from resilient.errors import DiscoveryError
from resilient.instance import Instance
from tests.discovery.test_registries import until
from tests.servers.etcd import Etcd as Server
from tests.servers.etcd import cluster, encode
from tests.servers.process import free_port

A = Instance(id="a", host="10.0.0.1", port=80)


def record(host: str) -> str:
    return json.dumps({"host": host, "port": 80})


def source(etcd: Server, prefix: str, window: float = 30.0) -> _Source:
    return _Source(Etcd(endpoints=(f"http://{etcd.address}",), prefix=prefix, window=window), "orders")


@pytest.fixture
def prefix(etcd: Server, request: pytest.FixtureRequest) -> str:
    """Keys that no other test has."""
    return f"/{request.node.name}"


def url(etcd: Server, prefix: str, options: str = "") -> str:
    return f"etcd://{etcd.address}{prefix.replace('[', '%5B').replace(']', '%5D')}?on_empty=fail&debounce=0.01{options}"


def test_a_revision_that_is_compacted_is_expired_although_the_stream_never_ends(
    etcd: Server, prefix: str, backend: str
) -> None:
    async def main() -> None:
        found = source(etcd, prefix)
        etcd.put(f"{prefix}/a", record("a"))
        listing = await found.listing()
        etcd.delete(f"{prefix}/a")
        revision = etcd.put("/elsewhere", "")
        etcd.ask("kv/compaction", revision=str(revision), physical=True)
        watch = found.watch(listing.revision)
        with anyio.fail_after(20), pytest.raises(Expired, match="compacted"):
            async for _ in watch:
                pass
        assert (await found.listing()).objects == {}, "what was deleted meanwhile is gone"

    anyio.run(main, backend=backend)


def test_a_revision_that_is_yet_to_come_and_another_cluster_are_noticed(
    etcd: Server, prefix: str, backend: str
) -> None:
    """After a restore from a backup; a watch would be silent."""

    async def main() -> None:
        found = source(etcd, prefix)
        cluster, _, number = (await found.listing()).revision.partition(":")
        for revision in (f"{cluster}:{int(number) + 1000}", f"1{cluster}:{number}"):
            with anyio.fail_after(20), pytest.raises(Expired, match="not the cluster"):
                async for _ in found.watch(revision):
                    pass

    anyio.run(main, backend=backend)


def test_what_one_transaction_does_is_one_change(etcd: Server, prefix: str, backend: str) -> None:
    async def main() -> None:
        found = source(etcd, prefix)
        etcd.put(f"{prefix}/old", record("old"))
        watch = found.watch((await found.listing()).revision)
        assert await anext(watch) == Changes((await found.listing()).revision, {}, set())
        puts = [
            {"request_put": {"key": encode(f"{prefix}/{number}"), "value": encode(record(str(number)))}}
            for number in range(100)
        ]
        etcd.ask("kv/txn", success=[*puts, {"request_delete_range": {"key": encode(f"{prefix}/old")}}])
        with anyio.fail_after(20):
            said = await anext(watch)
        assert isinstance(said, Changes)
        assert (len(said.put), said.removed) == (100, {f"{prefix}/old"})
        await watch.aclose()

    anyio.run(main, backend=backend)


def test_a_key_that_is_deleted_and_written_again_between_two_looks_is_there(
    etcd: Server, prefix: str, backend: str
) -> None:
    async def main() -> None:
        found = source(etcd, prefix)
        etcd.put(f"{prefix}/a", record("old"))
        revision = (await found.listing()).revision
        etcd.delete(f"{prefix}/a")
        etcd.put(f"{prefix}/a", record("new"))
        etcd.put(f"{prefix}/b", record("b"))
        etcd.delete(f"{prefix}/b")
        put: dict[str, str] = {}
        watch = found.watch(revision)
        with anyio.fail_after(20):
            async for said in watch:
                assert isinstance(said, Changes)
                for key in said.removed:
                    put.pop(key, None)
                put |= {key: next(iter(each)).instance.host for key, each in said.put.items()}
                if said.revision.endswith(f":{int(revision.partition(':')[2]) + 4}"):
                    break
        await watch.aclose()
        assert put == {f"{prefix}/a": "new"}

    anyio.run(main, backend=backend)


def test_a_window_without_news_is_closed_and_the_next_one_goes_on_there(
    etcd: Server, prefix: str, backend: str
) -> None:
    async def main() -> None:
        found = source(etcd, prefix, window=0.2)
        revision = (await found.listing()).revision
        said = [each.revision async for each in found.watch(revision)]
        assert said == [revision]
        etcd.put(f"{prefix}/a", record("a"))
        told = [each async for each in found.watch(revision) if isinstance(each, Changes)]
        assert [list(each.put) for each in told] == [[], [f"{prefix}/a"]]

    anyio.run(main, backend=backend)


def test_a_value_that_nobody_can_read_keeps_what_was_there(
    etcd: Server, prefix: str, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        etcd.put(f"{prefix}/a", record("a"))
        watch = connect(url(etcd, prefix)).watch()
        await until(watch, ["a:80"])
        etcd.put(f"{prefix}/a", '{"host": "a", "po')
        etcd.put(f"{prefix}/b", "")
        etcd.put(f"{prefix}/c", record("c"))
        await until(watch, ["a:80", "c:80"])
        await watch.aclose()  # type: ignore[attr-defined]

    anyio.run(main, backend=backend)
    assert sum("stays in force" in message for message in caplog.messages) == 2
    assert f"{prefix}/a: it is not valid JSON" in caplog.text


def test_a_prefix_ends_at_a_slash(etcd: Server, prefix: str, backend: str) -> None:
    async def main() -> None:
        etcd.put(f"{prefix}-v2/a", record("other"))
        etcd.put(f"{prefix}/deep/a", record("deep"))
        watch = connect(url(etcd, prefix)).watch()
        await until(watch, ["deep:80"])
        etcd.put(f"{prefix}-v2/b", record("other"))
        etcd.put(f"{prefix}/b", record("b"))
        await until(watch, ["b:80", "deep:80"])
        await watch.aclose()  # type: ignore[attr-defined]

    anyio.run(main, backend=backend)


def test_the_next_endpoint_answers_where_one_is_dead(etcd: Server, prefix: str, backend: str) -> None:
    async def main() -> None:
        both = url(etcd, prefix).replace("etcd://", f"etcd://127.0.0.1:{free_port()},")
        watch = connect(both).watch()
        async with register(both, A, ttl=5.0):
            await until(watch, ["a"])
        await until(watch, [])
        await watch.aclose()  # type: ignore[attr-defined]

    anyio.run(main, backend=backend)


def test_a_member_that_lost_its_cluster_says_so_and_is_left() -> None:
    """It would be silent otherwise, and look well."""

    async def main(members: list[Server]) -> None:
        members[0].put("/orders/a", record("a"))
        watch = connect(url(members[0], "/orders", "&timeout=1")).watch()
        await until(watch, ["a:80"])
        for other in members[1:]:
            other.stop()
        await until(watch, ["a:80"], stale=True)
        for other in members[1:]:
            other.go_on()
        await until(watch, ["a:80"])
        await watch.aclose()  # type: ignore[attr-defined]

    with cluster("one", "two", "three") as members:
        anyio.run(main, members)


def test_more_keys_than_anybody_has_instances_are_refused(etcd: Server, prefix: str) -> None:
    for number in range(3):
        etcd.put(f"{prefix}/{number}", record("a"))
    protocol = Protocol(Endpoints([f"http://{etcd.address}"]))
    with httpx.Client() as client:
        assert len(speak_blocking(protocol.range(f"{prefix}/", limit=3), client).keys) == 3
        with pytest.raises(DiscoveryError, match="more than 2 keys"):
            speak_blocking(protocol.range(f"{prefix}/", limit=2), client)


def test_a_lease_that_is_dead_is_told_apart(etcd: Server, prefix: str) -> None:
    """Its keep-alive is answered with 200."""
    protocol = Protocol(Endpoints([f"http://{etcd.address}"]))
    key = f"{prefix}/a"
    with httpx.Client() as client:
        lease = speak_blocking(protocol.grant(0.2), client)
        assert speak_blocking(protocol.put_if_absent(key, b"1", lease), client) == lease
        assert speak_blocking(protocol.keep_alive(lease), client)
        other = speak_blocking(protocol.grant(30.0), client)
        assert speak_blocking(protocol.put_if_absent(key, b"2", other), client) == lease
        speak_blocking(protocol.revoke(lease), client)
        assert not speak_blocking(protocol.keep_alive(lease), client)
        speak_blocking(protocol.revoke(lease), client)  # again: it is gone, which is what was wanted
        assert speak_blocking(protocol.put_if_absent(key, b"2", other), client) == other
        etcd.put(key, "by hand")
        assert speak_blocking(protocol.put_if_absent(key, b"2", other), client) == "0"


def test_the_gateway_of_etcd_3_3_is_asked_for_by_its_name(etcd: Server, prefix: str, backend: str) -> None:
    async def main() -> None:
        beta = url(etcd, prefix, "&api=v3beta")
        watch = connect(beta).watch()
        async with register(beta, A, ttl=5.0):
            await until(watch, ["a"])
        await watch.aclose()  # type: ignore[attr-defined]

    anyio.run(main, backend=backend)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """An etcd that lets in who has a password, and nobody else."""
    with Server() as server:
        for name, password in (("root", "secret"), ("orders", "p@ss:word")):
            server.ask("auth/user/add", name=name, password=password)
        server.ask("auth/role/add", name="root")
        server.ask("auth/user/grant", user="root", role="root")
        server.ask("auth/role/add", name="orders")
        key, end = encode("/orders/"), encode(prefix_end("/orders/").decode())
        server.ask("auth/role/grant", name="orders", perm={"permType": "READWRITE", "key": key, "range_end": end})
        server.ask("auth/user/grant", user="orders", role="orders")
        server.ask("auth/enable")
        yield server


def test_a_user_with_a_password_reads_and_writes_its_prefix(guarded: Server, backend: str) -> None:
    async def main() -> None:
        known = f"etcd://orders:p%40ss%3Aword@{guarded.address}/orders?on_empty=fail&debounce=0.01"
        watch = connect(f"{known}&timeout=2").watch()
        async with register(known, A, ttl=3.0):
            await until(watch, ["a"])
            guarded.kill()  # and with it the tokens that it has issued
            guarded.start()
            async with register(known, Instance(id="b", host="b", port=80), ttl=3.0):
                await until(watch, ["a", "b"])
                await anyio.sleep(1.2)  # a renewal
                assert len(keys_for_root(guarded)) == 2
        await until(watch, [])
        await watch.aclose()  # type: ignore[attr-defined]

    anyio.run(main, backend=backend)


def keys_for_root(server: Server) -> list[object]:
    base = f"http://{server.address}/v3"
    token = httpx.post(f"{base}/auth/authenticate", json={"name": "root", "password": "secret"}).json()["token"]
    wanted = {"key": encode("/orders/"), "range_end": encode("/orders0")}
    found: list[object] = httpx.post(f"{base}/kv/range", json=wanted, headers={"Authorization": token}).json()["kvs"]
    return found


@pytest.mark.parametrize(
    ("who", "path", "why"),
    [
        ("orders:wrong@", "/orders", "authentication failed"),
        ("", "/orders", "user name is empty"),
        ("orders:p%40ss%3Aword@", "/billing", "permission denied"),
    ],
)
def test_who_is_not_let_in_is_told_so_and_no_password_is(guarded: Server, who: str, path: str, why: str) -> None:
    async def main() -> None:
        with pytest.raises(DiscoveryError, match=why) as caught:
            async with register(f"etcd://{who}{guarded.address}{path}", A, ttl=1.0):
                raise AssertionError("entered")
        assert "***@" in str(caught.value) or not who
        assert "wrong" not in str(caught.value)

    anyio.run(main)


class Encrypted(Server):
    """With a certificate of its own, and only for those who have one."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        authority = trustme.CA()
        mine, theirs = authority.issue_cert("127.0.0.1"), authority.issue_cert("orders")
        self.files = folder
        authority.cert_pem.write_to_path(folder / "ca.pem")
        for name, cert in (("server", mine), ("client", theirs)):
            cert.private_key_pem.write_to_path(folder / f"{name}.key")
            cert.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")

    def command(self) -> list[str]:
        files = ("--cert-file", "server.pem", "--key-file", "server.key", "--trusted-ca-file", "ca.pem")
        own = [each if each.startswith("--") else str(self.files / each) for each in files]
        return [
            *(each.replace(f"http://{self.address}", f"https://{self.address}") for each in super().command()),
            *own,
        ]

    def answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
            return True


def test_tls_is_spoken_with_certificates_of_both_sides(tmp_path: Path, backend: str) -> None:
    async def main(server: Encrypted) -> None:
        there = f"etcds://{server.address}/orders?on_empty=fail&debounce=0.01&ca={tmp_path}/ca.pem"
        known = f"{there}&cert={tmp_path}/client.pem&key={tmp_path}/client.key"
        watch = connect(known).watch()
        async with register(known, A, ttl=5.0):
            await until(watch, ["a"])
        await watch.aclose()  # type: ignore[attr-defined]
        with pytest.raises(DiscoveryError, match="could not be registered"):
            async with register(there, A, ttl=5.0):
                raise AssertionError("entered")

    with Encrypted(tmp_path) as server:
        anyio.run(main, server, backend=backend)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("etcd://h:2379", "the path is the prefix of the keys"),
        ("etcd://h:2379/", "the path is the prefix of the keys"),
        ("etcd://h/orders", "'h' is no host:port"),
        ("etcd://user@h:2379/orders", "credentials are user:password@"),
        ("etcd://h:2379/orders?api=v2", "api=v2: one of v3, v3beta"),
        ("etcd://h:2379/orders?window=0", "window=0: a finite number of seconds"),
        ("etcd://h:2379/orders?ca=x", "unknown option 'ca'"),
        ("etcds://h:2379/orders?key=x", "key without cert"),
        ("etcd://h:2379/orders?on_empty=x", "on_empty=x: one of keep, fail, grace"),
    ],
)
def test_a_bad_url_is_refused(bad: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        connect(bad)


def test_a_password_is_never_shown() -> None:
    with pytest.raises(ValueError, match="unknown option") as caught:
        connect("etcd://orders:secret@h:2379/orders?x=1")
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(connect("etcd://orders:secret@h:2379/orders"))
    assert "secret" not in repr(register("etcd://orders:secret@h:2379/orders", A))


def test_bad_arguments_are_refused() -> None:
    for wrong in ({"endpoints": ()}, {"prefix": "/"}, {"window": 0.0}, {"timeout": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Etcd(**{"endpoints": ("http://h:1",), "prefix": "/a", **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b"{}", b'{"result": {}}', b'{"result": {"header": {"revision": "x"}}}', b'{"result": null}'],
)
def test_a_message_that_nobody_understands_is_trouble(line: bytes) -> None:
    with pytest.raises(DiscoveryError):
        Protocol.hear(line)


def test_a_watch_that_is_refused_or_cancelled_is_trouble() -> None:
    with pytest.raises(DiscoveryError, match="no leader"):
        Protocol.hear(b'{"error": {"grpc_code": 14, "message": "etcdserver: no leader"}}')
    with pytest.raises(DiscoveryError, match="because"):
        Protocol.hear(b'{"result": {"header": {"revision": "1"}, "canceled": true, "cancel_reason": "because"}}')


def test_the_end_of_a_prefix_is_beyond_all_its_keys() -> None:
    assert prefix_end("/orders/") == b"/orders0"
    assert prefix_end("/ä/") == "/ä0".encode()
