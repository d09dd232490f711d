"""From a URL to a server, and past its door."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from resilient.backends import connect
from resilient.backends.redis import RedisStore
from resilient.backends.redis.server import Address
from resilient.backends.store import Run
from resilient.errors import StoreUnavailable
from tests.backends.redis.faces import play, run
from tests.servers.process import free_port
from tests.servers.valkey import Redis, Valkey


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://host", Address(host="host")),
        ("redis://host/", Address(host="host")),
        ("valkey://host:7000/3", Address(host="host", port=7000, database=3)),
        ("redis://:secret@host", Address(host="host", password="secret")),  # noqa: S106 - it is an example
        ("redis://me:a%2Fb@host", Address(host="host", username="me", password="a/b")),  # noqa: S106
        ("rediss://[::1]:7000", Address(host="::1", port=7000, tls=True)),
        ("valkeys://host", Address(host="host", tls=True)),
        ("unix:///run/valkey.sock", Address(host=None, path="/run/valkey.sock")),
    ],
)
def test_a_url_names_a_server(url: str, address: Address) -> None:
    assert Address.parse(url) == address


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://host", r"redis://, rediss://"),
        ("redis://", r"redis://host:port/0"),
        ("redis://host/orders", r"number of a database"),
        ("redis://:secret@host/0?tag=a", r"options are arguments"),
        ("unix://host/path", r"unix:///path"),
        ("unix://", r"unix:///path"),
    ],
)
def test_a_url_that_names_no_server_is_refused_without_telling_its_password(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        RedisStore(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "redis://:secret@host?colour=red",
            r"store='redis://:\*\*\*@host\?colour=red': redis:// has no option 'colour'",
        ),
        ("redis://host?connections=0", "connections=0"),
        ("redis://host?timeout=0", "timeout=0"),
        ("redis://host?timeout=inf", "timeout=inf"),
        ("redis://host?tag=a%7Db", "tag='a}b'"),
        ("redis://host?tag=", "tag=''"),
        ("redis://host?replicas=-1", "replicas=-1"),
        ("redis://host?timeout=1&wait=1&replicas=1", "wait=1.0"),
        ("redis://host?allow_eviction=perhaps", "allow_eviction='perhaps'"),
        ("redis://host?certificates=ca.pem", "certificates are for rediss://"),
    ],
)
def test_connect_checks_the_options_in_a_url(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        connect(url)
    assert "secret" not in str(caught.value)


def test_connect_takes_every_option_from_the_url() -> None:
    store = connect(
        "rediss://me:secret@host:7000/2?tag=shop&connections=3&timeout=0.5&allow_eviction=true&replicas=1&wait=0.1"
        "&certificates=ca.pem&certificate=me.pem&key=key.pem"
    )
    assert isinstance(store, RedisStore)
    assert repr(store) == repr(store.blocking) == "RedisStore('host:7000', tag='shop')"
    terms = store._terms
    assert (terms.connections, terms.timeout, terms.allow_eviction) == (3, 0.5, True)
    assert (terms.replicas, terms.wait, terms.address.database) == (1, 0.1, 2)
    assert (terms.address.certificates, terms.address.certificate, terms.address.key) == (
        "ca.pem",
        "me.pem",
        "key.pem",
    )


def test_nothing_is_opened_before_the_store_is_used() -> None:
    connect("redis://127.0.0.1:1")


def test_a_server_without_an_address_is_reached_by_its_socket(valkey: Valkey, tag: str, face: str) -> None:
    store = RedisStore(f"unix://{valkey.folder}/socket", tag=tag, database=2)

    async def scenario(store):
        assert isinstance(await run(store), Run)

    play(face, store, scenario)
    found = valkey.client()
    found("SELECT", 2)
    assert found("EXISTS", f"resilient:{{{tag}}}:claim:1:s:k") == 1
    found.close()


@pytest.fixture(scope="module")
def locked() -> Iterator[Valkey]:
    with Valkey(requirepass="secret") as server:
        server.ask("ACL", "SETUSER", "me", "on", ">mine", "+@all", "~*")
        yield server


@pytest.mark.parametrize("login", [":secret", "me:mine"])
def test_a_password_opens_the_door(locked: Valkey, face: str, login: str, tag: str) -> None:
    async def scenario(store):
        assert isinstance(await run(store), Run)

    play(face, RedisStore(f"redis://{login}@{locked.address}", tag=tag), scenario)


@pytest.mark.parametrize("login", ["", ":wrong5ecret@", "me:wrong5ecret@"])
def test_a_wrong_password_is_a_store_that_is_not_available(locked: Valkey, face: str, login: str) -> None:
    async def scenario(store):
        with pytest.raises(StoreUnavailable, match=r"(?i)auth|password") as caught:
            await run(store)
        assert "wrong5ecret" not in str(caught.value)

    play(face, RedisStore(f"redis://{login}{locked.address}"), scenario)


class Tls:
    """A Redis with a certificate for `localhost`, of an authority that nobody knows."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        authority = trustme.CA()
        self.authority = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        mine = authority.issue_cert("localhost")
        certificate, key = folder / "server.pem", folder / "server.key"
        mine.cert_chain_pems[0].write_to_path(str(certificate))
        mine.private_key_pem.write_to_path(str(key))
        self.port = free_port()
        options = {
            "tls_port": str(self.port),
            "tls_cert_file": str(certificate),
            "tls_key_file": str(key),
            "tls_ca_cert_file": str(self.authority),
            "tls_auth_clients": "no",
        }
        self.server = stack.enter_context(Redis(appendonly=False, **options))


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    with ExitStack() as stack:
        yield Tls(tmp_path_factory.mktemp("tls"), stack)


def test_tls_is_spoken_with_whom_the_authority_vouches_for(tls: Tls, face: str, tag: str) -> None:
    async def scenario(store):
        assert isinstance(await run(store), Run)

    play(face, RedisStore(f"rediss://localhost:{tls.port}", tag=tag, certificates=str(tls.authority)), scenario)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_tls_is_not_spoken_with_strangers(tls: Tls, face: str, host: str) -> None:
    """Neither with one whom no authority vouches for, nor with one of another name."""
    trusted = None if host == "localhost" else str(tls.authority)

    async def scenario(store):
        with pytest.raises(StoreUnavailable, match="certificate"):
            await run(store)

    play(face, RedisStore(f"rediss://{host}:{tls.port}", certificates=trusted), scenario)
