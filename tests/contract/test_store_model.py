"""Every store against a model of a few lines, driven by Hypothesis through whatever order of events it can find."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from resilient.backends.store import Abandoned, Answer, Busy, Mismatch, Replay, Run
from tests.contract.stores import SHELVES

KEYS = st.sampled_from(["a", "b"])
PAYLOADS = st.sampled_from([b"x", b"y"])
RESULTS = st.sampled_from([b"1", b"2", None])
SECONDS = st.sampled_from([0.25, 1.0, 8.0, 64.0])


@dataclass
class Known:
    """All that the model remembers of a key."""

    payload: bytes
    fence: int
    lease_until: float
    expires_at: float
    done: bool = False
    released: bool = False
    point: tuple[str, bytes | None] = ("started", None)
    result: bytes | None = None


class StoreMachine(RuleBasedStateMachine):
    kind: str
    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="resilient-store-"))
        self.shelf = SHELVES[self.kind](self.folder)
        self.clock = self.shelf.clock
        self.store = self.shelf.make().blocking
        self.model: dict[str, Known] = {}
        self.highest = 0

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    def expected(self, key: str, payload: bytes, *, takeover: bool) -> Answer | None:
        known, now = self.model.get(key), self.clock.seconds
        if known is None or max(known.lease_until, known.expires_at) <= now:
            return None
        if known.payload != payload:
            return Mismatch()
        if known.done:
            return Replay(known.result)
        if known.lease_until > now:
            return Busy(known.lease_until - now)
        return None if takeover or known.released else Abandoned()

    def mine(self, run: Run, *, accepted: bool) -> Known | None:
        """What the write changes, which has to be accepted exactly where there is something.

        A forgotten record may be gone, or not yet: that is the store's to choose.
        """
        known = self.model.get(run.key)
        if known is None or known.fence != run.fence or known.done:
            assert not accepted
            return None
        if max(known.lease_until, known.expires_at) > self.clock.seconds:
            assert accepted
        return known if accepted else None

    @rule(target=runs, key=KEYS, payload=PAYLOADS, lease=SECONDS, ttl=SECONDS, takeover=st.booleans())
    def begin(self, key: str, payload: bytes, lease: float, ttl: float, *, takeover: bool) -> Any:
        expected = self.expected(key, payload, takeover=takeover)
        answer = self.store.begin("s", key, payload, owner="o", lease=lease, ttl=ttl, takeover=takeover)
        if expected is not None:
            if isinstance(answer, Busy) and isinstance(expected, Busy):
                assert answer.retry_after == pytest.approx(expected.retry_after)
            else:
                assert answer == expected
            return multiple()
        assert isinstance(answer, Run)
        assert answer.fence > self.highest
        self.highest = answer.fence
        now, before = self.clock.seconds, self.model.get(key)
        new = Known(payload, answer.fence, now + lease, now + ttl)
        follows = before is not None and max(before.lease_until, before.expires_at) > now
        if before is not None and follows:
            new.point = before.point
        assert answer.takeover == follows
        assert (answer.recovery_point, answer.recovery_data) == new.point
        self.model[key] = new
        return answer

    @rule(run=runs, lease=st.sampled_from([0.0, 1.0, 8.0]))
    def heartbeat(self, run: Run, lease: float) -> None:
        known = self.mine(run, accepted=self.store.heartbeat(run, lease=lease))
        if known is not None:
            known.lease_until, known.released = self.clock.seconds + lease, False

    @rule(run=runs, data=RESULTS)
    def save(self, run: Run, data: bytes | None) -> None:
        known = self.mine(run, accepted=self.store.save(run, "point", data))
        if known is not None:
            known.point = ("point", data)

    @rule(run=runs, result=RESULTS, ttl=SECONDS)
    def complete(self, run: Run, result: bytes | None, ttl: float) -> None:
        known = self.mine(run, accepted=self.store.complete(run, result, ttl=ttl))
        self.done(known, result, ttl)

    @rule(run=runs, result=RESULTS, ttl=SECONDS, commit=st.booleans())
    def transaction(self, run: Run, result: bytes | None, ttl: float, *, commit: bool) -> None:
        if "transactional" not in self.store.modes:
            return
        transaction = self.store.transaction(run)
        known = self.mine(run, accepted=transaction is not None)
        if transaction is None:
            return
        self.shelf.write(transaction.connection, run)
        if commit:
            assert transaction.commit(result, ttl=ttl)
            self.done(known, result, ttl)
        else:
            transaction.rollback()

    def done(self, known: Known | None, result: bytes | None, ttl: float) -> None:
        if known is not None:
            known.done, known.result = True, result
            known.lease_until, known.expires_at = self.clock.seconds, self.clock.seconds + ttl

    @rule(run=consumes(runs))
    def release(self, run: Run) -> None:
        known = self.mine(run, accepted=self.store.release(run))
        if known is not None:
            known.lease_until, known.released = self.clock.seconds, True

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(limit=st.integers(1, 3))
    def gc(self, limit: int) -> None:
        assert self.store.gc(limit) <= limit

    @invariant()
    def the_records_are_those_of_the_model(self) -> None:
        now = self.clock.seconds
        for key in ("a", "b"):
            known, record = self.model.get(key), self.store.lookup("s", key)
            if known is None or max(known.lease_until, known.expires_at) <= now:
                assert record is None
                continue
            assert record is not None
            assert record.state == ("done" if known.done else "running")
            assert (record.fence, record.fingerprint) == (known.fence, known.payload)
            assert (record.recovery_point, record.recovery_data) == known.point
            assert record.result == known.result
            assert record.released == (known.released and not known.done)


# Redis runs the scripts that Valkey runs: the contract is enough for what may differ.
@pytest.mark.parametrize("kind", sorted(SHELVES.keys() - {"redis"}))
def test_a_store_does_what_the_model_does(kind: str) -> None:
    machine = type("Machine", (StoreMachine,), {"kind": kind})
    examples = {"postgres": 50, "valkey": 100}.get(kind, 200)  # each step is a few round trips
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=30, deadline=None))
