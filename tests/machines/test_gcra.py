"""The rate limit: the most admitted in any span of W seconds is `burst + W * rate`, and no less when asked for more."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilient.machines.gcra import Gcra


class GcraAgainstATokenBucket(RuleBasedStateMachine):
    """The model is a bucket of tokens in exact fractions, in debt for what was reserved. Times are sixteenths of a
    second and rates powers of two, so that the machine's floats are exact too."""

    @initialize(amount=st.sampled_from([1, 2, 8]), period=st.sampled_from([1.0, 4.0]), burst=st.integers(1, 5))
    def begin(self, amount: int, period: float, burst: int) -> None:
        self.gcra = Gcra(amount=amount, period=period, burst=burst)
        self.rate = Fraction(amount) / Fraction(period)
        self.burst = burst
        self.now = Fraction(0)
        self.tokens = Fraction(burst)
        # The places that were taken, oldest first: when the call is made, and what gives the place back.
        self.taken: list[tuple[Fraction, float | None]] = []

    @rule(sixteenths=st.one_of(st.integers(0, 20), st.integers(0, 500)))
    def time_passes(self, sixteenths: int) -> None:
        passed = Fraction(sixteenths, 16)
        self.now += passed
        self.tokens = min(Fraction(self.burst), self.tokens + passed * self.rate)

    @property
    def wait(self) -> Fraction:
        return max(Fraction(0), (1 - self.tokens) / self.rate)

    @rule()
    def a_call_comes(self) -> None:
        expected = self.wait
        assert self.gcra.admit(float(self.now)) == expected
        if not expected:
            self.tokens -= 1
            self.taken.append((self.now, None))

    @rule(longest=st.one_of(st.just(math.inf), st.integers(0, 40).map(lambda eighths: eighths / 8)))
    def a_call_reserves(self, longest: float) -> None:
        turn = self.gcra.reserve(float(self.now), longest)
        if self.wait > longest:
            assert turn is None
        else:
            assert turn is not None
            wait, token = turn
            assert wait == self.wait
            self.taken.append((self.now + self.wait, token))
            self.tokens -= 1

    @precondition(lambda self: any(token is not None for _, token in self.taken))
    @rule(data=st.data())
    def a_call_gives_its_place_back(self, data: st.DataObject) -> None:
        reserved = [place for place in self.taken if place[1] is not None]
        place = data.draw(st.sampled_from(reserved))
        assert place[1] is not None
        last = place is self.taken[-1]
        self.gcra.give_back(place[1])
        if last:
            self.tokens = min(Fraction(self.burst), self.tokens + 1)
            self.taken.pop()
        else:  # nobody makes that call, and those behind it keep their time
            self.taken[self.taken.index(place)] = (Fraction(-1), None)

    @invariant()
    def no_span_holds_more_than_the_burst_and_its_share_of_the_rate(self) -> None:
        made = sorted(at for at, _ in self.taken if at >= 0)
        for first, begin in enumerate(made):
            for last in range(first, len(made)):
                assert last - first + 1 <= self.burst + (made[last] - begin) * self.rate


TestGcra = GcraAgainstATokenBucket.TestCase

amounts = st.one_of(st.integers(1, 100), st.integers(1, 10**7))
periods = st.sampled_from([1.0, 60.0, 3600.0, 86_400.0, 0.3])
clocks = st.one_of(st.just(0.0), st.floats(0, 1e9), st.floats(-1e6, 0))


@given(
    amount=amounts,
    period=periods,
    burst=st.integers(1, 20),
    start=st.floats(0, 1e6),
    gaps=st.lists(
        st.one_of(st.just(0.0), st.floats(0, 3), st.sampled_from([0.999999, 1.0, 1.000001, 10.0])), max_size=80
    ),
    longest=st.floats(0, 5),
)
def test_whatever_the_arrivals_no_span_holds_more_than_the_burst_and_its_share_of_the_rate(
    amount: int, period: float, burst: int, start: float, gaps: list[float], longest: float
) -> None:
    """Gaps are in intervals, the adversary's natural unit; every third call that is refused waits, if not too long."""
    gcra = Gcra(amount=amount, period=period, burst=burst)
    now, made = start, list[float]()
    for number, gap in enumerate(gaps):
        now += gap * gcra.interval
        if not gcra.admit(now):
            made.append(now)
        elif number % 3 == 0 and (turn := gcra.reserve(now, longest * gcra.interval)):
            made.append(now + turn[0])
    made.sort()
    rounding = (burst + len(gaps)) * math.ulp(now) * 4
    for first, begin in enumerate(made):
        for last in range(first, len(made)):
            assert last - first + 1 <= burst + (made[last] - begin + rounding) / gcra.interval * (1 + 1e-9)


@given(amount=amounts, period=periods, burst=st.integers(1, 50), now=clocks, later=st.floats(0, 1))
def test_who_waits_exactly_as_long_as_told_is_admitted(
    amount: int, period: float, burst: int, now: float, later: float
) -> None:
    gcra = Gcra(amount=amount, period=period, burst=burst)
    for _ in range(burst):
        if gcra.admit(now):
            break
    now += later * gcra.interval
    for _ in range(20):
        wait = gcra.admit(now)
        assert wait >= 0.0
        if wait:
            now += wait
            assert gcra.admit(now) == 0.0


@given(amount=st.integers(1, 10**6), period=periods, burst=st.integers(1, 2000), now=st.floats(0, 1e7))
def test_a_whole_burst_and_no_more_is_admitted_at_once(amount: int, period: float, burst: int, now: float) -> None:
    gcra = Gcra(amount=amount, period=period, burst=burst)
    assume(gcra.interval > 4 * burst * math.ulp(now))
    assert [gcra.admit(now) == 0.0 for _ in range(burst + 2)] == [True] * burst + [False] * 2


@given(amount=amounts, period=periods, burst=st.integers(1, 50), now=st.floats(0, 1e6), share=st.floats(0, 0.99))
def test_who_waits_less_than_told_is_refused(amount: int, period: float, burst: int, now: float, share: float) -> None:
    gcra = Gcra(amount=amount, period=period, burst=burst)
    assume(gcra.interval > 1e5 * math.ulp(now))
    for _ in range(burst):
        assert gcra.admit(now) == 0.0
    wait = gcra.admit(now)
    assert wait == pytest.approx(gcra.interval, rel=1e-3)
    assert gcra.admit(now + share * wait) > 0.0


@pytest.mark.parametrize("silence", [10.0, 30.0, 86_400.0])
def test_a_silence_however_long_earns_one_burst(silence: float) -> None:
    """A bucket that is filled by a timer hands a suspended machine everything it missed."""
    gcra = Gcra(amount=10, period=1.0, burst=5)
    for _ in range(20):
        gcra.admit(1000.0)
    admitted = [gcra.admit(1000.0 + silence) == 0.0 for _ in range(20)]
    assert admitted.count(True) == 5


def test_there_is_no_edge_around_which_twice_the_limit_is_admitted() -> None:
    """A fixed window admits 200 calls of "100 per minute" around its edge, a counter that slides 198."""
    gcra = Gcra(amount=100, period=60.0, burst=10)
    made = [tick / 100 for tick in range(30_000) if gcra.admit(tick / 100) == 0.0]
    most = max(sum(at <= other <= at + 60.0 for other in made) for at in made)
    assert 100 <= most <= 110


def test_a_steady_caller_gets_exactly_the_rate() -> None:
    gcra = Gcra(amount=3, period=1.0, burst=1)
    made = [tick for tick in range(100_000) if gcra.admit(tick / 1000) == 0.0]
    assert len(made) == 300


def test_a_rate_near_the_grain_of_the_clock_is_kept() -> None:
    """ "100000000/second" on a machine that is up for two weeks: its clock reads tenths of a nanosecond."""
    gcra = Gcra(amount=100_000_000, period=1.0, burst=1)
    start = 1_200_000.0
    admitted = sum(gcra.admit(start + tick * 2e-9) == 0.0 for tick in range(50_000))
    assert admitted == pytest.approx(10_000, rel=0.05)


@pytest.mark.parametrize("uptime", [1e4, 3e7])
def test_a_million_a_second_is_kept_to_a_percent_for_a_year(uptime: float) -> None:
    gcra = Gcra(amount=1_000_000, period=1.0, burst=1)
    admitted = sum(gcra.admit(uptime + tick * 1e-7) == 0.0 for tick in range(100_000))
    assert admitted == pytest.approx(10_000, rel=0.01)


def test_a_refused_call_uses_nothing_up() -> None:
    gcra = Gcra(amount=1, period=1.0, burst=1)
    assert gcra.admit(0.0) == 0.0
    assert [gcra.admit(0.5) for _ in range(1000)] == [0.5] * 1000
    assert gcra.admit(1.0) == 0.0


def test_reserved_turns_come_one_interval_after_the_other() -> None:
    gcra = Gcra(amount=4, period=1.0, burst=2)
    turns = [gcra.reserve(0.0, 1.0) for _ in range(8)]
    assert [turn and turn[0] for turn in turns] == [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, None, None]


def test_nobody_overtakes_those_who_wait() -> None:
    gcra = Gcra(amount=1, period=1.0, burst=1)
    assert gcra.admit(0.0) == 0.0
    assert gcra.reserve(0.0, 5.0) == (1.0, 1.0)
    assert gcra.admit(1.0) == 1.0


def test_a_place_that_was_given_back_is_there_for_the_next() -> None:
    gcra = Gcra(amount=1, period=1.0, burst=1)
    assert gcra.admit(0.0) == 0.0
    turn = gcra.reserve(0.0, 5.0)
    assert turn is not None
    gcra.give_back(turn[1])
    assert gcra.reserve(0.25, 5.0) == (0.75, 1.0)


def test_those_who_leave_the_line_from_its_end_give_every_place_back_exactly() -> None:
    """Thirds are rounded: what is restored must be the number of before, not one that went up and down again."""
    gcra = Gcra(amount=3, period=1.0, burst=1)
    assert gcra.admit(0.1) == 0.0
    before = gcra.tat
    line = [gcra.reserve(0.1, math.inf) for _ in range(100)]
    for turn in reversed(line):
        assert turn is not None
        gcra.give_back(turn[1])
    assert gcra.tat == before


def test_who_leaves_the_middle_of_the_line_changes_nobody_elses_time() -> None:
    gcra = Gcra(amount=1, period=1.0, burst=1)
    line = [gcra.reserve(0.0, 5.0) for _ in range(3)]
    assert line[1] is not None
    gcra.give_back(line[1][1])
    assert gcra.reserve(0.0, 5.0) == (3.0, 3.0)
