"""The balancer against a model of it that is too slow to use and too simple to be wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from resilient.balancing import Balancer, Ejection, Pick, RoundRobin
from resilient.errors import NoInstance
from resilient.events import InstanceEjected, InstanceHealthy, InstanceRestored, InstanceUnhealthy
from resilient.verdict import Verdict
from tests.balancing.fleet import snapshot

NAMES = "abcdefg"
ROW, DURATION, WINDOW, LONGEST = 3, 5.0, 10.0, 60.0


def no_chance() -> float:
    return 0.0


@dataclass
class Sent:
    """A permit, as the model remembers it."""

    expires: float
    over: bool = False


@dataclass(eq=False)
class Model:
    """One instance: its whole state in the words of the documentation."""

    state: str = "healthy"
    row: int = 0
    passed: int = 0
    until: float = -math.inf
    ejections: int = 0
    restored_at: float = -math.inf
    era: int = 0
    probes: list[Sent] = field(default_factory=list)
    active: int = 0
    ill: bool = False
    """By its health checks."""

    def enter(self, state: str) -> None:
        self.state = state
        self.era += 1
        self.row = self.passed = 0
        self.probes = []

    def eject(self, now: float) -> float:
        if self.state == "healthy" and now - self.restored_at > WINDOW:
            self.ejections = 0
        seconds = min(DURATION * 2.0**self.ejections, LONGEST)
        self.ejections += 1
        self.until = now + seconds
        self.enter("ejected")
        return seconds

    def restore(self, now: float) -> None:
        self.restored_at = now
        self.enter("healthy")


@dataclass(eq=False)
class Held:
    """A pick, and what the model knew when it was made."""

    pick: Pick
    model: Model
    era: int
    probe: Sent | None
    counts: bool


class BalancerModel(RuleBasedStateMachine):
    """Every rule does the same thing to both, and compares what comes of it."""

    picks = Bundle("picks")

    @initialize(
        count=st.integers(1, len(NAMES)),
        probes=st.integers(1, 3),
        max_ejected=st.sampled_from([0.1, 0.5, 1.0]),
        panic=st.sampled_from([0.0, 0.5, 1.0]),
    )
    def begin(self, count: int, probes: int, max_ejected: float, panic: float) -> None:
        self.ejection = Ejection(
            consecutive_failures=ROW,
            failure_ratio=None,
            duration=DURATION,
            window=WINDOW,
            probes=probes,
            max_ejected=max_ejected,
            panic=panic,
        )
        self.balancer = Balancer(RoundRobin(), ejection=self.ejection)
        self.models: dict[str, Model] = {}
        self.now = 0.0
        self.version = 0
        self.become(NAMES[:count])

    @rule(names=st.sets(st.sampled_from(NAMES)))
    def become(self, names: set[str] | str) -> None:
        """Other instances."""
        self.version += 1
        self.balancer.apply(snapshot(*sorted(names), version=self.version), self.now, no_chance)
        self.models = {name: self.models.get(name) or Model() for name in names}

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 4.9, 5.0, 12.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: hasattr(self, "models"))
    @rule(name=st.sampled_from(NAMES), ill=st.booleans(), restores=st.booleans(), late=st.booleans())
    def check(self, name: str, ill: bool, restores: bool, late: bool) -> None:
        """A health check ends; where it is late, it began in an earlier era."""
        era = self.balancer.era(name)
        restore = None if era is None or not restores else era - late
        events = self.balancer.check(name, "503" if ill else None, self.now, no_chance, restore=restore)
        expected: list[type[object]] = []
        model = self.models.get(name)
        if model is not None:
            if model.ill is not ill:
                expected.append(InstanceUnhealthy if ill else InstanceHealthy)
            model.ill = ill
            if not ill and restores and not late and model.state != "healthy":
                model.restore(-math.inf)  # as if it had never failed
                model.ejections = 0
                expected.append(InstanceRestored)
        assert [type(event) for event in events] == expected

    def healthy(self) -> set[str]:
        return {name for name, model in self.models.items() if model.state == "healthy" and not model.ill}

    def panicking(self) -> bool:
        return len(self.healthy()) < self.ejection.panic * len(self.models)

    def room(self) -> bool:
        total = len(self.models)
        most = (
            total if self.ejection.max_ejected == 1 else min(max(1, int(total * self.ejection.max_ejected)), total - 1)
        )
        return total - len(self.healthy()) < most

    def may_probe(self, model: Model) -> bool:
        if model.ill:
            return False
        if model.state == "ejected":
            return self.now >= model.until
        underway = [sent for sent in model.probes if not sent.over and sent.expires > self.now]
        return model.state == "trial" and len(underway) + model.passed < self.ejection.probes

    @rule(target=picks, tried=st.lists(st.sampled_from(NAMES), max_size=3))
    def pick(self, tried: list[str]) -> Held | None:
        members = set(self.models)
        usable = members if self.panicking() else self.healthy()
        fresh = usable - set(tried)
        probing = {name for name, model in self.models.items() if self.may_probe(model)} - set(tried)
        try:
            found = self.balancer.pick(self.now, no_chance, snapshot(*set(tried)).instances)
        except NoInstance:
            assert not usable
            assert not probing
            return None
        name = found.instance.id
        model = self.models[name]
        model.active += 1
        if probing and not (tried and fresh):
            assert found.reason == "trial"
            assert name in probing
            if model.state == "ejected":
                model.enter("trial")
            sent = Sent(self.now + DURATION)
            model.probes.append(sent)
            return Held(found, model, model.era, sent, counts=True)
        assert found.reason != "trial"
        assert name in (fresh or usable)
        return Held(found, model, model.era, None, counts=model.state == "healthy")

    @precondition(lambda self: hasattr(self, "models"))
    @rule(
        held=consumes(picks), verdict=st.sampled_from([Verdict.OK, Verdict.FAILED, Verdict.REFUSED, Verdict.CANCELLED])
    )
    def settle(self, held: Held | None, verdict: Verdict) -> None:
        if held is None:
            return
        model, room = held.model, self.room()
        events = self.balancer.settle(held.pick, verdict, 0.01, self.now, no_chance)
        model.active -= 1
        if held.probe is not None:
            held.probe.over = True
        expected: list[object] = []
        if model in self.models.values() and held.counts and held.era == model.era:
            if model.state == "trial":
                if verdict is Verdict.OK:
                    model.passed += 1
                    if model.passed == self.ejection.probes:
                        model.restore(self.now)
                        expected = [InstanceRestored]
                elif verdict is not Verdict.CANCELLED:
                    expected = [model.eject(self.now)]
            elif verdict is Verdict.OK:
                model.row = 0
            elif verdict is Verdict.FAILED and room:
                model.row += 1
                if model.row == ROW:
                    expected = [model.eject(self.now)]
        assert [event.seconds if isinstance(event, InstanceEjected) else type(event) for event in events] == expected

    @precondition(lambda self: hasattr(self, "models"))
    @invariant()
    def they_agree(self) -> None:
        standings = {one.instance.id: one for one in self.balancer.instances(self.now)}
        assert standings.keys() == self.models.keys()
        for name, model in self.models.items():
            assert (standings[name].state == "healthy") == (model.state == "healthy" and not model.ill)
            assert (standings[name].state == "unhealthy") == model.ill
            assert standings[name].active == model.active
            if model.state == "ejected":
                assert standings[name].ejected_for == pytest.approx(max(0.0, model.until - self.now))


BalancerModel.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestBalancerModel = BalancerModel.TestCase
