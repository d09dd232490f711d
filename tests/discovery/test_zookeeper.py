"""What is particular to ZooKeeper, with a real one."""

from __future__ import annotations

import json
import sys
import time
import uuid
from typing import Any

import anyio
import pytest
from kazoo.client import KazooClient  # type: ignore[import-untyped] # it has no types
from kazoo.security import make_digest_acl  # type: ignore[import-untyped] # likewise

from resilient.backends.zookeeper import Ensemble, WatchedClient
from resilient.discovery import connect, register
from resilient.discovery.zookeeper import ZooKeeper as Discovery
from resilient.errors import DiscoveryError
from resilient.instance import Instance
from tests.discovery.registries import client
from tests.discovery.test_registries import until
from tests.servers.zookeeper import ZooKeeper

A = Instance(id="a", host="10.0.0.1", port=80)


@pytest.fixture
def path() -> str:
    """A node that no other test has."""
    return f"/services/{uuid.uuid4().hex[:8]}/orders"


def url(zookeeper: ZooKeeper, path: str, options: str = "", who: str = "") -> str:
    return f"zookeeper://{who}{zookeeper.address}{path}?on_empty=fail&debounce=0.01{options}"


def record(host: str) -> bytes:
    return json.dumps({"name": "orders", "id": host, "address": host, "port": 80}).encode()


async def in_thread(act: Any, *args: Any) -> Any:
    return await anyio.to_thread.run_sync(act, *args)


async def close(watch: Any) -> None:
    await watch.aclose()


def test_nodes_and_their_contents_are_followed(zookeeper: ZooKeeper, path: str, backend: str) -> None:
    """The node appears, changes (which fires no event of its parent's), goes, and so does its parent; and again."""

    async def main(other: Any) -> None:
        watch = connect(url(zookeeper, path)).watch()
        await until(watch, [])
        for _ in range(2):
            other.create(f"{path}/1", record("a"), makepath=True)
            await until(watch, ["a"])
            other.set(f"{path}/1", record("b"))
            await until(watch, ["b"])
            other.delete(f"{path}/1")
            other.create(f"{path}/1", record("c"))
            await until(watch, ["c"])
            other.create(f"{path}/2", record("d"))
            await until(watch, ["c", "d"])
            other.delete(path, recursive=True)
            await until(watch, [])
        await close(watch)

    with client(zookeeper.address) as other:
        anyio.run(main, other, backend=backend)


def test_many_nodes_at_once_are_few_snapshots(zookeeper: ZooKeeper, path: str, backend: str) -> None:
    names = sorted(f"n{number:03}" for number in range(200))

    async def main(other: Any) -> None:
        watch = connect(url(zookeeper, path).replace("debounce=0.01", "debounce=0.1")).watch()
        await until(watch, [])
        other.ensure_path(path)
        transaction = other.transaction()
        for name in names:
            transaction.create(f"{path}/{name}", record(name))
        transaction.commit()
        assert (await until(watch, names)).version <= 4
        await close(watch)

    with client(zookeeper.address) as other:
        anyio.run(main, other, backend=backend)


def test_a_content_that_nobody_can_read_keeps_what_was_there(
    zookeeper: ZooKeeper, path: str, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(other: Any) -> None:
        other.create(f"{path}/1", record("a"), makepath=True)
        watch = connect(url(zookeeper, path)).watch()
        await until(watch, ["a"])
        other.set(f"{path}/1", b'{"address": "a", "po')
        other.create(f"{path}/2", record("b"))
        await until(watch, ["a", "b"])
        await close(watch)

    with client(zookeeper.address) as other:
        anyio.run(main, other, backend=backend)
    assert "the node 1: it is not valid JSON" in caplog.text


def test_members_of_a_server_set_are_told_apart_from_what_else_is_there(
    zookeeper: ZooKeeper, path: str, backend: str
) -> None:
    def member(port: int, status: str = "ALIVE") -> bytes:
        place = {"host": "10.0.0.7", "port": port}
        return json.dumps({"serviceEndpoint": place, "additionalEndpoints": {"http": place}, "status": status}).encode()

    async def main(other: Any) -> None:
        other.create(f"{path}/member_0000000001", member(1), makepath=True)
        other.create(f"{path}/member_0000000002", member(2, "DEAD"))
        other.create(f"{path}/vector_0000000001", b'{"weight": 1}')
        for options in ("", "&endpoint=http"):
            watch = connect(url(zookeeper, path, f"&format=serverset{options}")).watch()
            await until(watch, ["member_0000000001"])
            await close(watch)
        watch = connect(url(zookeeper, path, "&format=serverset&endpoint=admin")).watch()
        await until(watch, [])
        await close(watch)

    with client(zookeeper.address) as other:
        anyio.run(main, other, backend=backend)


def test_a_chroot_is_the_beginning_of_the_path(zookeeper: ZooKeeper, path: str, backend: str) -> None:
    async def main(other: Any) -> None:
        watch = connect(url(zookeeper, path)).watch()
        await until(watch, [])
        other.create("/1", record("a"))
        await until(watch, ["a"])
        await close(watch)

    with client(zookeeper.address) as other:
        other.ensure_path(path)
    with client(f"{zookeeper.address}{path}") as other:
        anyio.run(main, other, backend=backend)


def expire(address: str, session: tuple[int, bytes]) -> None:
    """End somebody's session, as a server does that heard nothing for long: by closing it in its name."""
    thief = KazooClient(address, client_id=session)
    thief.start(timeout=20)
    thief.stop()
    thief.close()


def test_an_entry_whose_session_expired_is_written_again(zookeeper: ZooKeeper, path: str, backend: str) -> None:
    async def main() -> None:
        watch = connect(url(zookeeper, path)).watch()
        registration = register(url(zookeeper, path), A, ttl=2.0)
        async with registration:
            await until(watch, ["a"])
            theirs = registration._entry._client._client.client_id  # type: ignore[attr-defined] # nobody tells it
            await in_thread(expire, zookeeper.address, theirs)
            await until(watch, [])
            await until(watch, ["a"])
        await until(watch, [])
        await close(watch)

    anyio.run(main, backend=backend)


def test_a_process_whose_event_loop_hangs_expires(
    zookeeper: ZooKeeper, path: str, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Kazoo would keep its session alive from another thread."""

    def there(other: Any) -> bool:
        return bool(other.exists(f"{path}/a"))

    async def main(other: Any) -> None:
        async with register(url(zookeeper, path), A, ttl=0.5):
            assert there(other)
            deadline = time.monotonic() + 20
            while there(other):  # nothing else of this event loop runs meanwhile
                assert time.monotonic() < deadline
                time.sleep(0.02)  # noqa: ASYNC251 - the hang
            with anyio.fail_after(20):
                while not await in_thread(there, other):
                    await anyio.sleep(0.02)
        assert not there(other)

    with client(zookeeper.address) as other:
        anyio.run(main, other, backend=backend)
    assert "nothing was heard from this process" in caplog.text


def test_who_has_a_password_owns_what_he_registers(zookeeper: ZooKeeper, path: str, backend: str) -> None:
    secret = make_digest_acl("orders", "p@ss", all=True)

    async def main() -> None:
        known = url(zookeeper, path, who="orders:p%40ss@")
        with pytest.raises(DiscoveryError, match="NoAuth"):
            async with register(url(zookeeper, path), A):
                raise AssertionError("entered")
        watch = connect(known).watch()
        async with register(known, A):
            await until(watch, ["a"])
            with client(zookeeper.address) as other:
                acl, _ = other.get_acls(f"{path}/a")
            assert {(each.id.scheme, each.perms) for each in acl} == {("digest", 31), ("world", 1)}
        await until(watch, [])
        await close(watch)

    with client(zookeeper.address) as other:
        other.ensure_path(path.rpartition("/")[0])
        other.create(path, acl=[secret])
    anyio.run(main, backend=backend)


def test_the_trouble_of_a_reader_without_permission_is_told(
    zookeeper: ZooKeeper, path: str, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        watch = connect(url(zookeeper, path)).watch()
        with anyio.move_on_after(0.5):
            raise AssertionError(await anext(watch))
        await close(watch)

    with client(zookeeper.address) as other:
        other.ensure_path(path.rpartition("/")[0])
        other.create(path, acl=[make_digest_acl("orders", "secret", all=True)])
    anyio.run(main, backend=backend)
    assert "NoAuthError" in caplog.text


def test_without_a_server_a_plain_client_says_so() -> None:
    lonely = WatchedClient(Ensemble(hosts="127.0.0.1:1", session=1.0, timeout=0.2))
    with pytest.raises(DiscoveryError, match="no connection"):
        lonely.ask("exists", "/")
    with pytest.raises(DiscoveryError, match="no connection"):
        lonely.beat()
    lonely.close()


def test_without_kazoo_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kazoo.client", None)
    with pytest.raises(DiscoveryError, match=r"pip install 'resilient-mesh\[zookeeper\]'"):
        Ensemble(hosts="127.0.0.1:1", session=1.0, timeout=0.2).client()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("zookeeper://h:2181", "the path is the node"),
        ("zookeeper://h/orders", "'h' is no host:port"),
        ("zookeeper://h:2181//orders", "path="),
        ("zookeeper://user@h:2181/orders", "credentials are user:password@"),
        ("zookeeper://h:2181/orders?format=json", "format=json: one of curator, serverset"),
        ("zookeeper://h:2181/orders?endpoint=http", "only a serverset has several"),
        ("zookeeper://h:2181/orders?session=0", "session=0: a finite number"),
        ("zookeeper://h:2181/orders?window=1", "unknown option 'window'"),
    ],
)
def test_a_bad_url_is_refused(bad: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        connect(bad)


def test_bad_arguments_are_refused() -> None:
    for wrong in ({"hosts": ""}, {"path": "/"}, {"format": "x"}, {"session": 0.0}, {"timeout": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Discovery(**{"hosts": "h:1", "path": "/a", **wrong})  # type: ignore[arg-type]
