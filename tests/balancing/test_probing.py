"""Instances are asked how busy they are, beside the calls."""

from __future__ import annotations

import logging
import math
from collections import Counter

import anyio
import httpx
import httpx2
import pytest

from resilient.asgi import LoadReportMiddleware
from resilient.balancing import Balance, Balancer, Load, Observer, Prequal
from resilient.events import Event, InstancePicked
from resilient.http import Transport, client, sync_client
from resilient.instance import Instance
from resilient.machines.prequal import PrequalPicking
from resilient.pipeline import Pipeline
from resilient.service import Service
from resilient.snapshot import Snapshot
from resilient.testing import virtual_time
from tests.asgi.serving import served

FIVE = "static://10.0.0.1:80,10.0.0.2:80,10.0.0.3:80,10.0.0.4:80,10.0.0.5:80"


class Fleet:
    """Instances that are asked, and take their time."""

    def __init__(self, *, takes: float = 0.001, slow: str = "") -> None:
        self.takes = takes
        self.slow = slow
        self.asked: Counter[str] = Counter()
        self.asking = self.most = 0

    async def probe(self, instance: Instance) -> Load:
        self.asked[instance.host] += 1
        self.asking += 1
        self.most = max(self.most, self.asking)
        try:
            await anyio.sleep(self.takes)
        finally:
            self.asking -= 1
        return Load(in_flight=1, latency=0.5 if instance.host == self.slow else 0.01)


def calling(service: Service, takes: float = 0.0):
    @service
    async def quote(instance: Instance) -> str:
        await anyio.sleep(takes)
        return instance.host

    return quote


def reasons(events: list[Event]) -> Counter[str]:
    return Counter(event.reason for event in events if isinstance(event, InstancePicked))


def test_a_service_asks_in_the_background_and_avoids_what_is_slow(backend) -> None:
    fleet = Fleet(slow="10.0.0.3")
    events: list[Event] = []
    service = Service("orders", FIVE, balancer=Prequal(probe=fleet.probe))
    quote = calling(service)

    async def main():
        async with service:
            picked: Counter[str] = Counter()
            for _ in range(200):
                picked[await quote()] += 1
                await anyio.sleep(0.01)
            return picked

    picked = virtual_time.run(main, backend=backend, emit=events.append)
    assert fleet.asked.total() == pytest.approx(600, abs=3)
    assert len(fleet.asked) == 5
    assert picked["10.0.0.3"] <= 2
    assert reasons(events)["fallback"] <= 2
    assert reasons(events)["cold"] >= 190


def test_no_call_waits_for_a_probe(backend) -> None:
    async def probe(instance: Instance) -> Load:
        await anyio.sleep(0.04)
        return Load(in_flight=0, latency=0.01)

    service = Service("orders", FIVE, balancer=Prequal(probe=probe))
    quote = calling(service)

    async def main():
        async with service:
            for _ in range(100):
                await quote()
            return anyio.current_time()

    assert virtual_time.run(main, backend=backend) == 0.0


def test_no_instance_is_asked_twice_at_once_and_not_too_many_of_them(backend) -> None:
    fleet = Fleet(takes=math.inf)
    service = Service("orders", FIVE, balancer=Prequal(probe=fleet.probe, at_once=3))
    quote = calling(service)

    async def main():
        async with service:
            for _ in range(50):
                await quote()
                await anyio.sleep(0.0005)
            assert fleet.most == 3
            assert fleet.asked.total() == len(fleet.asked) == 3
            await anyio.sleep(0.1)  # they are given up, and others take their places
            await quote()
            await anyio.sleep(0.01)
            assert fleet.asked.total() > 3
        assert fleet.asking == 0

    virtual_time.run(main, backend=backend)


def test_an_answer_that_takes_too_long_is_not_waited_for(backend) -> None:
    fleet = Fleet(takes=0.06)
    events: list[Event] = []
    service = Service("orders", FIVE, balancer=Prequal(probe=fleet.probe))
    quote = calling(service)

    async def main():
        async with service:
            for _ in range(20):
                await quote()
                await anyio.sleep(0.1)

    virtual_time.run(main, backend=backend, emit=events.append)
    assert fleet.asked.total() > 50
    assert reasons(events) == {"fallback": 20}


def test_probes_end_with_the_service_and_begin_again_with_it(backend) -> None:
    fleet = Fleet(takes=0.02)
    service = Service("orders", FIVE, balancer=Prequal(probe=fleet.probe))
    quote = calling(service)

    async def main():
        for _ in range(2):
            async with service:
                await quote()
                await anyio.sleep(0.01)
                assert fleet.asking == 3
            assert fleet.asking == 0
            await anyio.sleep(1.0)
        assert fleet.asked.total() == 6

    virtual_time.run(main, backend=backend)


def test_a_probe_that_always_fails_is_told_once_until_one_succeeds(backend, caplog) -> None:
    working = False

    async def probe(instance: Instance) -> Load:
        if not working:
            raise ConnectionRefusedError(instance.address)
        return Load(in_flight=0, latency=0.01)

    service = Service("orders", FIVE, balancer=Prequal(probe=probe))
    quote = calling(service)

    async def main():
        nonlocal working
        async with service:
            for turn in range(200):
                working = turn == 100
                await quote()
                await anyio.sleep(0.01)

    with caplog.at_level(logging.WARNING, logger="resilient"):
        virtual_time.run(main, backend=backend)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "orders: of 100 probes none was answered, so the choice is random" in told[0]
    assert "10.0.0." in told[0]


def test_a_probe_that_returns_something_else_is_no_answer(backend, caplog) -> None:
    async def probe(instance: Instance) -> object:
        return 7

    service = Service("orders", FIVE, balancer=Prequal(probe=probe))  # type: ignore[arg-type]  # which is the point
    quote = calling(service)

    async def main():
        async with service:
            for _ in range(60):
                await quote()
                await anyio.sleep(0.01)

    with caplog.at_level(logging.WARNING, logger="resilient"):
        virtual_time.run(main, backend=backend)
    assert "it returned 7, not a Load" in caplog.text


def test_an_instance_that_left_is_not_asked_any_more(backend) -> None:
    fleet = Fleet()

    class Shrinking:
        async def watch(self):
            instances = tuple(Instance(id=f"i{n}", host=f"i{n}", port=80) for n in range(4))
            yield Snapshot(version=1, instances=instances)
            await anyio.sleep(1.0)
            yield Snapshot(version=2, instances=instances[1:])
            await anyio.sleep_forever()

    service = Service("orders", Shrinking(), balancer=Prequal(probe=fleet.probe))
    quote = calling(service)

    async def main():
        async with service:
            picked: Counter[str] = Counter()
            for turn in range(200):
                if turn == 101:
                    fleet.asked.clear()
                    picked.clear()
                picked[await quote()] += 1
                await anyio.sleep(0.01)
            assert picked["i0"] == fleet.asked["i0"] == 0
            assert len(fleet.asked) == len(picked) == 3

    virtual_time.run(main, backend=backend)


def test_a_pipeline_of_ones_own_asks_where_it_is_run(backend) -> None:
    fleet = Fleet()
    balancer = Balancer(Prequal(probe=fleet.probe))
    assert balancer.probing is not None
    probing = balancer.probing

    @Pipeline(Balance(balancer))
    async def read() -> None:
        pass

    async def main():
        instances = tuple(Instance(id=name, host=name, port=80) for name in "abcd")
        balancer.apply(Snapshot(version=1, instances=instances), 0.0, lambda: 0.5)
        await read()
        await read()  # nobody asks yet: what is wanted waits, and no more of it than may be asked at once
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(probing.run)
            await anyio.sleep(0.1)
            assert fleet.asked.total() >= 2
            tasks.cancel_scope.cancel()

    virtual_time.run(main, backend=backend)


# -- over HTTP ----------------------------------------------------------------------------------------------------


async def app(scope, receive, send):
    await anyio.sleep(0.3 if scope["server"][0] == "10.0.0.3" else 0.01)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize("package", [httpx, httpx2])
def test_an_http_client_asks_over_http(backend, package) -> None:
    """A real application behind the middleware: its own measure of latency tells who is slow."""
    servers: dict[str, LoadReportMiddleware] = {}
    events: list[Event] = []

    def inner(instance: Instance):
        asgi = servers.setdefault(instance.id, LoadReportMiddleware(app))
        return package.ASGITransport(asgi)

    service = Service("orders", FIVE, balancer=Prequal())

    async def main():
        picked: Counter[str] = Counter()
        transport = Transport(service, inner)
        async with (
            service,
            package.AsyncClient(transport=transport, base_url="http://orders", timeout=None) as http,
        ):
            for turn in range(200):
                response = await http.get("/")
                if turn >= 50:
                    picked[response.extensions["resilient"].instance.host] += 1
        return picked

    picked = virtual_time.run(main, backend=backend, emit=events.append)
    assert picked["10.0.0.3"] <= 5
    assert reasons(events)["cold"] >= 180


def test_a_server_that_does_not_answer_probes_is_told_of(backend, caplog) -> None:
    service = Service("orders", FIVE, balancer=Prequal())

    async def main():
        transport = Transport(service, lambda instance: httpx.MockTransport(lambda request: httpx.Response(404)))
        async with service, httpx.AsyncClient(transport=transport, base_url="http://orders") as http:
            for _ in range(50):
                await http.get("/")
                await anyio.sleep(0.01)

    with caplog.at_level(logging.WARNING, logger="resilient"):
        virtual_time.run(main, backend=backend)
    assert "/.well-known/resilient-load returned 404 without the header endpoint-load-metrics" in caplog.text


def test_probes_name_the_service_and_ask_at_the_path(backend) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/load":
            asked.append(request)
            return httpx.Response(200, headers={"endpoint-load-metrics": "TEXT named_metrics.rif=1"})
        return httpx.Response(200)

    service = Service("orders", FIVE, balancer=Prequal(path="/load"))

    async def main():
        transport = Transport(service, lambda instance: httpx.MockTransport(answer))
        async with service, httpx.AsyncClient(transport=transport, base_url="https://orders") as http:
            await http.get("/")
            await anyio.sleep(0.01)
        assert {request.headers["host"] for request in asked} == {"orders"}
        assert {request.url.scheme for request in asked} == {"https"}
        assert {request.extensions["sni_hostname"] for request in asked} == {"orders"}
        assert len({request.url.host for request in asked}) == 3

    virtual_time.run(main, backend=backend)


class _Closing(httpx.AsyncBaseTransport):
    open = 0

    def __init__(self, instance: Instance) -> None:
        type(self).open += 1

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"endpoint-load-metrics": "TEXT named_metrics.rif=1"})

    async def aclose(self) -> None:
        type(self).open -= 1


def test_connections_of_probes_are_closed_with_the_service_and_when_an_instance_has_left(backend) -> None:
    class Shrinking:
        async def watch(self):
            instances = tuple(Instance(id=f"i{n}", host=f"i{n}", port=80) for n in range(4))
            yield Snapshot(version=1, instances=instances)
            await anyio.sleep(1.0)
            yield Snapshot(version=2, instances=instances[2:])
            await anyio.sleep_forever()

    service = Service("orders", Shrinking(), balancer=Prequal())

    async def main():
        _Closing.open = 0
        async with httpx.AsyncClient(transport=Transport(service, _Closing), base_url="http://orders") as http:
            async with service:
                for _ in range(90):
                    await http.get("/")
                    await anyio.sleep(0.01)
                assert _Closing.open == 8  # four for calls, four for probes
                await anyio.sleep(0.2)
                for _ in range(10):
                    await http.get("/")
                    await anyio.sleep(0.01)
                assert _Closing.open == 4
            assert _Closing.open == 2
        assert _Closing.open == 0

    virtual_time.run(main, backend=backend)


def test_real_servers_are_asked_by_real_clients_of_both_kinds() -> None:
    async def hello(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    with served(LoadReportMiddleware(hello)) as one, served(LoadReportMiddleware(hello)) as other:
        hosts = ",".join(url.removeprefix("http://") for url in (one, other))
        events: list[Event] = []

        async def main() -> None:
            service = Service("orders", f"static://{hosts}", balancer=Prequal(timeout=5.0))
            async with service, client(service) as http:
                deadline = anyio.current_time() + 20
                while "cold" not in reasons(events):
                    assert anyio.current_time() < deadline
                    assert (await http.get("/")).content == b"ok"
                    await anyio.sleep(0.005)

        from resilient.context import use_runtime
        from resilient.runtime import Runtime

        with use_runtime(Runtime(emit=events.append)):
            anyio.run(main)
            events.clear()
            service = Service("orders", f"static://{hosts}", balancer=Prequal(timeout=5.0))
            with service, sync_client(service) as http:
                for _ in range(5000):
                    assert http.get("/").content == b"ok"
                    if "cold" in reasons(events):
                        break
        assert "cold" in reasons(events)


# -- what cannot be -----------------------------------------------------------------------------------------------


def test_functions_need_a_probe_of_their_own() -> None:
    service = Service("orders", FIVE, balancer=Prequal())
    with pytest.raises(TypeError, match=r"give the picker probe=\.\.\., an async function of the instance"):

        @service
        async def quote(instance: Instance) -> None: ...

    with pytest.raises(TypeError, match=r"give the picker probe=\.\.\."):

        class Orders:
            @service.method
            async def quote(self, instance: Instance) -> None: ...


def test_it_cannot_be_built_without_its_guard() -> None:
    assert isinstance(Prequal().picking(), Observer)

    class Unguarded:
        def picking(self):
            rule = PrequalPicking(pool=16, probes=3.0, removals=1.0, age=1.0, quantile=0.84)

            class Rule:
                update, pick, score, observe = rule.update, rule.pick, rule.score, rule.observe

            return Rule()

    with pytest.raises(TypeError, match="must observe failures too"):
        Balancer(Unguarded())


def test_a_machine_that_asks_needs_a_picker_that_says_how() -> None:
    class Mute:
        def picking(self):
            return Prequal().picking()

    with pytest.raises(TypeError, match="its machine asks for probes, so it must say how"):
        Balancer(Mute())


def test_other_pickers_ask_nobody() -> None:
    balancer = Balancer()
    assert balancer.probing is None
    assert balancer.probes(lambda: 0.5) == ()
    balancer.answered(Instance(id="a", host="a", port=80), Load(in_flight=1), 0.0, lambda: 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "load"}, "path='load': it begins with a /"),
        ({"timeout": 0.0}, "timeout=0.0: a finite number of seconds, more than 0"),
        ({"age": math.inf}, "age=inf: a finite number of seconds, more than 0"),
        ({"pool": 1}, "pool=1: a number of answers, from 2 to 1,000"),
        ({"at_once": 0}, "at_once=0: a number of probes, from 1 to 1,000"),
        ({"probes": 0.0}, "probes=0.0: a number for each call, more than 0"),
        ({"removals": 3.0}, "removals=3.0: at least 0, and less than probes=3.0 bring in"),
        ({"removals": -1.0}, "removals=-1.0: at least 0"),
        ({"quantile": 1.1}, "quantile=1.1: a share, from 0 to 1"),
    ],
)
def test_a_bad_argument_is_refused_by_name(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prequal(**arguments)
