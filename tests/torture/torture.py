"""Torments a store: processes are killed, stopped past their lease, cut off and replaced, all on the same keys."""

from __future__ import annotations

import heapq
import itertools
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.torture.checker import Verdict, check
from tests.torture.fleet import Fleet
from tests.torture.grounds import Fault
from tests.torture.history import Event, Reader
from tests.torture.hooks import COLLECTING, POINTS
from tests.torture.operation import Way, mode_of
from tests.torture.places import PLACES, Place

LEASE = 0.25
WORKERS = 8
SERVERS = 5
"""Of them, where they are called over HTTP."""
HOSTS = ("thread", "asyncio", "trio")
HEARTS = ("cut", "beats", "lost", "beats", "slow", "beats", "beats")
SHIFTS = (0.0, 3600.0, -3600.0)
WAITS = (0.0, 0.0, 0.0, 0.4)
"""Seconds for which callers wait for each other: longer than a lease."""


@dataclass
class Torture:
    """One run. `fates` are the actions at crash points that are drawn from, in turn; none: nobody dies of their own."""

    folder: Path
    place: str
    way: Way
    fleet: Fleet
    url: str = ""
    """Of the store, as the workers reach it."""
    direct: str = ""
    """The same past whatever stands in between."""
    seed: int = 0
    rate: float = 60.0
    kills: float = 0.02
    """The chance of a kill at a moment of nobody's choice, a round of 30 ms."""
    asleep: int = 2
    """How many are stopped at a time."""
    fates: Sequence[tuple[str, str]] = tuple(itertools.product(("kill", "stop"), POINTS))
    hosts: Sequence[str] = HOSTS
    hearts: Sequence[str] = HEARTS
    cuts: float = 0.05
    slow: float = 0.15
    failing: float = 0.03
    width: int = 2
    web: bool = False
    """Call over HTTP: five processes serve, and three send requests."""
    mutant: str = ""
    longest: float = 120.0
    """Seconds after which it was enough in any case."""
    faults: Sequence[tuple[str, Fault]] = ()
    """Done to the store's server and the way to it, in turn."""
    every: float = 0.7
    """Seconds between two of them."""
    again: int = 50
    """How many keys that were answered are asked for once more at the end; all that were not are asked for anyway."""
    started: float = field(default_factory=time.time)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.random = Random(self.seed)
        self.reader = Reader(self.folder / "history")
        self.here: Place = PLACES[self.place](self.folder, self.direct or self.url)
        self.here.prepare()
        self._fates = self.random.sample(list(self.fates), len(self.fates))
        self._spent: list[int] = []
        self._hosts = itertools.cycle(self.hosts)
        self._hearts = itertools.cycle(self.hearts)
        self._shifts = itertools.cycle(SHIFTS)
        self._waits = itertools.cycle(WAITS)
        self._faults = itertools.cycle(self.faults)
        self._asleep: list[tuple[float, int]] = []
        self._seen = 0

        self._port = socket.socket() if self.web else None
        if self._port is not None:  # bound and not listening: it keeps the port
            self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._port.bind(("127.0.0.1", 0))

    def calm(self) -> dict[str, Any]:
        """What a process is told that nothing happens to."""
        return self.config() | {"url": self.direct or self.url}

    def config(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "place": self.place,
            "url": self.url,
            "way": self.way,
            "seed": self.random.randrange(2**31),
            "started": self.started,
            "rate": self.rate,
            "lease": LEASE,
            "mutant": self.mutant,
            "port": 0 if self._port is None else self._port.getsockname()[1],
        }

    def spawn(self, index: int) -> int:
        if self.web and index >= SERVERS:
            return self.fleet.start("work", **self.config(), cuts=self.cuts, width=4)
        action, point = self._next_fate()
        return self.fleet.start(
            "serve" if self.web else "work",
            **self.config(),
            hosts=[next(self._hosts)],
            action=action,
            point=point,
            passage=1 if point == COLLECTING else self.random.randint(1, 3 if self.web else 6),
            cuts=self.cuts,
            slow=self.slow,
            failing=self.failing,
            width=self.width,
            heart=next(self._hearts),
            shift=next(self._shifts),
            wait=next(self._waits),
        )

    def _next_fate(self) -> tuple[str, str]:
        """Those that nobody met yet come first, whoever was meant to meet them."""
        if not self._fates:
            return "", ""
        fate = min(self._fates, key=lambda fate: self.counts[" ".join(fate)])
        self._fates.remove(fate)
        self._fates.append(fate)
        return fate

    def run(self, enough: Callable[[], bool], *, at_least: float = 0.0) -> Verdict:
        """Go on until it was enough, let somebody finish what is left, and judge."""
        workers = [self.spawn(index) for index in range(WORKERS)]
        try:
            for _ in self._rounds(enough, at_least):
                for index, pid in enumerate(workers):
                    if pid not in self.fleet.alive:
                        workers[index] = self._replace(index, pid)
                self._wake()
                self._torment(workers)
        finally:
            self.fleet.end(*workers)
        return self.finish()

    def run_alone(self, seconds: float) -> Verdict:
        """All callers in one process, which is stopped and never killed, and which finishes what is left itself."""
        self.kills = 0.0
        config = self.config() | {"seconds": seconds, "cuts": self.cuts, "width": 3, "hosts": [*HOSTS]}
        config["heart"] = self.random.choice(["beats", "lost", "cut"])
        pid = self.fleet.start("work and finish", **config)
        try:
            while pid in self.fleet.alive:
                self._wake()
                if time.time() < self.started + seconds:
                    self._torment([pid])
                time.sleep(0.03)
        finally:
            self.fleet.end(pid)
        if self.fleet.codes[pid]:
            raise AssertionError(f"the process ended with {self.fleet.codes[pid]}: {self.broken()}")
        return self.judge(finished=True)

    def _rounds(self, enough: Callable[[], bool], at_least: float) -> Iterator[None]:
        start = look_at = fault_at = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= look_at:
                look_at = now + 0.25
                if now > start + at_least and enough():
                    return
                if now > start + max(self.longest, at_least):
                    raise AssertionError(f"not enough happened in {self.longest} s: {self.counts}")
            if self.faults and now >= fault_at + self.every:
                fault_at = now
                name, fault = next(self._faults)
                fault()
                self.counts[f"fault {name}"] += 1
            yield
            time.sleep(0.03)

    def _replace(self, index: int, pid: int) -> int:
        code = self.fleet.wait(pid)
        if code != -signal.SIGKILL:
            raise AssertionError(f"a worker ended with {code}: {self.broken()}")
        return self.spawn(index)

    def _torment(self, workers: Sequence[int]) -> None:
        self._look()
        victim = self.random.choice(workers)
        if self._spent and self.random.random() < 0.3:  # it met its fate; the next one has another
            victim = self._spent[0]
        if any(victim == pid for _, pid in self._asleep):
            return
        if victim in self._spent or self.random.random() < self.kills:
            self._spent = [pid for pid in self._spent if pid != victim]
            self.fleet.signal(victim, signal.SIGKILL)
            self.counts["killed at any moment"] += 1
        elif len(self._asleep) < self.asleep and self.random.random() < (0.3 if len(workers) == 1 else 0.1):
            self.fleet.signal(victim, signal.SIGSTOP)
            self._sleep(victim)
            self.counts["stopped at any moment"] += 1

    def _look(self) -> None:
        """See who stopped by itself, and count who died."""
        events = self.reader.read()
        for event in events[self._seen :]:
            if event["kind"] in {"kill", "stop", "cut"}:
                self.counts[f"{event['kind']} {event['point']}"] += 1
            if event["kind"] == "stop":
                self._sleep(event["pid"])
                self._spent.append(event["pid"])
        self._seen = len(events)

    def _sleep(self, pid: int) -> None:
        heapq.heappush(self._asleep, (time.monotonic() + LEASE * self.random.uniform(1.3, 3.0), pid))

    def _wake(self) -> None:
        while self._asleep and self._asleep[0][0] < time.monotonic():
            self.fleet.signal(heapq.heappop(self._asleep)[1], signal.SIGCONT)

    def finish(self) -> Verdict:
        """Every key that was ever called is answered in the end."""
        self._look()
        events = self.reader.read()
        answered = {event["key"] for event in events if event["kind"] == "ok"}
        keys = [*{event["key"] for event in events if "key" in event} - answered]
        keys += self.random.sample(sorted(answered), min(len(answered), self.again))
        server = [self.fleet.start("serve", **self.calm())] if self.web else []
        pid = self.fleet.start("finish", **self.calm(), keys=keys)
        try:
            code = self.fleet.wait(pid, timeout=120)
        finally:
            self.fleet.end(*server)
            if self._port is not None:
                self._port.close()
        assert code == 0, f"the finisher ended with {code}"
        self._look()
        return self.judge(finished=True)

    def judge(self, *, finished: bool = False) -> Verdict:
        """Judge what is there now."""
        events = self.reader.read()  # first: an effect is there before anybody is told of it
        one_commit = self.way == "one_commit"
        return check(events, self.here.rows(), mode=mode_of(self.way), finished=finished, one_commit=one_commit)

    def events(self, kind: str) -> list[Event]:
        return [event for event in self.reader.read() if event["kind"] == kind]

    def broken(self) -> list[str]:
        return [event["error"] for event in self.events("broken")]

    def reached(self, action: str) -> set[str]:
        """At which points this was done."""
        return {name.partition(" ")[2] for name in self.counts if name.startswith(f"{action} ")}

    def was_struck(self) -> bool:
        """Whether every fault was done."""
        return self.reached("fault") >= {name for name, _ in self.faults}

    def was_cut(self) -> bool:
        """Whether somebody was cut off before a record, after one, and at a heartbeat, where there are any."""
        return len(self.reached("cut")) == (2 if self.way == "one_commit" else 3)
