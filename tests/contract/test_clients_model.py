"""Every store of leased clients against a model of a few lines: late, repeated and foreign requests in any order.

The model also counts effects: a call that is completed twice would be one.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from resilient.backends.clients import ClientCall, LeasedAnswer, Refused, scope_of
from resilient.backends.store import Busy, Mismatch, Replay, Run
from tests.contract.stores import SHELVES

NUMBERS = st.integers(1, 4)
PAYLOADS = st.sampled_from([b"x", b"y"])
SECONDS = st.sampled_from([0.25, 1.0, 8.0])
FOREVER = 1e9


@dataclass
class KnownCall:
    payload: bytes
    fence: int
    lease_until: float
    result: bytes | None = None
    done: bool = False


@dataclass
class KnownClient:
    lease: float
    lease_until: float
    acknowledged: int = 0
    calls: dict[int, KnownCall] = field(default_factory=dict[int, KnownCall])


class ClientsMachine(RuleBasedStateMachine):
    kind: str
    runs = Bundle("runs")
    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="resilient-clients-"))
        shelf = SHELVES[self.kind](self.folder)
        self.clock = shelf.clock
        core: Any = shelf.make().blocking
        self.claims, self.store = core, core.clients()
        self.model: dict[str, KnownClient] = {}
        self.effects: Counter[tuple[str, int]] = Counter()
        self.names = 0

    def teardown(self) -> None:
        self.store.close()
        self.claims.close()
        shutil.rmtree(self.folder)

    def forget(self, client: KnownClient, upto: int) -> None:
        if upto > client.acknowledged:
            client.acknowledged = upto
            self.remove(client, upto)

    def remove(self, client: KnownClient, upto: int) -> None:
        now = self.clock.seconds
        for number, call in list(client.calls.items()):
            if number <= upto and (call.done or call.lease_until <= now):
                del client.calls[number]

    def collect(self) -> None:
        for name, client in list(self.model.items()):
            if client.lease_until + client.lease <= self.clock.seconds:
                self.remove(client, 10**6)
                if not client.calls:
                    del self.model[name]

    @rule(target=clients, lease=SECONDS)
    def register(self, lease: float) -> str:
        self.names += 1
        name = f"c{self.names}"
        self.store.collect()
        self.collect()
        self.store.register(name, "p", lease=lease)
        self.model[name] = KnownClient(lease, self.clock.seconds + lease)
        return name

    @rule(client=clients, lease=SECONDS, acknowledged=st.integers(0, 4), principal=st.sampled_from(["p", "p", "q"]))
    def renew(self, client: str, lease: float, acknowledged: int, principal: str) -> None:
        self.store.collect()
        self.collect()
        renewed = self.store.renew(client, principal, acknowledged, lease=lease)
        known = self.model.get(client)
        assert renewed == (known is not None and principal == "p" and known.lease_until > self.clock.seconds)
        if renewed and known is not None:
            self.forget(known, acknowledged)
            known.lease, known.lease_until = lease, self.clock.seconds + lease

    def expected(self, client: str, number: int, acknowledged: int, payload: bytes) -> LeasedAnswer | None:
        known, now = self.model.get(client), self.clock.seconds
        if known is None:
            return Refused("expired")
        self.forget(known, acknowledged)
        if number <= known.acknowledged:
            return Refused("stale")
        call = known.calls.get(number)
        if call is None:
            return None if known.lease_until > now else Refused("expired")
        if call.payload != payload:
            return Mismatch()
        if call.done:
            return Replay(call.result)
        return Busy(call.lease_until - now) if call.lease_until > now else None

    @rule(target=runs, client=clients, number=NUMBERS, behind=st.integers(1, 4), payload=PAYLOADS, lease=SECONDS)
    def begin(self, client: str, number: int, behind: int, payload: bytes, lease: float) -> Any:
        acknowledged = max(0, number - behind)
        expected = self.expected(client, number, acknowledged, payload)
        call = ClientCall(client=client, number=number, acknowledged=acknowledged)
        self.names += 1
        owner = f"o{self.names}"  # each executor has a name of its own
        answer = self.store.begin(call, "p", payload, owner=owner, lease=lease, ttl=FOREVER, takeover=True)
        if expected is not None:
            if isinstance(answer, Busy) and isinstance(expected, Busy):
                assert answer.retry_after == pytest.approx(expected.retry_after)
            else:
                assert answer == expected
            return multiple()
        assert isinstance(answer, Run)
        known = self.model[client]
        assert answer.takeover == (number in known.calls)
        known.calls[number] = KnownCall(payload, answer.fence, self.clock.seconds + lease)
        return answer

    @rule(client=clients, number=NUMBERS)
    def begin_as_somebody_else(self, client: str, number: int) -> None:
        call = ClientCall(client=client, number=number, acknowledged=number - 1)
        answer = self.store.begin(call, "q", b"x", owner="o", lease=1.0, ttl=FOREVER, takeover=True)
        assert answer == Refused("expired")

    def mine(self, run: Run) -> KnownCall | None:
        client = self.model.get(run.scope.removeprefix("client "))
        call = None if client is None else client.calls.get(int(run.key))
        return call if call is not None and call.fence == run.fence and not call.done else None

    @rule(run=runs, result=st.sampled_from([b"1", b"2"]))
    def complete(self, run: Run, result: bytes) -> None:
        call = self.mine(run)
        assert self.claims.complete(run, result, ttl=FOREVER) == (call is not None)
        if call is not None:
            call.done, call.result = True, result
            self.effects[run.scope, int(run.key)] += 1

    @rule(run=runs)
    def give_up(self, run: Run) -> None:
        call = self.mine(run)
        assert self.claims.release(run) == (call is not None)
        if call is not None:
            call.lease_until = self.clock.seconds

    @rule(client=clients, principal=st.sampled_from(["p", "q"]))
    def leave(self, client: str, principal: str) -> None:
        known = self.model.get(client)
        assert self.store.leave(client, principal) == (known is not None and principal == "p")
        if known is not None and principal == "p":
            known.lease, known.lease_until = 0.0, 0.0
            self.remove(known, 10**6)
            if not known.calls:
                del self.model[client]

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def collect_all(self) -> None:
        before = len(self.model)
        self.collect()
        assert self.store.collect() == before - len(self.model)

    @invariant()
    def nothing_took_effect_twice(self) -> None:
        assert all(count == 1 for count in self.effects.values())

    @invariant()
    def what_is_remembered_is_exactly_what_can_be_retried(self) -> None:
        calls = [(name, number) for name, client in self.model.items() for number in client.calls]
        assert self.claims.stats().records == len(calls)
        for name, number in calls:
            assert self.claims.lookup(scope_of(name), str(number)) is not None
        assert self.store.count() == len(self.model)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])
def test_a_store_of_clients_does_what_the_model_does(kind: str) -> None:
    machine = type("Machine", (ClientsMachine,), {"kind": kind})
    examples, steps = (8, 20) if kind == "postgres" else (150, 40)  # each step of which is several round trips
    terms = settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    run_state_machine_as_test(machine, settings=terms)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])
def test_nothing_takes_effect_twice_while_others_acknowledge_leave_and_collect(kind: str, tmp_path: Path) -> None:
    shelf = SHELVES[kind](tmp_path)
    core: Any = shelf.make().blocking
    store = core.clients()
    effects: Counter[tuple[str, int]] = Counter()
    names = [f"c{number}" for number in range(4)]
    for name in names:
        store.register(name, "p", lease=1.0)
    problems: list[BaseException] = []
    refused: Counter[str] = Counter()
    moments = itertools.count()

    def call(seed: int) -> None:
        random = Random(seed)
        try:
            while (moment := next(moments)) < 600:
                name, number = random.choice(names), moment // 20 + random.randint(1, 4)
                sent = ClientCall(client=name, number=number, acknowledged=max(0, number - random.choice([1, 3, 6])))
                answer = store.begin(sent, "p", b"x", owner=f"{seed}.{moment}", lease=1.0, ttl=FOREVER, takeover=True)
                if isinstance(answer, Refused):
                    refused[answer.reason] += 1
                elif isinstance(answer, Run) and core.complete(answer, b"", ttl=FOREVER):
                    effects[name, number] += 1
                if random.random() < 0.05:
                    shelf.clock.advance(random.choice([0.1, 0.6]))
                    store.collect()
                    store.renew(random.choice(names[:2]), "p", max(0, number - 5), lease=1.0)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert set(effects.values()) == {1}
    assert set(refused) == {"stale", "expired"}
    store.close()
    core.close()


class ForgetsTooMuch(ClientsMachine):
    """A known-bad store: a client that acknowledged is forgotten together with what it acknowledged."""

    kind = "memory"

    def __init__(self) -> None:
        super().__init__()
        right = self.store._forget

        def wrong(client: str, row: Any, acknowledged: int) -> None:
            right(client, row, acknowledged)
            row.acknowledged = 0

        self.store._forget = wrong


def test_the_model_finds_a_store_that_forgets_what_was_acknowledged() -> None:
    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            ForgetsTooMuch, settings=settings(max_examples=500, deadline=None, database=None, phases=[Phase.generate])
        )


@pytest.mark.parametrize(
    ("client", "key", "acknowledged"),
    [
        ("a", "b.1", "0"),
        ("a", "a", "0"),
        ("a", "a.0", "0"),
        ("a", "a.01", "0"),
        ("a", "a.1", "1"),
        ("a", "a.1", "-1"),
        ("a", "a.1", "x"),
        ("a", "a.1", ""),
        ("a", "a.5", "9" * 30),
        ("g", "g.1", "0"),
        ("a b", "a b.1", "0"),
    ],
)
def test_what_is_no_call_of_a_client_is_refused(client: str, key: str, acknowledged: str) -> None:
    with pytest.raises(ValueError, match=r"key|acknowledge"):
        ClientCall.parse(client, key, acknowledged)


def test_a_call_is_read_as_it_is_written() -> None:
    call = ClientCall(client="8e03978e-40d5-43e8-bc93-6894a57f9324", number=7, acknowledged=3)
    assert ClientCall.parse(call.client, call.key, "3") == call
