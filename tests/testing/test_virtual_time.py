"""Virtual time on both backends."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio

from resilient.context import current_runtime, use_runtime
from resilient.events import Event
from resilient.testing import virtual_time
from resilient.testing.virtual_time import EPOCH, Deadlock, ManualClock, VirtualTimeError


def test_an_hour_of_sleeping_is_over_before_a_test_may_take_that_long(backend):
    async def main():
        for _ in range(3600):
            await anyio.sleep(1)
        return anyio.current_time()

    assert virtual_time.run(main, backend=backend) == 3600.0


def test_the_loop_and_the_runtime_show_the_same_clock(backend):
    async def main():
        runtime = current_runtime()
        assert runtime.now() == anyio.current_time() == 0.0
        await runtime.sleep(2.5)
        assert runtime.now() == anyio.current_time() == 2.5
        assert runtime.wall() == EPOCH + 2.5

    virtual_time.run(main, backend=backend)


def test_the_clock_jumps_to_a_timer_without_rounding(backend):
    delays = [0.1, 0.2, 0.3, 1e-9, 1 / 3, 1e-7]

    async def main():
        expected = anyio.current_time()
        for delay in delays:
            expected += delay
            await anyio.sleep(delay)
            assert anyio.current_time() == expected
        await anyio.sleep_until(1e9 + 0.1)  # where a resolution of a nanosecond is below one unit in the last place
        assert anyio.current_time() == 1e9 + 0.1
        await anyio.sleep(1e-6)
        assert anyio.current_time() == 1e9 + 0.1 + 1e-6

    virtual_time.run(main, backend=backend)


def test_timers_a_hair_apart_fire_in_their_order(backend):
    fired = []

    async def at(instant):
        await anyio.sleep_until(instant)
        fired.append((instant, anyio.current_time()))

    async def main():
        instants = [1.0, math.nextafter(1.0, 2), math.nextafter(1.0, 0)]
        async with anyio.create_task_group() as tasks:
            for instant in instants:
                tasks.start_soon(at, instant)
        assert fired == [(instant, instant) for instant in sorted(instants)]

    virtual_time.run(main, backend=backend)


def test_timeouts_are_virtual(backend):
    async def main():
        with anyio.move_on_after(5) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.25):
                await anyio.sleep(0.5)
        return anyio.current_time()

    assert virtual_time.run(main, backend=backend) == 5.25


def test_a_pause_moves_the_clock_and_timers_fire_once_control_is_back_at_the_loop(backend):
    fired = []

    async def timer():
        await anyio.sleep(1)
        fired.append(anyio.current_time())

    async def main():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(timer)
            await anyio.sleep(0.5)
            current_runtime().pause(2)
            assert current_runtime().now() == 2.5
            assert fired == []
            await anyio.lowlevel.checkpoint()
        assert fired == [2.5]

    virtual_time.run(main, backend=backend)


def test_a_pause_to_the_very_instant_of_a_timer_fires_it(backend):
    async def main():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 10)
            await anyio.lowlevel.checkpoint()
            current_runtime().pause(10)
        return anyio.current_time()

    assert virtual_time.run(main, backend=backend) == 10.0


def test_waiting_until_all_tasks_are_blocked_works(backend):
    async def main():
        event = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(event.wait)
            await anyio.wait_all_tasks_blocked()
            event.set()

    virtual_time.run(main, backend=backend)


def test_results_and_errors_come_out(backend):
    class Boom(Exception):
        pass

    async def fails():
        await anyio.sleep(1)
        raise Boom

    async def answers():
        return "result"

    assert virtual_time.run(answers, backend=backend) == "result"
    with pytest.raises(Boom):
        virtual_time.run(fails, backend=backend)


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # trio's, and right
def test_an_abandoned_asynchronous_generator_is_closed_by_the_loop(backend):
    closed = []

    async def numbers() -> AsyncGenerator[int, None]:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    async def main():
        async for _ in numbers():  # its finalizer reaches the loop from outside of any task
            break
        await anyio.sleep(1)

    virtual_time.run(main, backend=backend)
    assert closed == [True]


def test_events_go_to_the_given_sink_and_the_ambient_runtime_ends_with_the_run(backend):
    seen: list[Event] = []
    before = current_runtime()

    async def main():
        emit = current_runtime().emit
        assert emit is not None
        emit(Event(at=current_runtime().now(), name="something"))

    virtual_time.run(main, backend=backend, emit=seen.append)
    assert seen == [Event(at=0.0, name="something")]
    assert current_runtime() is before


def test_chance_and_ids_come_from_the_seed(backend):
    async def draw():
        runtime = current_runtime()
        first = runtime.random()
        return [first, runtime.new_id(), runtime.random(), runtime.new_id()]

    one = virtual_time.run(draw, backend=backend, seed=1)
    assert one == virtual_time.run(draw, backend=backend, seed=1)
    assert one != virtual_time.run(draw, backend=backend, seed=2)
    generator = random.Random(1)
    assert one[::2] == [generator.random(), generator.random()]  # an id does not use up a random number
    assert len({one[1], one[3]}) == 2
    assert all(uuid.UUID(str(id_)).version == 4 for id_ in one[1::2])


def test_a_wrong_backend_is_refused():
    async def main():
        raise AssertionError

    with pytest.raises(ValueError, match=r"backend='curio': .* 'asyncio' and 'trio'"):
        virtual_time.run(main, backend="curio")


# Deadlocks


def test_a_deadlock_shows_where_every_task_waits(backend):
    async def forgotten(event):
        with anyio.CancelScope(shield=True):  # must not make the report hang
            await event.wait()

    async def main():
        event = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(forgotten, event, name="the forgotten one")
            await anyio.sleep(1.5)

    with pytest.raises(Deadlock) as caught:
        virtual_time.run(main, backend=backend)
    report = str(caught.value)
    assert report.startswith("at virtual second 1.5 nothing is scheduled and 2 tasks wait for ever")
    assert "the forgotten one\n" in report
    assert "await event.wait()" in report
    assert "async with anyio.create_task_group() as tasks" in report
    assert f'"{__file__}"' in report
    assert "_run_coro" not in report  # the machinery between the tasks' own lines


def test_sleeping_for_ever_is_a_deadlock(backend):
    with pytest.raises(Deadlock, match="1 task waits"):
        virtual_time.run(anyio.sleep_forever, backend=backend)


def test_a_deadlock_lets_every_task_clean_up(backend):
    cleaned: list[float] = []

    async def waits():
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(3)
            cleaned.append(anyio.current_time())

    async def main():
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(waits)

    with pytest.raises(Deadlock):
        virtual_time.run(main, backend=backend)
    assert cleaned == [3.0, 3.0, 3.0]


def test_a_cleanup_that_waits_for_ever_is_ended_too(backend):
    ended: list[str] = []

    async def main():
        try:
            await anyio.sleep_forever()
        finally:
            try:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep_forever()
            finally:
                ended.append("twice")

    with pytest.raises(Deadlock):
        virtual_time.run(main, backend=backend)
    assert ended == ["twice"]


def test_a_cleanup_that_fails_does_not_hide_the_deadlock(backend):
    async def main():
        try:
            await anyio.sleep_forever()
        finally:
            raise OSError("clean-up failed")

    with pytest.raises(Deadlock):
        virtual_time.run(main, backend=backend)


def test_a_task_that_swallows_its_cancellation_does_not_hide_the_deadlock(backend):
    async def main():
        with anyio.CancelScope(shield=True):
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                return "well"

    with pytest.raises(Deadlock):
        virtual_time.run(main, backend=backend)


def test_a_deadlock_in_a_generator_is_shown_with_its_line(backend):
    async def stuck() -> AsyncGenerator[None, None]:
        await anyio.sleep_forever()
        yield

    async def main():
        async for _ in stuck():
            pass

    with pytest.raises(Deadlock, match=r"async for _ in stuck\(\)"):
        virtual_time.run(main, backend=backend)


def test_a_system_task_that_outlives_the_main_task_is_a_deadlock_too():
    async def shielded():
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

    async def main():
        trio.lowlevel.spawn_system_task(shielded)
        await trio.sleep(1)

    with pytest.raises(Deadlock, match=r"1 task waits(.|\n)*shielded"):
        virtual_time.run(main, backend="trio")


def test_a_run_within_a_run_is_refused(backend):
    async def main():
        with pytest.raises(RuntimeError, match=r"Already running|from inside"):
            virtual_time.run(anyio.sleep_forever, backend=backend)
        return "still well"

    assert virtual_time.run(main, backend=backend) == "still well"


# The world outside


async def _thread():
    await anyio.to_thread.run_sync(time.sleep, 0)


async def _thread_with_a_limiter():
    await anyio.to_thread.run_sync(time.sleep, 0, limiter=anyio.CapacityLimiter(1))


async def _client():
    await anyio.connect_tcp("localhost", 9)


async def _server():
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        await listener.serve(lambda stream: stream.aclose())


async def _readable():
    left, right = socket.socketpair()
    with left, right:
        await anyio.wait_readable(left)


async def _writable():
    left, right = socket.socketpair()
    with left, right:
        await anyio.wait_writable(left)


async def _file():
    await anyio.Path(__file__).read_text()


async def _process():
    await anyio.run_process([sys.executable, "-c", ""])


@pytest.mark.parametrize("outside", [_thread, _thread_with_a_limiter, _client, _server, _readable, _writable, _file])
def test_what_waits_for_the_real_world_is_refused(backend, outside: Callable[[], Awaitable[Any]]):
    with pytest.raises((VirtualTimeError, ExceptionGroup)) as caught:
        virtual_time.run(outside, backend=backend)
    error = caught.value
    while isinstance(error, ExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, VirtualTimeError)
    assert not isinstance(error, Deadlock)
    assert "in virtual time: it would wait for the real world" in str(error)


def test_subprocesses_and_signal_handlers_are_refused_on_asyncio():
    async def handles():
        with anyio.open_signal_receiver(signal.SIGUSR1) as signals:
            async for _ in signals:
                pass

    with pytest.raises(VirtualTimeError, match=r"a subprocess \(loop.subprocess_exec\)"):
        virtual_time.run(_process)
    with pytest.raises(VirtualTimeError, match=r"a signal handler \(loop.add_signal_handler\)"):
        virtual_time.run(handles)


def test_a_signal_receiver_on_trio_waits_for_ever():
    async def handles():
        with anyio.open_signal_receiver(signal.SIGUSR1) as signals:
            async for _ in signals:
                pass

    with pytest.raises(Deadlock):
        virtual_time.run(handles, backend="trio")


def test_another_thread_cannot_reach_an_asyncio_loop():
    refused = []

    async def main():
        loop = asyncio.get_running_loop()

        def elsewhere():
            try:
                loop.call_soon_threadsafe(print)
            except VirtualTimeError as error:
                refused.append(str(error))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    virtual_time.run(main)
    assert len(refused) == 1
    assert refused[0].startswith("a call from another thread in virtual time")


def test_threads_and_real_loops_elsewhere_are_left_alone(backend):
    """While one thread is in virtual time, another one runs a real loop with worker threads and timeouts."""
    results: list[Any] = []

    async def real():
        with anyio.move_on_after(0.001) as scope:
            await anyio.sleep_forever()
        results.append(scope.cancelled_caught)
        results.append(await anyio.to_thread.run_sync(lambda: "from a thread"))

    async def main():
        thread = threading.Thread(target=anyio.run, args=(real,), kwargs={"backend": backend})
        thread.start()
        thread.join()
        await anyio.sleep(1)

    virtual_time.run(main, backend=backend)
    assert results == [True, "from a thread"]


def test_a_run_leaves_no_trace_in_the_event_loop_libraries(backend):
    from anyio._backends import _asyncio as anyio_asyncio
    from trio import _threads as trio_threads
    from trio._core import _run as trio_run

    def globals_() -> list[Any]:
        modules = {anyio_asyncio: ["CancelScope"], trio_threads: ["start_thread_soon"]}
        modules[trio_run] = ["_r", "_ALLOW_DETERMINISTIC_SCHEDULING"]
        return [getattr(module, name) for module, names in modules.items() for name in names]

    async def fails():
        raise RuntimeError("on its way out")

    before = globals_()
    with pytest.raises(RuntimeError, match="on its way out"):
        virtual_time.run(fails, backend=backend)
    assert globals_() == before


def test_ctrl_c_ends_a_run_that_does_not_end_by_itself(backend):
    async def main():
        os.kill(os.getpid(), signal.SIGINT)
        for _ in itertools.count():
            await anyio.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        virtual_time.run(main, backend=backend)


# Determinism

_PROGRAM = """
import sys
import anyio
from resilient.context import current_runtime
from resilient.testing import virtual_time

log = []

async def worker(name, limit):
    runtime = current_runtime()
    try:
        async with limit:
            with anyio.move_on_after(0.2 + runtime.random()):
                await anyio.sleep(runtime.random())
                await anyio.lowlevel.checkpoint()
                log.append((name, runtime.now(), runtime.new_id()))
                await anyio.sleep(10)
    finally:
        log.append((name, "left", runtime.now()))

async def main():
    limit = anyio.Semaphore(5)
    for round in range(10):
        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(worker, f"{round}:{number}", limit)
            await anyio.sleep(1)
            tasks.cancel_scope.cancel()

backend, seed = sys.argv[1:]
virtual_time.run(main, backend=backend, seed=int(seed))
first = list(log)
garbage = [object() for _ in range(12345)][::3]  # other addresses for what follows
log.clear()
virtual_time.run(main, backend=backend, seed=int(seed))
assert log == first, "two runs in one process differ"
print(*log, sep="\\n")
"""


def _output(backend: str, seed: int, hash_seed: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, backend, str(seed)],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_same_seed_gives_the_same_bytes_in_every_process(backend):
    outputs = {_output(backend, 7, hash_seed) for hash_seed in (0, 1, 4242)}
    assert len(outputs) == 1
    assert len(outputs.pop().splitlines()) > 300
    assert _output(backend, 8, 0) not in outputs


def test_tasks_of_one_scope_are_cancelled_in_the_same_order_every_time(backend):
    async def main():
        order = []

        async def child(number):
            try:
                with anyio.CancelScope():
                    await anyio.sleep_forever()
            finally:
                order.append(number)

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(child, number)
            await anyio.sleep(1)
            tasks.cancel_scope.cancel()
        return order

    first = virtual_time.run(main, backend=backend)
    keep = []
    for size in range(5):
        keep.append([bytearray(64) for _ in range(size * 1001)][::2])  # other addresses for what follows
        assert virtual_time.run(main, backend=backend) == first


def test_the_seed_decides_trios_schedule():
    async def main():
        order: list[int] = []

        async def child(number: int) -> None:
            await trio.lowlevel.checkpoint()
            order.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(child, number)
        return tuple(order)

    orders = {virtual_time.run(main, backend="trio", seed=seed) for seed in range(10)}
    assert len(orders) == 10
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(20))}


# Plain functions


def test_a_runtime_for_plain_functions_moves_by_its_own_pauses():
    runtime = virtual_time.runtime(seed=3)
    with use_runtime(runtime):
        current_runtime().pause(1.5)
        assert current_runtime().now() == 1.5
        assert current_runtime().wall() == EPOCH + 1.5
    assert runtime.random() == random.Random(3).random()
    assert runtime.new_id() == virtual_time.runtime(seed=3).new_id()


def test_the_wall_clock_alone_can_be_shifted(backend):
    async def main():
        await anyio.sleep(10.0)
        runtime = current_runtime()
        virtual_time.shift_wall(3600.0)
        assert (runtime.now(), runtime.wall()) == (10.0, EPOCH + 3610.0)
        virtual_time.shift_wall(-7200.0)
        await anyio.sleep(1.0)
        assert (runtime.now(), runtime.wall()) == (11.0, EPOCH - 3589.0)

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("seconds", [math.inf, -math.inf, math.nan])
def test_a_wall_clock_is_shifted_by_a_finite_number_of_seconds(seconds):
    with use_runtime(virtual_time.runtime()):
        with pytest.raises(ValueError, match=r"^seconds="):
            virtual_time.shift_wall(seconds)
        assert current_runtime().wall() == EPOCH


def test_a_real_wall_clock_is_not_shifted():
    with pytest.raises(virtual_time.VirtualTimeError, match="not virtual"):
        virtual_time.shift_wall(1.0)


def test_its_sleep_needs_no_loop():
    runtime = virtual_time.runtime()

    async def nap() -> None:
        await runtime.sleep(2)

    coroutine = nap()
    with pytest.raises(StopIteration):
        coroutine.send(None)
    assert runtime.now() == 2.0


@pytest.mark.parametrize("seconds", [-1, -1e-9, math.inf, math.nan])
def test_a_clock_only_moves_ahead(seconds):
    clock = ManualClock(5.0)
    with pytest.raises(ValueError, match=f"seconds={seconds!r}"):
        clock.advance(seconds)
    clock.advance_to(4.0)
    assert clock.now() == 5.0
    clock.advance_to(6.0)
    assert clock.now() == 6.0
