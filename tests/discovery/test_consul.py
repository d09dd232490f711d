"""What is particular to Consul, with the strict fake: real sockets, real time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from resilient.discovery import connect, register
from resilient.discovery.consul import Consul, instances_in
from resilient.errors import DiscoveryError
from resilient.instance import Instance
from resilient.snapshot import Snapshot
from resilient.testing.consul import FakeConsul
from tests.discovery.test_registries import ids, until

A = Instance(id="a", host="10.0.0.1", port=80)


@pytest.fixture
def consul() -> Iterator[FakeConsul]:
    with FakeConsul() as found:
        yield found


def url(consul: FakeConsul, options: str = "", service: str = "orders") -> str:
    return f"consul://{consul.host}:{consul.port}/{service}?on_empty=fail&debounce=0.01&timeout=2{options}"


def run(backend: str, main: Callable[[], Awaitable[None]]) -> None:
    anyio.run(main, backend=backend)


async def close(watch: Any) -> None:
    await watch.aclose()


async def soon(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.01)


async def nothing_new(watch: Any, seconds: float) -> None:
    with anyio.move_on_after(seconds):
        raise AssertionError(await anext(watch))


def indices(consul: FakeConsul) -> list[str | None]:
    return [arguments.get("index", [None])[0] for path, arguments in consul.requests if "/health/" in path]


def test_an_index_that_went_backwards_is_not_waited_for(consul: FakeConsul, backend: str) -> None:
    async def main() -> None:
        for number in range(50):
            consul.register("orders", id="a", port=80 + number)
        watch = connect(url(consul, "&wait=0.5")).watch()
        await until(watch, ["a"])
        await soon(lambda: indices(consul)[-1] == "60")
        consul.restore(1)  # whoever waits for 61 waits in vain
        consul.register("orders", id="b", port=80)
        await until(watch, ["a", "b"])
        consul.register("orders", id="c", port=80)
        began = time.monotonic()
        await until(watch, ["a", "b", "c"])
        assert time.monotonic() - began < 5
        await close(watch)

    run(backend, main)
    asked = indices(consul)
    assert "0" not in asked, "an index of 0 does not wait"
    assert asked.count(None) == 2, "the first, and the one after the index went back"
    assert asked.index(None, 1) > asked.index("60")


def test_a_server_that_tells_no_index_is_asked_at_intervals(consul: FakeConsul, backend: str) -> None:
    consul.headers = {"X-Consul-Index": None}

    async def main() -> None:
        consul.register("orders", id="a", port=80)
        watch = connect(url(consul)).watch()
        await until(watch, ["a"])
        consul.register("orders", id="b", port=80)
        await until(watch, ["a", "b"])
        await nothing_new(watch, 0.5)
        await close(watch)

    run(backend, main)
    assert set(indices(consul)) == {None}
    assert len(consul.requests) < 15


def test_a_wait_that_ends_without_a_change_changes_nothing(consul: FakeConsul, backend: str) -> None:
    async def main() -> None:
        consul.register("orders", id="a", port=80)
        watch = connect(url(consul, "&wait=0.05")).watch()
        await until(watch, ["a"])
        await nothing_new(watch, 0.5)
        consul.register("orders", id="b", port=80)
        await until(watch, ["a", "b"])
        await close(watch)

    run(backend, main)


def test_only_what_passes_is_called_unless_warnings_are_asked_for(consul: FakeConsul, backend: str) -> None:
    async def main() -> None:
        for number, status in enumerate(("passing", "warning", "critical", None)):
            weights = {"Passing": 4, "Warning": 2}
            consul.register("orders", id=str(number), port=80, weights=weights, status=status)
        watch = connect(url(consul)).watch()
        await until(watch, ["0", "3"])
        consul.check("0", "critical")
        await until(watch, ["3"])
        await close(watch)
        consul.check("0", "passing")
        watch = connect(url(consul, "&passing=false")).watch()
        found = await until(watch, ["0", "1", "3"])
        assert [each.weight for each in found.instances] == [4.0, 2.0, 4.0]
        await close(watch)

    run(backend, main)


def test_tags_are_asked_for_and_told(consul: FakeConsul, backend: str) -> None:
    async def main() -> None:
        consul.register("orders", id="a", port=80, tags=["v1", "eu"], meta={"zone": "eu-1", "k": "v"})
        consul.register("orders", id="b", port=80, tags=["v2"])
        watch = connect(url(consul, "&tag=v1,eu&dc=dc1")).watch()
        (found,) = (await until(watch, ["a"])).instances
        assert (found.zone, found.metadata) == ("eu-1", {"k": "v", "tags": "v1,eu"})
        assert found.host == consul.host, "a service without an address is where its node is"
        await close(watch)
        async with register(url(consul, "&tag=v1,eu"), A):
            assert consul.instances()["a"]["Tags"] == ["v1", "eu"]

    run(backend, main)


def test_a_token_comes_from_a_file_that_may_change(tmp_path: Path, backend: str) -> None:
    file = tmp_path / "token"
    file.write_text("wrong\n")

    async def main(consul: FakeConsul) -> None:
        consul.register("orders", id="a", port=80)
        there = url(consul, f"&token_file={file}")
        with pytest.raises(DiscoveryError, match="403"):
            async with register(there, A):
                raise AssertionError("entered")
        watch = connect(there).watch()
        await nothing_new(watch, 0.2)
        file.write_text("secret\n")
        await until(watch, ["a"])
        await close(watch)

    with FakeConsul(token="secret") as consul:  # noqa: S106
        anyio.run(main, consul, backend=backend)


def test_a_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "secret")

    async def main(consul: FakeConsul) -> None:
        async with register(url(consul), A):
            assert list(consul.instances()) == ["a"]

    with FakeConsul(token="secret") as consul:  # noqa: S106
        anyio.run(main, consul)


@pytest.mark.parametrize("failure", [(500, "No cluster leader"), (429, "Your IP is issuing too many requests")])
def test_answers_of_failure_keep_the_last_good_and_are_not_hammered(
    consul: FakeConsul, backend: str, failure: tuple[int, str]
) -> None:
    async def main() -> None:
        consul.register("orders", id="a", port=80)
        watch = connect(url(consul, "&wait=0.2")).watch()
        await until(watch, ["a"])
        consul.failure = failure
        before = len(consul.requests)
        stale = await until(watch, ["a"], stale=True)
        assert stale.stale_since is not None
        await nothing_new(watch, 0.5)
        assert len(consul.requests) - before < 15
        consul.failure = None
        await until(watch, ["a"])
        await close(watch)

    run(backend, main)


@pytest.mark.parametrize("headers", [{"X-Consul-KnownLeader": "false"}, {"X-Consul-LastContact": "90000"}])
def test_a_server_that_lost_its_leader_is_not_believed(
    consul: FakeConsul, backend: str, headers: dict[str, str | None]
) -> None:
    """It says what it knew last, which may be nothing."""

    async def main() -> None:
        consul.register("orders", id="a", port=80)
        watch = connect(url(consul, "&wait=0.1&max_stale=30")).watch()
        await until(watch, ["a"])
        consul.headers = headers
        consul.deregister("a")
        await until(watch, ["a"], stale=True)
        consul.headers = {}
        await until(watch, [])
        await close(watch)

    run(backend, main)
    assert all("stale" in arguments for path, arguments in consul.requests)


def test_a_service_that_flaps_is_not_polled_without_end(consul: FakeConsul, backend: str) -> None:
    async def main() -> None:
        consul.register("orders", id="a", port=80)
        watch = connect(url(consul)).watch()
        await until(watch, ["a"])
        with anyio.move_on_after(0.6):
            for number in range(10_000):
                consul.register("orders", id="a", port=1 + number)
                await anyio.sleep(0.002)
        consul.register("orders", id="b", port=80)
        await until(watch, ["a", "b"])
        await close(watch)

    run(backend, main)
    assert len(consul.requests) < 20


def test_a_query_that_never_ends_is_given_up(consul: FakeConsul, backend: str) -> None:
    """A server that holds its answer back for longer than it said."""
    consul.jitter = 10_000.0

    async def main() -> None:
        consul.register("orders", id="a", port=80)
        watch = connect(url(consul, "&wait=0.2").replace("timeout=2", "timeout=0.3")).watch()
        await until(watch, ["a"])
        consul.jitter = 10_000.0
        # Every wait fails, and every list in between succeeds: what it says is current.
        await soon(lambda: indices(consul).count(None) > 1)
        await close(watch)

    run(backend, main)


def test_an_instance_keeps_what_consul_has_no_place_for(consul: FakeConsul, backend: str) -> None:
    instance = Instance(id="a", host="10.0.0.1", port=80, weight=0.25, zone="z", metadata={"k": "v"})

    async def main() -> None:
        watch = connect(url(consul)).watch()
        async with register(url(consul), instance):
            assert (await until(watch, ["a"])).instances == (instance,)
            assert consul.instances()["a"]["Weights"] == {"Passing": 1, "Warning": 1}
        await close(watch)

    run(backend, main)


@pytest.mark.parametrize(
    "metadata", [{"a b": "x"}, {"k": "x" * 513}, {f"k{number}": "" for number in range(64)}, {"x" * 129: ""}]
)
def test_metadata_that_consul_cannot_hold_is_refused_at_once(metadata: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="metadata"):
        register("consul://127.0.0.1:8500/orders", Instance(id="a", host="h", port=1, metadata=metadata))


def entry(identity: str, node: str = "n1", **service: Any) -> dict[str, Any]:
    fields = {"ID": identity, "Service": "orders", "Address": "", "Port": 80} | service
    return {"Node": {"Node": node, "Address": f"10.0.0.{node[1:]}"}, "Service": fields, "Checks": None}


def test_ids_are_those_of_the_nodes_too_where_services_have_the_same() -> None:
    found = instances_in([entry("a"), entry("b", "n1"), entry("b", "n2"), entry("orders", "n3")])
    assert [(each.id, each.host) for each in found] == [
        ("a", "10.0.0.1"),
        ("n1/b", "10.0.0.1"),
        ("n2/b", "10.0.0.2"),
        ("n3/orders", "10.0.0.3"),
    ]


def test_what_has_no_port_is_left_out_and_what_has_a_bad_one_is_trouble() -> None:
    assert instances_in([entry("a", Port=0)]) == []
    with pytest.raises(DiscoveryError, match="port=70000"):
        instances_in([entry("a", Port=70_000)])


@pytest.mark.parametrize(
    ("fields", "weight"),
    [
        ({}, 1.0),
        ({"Weights": None}, 1.0),
        ({"Weights": {"Passing": 7, "Warning": 1}}, 7.0),
        ({"Weights": {"Passing": 1}, "Meta": {"weight": "0.5"}}, 0.5),
        ({"Weights": {"Passing": 3}, "Meta": {"weight": "heavy"}}, 3.0),
        ({"Weights": {"Passing": 3}, "Meta": {"weight": "-1"}}, 3.0),
        ({"Weights": {"Passing": 3}, "Meta": {"weight": "inf"}}, 3.0),
    ],
)
def test_weights_are_those_of_consul_unless_the_metadata_says_it_exactly(fields: dict[str, Any], weight: float) -> None:
    (found,) = instances_in([entry("a", **fields)])
    assert found.weight == weight
    assert found.metadata == {}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("consul://h:8500", "the path is the name of a service"),
        ("consul://h:8500/a/b", "the path is the name of a service"),
        ("consul://h/orders", "'h' is no host:port"),
        ("consul://h:8500/orders?passing=maybe", "passing=maybe: one of true, false"),
        ("consul://h:8500/orders?wait=601", "wait=601.0: between"),
        ("consul://h:8500/orders?max_stale=0", "max_stale=0: a finite number"),
        ("consul://h:8500/orders?near=me", "unknown option 'near'"),
        ("consuls://h:8500/orders?key=x", "key without cert"),
    ],
)
def test_a_bad_url_is_refused(bad: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        connect(bad)


def test_bad_arguments_are_refused_and_no_token_is_shown() -> None:
    for wrong in ({"endpoints": ()}, {"service": ""}, {"wait": 0.0}, {"timeout": -1.0}, {"max_stale": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Consul(**{"endpoints": ("http://h:1",), "service": "a", **wrong})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown") as caught:
        connect("consul://h:8500/orders?token=secret&x=1")
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(connect("consul://h:8500/orders?token=secret"))


def test_ids_of_a_snapshot_are_sorted(consul: FakeConsul, backend: str) -> None:
    async def main() -> None:
        for name in "bca":
            consul.register("orders", id=name, port=80)
        watch = connect(url(consul)).watch()
        first: Snapshot = await anext(watch)
        assert ids(first) == ["a", "b", "c"]
        await close(watch)

    run(backend, main)
