"""Calls through a service, while its API server is killed, stopped, frozen, restored and begun again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import anyio
import pytest

from resilient.backends.kubernetes import Access, Api
from resilient.context import current_runtime
from resilient.discovery import LastGood
from resilient.discovery.kubernetes import EndpointSlices
from resilient.discovery.reflector import Reflector
from resilient.errors import NoInstance
from resilient.instance import Instance
from resilient.machines.backoff import Backoff
from resilient.service import Service
from resilient.testing.kubernetes import FakeApiServer

DEBOUNCE = 0.05
LATE = 0.7
"""Seconds within which a machine that is busy with something else brings a message to its reader."""


DISASTERS: tuple[tuple[Callable[[FakeApiServer], None], Callable[[FakeApiServer], None]], ...] = (
    (FakeApiServer.kill, FakeApiServer.start),
    (FakeApiServer.stop, FakeApiServer.start),
    (FakeApiServer.freeze, FakeApiServer.thaw),
    (FakeApiServer.compact, FakeApiServer.end_watches),
)


class Cluster:
    """Pods that come and go, and what is known of it on the far side of the API server."""

    def __init__(self, server: FakeApiServer) -> None:
        self.server = server
        self.pods = [f"10.0.0.{number}" for number in range(1, 9)]
        self.next = 9
        self.gone_at: dict[str, float] = {}
        self.publish()

    def publish(self) -> None:
        half = len(self.pods) // 2
        self.server.put_slice("shop", "orders-a", "orders", self.pods[:half])
        self.server.put_slice("shop", "orders-b", "orders", self.pods[half:])

    def replace_one(self, dice: random.Random) -> None:
        leaving = dice.choice(self.pods)
        self.pods[self.pods.index(leaving)] = f"10.0.{self.next // 250}.{self.next % 250}"
        self.next += 1
        self.publish()
        self.gone_at[leaving] = time.monotonic()


class Source:
    """The discovery of a service, with waits that fit a test."""

    def __init__(self, server: FakeApiServer) -> None:
        self.server = server

    def watch(self) -> Reflector:
        runtime = current_runtime()
        api = Api(lambda: Access(server=self.server.url, token="secret"), read=0.5, slack=0.5)  # noqa: S106
        source = EndpointSlices(
            api, "shop", "orders", "http", terminating="fallback", random=runtime.random, seconds=(2, 3)
        )
        return Reflector(
            "orders",
            source,
            known=LastGood(),
            runtime=runtime,
            debounce=DEBOUNCE,
            backoff=Backoff(base=0.02, cap=0.2),
            list_timeout=2.0,
        )


class Load:
    """Calls without a pause; every pick is judged by when its pod has left."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.calls = 0
        self.failures: list[BaseException] = []
        self.late: list[tuple[str, float]] = []
        self.judging = True
        """Whether the API server is reachable, so that who left has to be known."""

    async def run(self, service: Service) -> None:
        @service
        async def call(instance: Instance) -> None:
            self.calls += 1
            gone_at = self.cluster.gone_at.get(instance.host)
            if gone_at is not None and self.judging and time.monotonic() - gone_at > DEBOUNCE + LATE:
                self.late.append((instance.host, time.monotonic() - gone_at))
            await anyio.sleep(0.002)

        while True:
            try:
                await call()
            except Exception as error:
                self.failures.append(error)


def play(backend: str) -> Load:
    """One disaster after the other, with pods that come and go in between."""

    async def main() -> Load:
        with FakeApiServer(bookmarks=0.2) as server:
            cluster = Cluster(server)
            load = Load(cluster)
            dice = random.Random(7)
            service = Service("orders", Source(server))
            with anyio.fail_after(50):
                async with service, anyio.create_task_group() as tasks:
                    for _ in range(4):
                        tasks.start_soon(load.run, service)
                    for disaster, recovery in DISASTERS:
                        await changes(cluster, dice)
                        load.judging = False
                        await anyio.to_thread.run_sync(disaster, server)
                        before = load.calls
                        cluster.replace_one(dice)
                        await anyio.sleep(0.5)
                        assert load.calls > before + 50, disaster  # on goes the last good set
                        await anyio.to_thread.run_sync(recovery, server)
                        await known(service, cluster)
                        load.judging = True
                    await changes(cluster, dice)
                    await known(service, cluster)
                    tasks.cancel_scope.cancel()
            return load

    return anyio.run(main, backend=backend)


async def changes(cluster: Cluster, dice: random.Random) -> None:
    """Replace pods, so that everybody knows; for as long as a late call takes to show."""
    for _ in range(9):
        cluster.replace_one(dice)
        await anyio.sleep(0.1)


async def known(service: Service, cluster: Cluster) -> None:
    """Wait until the service knows exactly the pods that there are."""
    while True:
        snapshot = service.balancer.snapshot
        if snapshot and snapshot.stale_since is None and {one.host for one in snapshot.instances} == set(cluster.pods):
            return
        await anyio.sleep(0.01)


def test_calls_go_on_with_the_last_good_pods_and_none_to_one_that_is_known_to_be_gone(backend: str) -> None:
    load = play(backend)
    assert load.failures == []
    assert load.late == []
    assert load.calls > 2000


def test_a_service_without_pods_says_so_and_finds_them_when_they_come(backend: str) -> None:
    async def main() -> None:
        with FakeApiServer() as server, anyio.fail_after(30):
            service = Service("orders", Source(server))

            @service
            async def call(instance: Instance) -> str:
                return instance.host

            async with service:
                with pytest.raises(NoInstance):
                    await call()
                server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
                await service.ready()
                assert await call() == "10.0.0.1"

    anyio.run(main, backend=backend)


def test_plain_functions_have_it_too() -> None:
    with FakeApiServer() as server:
        server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
        service = Service("orders", Source(server))

        @service
        def call(instance: Instance) -> str:
            return instance.host

        with service:
            assert call() == "10.0.0.1"
