"""Every outbox against a model of a few lines, driven by Hypothesis through whatever order of events it can find."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from resilient.backends.borrowed import perform
from resilient.backends.outbox import Message, Settlement
from resilient.errors import KeyReused
from tests.contract.outboxes import KEEP, POSTS, draft

ATTEMPTS = 3
LEASE = 8.0
SECONDS = st.sampled_from([1.0, 8.0, 64.0])


@dataclass
class Known:
    """All that the model remembers of a message."""

    key: str
    payload: bytes
    group: str | None
    due: float
    state: str = "open"
    attempts: int = 0
    fence: int = 0
    leased: bool = False
    settled: float = 0.0
    id: int | None = None


class OutboxMachine(RuleBasedStateMachine):
    kind: str
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="resilient-outbox-"))
        self.post = POSTS[self.kind](self.folder)
        self.model: list[Known] = []
        """In the order in which they were added."""

    def teardown(self) -> None:
        self.post.close()
        shutil.rmtree(self.folder)

    @property
    def now(self) -> float:
        return self.post.clock.seconds

    def open_ones(self) -> list[Known]:
        return [each for each in self.model if each.state in {"open", "parked"}]

    def is_first(self, known: Known) -> bool:
        group = [each for each in self.open_ones() if each.group == known.group]
        return known.group is None or group[0] is known

    @rule(
        key=st.sampled_from("abcdef"),
        payload=st.sampled_from([b"x", b"y"]),
        group=st.sampled_from([None, None, "g", "h"]),
        delay=st.sampled_from([0.0, 0.0, 8.0]),
        commit=st.booleans() | st.just(value=True),
    )
    def add(self, key: str, payload: bytes, group: str | None, delay: float, *, commit: bool) -> None:
        known = next((each for each in self.model if each.key == key), None)
        new = draft(key, payload=payload, group=group, delay=delay)
        if known is not None and (known.payload, known.group) != (payload, group):
            with pytest.raises(KeyReused):
                self.post.add(new)
        elif commit:
            assert self.post.add(new) == [known is None]
            if known is None:
                self.model.append(Known(key, payload, group, self.now + delay))
        else:
            connection = self.post.connect()
            assert perform(connection, self.post.outbox.add(new)) == (known is None)
            connection.rollback()
            connection.close()

    @rule(target=leases, limit=st.integers(1, 4))
    def claim(self, limit: int) -> Any:
        ready = [each for each in self.model if each.state == "open" and each.due <= self.now and self.is_first(each)]
        claimed = self.post.claim(limit, lease=LEASE, attempts=ATTEMPTS)
        assert len(claimed.messages) <= limit
        fresh = [each for each in ready if each.attempts < ATTEMPTS]
        spent = [each for each in ready if each.attempts >= ATTEMPTS]
        # A parked one stays first of its group, so what is claimable does not depend on the order.
        assert {message.key for message in claimed.messages} <= {each.key for each in fresh}
        assert len(claimed.messages) == min(limit, len(fresh))
        parked = {message.key for message in claimed.parked}
        assert parked <= {each.key for each in spent}
        if len(claimed.messages) < limit:
            assert parked == {each.key for each in spent}
        for known in spent:
            if known.key in parked:
                known.state, known.leased = "parked", False
        for message in claimed.messages:
            known = next(each for each in fresh if each.key == message.key)
            known.attempts += 1
            assert message.fence > known.fence
            assert (message.attempt, message.payload) == (known.attempts, known.payload)
            known.fence, known.due, known.leased = message.fence, self.now + LEASE, True
            known.id = message.id
        return multiple(*claimed.messages)

    def mine(self, message: Message) -> Known | None:
        """What the holder of this lease may still write to."""
        known = next((each for each in self.model if each.id == message.id), None)  # a key may have come back
        return known if known is not None and known.leased and known.fence == message.fence else None

    @rule(message=leases)
    def renew(self, message: Message) -> None:
        known = self.mine(message)
        assert self.post.outbox.renew([message], lease=LEASE) == ({message.id} if known else set())
        if known is not None:
            known.due = self.now + LEASE

    @rule(
        message=leases,
        state=st.sampled_from(["delivered", "delivered", "failed", "parked"]),
        delay=SECONDS,
        counted=st.booleans(),
    )
    def settle(self, message: Message, state: Any, delay: float, *, counted: bool) -> None:
        known = self.mine(message)
        settlement = Settlement(message=message, state=state, delay=delay, counted=counted)
        assert self.post.outbox.settle([settlement]) == ({message.id} if known else set())
        self.forget()
        if known is None:
            return
        known.leased = False
        if state == "failed":
            known.due = self.now + delay
            known.attempts -= not counted
        else:
            known.state, known.settled = state, self.now
            known.attempts -= state == "parked" and not counted

    @rule(requeue=st.booleans())
    def rescue(self, *, requeue: bool) -> None:
        parked = self.post.outbox.parked(limit=1)
        expected = [each for each in self.model if each.state == "parked"]
        assert [each.key for each in parked] == [each.key for each in expected[:1]]
        if not parked:
            return
        ids = [parked[0].id]
        assert (self.post.outbox.requeue(ids) if requeue else self.post.outbox.discard(ids)) == 1
        expected[0].state, expected[0].settled = ("open" if requeue else "discarded"), self.now
        if requeue:
            expected[0].attempts, expected[0].due = 0, self.now

    @rule(seconds=SECONDS | st.just(KEEP))
    def wait(self, seconds: float) -> None:
        self.post.clock.advance(seconds)

    @rule()
    def gc(self) -> None:
        self.post.outbox.gc()
        self.forget()

    def forget(self) -> None:
        """What is old enough may be gone; that is the store's to choose."""
        for known in list(self.model):
            old = known.state in {"delivered", "discarded"} and known.settled + KEEP <= self.now
            if old and self.post.state_of(known.key) is None:
                self.model.remove(known)

    @invariant()
    def the_messages_are_those_of_the_model(self) -> None:
        stats = self.post.outbox.stats()
        states = [each.state for each in self.model]
        assert stats.pending + stats.waiting == states.count("open")
        assert stats.parked == states.count("parked")
        assert stats.delivered == states.count("delivered") + states.count("discarded")


@pytest.mark.parametrize("kind", sorted(POSTS))
def test_an_outbox_does_what_the_model_does(kind: str) -> None:
    machine = type("Machine", (OutboxMachine,), {"kind": kind})
    examples = 100 if kind == "sqlite" else 25  # each step is a round trip
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=30, deadline=None))
