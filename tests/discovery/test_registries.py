"""What every registry promises, tried against real servers that are killed, hang and come back."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio
import pytest

from resilient import Service
from resilient.discovery import connect, register
from resilient.errors import DiscoveryError
from resilient.instance import Instance
from resilient.snapshot import Snapshot
from tests.discovery.registries import Registry

A = Instance(id="a", host="10.0.0.1", port=80, weight=2.5, zone="eu-1", metadata={"version": "1.4"})
B = Instance(id="b", host="10.0.0.2", port=80)

PATIENCE = 40.0


def ids(snapshot: Snapshot) -> list[str]:
    return [instance.id for instance in snapshot.instances]


async def until(watch: AsyncIterator[Snapshot], expected: list[str], *, stale: bool = False) -> Snapshot:
    with anyio.fail_after(PATIENCE):
        async for snapshot in watch:
            if ids(snapshot) == expected and (snapshot.stale_since is not None) == stale:
                return snapshot
    raise AssertionError("the watch ended")


async def eventually(registry: Registry, expected: list[str]) -> None:
    with anyio.fail_after(PATIENCE):
        while await anyio.to_thread.run_sync(registry.names) != expected:
            await anyio.sleep(0.02)


def known(service: Service) -> Snapshot:
    snapshot = service.balancer.snapshot
    assert snapshot is not None
    return snapshot


def run(backend: str, main) -> None:
    anyio.run(main, backend=backend)


def test_an_instance_is_found_as_it_registered_while_the_block_runs(registry: Registry, backend: str) -> None:
    async def main() -> None:
        watch = connect(registry.url).watch()
        await until(watch, [])
        async with register(registry.url, A, ttl=registry.ttl):
            assert (await until(watch, ["a"])).instances == (A,)
            async with register(registry.url, B, ttl=registry.ttl):
                assert (await until(watch, ["a", "b"])).instances == (A, B)
                await eventually(registry, ["a", "b"])
            await until(watch, ["a"])
            await anyio.sleep(1.5 * registry.ttl)  # longer than it lives without a renewal
            await eventually(registry, ["a"])
        await until(watch, [])
        assert registry.names() == []
        await watch.aclose()  # type: ignore[attr-defined] # a reflector has one

    run(backend, main)


def test_an_entry_that_somebody_removed_is_written_again(kind_of_server: Registry, backend: str) -> None:
    registry = kind_of_server

    async def main() -> None:
        async with register(registry.url, A, ttl=registry.ttl):
            await eventually(registry, ["a"])
            await anyio.to_thread.run_sync(registry.remove, "a")
            await eventually(registry, ["a"])  # a watch may never see that it was gone
        assert registry.names() == []

    run(backend, main)


def test_calls_go_on_while_the_registry_is_down_and_what_is_registered_comes_back(
    failing: tuple[Registry, str],
) -> None:
    """Under load; killed, and started again at the same address."""
    registry, backend = failing

    async def main() -> None:
        # A Consul that comes back without what it knew has no instances, until they have registered again.
        service = Service("orders", registry.impatient.replace("on_empty=fail", "on_empty=grace"))
        called: list[str] = []

        @service
        async def call(instance: Instance) -> None:
            called.append(instance.id)

        async def load() -> None:
            while True:
                await call()
                await anyio.sleep(0.005)

        async with register(registry.url, A, ttl=registry.ttl), service, anyio.create_task_group() as tasks:
            tasks.start_soon(load)
            registry.server.kill()
            with anyio.fail_after(PATIENCE):
                while known(service).stale_since is None:
                    await anyio.sleep(0.01)
            seen = len(called)
            await anyio.sleep(0.1)
            assert len(called) > seen
            assert ids(known(service)) == ["a"]
            registry.server.start()
            await eventually(registry, ["a"])
            with anyio.fail_after(PATIENCE):
                while known(service).stale_since is not None or ids(known(service)) != ["a"]:
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        assert set(called) == {"a"}

    run(backend, main)


def test_a_registry_that_hangs_is_noticed(failing: tuple[Registry, str]) -> None:
    """Stopped, with its connections open: nothing is refused, and nothing is answered."""
    registry, backend = failing

    async def main() -> None:
        watch = connect(registry.impatient).watch()
        async with register(registry.url, A, ttl=30.0):
            await until(watch, ["a"])
            registry.server.stop()
            began = time.monotonic()
            assert ids(await until(watch, ["a"], stale=True)) == ["a"]
            assert time.monotonic() - began < 10  # of which most is backoff, between the first failure and the second
            registry.server.go_on()
            await until(watch, ["a"])
        await until(watch, [])
        await watch.aclose()  # type: ignore[attr-defined]

    run(backend, main)


def test_no_call_goes_to_an_instance_that_left(failing: tuple[Registry, str]) -> None:
    """Instances come and go under load; once one has left, and a moment has passed, nobody calls it."""
    registry, backend = failing
    moment = 0.5  # a debounce of 10 ms, and a machine that is busy

    async def main() -> None:
        left_at: dict[str, float] = {}
        late: list[tuple[str, float]] = []
        service = Service("orders", registry.url)

        @service
        async def call(instance: Instance) -> None:
            late.extend(
                (instance.id, ago)
                for ago in [time.monotonic() - left_at.get(instance.id, time.monotonic())]
                if ago > moment
            )

        async def load() -> None:
            while True:
                await call()
                await anyio.sleep(0.002)

        async with register(registry.url, A, ttl=30.0), service, anyio.create_task_group() as tasks:
            tasks.start_soon(load)
            for number in range(3):
                name = f"b{number}"
                async with register(registry.url, Instance(id=name, host="h", port=1), ttl=30.0):
                    with anyio.fail_after(PATIENCE):
                        while name not in ids(known(service)):
                            await anyio.sleep(0.002)
                left_at[name] = time.monotonic()
                await anyio.sleep(0.05)
            await anyio.sleep(moment + 0.1)
            assert ids(known(service)) == ["a"]
            tasks.cancel_scope.cancel()
        assert late == []

    run(backend, main)


def test_a_later_life_takes_the_entry_over_and_keeps_it(kind_of_server: Registry, backend: str) -> None:
    registry = kind_of_server

    async def main() -> None:
        moved = Instance(id="a", host="10.0.0.9", port=80)
        watch = connect(registry.url).watch()
        async with register(registry.url, A, ttl=registry.ttl):
            await until(watch, ["a"])
            async with register(registry.url, moved, ttl=registry.ttl):
                with anyio.fail_after(PATIENCE):
                    while (await anext(watch)).instances != (moved,):
                        pass
                await anyio.sleep(registry.ttl)  # the earlier life renews, and must not take it back
                await eventually(registry, ["a"])
            # Only now nobody else is registered under the name.
            with anyio.fail_after(PATIENCE):
                while (await anext(watch)).instances != (A,):
                    pass
        await until(watch, [])
        await watch.aclose()  # type: ignore[attr-defined]

    run(backend, main)


def test_a_registry_that_is_down_refuses_the_block(failing: tuple[Registry, str]) -> None:
    registry, backend = failing
    registry.server.kill()

    async def main() -> None:
        with pytest.raises(DiscoveryError, match="a could not be registered in"):
            async with register(registry.impatient, A, ttl=registry.ttl):
                raise AssertionError("entered")

    run(backend, main)


def test_a_task_that_is_cancelled_again_and_again_withdraws_all_the_same(kind_of_server: Registry) -> None:
    """Natively, which pierces shields: in the block, and in the withdrawal itself."""
    registry = kind_of_server

    async def hold() -> None:
        async with register(registry.url, A, ttl=60.0):
            await asyncio.sleep(3600)

    async def main() -> None:
        task = asyncio.create_task(hold())
        await eventually(registry, ["a"])
        await anyio.sleep(0.05)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(registry, [])

    asyncio.run(main())


def test_plain_code_registers_too(registry: Registry) -> None:
    with register(registry.url, A, ttl=registry.ttl):
        assert registry.names() == ["a"]
    assert registry.names() == []


PROGRAM = """
import sys, anyio
from resilient.discovery import register
from resilient.instance import Instance

async def main():
    async with register(sys.argv[1], Instance(id=sys.argv[2], host="127.0.0.1", port=80), ttl=float(sys.argv[3])):
        print("registered", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@contextmanager
def process(registry: Registry, name: str, ttl: float) -> Iterator[subprocess.Popen[bytes]]:
    """Another process, that registers."""
    found = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, registry.url, name, str(ttl)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with found:
        try:
            assert found.stdout is not None
            assert found.stdout.readline() == b"registered\n"
            yield found
        finally:
            found.kill()


def test_a_process_that_is_terminated_withdraws_and_one_that_is_killed_expires(kind_of_server: Registry) -> None:
    registry = kind_of_server

    async def main() -> None:
        watch = connect(registry.url).watch()
        with process(registry, "killed", registry.ttl) as killed, process(registry, "terminated", 600.0) as terminated:
            await until(watch, ["killed", "terminated"])
            terminated.terminate()
            assert terminated.wait(timeout=20) == -signal.SIGTERM
            await until(watch, ["killed"])
            await eventually(registry, ["killed"])
            killed.kill()
            killed.wait()
            began = time.monotonic()
            await until(watch, [])
            assert time.monotonic() - began < 15 * registry.ttl
        await watch.aclose()  # type: ignore[attr-defined]

    anyio.run(main)
