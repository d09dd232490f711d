"""The circuit against a model that keeps everything that happened, and counts it anew each time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilient.machines.circuit import CircuitState, Judgement, Permit, Transition
from tests.machines.circuits import BAD, CLOSED, GOOD, HALF_OPEN, ISOLATED, NOTHING, OPEN, TURNED_AWAY, WINDOW, circuit
from tests.machines.test_circuit_table import TRANSITIONS

judgements = st.sampled_from([GOOD, GOOD, BAD, BAD, BAD, TURNED_AWAY, NOTHING])
latencies = st.sampled_from([0.5, 1.0, 2.0])
chances = st.sampled_from([0.0, 0.5, 0.99])


@dataclass
class Ticket:
    permit: Permit
    era: int
    expires: float
    settled: bool = False


class CircuitAgainstItsHistory(RuleBasedStateMachine):
    """Times are quarters of a second and the window's buckets a second long, so that no sum is rounded."""

    @initialize(
        failure_ratio=st.sampled_from([0.1, 0.5, 0.55, 1.0]),
        minimum_calls=st.integers(1, 4),
        window_calls=st.one_of(st.none(), st.integers(4, 8)),
        consecutive_failures=st.one_of(st.none(), st.integers(1, 3)),
        slow_call=st.one_of(st.none(), st.just(1.0)),
        slow_ratio=st.sampled_from([0.5, 1.0]),
        cooldown=st.sampled_from([5.0, 20.0, 90.0]),
        probes=st.integers(1, 3),
        lease=st.sampled_from([2.0, 5.0, 90.0]),
    )
    def begin(self, **configuration: Any) -> None:
        self.it = circuit(**configuration)
        self.configuration = configuration
        self.state, self.era, self.until, self.now = CLOSED, 0, 0.0, 0.0
        self.results: list[tuple[float, bool, bool]] = []  # of the closed era: when, failed, slow
        self.probes: list[Ticket] = []  # of the half-open era
        self.passed = 0
        self.openings = 0
        self.closed_at = -math.inf
        self.changes: list[Transition] = []
        self.tickets: list[Ticket] = []  # what is not settled yet

    def enter(self, state: CircuitState, cooldown: float = 0.0) -> None:
        if state is not self.state:
            self.changes.append(Transition(self.state, state, cooldown))
        self.state, self.era, self.results, self.probes, self.passed = state, self.era + 1, [], [], 0

    def open(self, chance: float) -> None:
        if self.state is CLOSED and self.now - self.closed_at > WINDOW:
            self.openings = 0
        self.openings += 1
        first: float = self.configuration["cooldown"]
        longer = min(first * 2 ** (self.openings - 1), max(60.0, first)) * (1.0 + 0.2 * chance)
        cooldown = first if self.openings == 1 else longer
        self.until = self.now + cooldown
        self.enter(OPEN, cooldown)

    @property
    def recent(self) -> list[tuple[float, bool, bool]]:
        length = self.configuration["window_calls"]
        if length is not None:
            return self.results[-length:]
        return [result for result in self.results if math.floor(result[0]) >= math.floor(self.now) - WINDOW]

    @property
    def row(self) -> int:
        successes = [number for number, (_, failed, _) in enumerate(self.results, 1) if not failed]
        return len(self.results) - (successes[-1] if successes else 0)

    @property
    def holding(self) -> list[Ticket]:
        return [probe for probe in self.probes if not probe.settled and probe.expires > self.now]

    @property
    def room(self) -> bool:
        probes: int = self.configuration["probes"]
        return len(self.holding) + self.passed < probes

    def judge(self, chance: float) -> None:
        failed = sum(result[1] for result in self.recent)
        slow = sum(result[2] for result in self.recent)
        calls, least = len(self.recent), self.configuration["minimum_calls"]
        if (
            self.row >= (self.configuration["consecutive_failures"] or math.inf)
            or (calls >= least and failed / calls >= self.configuration["failure_ratio"])
            or (calls >= least and slow / calls >= self.configuration["slow_ratio"])
        ):
            self.open(chance)

    def come(self) -> Ticket | None:
        if self.state is OPEN and self.now >= self.until:
            self.enter(HALF_OPEN)
        permit = self.it.admit(self.now)
        assert (permit is not None) == (self.state is CLOSED or (self.state is HALF_OPEN and self.room))
        if permit is None:
            return None
        ticket = Ticket(permit, self.era, self.now + self.configuration["lease"])
        self.tickets.append(ticket)
        if self.state is HALF_OPEN:
            assert permit.expires == ticket.expires
            self.probes.append(ticket)
        return ticket

    def end(self, ticket: Ticket, judgement: Judgement, latency: float, chance: float) -> None:
        self.tickets.remove(ticket)
        ticket.settled = True
        self.it.settle(ticket.permit, judgement, latency, self.now, lambda: chance)
        slow = latency > (self.configuration["slow_call"] or math.inf)
        if ticket.era != self.era or judgement is NOTHING:
            return
        if self.state is HALF_OPEN:
            if judgement is not GOOD or slow:
                self.open(chance)
            else:
                self.passed += 1
                if self.passed == self.configuration["probes"]:
                    self.closed_at = self.now
                    self.enter(CLOSED)
        elif judgement is not TURNED_AWAY:
            self.results.append((self.now, judgement is BAD, slow))
            if judgement is BAD or slow:
                self.judge(chance)

    @rule(quarters=st.one_of(st.integers(0, 8), st.integers(0, 60), st.integers(0, 400)))
    def time_passes(self, quarters: int) -> None:
        self.now += quarters / 4

    @precondition(lambda self: self.state is OPEN)
    @rule(early=st.booleans())
    def the_cooldown_passes(self, early: bool) -> None:
        self.now = max(self.now, math.ceil(self.until * 4 - early) / 4)

    @precondition(lambda self: self.holding)
    @rule()
    def all_probes_succeed(self) -> None:
        for probe in self.holding:
            self.end(probe, GOOD, 0.5, 0.0)

    @precondition(lambda self: self.holding)
    @rule(early=st.booleans())
    def a_lease_passes(self, early: bool) -> None:
        self.now = max(self.now, self.holding[0].expires - early / 4)

    @rule()
    def a_call_comes(self) -> None:
        self.come()

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), judgement=judgements, latency=latencies, chance=chances)
    def a_call_ends(self, data: st.DataObject, judgement: Judgement, latency: float, chance: float) -> None:
        self.end(data.draw(st.sampled_from(self.tickets)), judgement, latency, chance)

    @rule(results=st.lists(st.tuples(judgements, latencies), min_size=1, max_size=6), chance=chances)
    def calls_come_and_end(self, results: list[tuple[Judgement, float]], chance: float) -> None:
        for judgement, latency in results:
            ticket = self.come()
            if ticket is not None:
                self.end(ticket, judgement, latency, chance)

    @precondition(lambda self: any(ticket.permit.expires == math.inf for ticket in self.tickets))
    @rule(data=st.data())
    def a_call_ends_well_on_the_hot_path(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from([ticket for ticket in self.tickets if ticket.permit.expires == math.inf]))
        self.tickets.remove(ticket)
        self.it.succeed(ticket.permit, self.now)
        if ticket.era == self.era:
            self.results.append((self.now, False, False))

    @rule(step=st.sampled_from([None] * 8 + ["isolate", "reset"]))
    def somebody_intervenes_now_and_then(self, step: str | None) -> None:
        if step == "isolate":
            self.it.isolate()
            self.enter(ISOLATED)
        elif step == "reset" or self.state is ISOLATED:
            self.it.reset(self.now)
            self.closed_at, self.openings = self.now, 0
            self.enter(CLOSED)

    @invariant()
    def it_stands_where_its_history_leads(self) -> None:
        assert self.it.state is self.state
        assert (self.it.closed is not None) == (self.state is CLOSED)
        assert self.it.failures() == self.row
        assert self.it.changed == bool(self.changes)
        changes = self.it.take_changes()
        assert changes == self.changes
        assert {(change.old, change.new) for change in changes} <= TRANSITIONS
        self.changes = []

    @invariant()
    def it_says_when_a_call_has_a_chance(self) -> None:
        waits = {
            CLOSED: 0.0,
            OPEN: max(0.0, self.until - self.now),
            HALF_OPEN: 0.0 if self.room else min((probe.expires - self.now for probe in self.holding), default=0.0),
            ISOLATED: None,
        }
        assert self.it.retry_after(self.now) == waits[self.state]


TestCircuit = CircuitAgainstItsHistory.TestCase
TestCircuit.settings = settings(stateful_step_count=80)
