"""The fake Consul, held to the documented rules, over its socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from resilient.testing.consul import FakeConsul

NOBODY = "adf4238a-882b-9ddc-4a9d-5b6758e4159e"
"""A session that there is not."""


@pytest.fixture
def consul() -> Iterator[FakeConsul]:
    with FakeConsul(shortest_deregistration=0.2) as found:
        yield found


@pytest.fixture
def http(consul: FakeConsul) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{consul.url}/v1", timeout=30.0) as client:
        yield client


def index(answer: httpx.Response) -> int:
    return int(answer.headers["X-Consul-Index"])


def ports(answer: httpx.Response) -> list[int]:
    return [each["Service"]["Port"] for each in answer.json()]


def later(act, seconds: float = 0.1) -> threading.Timer:
    timer = threading.Timer(seconds, act)
    timer.start()
    return timer


def test_a_service_that_nobody_knows_has_no_instances_and_an_index(http: httpx.Client) -> None:
    answer = http.get("/health/service/orders")
    assert (answer.json(), answer.headers["X-Consul-KnownLeader"], answer.headers["X-Consul-LastContact"]) == (
        [],
        "true",
        "0",
    )
    assert index(answer) >= 1


def test_a_blocking_query_waits_for_a_higher_index(consul: FakeConsul, http: httpx.Client) -> None:
    consul.register("orders", port=1)
    first = http.get("/health/service/orders")
    later(lambda: consul.register("orders", id="two", port=2))
    began = time.monotonic()
    second = http.get("/health/service/orders", params={"index": index(first), "wait": "20s"})
    assert 0.09 < time.monotonic() - began < 15
    assert sorted(ports(second)) == [1, 2]
    assert index(second) > index(first)


def test_a_change_of_another_service_wakes_nobody(consul: FakeConsul, http: httpx.Client) -> None:
    consul.register("orders", port=1)
    first = http.get("/health/service/orders")
    later(lambda: consul.register("billing", port=2))
    began = time.monotonic()
    second = http.get("/health/service/orders", params={"index": index(first), "wait": "400ms"})
    assert time.monotonic() - began > 0.39
    assert (index(second), second.json()) == (index(first), first.json())


def test_index_0_and_no_index_do_not_wait(http: httpx.Client) -> None:
    began = time.monotonic()
    http.get("/health/service/orders", params={"index": 0, "wait": "60s"})
    http.get("/health/service/orders", params={"wait": "60s"})
    assert time.monotonic() - began < 30


def test_an_index_ahead_of_the_servers_waits_in_vain(consul: FakeConsul, http: httpx.Client) -> None:
    """What a restored snapshot does to whoever waits."""
    consul.register("orders", port=1)
    ahead = index(http.get("/health/service/orders")) + 1000
    later(lambda: consul.register("orders", id="two", port=2))
    began = time.monotonic()
    answer = http.get("/health/service/orders", params={"index": ahead, "wait": "500ms"})
    assert time.monotonic() - began > 0.49
    assert index(answer) < ahead
    assert sorted(ports(answer)) == [1, 2]


def test_a_restored_snapshot_takes_the_index_back(consul: FakeConsul, http: httpx.Client) -> None:
    consul.register("orders", port=1, status="critical")
    before = index(http.get("/health/service/orders"))
    consul.restore(1)
    after = http.get("/health/service/orders")
    assert index(after) < before
    assert ports(after) == [1]
    consul.restore(1, keep=False)
    assert http.get("/health/service/orders").json() == []


def test_the_wait_is_lengthened_by_a_sixteenth_at_most(consul: FakeConsul, http: httpx.Client) -> None:
    consul.jitter = 1.0
    consul.register("orders", port=1)
    first = index(http.get("/health/service/orders"))
    spent = []
    for _ in range(6):
        began = time.monotonic()
        http.get("/health/service/orders", params={"index": first, "wait": "50ms"})
        spent.append(time.monotonic() - began)
    assert min(spent) >= 0.05
    assert max(spent) - min(spent) > 0.001


def test_only_what_passes_is_passing(consul: FakeConsul, http: httpx.Client) -> None:
    for number, status in enumerate(("passing", "warning", "critical", None), 1):
        consul.register("orders", id=str(number), port=number, status=status)
    assert ports(http.get("/health/service/orders")) == [1, 2, 3, 4]
    assert ports(http.get("/health/service/orders?passing")) == [1, 4]
    assert ports(http.get("/health/service/orders?passing=false")) == [1, 2, 3, 4]
    consul.check("1", "critical")
    assert ports(http.get("/health/service/orders?passing=1")) == [4]


def test_all_tags_that_are_asked_for_are_there(consul: FakeConsul, http: httpx.Client) -> None:
    consul.register("orders", id="1", port=1, tags=["v1", "eu"])
    consul.register("orders", id="2", port=2, tags=["v2", "eu"])
    assert ports(http.get("/health/service/orders?tag=eu")) == [1, 2]
    assert ports(http.get("/health/service/orders?tag=eu&tag=v2")) == [2]
    assert http.get("/catalog/services").json() == {"consul": [], "orders": ["eu", "v1", "v2"]}


def test_an_agent_registers_and_a_check_of_time_has_to_be_passed(consul: FakeConsul, http: httpx.Client) -> None:
    body = {
        "ID": "orders-1",
        "Name": "orders",
        "Port": 8080,
        "Check": {"TTL": "300ms", "DeregisterCriticalServiceAfter": "100ms"},
    }
    assert http.put("/agent/service/register", json=body).status_code == 200
    assert ports(http.get("/health/service/orders?passing")) == [], "a fresh check is critical"
    assert http.put("/agent/check/pass/service:orders-1").status_code == 200
    passed = http.get("/health/service/orders?passing")
    assert ports(passed) == [8080]
    gone = http.get(f"/health/service/orders?passing&wait=20s&index={index(passed)}")
    assert gone.json() == []
    deadline = time.monotonic() + 20
    while consul.instances():  # and after a while it is forgotten
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert http.get("/agent/service/orders-1").status_code == 404
    unknown = http.put("/agent/check/pass/service:orders-1")
    assert (unknown.status_code, unknown.text) == (500, 'CheckID "service:orders-1" does not have associated TTL')
    assert http.put("/agent/service/deregister/orders-1").status_code == 200, "it is gone, as was asked"


def test_a_service_that_is_registered_again_keeps_its_check(consul: FakeConsul, http: httpx.Client) -> None:
    body = {"Name": "orders", "Port": 1, "Check": {"TTL": "60s", "Status": "passing"}}
    http.put("/agent/service/register", json=body)
    http.put("/agent/check/warn/service:orders")
    http.put("/agent/service/register", json=body | {"Port": 2})
    found = http.get("/health/service/orders").json()[0]
    assert (found["Service"]["Port"], found["Checks"][1]["Status"]) == (2, "warning")


def test_sessions_live_as_long_as_they_are_renewed(http: httpx.Client) -> None:
    session = http.put("/session/create", json={"Name": "leader", "TTL": "10s"}).json()["ID"]
    assert http.get(f"/session/info/{session}").json()[0]["Name"] == "leader"
    assert http.put(f"/session/renew/{session}").json()[0]["ID"] == session
    assert http.put(f"/session/destroy/{session}").json() is True
    assert http.get(f"/session/info/{session}").json() == []
    assert http.put(f"/session/renew/{session}").status_code == 404


def test_a_session_that_nobody_renews_ends(consul: FakeConsul) -> None:
    session = consul.catalog.create_session({"TTL": "10s"}, 100.0)
    assert consul.catalog.expire(119.0) == 120.0
    assert consul.catalog.session(session) != []
    assert consul.catalog.expire(120.0) is None
    assert consul.catalog.session(session) == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/health/service/orders?near=_agent", None, 400),
        ("GET", "/health/service/orders?index=x", None, 400),
        ("GET", "/health/service/orders?wait=5", None, 400),
        ("GET", "/health/service/orders?passing=maybe", None, 400),
        ("GET", "/health/service/orders?stale&consistent", None, 400),
        ("GET", "/health/service/orders?dc=elsewhere", None, 500),
        ("GET", "/nothing", None, 404),
        ("PUT", "/agent/service/register", {"Port": 1}, 400),
        ("PUT", "/agent/service/register", {"Name": "a", "Prot": 1}, 400),
        ("PUT", "/agent/service/register", {"Name": "a", "Port": "1"}, 400),
        ("PUT", "/agent/service/register", {"Name": "a", "Tags": [1]}, 400),
        ("PUT", "/agent/service/register", {"Name": "a", "Weights": {"Passing": 0}}, 400),
        ("PUT", "/agent/service/register", {"Name": "a", "Weights": {"Passing": 0.5}}, 400),
        ("PUT", "/agent/service/register", {"Name": "a", "Check": {"HTTP": "http://x"}}, 400),
        ("PUT", "/agent/service/register", {"Name": "a", "Check": {"Name": "x"}}, 400),
        ("PUT", "/agent/service/register", {"Name": "a", "Check": {"TTL": "0"}}, 400),
        ("PUT", "/agent/service/register", {"Name": "a", "Check": {"TTL": "1s", "Status": "up"}}, 400),
        ("PUT", "/agent/service/register", [], 400),
        ("PUT", "/session/create", {"TTL": "1s"}, 500),
        ("PUT", "/session/create", {"TTL": "soon"}, 500),
        ("PUT", "/session/create", {"LockDelay": "soon"}, 500),
        ("PUT", "/session/create", {"Behavior": "x"}, 500),
        ("PUT", "/session/renew/one", None, 500),
        ("PUT", "/session/destroy/one", None, 500),
        ("GET", "/session/info/one", None, 500),
        ("GET", "/kv/", None, 400),
        ("GET", "/kv/a?index=x", None, 400),
        ("GET", "/kv/a?recursive", None, 400),
        ("PUT", "/kv/", None, 400),
        ("DELETE", "/kv/", None, 400),
        ("DELETE", "/kv/a?recurse&cas=1", None, 400),
        ("PUT", "/kv/a?cas=x", None, 500),
        ("PUT", "/kv/a?flags=x", None, 500),
        ("PUT", "/kv/a?acquire=one", None, 500),
        ("PUT", f"/kv/a?acquire={NOBODY}", None, 500),
        ("PUT", f"/kv/a?acquire={NOBODY}&release={NOBODY}", None, 400),
        ("PUT", f"/kv/a?acquire={NOBODY}&cas=1", None, 400),
    ],
)
def test_what_is_wrong_is_refused(http: httpx.Client, method: str, path: str, body: object, status: int) -> None:
    answer = http.request(method, path, json=body) if body is not None else http.request(method, path)
    assert answer.status_code == status, answer.text
    assert answer.text


def test_a_token_is_asked_for() -> None:
    with FakeConsul(token="secret") as consul:  # noqa: S106
        url = f"{consul.url}/v1/health/service/orders"
        assert httpx.get(url).status_code == 403
        assert httpx.get(url, headers={"X-Consul-Token": "wrong"}).status_code == 403
        assert httpx.get(url, headers={"X-Consul-Token": "secret"}).status_code == 200
        assert httpx.get(url, headers={"Authorization": "Bearer secret"}).status_code == 200


def test_it_fails_as_it_is_told(consul: FakeConsul, http: httpx.Client) -> None:
    consul.failure = (500, "No cluster leader")
    answer = http.get("/health/service/orders")
    assert (answer.status_code, answer.text) == (500, "No cluster leader")
    consul.failure = None
    consul.headers = {"X-Consul-Index": None, "X-Consul-LastContact": "90000"}
    answer = http.get("/health/service/orders?stale")
    assert "X-Consul-Index" not in answer.headers
    assert answer.headers["X-Consul-LastContact"] == "90000"
    assert ("/v1/health/service/orders", {"stale": [""]}) in consul.requests


def test_a_stop_breaks_queries_off_and_a_start_remembers(consul: FakeConsul, http: httpx.Client) -> None:
    consul.register("orders", port=1)
    port = consul.port
    first = index(http.get("/health/service/orders"))
    later(consul.stop)
    with pytest.raises(httpx.TransportError):
        http.get("/health/service/orders", params={"index": first, "wait": "60s"})
    with pytest.raises(httpx.TransportError):
        http.get("/health/service/orders")
    consul.start()
    assert consul.port == port
    assert ports(http.get("/health/service/orders")) == [1]


def session(http: httpx.Client, **fields: str) -> str:
    identity: str = http.put("/session/create", json=fields).json()["ID"]
    return identity


def entry(http: httpx.Client, key: str) -> dict[str, object]:
    ((found),) = http.get(f"/kv/{key}").json()
    return dict(found)


def test_a_session_need_not_have_a_time_to_live(http: httpx.Client) -> None:
    for fields in ({}, {"TTL": "0"}, {"TTL": "0s"}):
        identity = session(http, **fields)
        assert http.get(f"/session/info/{identity}").json()[0]["ID"] == identity


def test_values_are_kept_under_their_keys(http: httpx.Client) -> None:
    missing = http.get("/kv/config/orders")
    assert (missing.status_code, missing.content) == (404, b"")
    assert index(missing) >= 1
    assert http.put("/kv/config/orders?flags=42", content=b"hello").json() is True
    found = http.get("/kv/config/orders")
    created = index(found)
    assert found.json() == [
        {
            "LockIndex": 0,
            "Key": "config/orders",
            "Flags": 42,
            "Value": "aGVsbG8=",
            "CreateIndex": created,
            "ModifyIndex": created,
        }
    ]
    assert http.get("/kv/config/orders?raw").content == b"hello"
    http.put("/kv/config/orders?flags=42", content=b"hello")
    assert entry(http, "config/orders")["ModifyIndex"] == created, "it is as it was"
    http.put("/kv/config/orders", content=b"")
    assert entry(http, "config/orders") | {"ModifyIndex": 0} == {
        **found.json()[0],
        "Flags": 0,
        "Value": None,
        "ModifyIndex": 0,
    }
    assert http.get("/kv/config/orders?raw").content == b""


def test_keys_are_listed_by_what_they_begin_with(http: httpx.Client) -> None:
    for key in ("n", "n/a", "n/b/c", "m"):
        http.put(f"/kv/{key}", content=b"x")
    assert [one["Key"] for one in http.get("/kv/n?recurse").json()] == ["n", "n/a", "n/b/c"]
    assert http.get("/kv/n?keys").json() == ["n", "n/a", "n/b/c"]
    assert http.get("/kv/n/?keys&separator=/").json() == ["n/a", "n/b/"]
    assert http.get("/kv/?keys").json() == ["m", "n", "n/a", "n/b/c"]
    assert http.get("/kv/o?recurse").status_code == http.get("/kv/o?keys").status_code == 404
    assert http.delete("/kv/n/a").json() is http.delete("/kv/n/a").json() is True
    assert http.delete("/kv/n?recurse").json() is True
    assert http.get("/kv/?keys").json() == ["m"]


def test_a_write_may_depend_on_what_was_read(http: httpx.Client) -> None:
    assert [http.put("/kv/n?cas=0", content=body).json() for body in (b"one", b"two")] == [True, False]
    read = entry(http, "n")["ModifyIndex"]
    assert http.put(f"/kv/n?cas={read}", content=b"three").json() is True
    assert http.put(f"/kv/n?cas={read}", content=b"four").json() is False
    assert http.delete(f"/kv/n?cas={read}").json() is False
    assert http.get("/kv/n?raw").content == b"three"
    assert http.delete(f"/kv/n?cas={entry(http, 'n')['ModifyIndex']}").json() is True


def test_a_key_can_be_waited_for(http: httpx.Client) -> None:
    http.put("/kv/a", content=b"1")
    first = index(http.get("/kv/a"))
    http.put("/kv/b", content=b"1")
    assert index(http.get("/kv/a")) == first, "another key"
    for act, told in (
        (lambda: httpx.put(f"{http.base_url}kv/a", content=b"2"), 200),
        (lambda: httpx.delete(f"{http.base_url}kv/a"), 404),
    ):
        later(act)
        answer = http.get("/kv/a", params={"index": first, "wait": "20s"})
        assert (answer.status_code, index(answer) > first) == (told, True)
        first = index(answer)


def test_a_key_is_locked_by_one_session_at_a_time(http: httpx.Client) -> None:
    one, other = session(http), session(http)
    lock = [http.put(f"/kv/leader?acquire={by}", content=by.encode()).json() for by in (one, one, other)]
    assert lock == [True, True, False]
    assert (entry(http, "leader")["Session"], entry(http, "leader")["LockIndex"]) == (one, 1)
    assert [http.put(f"/kv/leader?release={by}").json() for by in (other, one, one)] == [False, True, False]
    assert "Session" not in entry(http, "leader")
    assert http.put(f"/kv/leader?acquire={other}").json() is True
    assert entry(http, "leader")["LockIndex"] == 2
    http.put("/kv/leader", content=b"by anybody")
    told = entry(http, "leader")
    assert (told["Session"], told["LockIndex"]) == (other, 0), "as in a real one"


def test_a_lock_ends_with_its_session_and_is_free_after_a_delay(consul: FakeConsul, http: httpx.Client) -> None:
    for behavior, left in (("release", 200), ("delete", 404)):
        ending, next_one = session(http, Behavior=behavior, LockDelay="100ms"), session(http)
        assert http.put(f"/kv/{behavior}?acquire={ending}", content=b"x").json() is True
        http.put(f"/session/destroy/{ending}")
        assert http.get(f"/kv/{behavior}").status_code == left
        assert http.put(f"/kv/{behavior}?acquire={next_one}").json() is False
        time.sleep(0.11)
        assert http.put(f"/kv/{behavior}?acquire={next_one}").json() is True


def test_a_value_has_a_largest_size(http: httpx.Client) -> None:
    assert http.put("/kv/big", content=bytes(524_288)).json() is True
    assert http.put("/kv/big", content=bytes(524_289)).status_code == 413
    assert http.post("/kv/big", content=b"").status_code in {405, 501}
