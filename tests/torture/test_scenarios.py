"""Single disasters, one at a time, at every store that processes share: what chance would meet too seldom."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest

from resilient.backends.connecting import connect
from resilient.backends.store import BlockingStore, Replay, Run
from resilient.errors import InProgress, StoreUnavailable
from resilient.idempotency import BlockingClaim, once
from resilient.runtime import Runtime
from tests.servers.faketime import shifted
from tests.torture.checker import PARTS, Row, remains
from tests.torture.fleet import Fleet
from tests.torture.grounds import Ground
from tests.torture.operation import Way
from tests.torture.places import PLACES, Place
from tests.torture.torture import Torture
from tests.torture.worker import RIGHT, WRONG

pytestmark = pytest.mark.timeout(120)

PROCESSES = 8
THREADS = 25


def torture_at(ground: Ground, folder: Path, fleet: Fleet, way: Way = "transactional", **more: Any) -> Torture:
    return Torture(folder / "place", ground.place, way, fleet, url=ground.fresh(), **more)


def place_at(ground: Ground, folder: Path, *, proxied: bool = False) -> Place:
    (folder / "place").mkdir()
    direct = ground.fresh()
    place = PLACES[ground.place](folder / "place", direct)
    place.prepare()
    if proxied:
        place.url = ground.through(direct)
    return place


def answers(torture: Torture, key: str) -> Counter[str]:
    ends = [event for event in torture.reader.read() if event.get("key") == key and event["kind"] in {"ok", "error"}]
    return Counter(event.get("error", "ok") for event in ends)


@pytest.mark.parametrize("web", [False, True], ids=["directly", "over http"])
def test_of_two_hundred_duplicates_at_once_one_runs(ground: Ground, tmp_path: Path, fleet: Fleet, web: bool) -> None:
    """Under one key with one payload, and under another with two."""
    torture = torture_at(ground, tmp_path, fleet, web=web)
    start = time.time() + 1.0
    config = torture.config() | {"slow": 0.0, "failing": 0.0, "lease": 30.0, "patience": 30.0}
    server = [fleet.start("serve", **config)] if web else []
    config["width"] = THREADS
    moments = {"same": start, "mixed": start + 1.0}
    crowd = [fleet.start("crowd", **config, moments=moments, payloads=[RIGHT, WRONG]) for _ in range(PROCESSES)]
    assert [fleet.wait(pid) for pid in crowd] == [0] * PROCESSES
    fleet.end(*server)
    verdict = torture.judge(finished=True)
    assert (verdict.violations, verdict.calls, verdict.begun) == ([], 2 * PROCESSES * THREADS, 2)
    assert set(answers(torture, "same")) <= {"ok", "InProgress"}
    assert set(answers(torture, "mixed")) <= {"ok", "InProgress", "KeyReused"}
    assert answers(torture, "mixed")["KeyReused"] >= PROCESSES * THREADS // 2 - PROCESSES
    assert torture.finish().violations == []


@pytest.mark.parametrize("close", [True, False], ids=["closed", "open"])
def test_a_fork_loses_nothing(ground: Ground, tmp_path: Path, fleet: Fleet, close: bool) -> None:
    """The store was used before; its connections were closed, or are inherited."""
    torture = torture_at(ground, tmp_path, fleet)
    pid = fleet.start("preload", **torture.config() | {"seconds": 1.0, "failing": 0.0}, close=close, children=4)
    assert fleet.wait(pid) == 0
    verdict = torture.finish()
    assert verdict.violations == []
    refused = verdict.errors.get("StoreUnavailable", 0)
    # SQLite cannot be used across a fork, and says so; a server's connections are made anew.
    assert (refused > 0) == (ground.place == "sqlite" and not close)


class Bank:
    """An operation at a store, and how often it ran."""

    def __init__(self, place: Place, *, resumable: bool = True) -> None:
        self.place = place
        self.ran = 0

        @once(place.store(), key=lambda key: key, scope="torture", lease=5.0, resumable=resumable)
        def pay(claim: BlockingClaim, key: str) -> str:
            self.ran += 1
            with claim.transaction() as connection:
                for part in PARTS:
                    place.write(connection, Row(key, RIGHT, str(self.ran), part))
            return f"by {self.ran}"

        self.pay = pay

    def paid(self) -> list[tuple[str, str]]:
        return sorted({(row.key, row.attempt) for row in self.place.rows()})


behind_a_network = pytest.mark.parametrize(
    ("ground", "resumable"),
    [("postgres", True), ("postgres", False), ("valkey", True)],
    ids=["postgres-apart", "postgres-one-commit", "valkey"],
    indirect=["ground"],
)
RECORDS = {"postgres": b"state = 'done'", "valkey": b"RPUSH"}
"""What a client says as it records."""


@behind_a_network
def test_a_cut_between_effect_and_record_leaves_nothing(ground: Ground, tmp_path: Path, resumable: bool) -> None:
    assert ground.proxy is not None
    bank = Bank(place_at(ground, tmp_path, proxied=True), resumable=resumable)
    assert bank.pay("warm") == "by 1"
    cuts = ground.proxy.cuts
    ground.proxy.cut_before(RECORDS[ground.place])
    ended = _try(lambda: bank.pay("k"))
    ground.proxy.wait_for_cut(cuts + 1)
    if isinstance(ended, StoreUnavailable):  # PostgreSQL: the transaction is undone, and the key is free at once
        assert bank.paid() == [("warm", "1")]
        ended = bank.pay("k")
    assert ended == f"by {bank.ran}"  # Valkey: it was not done, so it could be sent again
    assert bank.paid() == [("k", str(bank.ran)), ("warm", "1")]
    assert bank.pay("k") == ended


@behind_a_network
def test_an_answer_that_is_lost_after_the_commit_is_found_out(ground: Ground, tmp_path: Path, resumable: bool) -> None:
    assert ground.proxy is not None
    bank = Bank(place_at(ground, tmp_path, proxied=True), resumable=resumable)
    assert bank.pay("warm") == "by 1"
    cuts = ground.proxy.cuts
    ground.proxy.cut_answer(RECORDS[ground.place])
    assert bank.pay("k") == "by 2"
    assert ground.proxy.cuts == cuts + 1
    assert bank.pay("k") == "by 2"
    assert bank.paid() == [("k", "2"), ("warm", "1")]


def _try(call: Callable[[], object]) -> object:
    try:
        return call()
    except StoreUnavailable as error:
        return error


def test_a_clients_clock_takes_nobodys_lease(ground: Ground, tmp_path: Path) -> None:
    """An hour fast or slow: a lease is as long as the store says, and is renewed in time."""
    store = place_at(ground, tmp_path).store()
    lease = 0.5
    pairs = {f"{holder:+} {other:+}": (holder, other) for holder in (0, 3600, -3600) for other in (0, 3600, -3600)}
    running, go_on = threading.Barrier(len(pairs) + 1), threading.Event()

    def work_at(shift: float) -> Callable[[str], str]:
        runtime = Runtime(now=lambda: time.monotonic() + shift, wall=lambda: time.time() + shift)

        @once(store, key=lambda pair: pair, scope="torture", mode="fenced", lease=lease, runtime=runtime)
        def work(claim: BlockingClaim, pair: str) -> str:
            running.wait(20)
            assert go_on.wait(20)
            return f"by {shift:+}"

        return work

    results: dict[str, str] = {}

    def hold(pair: str) -> None:
        results[pair] = work_at(pairs[pair][0])(pair)

    threads = [threading.Thread(target=hold, args=(pair,)) for pair in pairs]
    for thread in threads:
        thread.start()
    running.wait(20)
    until = time.monotonic() + 1.5 * lease
    while time.monotonic() < until:
        for pair, (_, other) in pairs.items():
            with pytest.raises(InProgress) as caught:
                work_at(other)(pair)
            assert caught.value.retry_after is not None
            assert 0 < caught.value.retry_after <= lease
    go_on.set()
    for thread in threads:
        thread.join()
    assert results == {pair: f"by {holder:+}" for pair, (holder, _) in pairs.items()}
    store.blocking.close()


ASKING = """
import sys, time
from resilient.backends.connecting import connect
from resilient.errors import InProgress
from resilient.idempotency import once

@once(connect(sys.argv[1]), key=lambda: "k", scope="torture", mode="fenced", lease=0.5)
def work(claim):
    return "by the other"

try:
    print(round(time.time()), work())
except InProgress as error:
    print(round(time.time()), error.retry_after)
"""


@pytest.mark.parametrize("ground", ["postgres", "valkey"], indirect=True)
def test_a_process_whose_whole_clock_is_wrong_takes_nobodys_lease(ground: Ground, tmp_path: Path) -> None:
    """Its driver's and its interpreter's, too. (SQLite's clock is that of the machine.)"""
    url = ground.fresh()
    store = connect(url)
    outs = []

    @once(store, key=lambda: "k", scope="torture", mode="fenced", lease=0.5)
    def work(claim: BlockingClaim) -> None:
        command = [sys.executable, "-c", ASKING, url]
        others = {
            shift: subprocess.Popen(command, env=os.environ | shifted(shift), stdout=subprocess.PIPE, text=True)
            for shift in (3600, -3600)
        }
        for shift, other in others.items():
            out, _ = other.communicate(timeout=60)
            outs.append((shift, *map(float, out.split())))

    work()
    for shift, clock, retry_after in outs:
        assert abs(clock - time.time() - shift) < 60
        assert 0 < retry_after <= 0.5
    store.blocking.close()


TTL = 0.06
KEYS = ["a", "b", "c"]


class Race:
    """Threads begin and complete the same keys as fast as they can, and others collect whatever was forgotten."""

    def __init__(self, store: BlockingStore, *, seconds: float) -> None:
        self.store = store
        self.until = time.monotonic() + seconds
        self.done: dict[str, list[tuple[int, float, float]]] = {key: [] for key in KEYS}
        """The fences whose results were recorded, each with a time before its claim and one after its record."""
        self.results: dict[str, set[bytes]] = {key: set() for key in KEYS}

    def run(self) -> None:
        with ThreadPoolExecutor(8) as threads:
            works = [threads.submit(self.claim, KEYS[number % 3], Random(number)) for number in range(6)]
            works += [threads.submit(self.collect) for _ in range(2)]
            for work in works:
                work.result()

    def claim(self, key: str, random: Random) -> None:
        while time.monotonic() < self.until:
            asked = time.monotonic()
            answer = self.store.begin("torture", key, b"", owner="o", lease=0.05, ttl=TTL)
            if isinstance(answer, Replay):
                assert answer.result is not None
                self.results[key].add(answer.result)
            elif isinstance(answer, Run) and random.random() < 0.8:  # some never finish
                self.complete(answer, asked)

    def complete(self, run: Run, asked: float) -> None:
        if self.store.complete(run, b"%d" % run.fence, ttl=TTL):
            self.done[run.key].append((run.fence, asked, time.monotonic()))

    def collect(self) -> None:
        while time.monotonic() < self.until:
            self.store.gc(10)


def test_a_retry_at_the_very_end_of_retention_runs_once_while_others_collect(ground: Ground, tmp_path: Path) -> None:
    store = place_at(ground, tmp_path).store().blocking
    race = Race(store, seconds=1.2)
    race.run()
    for key in KEYS:
        done = sorted(race.done[key])
        assert len(done) >= 3
        assert race.results[key] <= {b"%d" % fence for fence, _, _ in done}
        # A result is kept for the whole of its time: nobody else recorded one before its end.
        for (_, asked, _), (_, _, next_done) in itertools.pairwise(done):
            assert next_done - asked >= TTL
    store.close()


def test_a_store_shrinks_to_what_it_was(ground: Ground, tmp_path: Path) -> None:
    blocking = place_at(ground, tmp_path).store().blocking
    before = blocking.stats()
    for number in range(40):
        run = blocking.begin("torture", str(number), b"", owner="o", lease=0.2, ttl=0.2)
        assert isinstance(run, Run)
        if number % 2:
            assert blocking.complete(run, b"result", ttl=0.2)
    kept = blocking.begin("torture", "kept", b"", owner="o", lease=60.0, ttl=60.0)
    assert isinstance(kept, Run)
    deadline = time.monotonic() + 10
    while remains(before, blocking.stats(), kept=1):
        assert time.monotonic() < deadline, remains(before, blocking.stats(), kept=1)
        blocking.gc(7)
        time.sleep(0.01)
    assert blocking.complete(kept, b"kept", ttl=60.0)
    blocking.close()
