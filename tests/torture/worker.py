"""One process under torture: it calls the operation from threads, or from tasks of asyncio or trio, over and over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import anyio
import trio

from resilient.backends.faces import DirectStore
from resilient.backends.memory import MemoryStore
from resilient.backends.store import Run, Store
from resilient.errors import InProgress, KeyReused, OutcomeUnknown
from resilient.runtime import Runtime
from tests.torture.history import Pen
from tests.torture.hooks import COLLECTING, REPLYING, Fate, HookedBlocking, HookedStore
from tests.torture.mutants import MUTANTS
from tests.torture.operation import Operation, Way
from tests.torture.places import PLACES, Place

RIGHT, WRONG = "right", "wrong"
SETTLED = (KeyReused, OutcomeUnknown)
"""Errors after which another try would say the same."""
PATIENCE = 20.0
"""Seconds for a key that nobody disturbs any more."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a process is told. All of it is JSON."""

    folder: str
    place: str
    url: str
    way: Way
    seed: int
    started: float
    hosts: list[str] = field(default_factory=lambda: ["thread"])
    """`thread`, `asyncio`, `trio`: each in a thread of its own."""
    width: int = 2
    """Callers in each of them."""
    rate: float = 60.0
    """New keys a second."""
    window: int = 50
    """How many of the newest keys are contended for: longer than it takes to follow a dead executor."""
    lease: float = 0.25
    action: str = ""
    point: str = ""
    passage: int = 1
    cuts: float = 0.0
    heart: str = "beats"
    shift: float = 0.0
    """Seconds by which this process's clocks are wrong."""
    wait: float = 0.0
    slow: float = 0.15
    failing: float = 0.03
    mutant: str = ""
    port: int = 0
    """Where the web application listens, if it is called over HTTP."""
    patience: float = 1.5
    """Seconds that a client waits there: longer than a lease and a pause of the process that serves it."""
    seconds: float = 3600.0
    """When to end by itself."""

    def goes_on(self) -> bool:
        return time.time() < self.started + self.seconds

    def newest(self) -> int:
        return max(1, int((time.time() - self.started) * self.rate))

    def open_keys(self) -> range:
        newest = self.newest()
        return range(max(0, newest - self.window), newest)


class Worker:
    """The parts of a process."""

    def __init__(self, config: Config) -> None:
        self.config = config
        folder = Path(config.folder)
        self.random = Random(config.seed)
        self.pen = Pen(folder / "history")
        self.fate = Fate(
            self.pen,
            self.random,
            action=config.action,
            point=config.point,
            passage=config.passage,
            cuts=config.cuts,
            heart=config.heart,
            lease=config.lease,
        )
        self.place: Place = PLACES[config.place](folder, config.url)
        self.store: Store = self._hook(self.place.store())
        self.runtime = Runtime(now=lambda: time.monotonic() + config.shift, wall=lambda: time.time() + config.shift)
        self.operation = Operation(
            place=self.place,
            store=self.store,
            way=config.way,
            lease=config.lease,
            pen=self.pen,
            fate=self.fate,
            random=self.random,
            runtime=self.runtime,
            wait=config.wait,
            slow=config.slow,
            failing=config.failing,
        )

    def call(self, key: str, payload: str, op: str) -> dict[str, Any]:
        """One call of a plain function."""
        return self.operation.plain(key, payload, op)

    def _hook(self, store: Store) -> Store:
        if self.config.mutant:
            mutant = MUTANTS[self.config.mutant](store.blocking, self.place, self.fate)
            return DirectStore(HookedBlocking(mutant, self.fate))
        if isinstance(store, MemoryStore):  # what suspends nobody takes a shorter way, and has to stay what it is
            store._blocking = HookedBlocking(store.blocking, self.fate)
            return store
        return HookedStore(store, self.fate)

    def run(self) -> None:
        """Call until the time is over, or somebody ends it."""
        threads = [threading.Thread(target=self._host, args=(host,)) for host in self.config.hosts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _host(self, host: str) -> None:
        try:
            if host == "thread":
                others = [threading.Thread(target=self._call_plainly) for _ in range(self.config.width - 1)]
                for other in others:
                    other.start()
                self._call_plainly()
                for other in others:
                    other.join()
            else:
                anyio.run(self._call_in_tasks, backend=host)
        except BaseException as error:
            self.pen.write("broken", host=host, error=repr(error))
            os._exit(3)

    async def _call_in_tasks(self) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(self.config.width):
                group.start_soon(self._call_in_task)

    def _call_plainly(self) -> None:
        caller = Caller(self)
        while self.config.goes_on():
            key, payload = caller.choose()
            op = caller.invoke(key, payload)
            try:
                caller.answered(op, key, self.call(key, payload, op))
            except Exception as error:
                caller.failed(op, key, error)
                time.sleep(caller.pause())
            if caller.collects():
                self.collect()

    async def _call_in_task(self) -> None:
        caller = Caller(self)
        while self.config.goes_on():
            key, payload = caller.choose()
            op = caller.invoke(key, payload)
            try:
                caller.answered(op, key, await self._cancelled_at_times(key, payload, op))
            except (Exception, asyncio.CancelledError) as error:
                caller.failed(op, key, error)
                await anyio.sleep(caller.pause())
            if caller.collects():
                await self.collect_in_task()

    async def _cancelled_at_times(self, key: str, payload: str, op: str) -> Any:
        call = self.operation.asynchronous
        if self.random.random() < 0.85:
            return await call(key, payload, op)
        after = self.random.random() * 0.04
        if self._on_asyncio() and self.random.random() < 0.5:
            return await _natively_cancelled(lambda: call(key, payload, op), after)
        with anyio.move_on_after(after):
            return await call(key, payload, op)
        raise TimeoutError("the caller gave up")

    def _on_asyncio(self) -> bool:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            return True
        return False

    def collect(self) -> None:
        """Leave something behind that was forgotten, and collect."""
        store = DirectStore(self.store.blocking)
        with contextlib.suppress(Exception):
            for _ in range(3):
                run = store.blocking.begin("junk", uuid.uuid4().hex, b"", owner="o", lease=0.001, ttl=0.001)
                assert isinstance(run, Run)
            time.sleep(0.005)
            store.blocking.gc(100)

    async def collect_in_task(self) -> None:
        with contextlib.suppress(Exception):
            for _ in range(3):
                await self.store.begin("junk", uuid.uuid4().hex, b"", owner="o", lease=0.001, ttl=0.001)
            await anyio.sleep(0.005)
            await self.store.gc(100)


class Caller:
    """Chooses what to call, and writes down what came of it."""

    def __init__(self, worker: Worker) -> None:
        self.config, self.random, self.pen, self.fate = worker.config, worker.random, worker.pen, worker.fate
        self._settled: set[str] = set()

    def choose(self) -> tuple[str, str]:
        """A key that is not settled yet, or, now and then, any: to see that its reply is still the same."""
        keys = self.config.open_keys()
        known = [key for key in keys if str(key) not in self._settled]
        key = self.random.choice(known if known and self.random.random() < 0.9 else keys)
        return str(key), WRONG if self.random.random() < 0.04 else RIGHT

    def invoke(self, key: str, payload: str) -> str:
        op = uuid.uuid4().hex[:16]
        self.pen.write("call", op=op, key=key, payload=payload)
        return op

    def answered(self, op: str, key: str, reply: dict[str, Any]) -> None:
        if self.fate.action and self.fate.point == REPLYING:
            self.pen.write_half("ok", op=op, key=key, reply=reply)
            self.fate.reach(REPLYING)
        self.pen.write("ok", op=op, key=key, reply=reply)
        self._settled.add(key)

    def failed(self, op: str, key: str, error: BaseException) -> None:
        fields = {} if isinstance(error, InProgress | KeyReused | OutcomeUnknown) else {"why": str(error)[:200]}
        self.pen.write("error", op=op, key=key, error=type(error).__name__, **fields)
        if isinstance(error, SETTLED):
            self._settled.add(key)

    def pause(self) -> float:
        return self.random.uniform(0.002, 0.02)

    def collects(self) -> bool:
        return self.random.random() < (0.3 if self.fate.point == COLLECTING else 0.02)


async def _natively_cancelled(call: Callable[[], Awaitable[Any]], after: float) -> Any:
    """Pierces every shield."""

    async def run() -> Any:
        return await call()

    task = asyncio.create_task(run())
    asyncio.get_running_loop().call_later(after, task.cancel)
    await asyncio.wait((task,))
    return task.result()


def finish(worker: Worker, keys: Iterable[str]) -> None:
    """Let every key be answered, by somebody whom nothing happens to."""
    caller = Caller(worker)
    for key in keys:
        deadline = time.monotonic() + PATIENCE
        while not _finish_one(worker, caller, key):
            if time.monotonic() > deadline:
                worker.pen.write("stuck", name=key)
                break
            time.sleep(0.01)


def _finish_one(worker: Worker, caller: Caller, key: str) -> bool:
    for payload in (RIGHT, WRONG):
        op = caller.invoke(key, payload)
        try:
            reply = worker.call(key, payload, op)
        except KeyReused as error:
            caller.failed(op, key, error)
            continue
        except OutcomeUnknown as error:
            caller.failed(op, key, error)
            return True
        except Exception as error:
            caller.failed(op, key, error)
            return False
        caller.answered(op, key, reply)
        return True
    return False


def crowd(worker: Worker, moments: dict[str, float], payloads: list[str]) -> None:
    """Call at once with everybody else: as many callers as `width`, each key at its moment, with payloads in turn."""

    def call(number: int) -> None:
        caller = Caller(worker)
        for key, moment in moments.items():
            payload = payloads[number % len(payloads)] if key == "mixed" else RIGHT
            time.sleep(max(0.0, moment - time.time()))
            op = caller.invoke(key, payload)
            try:
                caller.answered(op, key, worker.call(key, payload, op))
            except Exception as error:
                caller.failed(op, key, error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(worker.config.width)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def preload(worker: Worker, *, close: bool, children: int) -> None:
    """Use the store, and fork: what `gunicorn --preload` and `multiprocessing` do."""
    assert _finish_one(worker, Caller(worker), "0")
    if close:
        worker.store.blocking.close()
    pids = []
    for _ in range(children):
        pid = os.fork()
        if pid == 0:
            worker.random.seed(os.getpid())
            worker.run()
            os._exit(0)
        pids.append(pid)
    worker.run()
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        assert status == 0, f"a child ended with {status}"
