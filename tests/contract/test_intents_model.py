"""Every store of intents against a model of a few lines, driven by Hypothesis through whatever order it can find."""

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

from resilient.backends.intents import Busy, Finished, Held, IntentAnswer, Lapsed, Mismatch
from tests.contract.stores import INTENT_SHELVES

KEYS = st.sampled_from(["a", "b"])
PAYLOADS = st.sampled_from([b"x", b"y"])
RESULTS = st.sampled_from([b"1", None])
SECONDS = st.sampled_from([0.25, 1.0, 8.0, 64.0])


@dataclass
class Known:
    """All that the model remembers of a key."""

    payload: bytes
    owner: str
    until: float
    lease_until: float
    attempts: int = 1
    due_at: float = 0.0
    reason: str = ""
    done: bool = False
    result: bytes | None = None


class IntentsMachine(RuleBasedStateMachine):
    kind: str
    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="resilient-intents-"))
        shelf = INTENT_SHELVES[self.kind](self.folder)
        self.clock = shelf.clock
        self.store = shelf.make()
        self.model: dict[str, Known] = {}
        self.owners = 0

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    def known(self, key: str) -> Known | None:
        known = self.model.get(key)
        if known is not None and known.done and known.until <= self.clock.seconds:
            del self.model[key]
            return None
        return known

    def expected(self, key: str, payload: bytes) -> IntentAnswer:
        known, now = self.known(key), self.clock.seconds
        if known is None:
            return None
        if known.payload != payload:
            return Mismatch()
        if known.done:
            return Finished(known.result)
        if known.lease_until > now:
            return Busy(known.lease_until - now)
        return Lapsed() if known.until <= now else None

    def mine(self, held: Held, *, accepted: bool) -> Known | None:
        known = self.model.get(held.key)
        assert accepted == (known is not None and known.owner == held.owner and not known.done)
        return known if accepted else None

    @rule(target=held, key=KEYS, payload=PAYLOADS, lease=SECONDS, window=SECONDS, create=st.booleans())
    def begin(self, key: str, payload: bytes, lease: float, window: float, *, create: bool) -> Any:
        expected, known = self.expected(key, payload), self.known(key)
        self.owners += 1
        owner = str(self.owners)
        answer = self.store.begin(
            "s", key, payload, payload * 2, owner=owner, lease=lease, window=window, create=create
        )
        if expected is not None or (known is None and not create):
            if isinstance(answer, Busy) and isinstance(expected, Busy):
                assert answer.retry_after == pytest.approx(expected.retry_after)
            else:
                assert answer == expected
            return multiple()
        assert isinstance(answer, Held)
        now = self.clock.seconds
        if known is None:
            known = self.model[key] = Known(payload, owner, now + window, now + lease)
        else:
            known.owner, known.lease_until, known.attempts = owner, now + lease, known.attempts + 1
        assert answer.fresh == (known.attempts == 1)
        assert answer.request == payload * 2
        assert answer.window_left == pytest.approx(known.until - now)
        return answer

    @rule(held=held, lease=SECONDS)
    def heartbeat(self, held: Held, lease: float) -> None:
        known = self.mine(held, accepted=self.store.heartbeat(held, lease=lease))
        if known is not None:
            known.lease_until = self.clock.seconds + lease

    @rule(held=held, delay=SECONDS)
    def release(self, held: Held, delay: float) -> None:
        known = self.mine(held, accepted=self.store.release(held, delay=delay, reason=f"after {delay}"))
        if known is not None:
            known.lease_until, known.reason = self.clock.seconds, f"after {delay}"
            known.due_at = self.clock.seconds + delay

    @rule(held=held, result=RESULTS, keep=SECONDS)
    def finish(self, held: Held, result: bytes | None, keep: float) -> None:
        known = self.mine(held, accepted=self.store.finish(held, result, keep=keep))
        if known is not None:
            self.done(known, result, keep)

    @rule(held=held)
    def drop(self, held: Held) -> None:
        if self.mine(held, accepted=self.store.drop(held)) is not None:
            del self.model[held.key]

    @rule(key=KEYS, done=st.booleans(), result=RESULTS, keep=SECONDS)
    def settle(self, key: str, result: bytes | None, keep: float, *, done: bool) -> None:
        known = self.known(key)
        if self.model.get(key) is None and self.store.lookup("s", key) is None:
            self.store.gc()  # what is forgotten may still be there, or not
        assert self.store.settle("s", key, done=done, result=result, keep=keep) == (known is not None)
        if known is not None and done:
            self.done(known, result, keep)
        elif known is not None:
            del self.model[key]

    def done(self, known: Known, result: bytes | None, keep: float) -> None:
        known.done, known.result, known.until = True, result, self.clock.seconds + keep
        known.lease_until = self.clock.seconds

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(limit=st.integers(1, 3))
    def gc(self, limit: int) -> None:
        assert self.store.gc(limit) <= limit

    @invariant()
    def the_intents_are_those_of_the_model(self) -> None:
        now = self.clock.seconds
        for key in ("a", "b"):
            known, intent = self.known(key), self.store.lookup("s", key)
            if known is None:
                assert intent is None
                continue
            assert intent is not None
            assert (intent.fingerprint, intent.attempts) == (known.payload, known.attempts)
            assert intent.result == known.result
            if known.done:
                assert intent.state == "done"
                continue
            over = known.until <= now and known.lease_until <= now
            assert intent.state == ("lapsed" if over else "open")
            assert (intent.request, intent.reason) == (known.payload * 2, known.reason)
            assert (intent.due_in > 0) == (known.due_at > now)
        unfinished = {key for key in self.model if (known := self.known(key)) is not None and not known.done}
        assert {intent.key for intent in self.store.unfinished(limit=9)} == unfinished


@pytest.mark.parametrize("kind", sorted(INTENT_SHELVES))
def test_a_store_of_intents_does_what_the_model_does(kind: str) -> None:
    machine = type("Machine", (IntentsMachine,), {"kind": kind})
    examples = 15 if kind == "postgres" else 150
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=30, deadline=None))


@pytest.mark.parametrize("kind", sorted(INTENT_SHELVES))
def test_unfinished_intents_are_read_page_by_page_in_the_order_in_which_they_were_written(
    kind: str, tmp_path: Path
) -> None:
    store = INTENT_SHELVES[kind](tmp_path).make()
    for number in range(5):
        assert isinstance(store.begin("s", str(number), b"", b"", owner="o", lease=1.0, window=9.0), Held)
    first = store.unfinished(limit=3)
    assert [intent.key for intent in first] == ["0", "1", "2"]
    assert [intent.key for intent in store.unfinished(limit=3, after=first[-1].id)] == ["3", "4"]
    store.close()
