"""What instances say of their load, on the wire and in a service."""

from __future__ import annotations

import math
import struct
from base64 import b64encode
from collections import Counter

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.asgi import LoadReportMiddleware
from resilient.balancing import Load, WeightedRoundRobin, format_load, parse_load
from resilient.balancing.orca import load_of
from resilient.http import Transport, client
from resilient.instance import Instance
from resilient.service import Service
from resilient.testing import virtual_time

TWO = "static://10.0.0.1:80,10.0.0.2:80"


SAMPLE = "CZqZmZmZmbk/MQAAAAAAAABAQg4KA2ZvbxGamZmZmZm5P0IOCgNiYXIRmpmZmZmZyT8="
"""That of ORCA's documentation."""


def message(*parts: bytes | float) -> str:
    """A protobuf message in base64: bytes as they are, numbers as eight."""
    return b64encode(b"".join(part if isinstance(part, bytes) else struct.pack("<d", part) for part in parts)).decode()


@pytest.mark.parametrize(
    ("header", "load"),
    [
        ("TEXT cpu_utilization=0.3, rps_fractional=12.5,eps=1", Load(cpu_utilization=0.3, rps=12.5, eps=1.0)),
        ("TEXT application_utilization:0.7", Load(application_utilization=0.7)),
        ("TEXT named_metrics.rif=3, named_metrics.latency_ms=12", Load(in_flight=3, latency=0.012)),
        ("TEXT named_metrics.kv_cache_usage_perc=0.4", Load(named={"kv_cache_usage_perc": 0.4})),
        ("TEXT cpu_utilization=0.3, mem_utilization=0.5", Load(cpu_utilization=0.3)),
        ("TEXT cpu_utilization=much, rps_fractional=-1, eps=inf, named_metrics.x=1", Load(named={"x": 1.0})),
        ('JSON {"eps": 0.3, "named_metrics": {"rif": 2, "x": 1}}', Load(eps=0.3, in_flight=2, named={"x": 1.0})),
        ('JSON {"cpuUtilization": 0.3, "rpsFractional": 4}', Load(cpu_utilization=0.3, rps=4.0)),
        ('JSON {"cpu_utilization": true, "eps": 2, "named_metrics": [1]}', Load(eps=2.0)),
        ("JSON [1]", None),
        ("JSON {", None),
        ("JSON " + "[" * 8000, None),
        ("JSON {}", None),
        ("TEXT", None),
        ("TEXT nonsense", None),
        (f"BIN {SAMPLE}", Load(cpu_utilization=0.1, rps=2.0, named={"foo": 0.1, "bar": 0.2})),
        (f"BIN {SAMPLE.rstrip('=')}", Load(cpu_utilization=0.1, rps=2.0, named={"foo": 0.1, "bar": 0.2})),
        (f"BIN {message(bytes([0x49]), 0.7)}", Load(application_utilization=0.7)),
        (f"BIN {message(bytes([0x39]), 3.0)}", Load(eps=3.0)),
        (f"BIN {message(bytes([0x11]), 0.5, bytes([0x39]), 1.0)}", Load(eps=1.0)),  # memory has no meaning here
        (f"BIN {message(bytes([0x09]), -1.0, bytes([0x39]), math.inf)}", None),
        (f"BIN {message(bytes([0x42, 14, 0x0A, 3]) + b'rif' + bytes([0x11]), 4.0)}", Load(in_flight=4)),
        (f"BIN {message(bytes([0x42, 5, 0x0A, 3]) + b'rif')}", Load(in_flight=0)),  # 0 is the default, and left out
        (f"BIN {message(bytes([0x18, 0xAC, 2, 0x7D, 1, 2, 3, 4, 0x39]), 1.0)}", Load(eps=1.0)),  # unknown fields
        (f"BIN {message(bytes([0x42, 5, 0x0A, 3]) + bytes([0xFF] * 3))}", None),  # no UTF-8
        (f"BIN {message(bytes([0x0B]))}", None),  # a group
        (f"BIN {message(bytes([0x42, 200, 1, 0]))}", None),  # it ends early
        (f"BIN {message(bytes([0xFF] * 12))}", None),
        ("BIN AAAA", None),
        ("BIN !", None),
        ("BIN", None),
        ("", None),
        ("TEXT eps=1," + "x" * 10_000, None),
    ],
)  # fmt: skip
def test_a_header_is_read(header: str, load: Load | None) -> None:
    assert parse_load(header) == load


NUMBERS = st.none() | st.floats(0.0, 1e6)


@given(
    st.builds(
        Load,
        application_utilization=NUMBERS,
        cpu_utilization=NUMBERS,
        rps=NUMBERS,
        eps=NUMBERS,
        in_flight=st.none() | st.integers(0, 10**5),
        latency=NUMBERS,
    )
)
def test_what_is_written_is_read_again(load: Load) -> None:
    again = parse_load(format_load(load)) or Load()
    assert again.in_flight == load.in_flight
    for name in ("application_utilization", "cpu_utilization", "rps", "eps", "latency"):
        written = getattr(load, name)
        assert getattr(again, name) == (None if written is None else pytest.approx(written, rel=1e-5))


@given(st.text())
def test_no_header_breaks_it(value: str) -> None:
    for form in ("", "TEXT ", "JSON ", "BIN "):
        parse_load(form + value)


@given(st.binary())
def test_no_message_breaks_it(value: bytes) -> None:
    parse_load(f"BIN {message(value)}")


def test_grpc_has_a_header_of_its_own() -> None:
    load = Load(cpu_utilization=0.1, rps=2.0, named={"foo": 0.1, "bar": 0.2})
    assert load_of(httpx.Headers({"Endpoint-Load-Metrics-Bin": SAMPLE})) == load
    assert load_of({"endpoint-load-metrics": "TEXT eps=1", "endpoint-load-metrics-bin": SAMPLE}) == Load(eps=1.0)
    assert load_of({}) is None


def test_http_responses_say_who_can_take_more(backend) -> None:
    class Inner(httpx.AsyncBaseTransport):
        def __init__(self, instance: Instance) -> None:
            self.used = 0.2 if instance.host.endswith("1") else 0.6

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(
                200, headers={"Endpoint-Load-Metrics": f"TEXT cpu_utilization={self.used}, rps_fractional=9"}
            )

    service = Service("orders", TWO, balancer=WeightedRoundRobin(blackout=0.0, period=0.1))
    picked: Counter[str] = Counter()

    async def main():
        async with service, httpx.AsyncClient(transport=Transport(service, Inner), base_url="http://orders") as client:
            for number in range(200):
                await anyio.sleep(0.01)
                response = await client.get("/")
                if number >= 100:
                    picked[response.extensions["resilient"].instance.host] += 1

    virtual_time.run(main, backend=backend)
    assert picked == {"10.0.0.1": 75, "10.0.0.2": 25}


def test_an_instance_behind_the_middleware_tells_a_client(backend) -> None:
    """A real application, a real header, and the weights that come of it."""
    reports: list[str] = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    def inner(instance: Instance) -> httpx.ASGITransport:
        used = 0.25 if instance.host.endswith("1") else 0.75
        return httpx.ASGITransport(LoadReportMiddleware(app, utilization=lambda: used))

    service = Service("orders", TWO, balancer=WeightedRoundRobin(blackout=0.0, period=0.1))

    async def main():
        transport = Transport(service, inner)
        picked: Counter[str] = Counter()
        async with service, httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
            for number in range(400):
                await anyio.sleep(0.01)
                response = await client.get("/")
                reports.append(response.headers["endpoint-load-metrics"])
                if number >= 300:
                    picked[response.extensions["resilient"].instance.host] += 1
            assert service.explain().standings[0].score < service.explain().standings[1].score
        return picked

    picked = virtual_time.run(main, backend=backend)
    assert all(report.startswith("TEXT application_utilization=0.") for report in reports)
    # Each takes as many as it is given; the weights settle where rps / utilisation is the same as the shares.
    assert picked["10.0.0.1"] > picked["10.0.0.2"]


def test_a_decorated_function_reports_what_its_protocol_says(backend) -> None:
    service = Service("orders", TWO, balancer=WeightedRoundRobin(blackout=0.0, period=0.1))

    @service
    async def quote(instance: Instance) -> str:
        service.report(instance, Load(rps=10.0, cpu_utilization=0.2 if instance.host.endswith("1") else 0.6))
        return instance.host

    async def main():
        async with service:
            for _ in range(20):
                await anyio.sleep(0.1)
                await quote()
            return Counter([await quote() for _ in range(100)])

    assert virtual_time.run(main, backend=backend) == {"10.0.0.1": 75, "10.0.0.2": 25}


def test_reports_of_strangers_and_to_other_pickers_change_nothing() -> None:
    stranger = Instance(id="x", host="x", port=80)
    for balancer in (WeightedRoundRobin(), None):
        service = Service("orders", TWO, balancer=balancer)
        service.report(stranger, Load(rps=1.0, cpu_utilization=0.1))
        assert service.instances() == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"penalty": -1.0}, "penalty=-1.0: a finite number, at least 0"),
        ({"blackout": math.inf}, "blackout=inf: a finite number, at least 0"),
        ({"expiry": 0.0}, "expiry=0.0: a finite number of seconds, more than 0"),
        ({"period": 0.01}, "period=0.01: a finite number of seconds, at least 0.1"),
    ],
)
def test_a_bad_argument_is_refused_by_name(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightedRoundRobin(**arguments)


def test_one_name_is_no_list_of_names() -> None:
    with pytest.raises(TypeError, match="metrics='cache': a sequence of names"):
        WeightedRoundRobin(metrics="cache")


def test_a_client_of_another_picker_does_not_read_the_header(backend) -> None:
    service = Service("orders", TWO)

    async def main():
        async with service, client(service) as http:
            assert not service.balancer.wants_reports
            assert http.base_url == "http://orders"

    virtual_time.run(main, backend=backend)
