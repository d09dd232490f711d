"""Where the calls go, over many calls: orderings and bands, over several seeds."""

from __future__ import annotations

import pytest

from resilient.balancing import Balancer, Ejection, LeastRequest, PeakEwma, Picker, Picking, RoundRobin
from resilient.machines.picking import PeakEwmaPicking
from resilient.verdict import Verdict
from tests.balancing.fleet import Behaviour, Fleet, instance, share, steady

# Many thousands of picks through the same few lines, each of which has tests of its own.
pytestmark = pytest.mark.usefixtures("no_cover")

SEEDS = range(3)
NAMES = [f"i{number}" for number in range(10)]


def fleet(picker: Picker, seed: int, *, ejection: Ejection | None = None, names=NAMES) -> Fleet:
    made = Fleet(Balancer(picker, ejection=ejection), seed)
    made.apply(*names)
    return made


def one_is(name: str, verdict: Verdict, latency: float) -> Behaviour:
    return lambda picked, _now: (verdict, latency) if picked == name else (Verdict.OK, 0.01)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("picker", [RoundRobin(), LeastRequest(), PeakEwma()])
def test_a_healthy_fleet_shares_evenly(picker: Picker, seed: int) -> None:
    picked = fleet(picker, seed).run(30.0, 200.0, steady())
    for name in NAMES:
        assert share(picked, name) == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_slow_instance_gets_fewer_calls_the_more_a_picker_looks(seed: int) -> None:
    shares = [
        share(fleet(picker, seed).run(30.0, 200.0, one_is("i0", Verdict.OK, 0.5)), "i0")
        for picker in (RoundRobin(), LeastRequest(), PeakEwma())
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(0.1, abs=0.01)
    assert shares[2] < 0.01


class Unguarded:
    """The same picker without its penalty: what fails at once looks fast."""

    def picking(self) -> Picking:
        picking = PeakEwmaPicking(tau=3.0, penalty=5.0, longest=300.0, initial=0.03)

        class _Unguarded:
            update, pick, score = picking.update, picking.pick, picking.score
            observe, observe_unfinished = picking.observe, picking.observe_unfinished

            def observe_failure(self, candidate, elapsed, hint, now) -> None:
                picking.observe(candidate, elapsed, now)

        return _Unguarded()


@pytest.mark.parametrize("seed", SEEDS)
def test_an_instance_that_fails_at_once_attracts_nothing(seed: int) -> None:
    sinkhole = one_is("i0", Verdict.FAILED, 0.001)
    guarded = share(fleet(PeakEwma(), seed).run(30.0, 200.0, sinkhole), "i0")
    unguarded = share(fleet(Unguarded(), seed).run(30.0, 200.0, sinkhole), "i0")
    assert guarded < 0.01
    assert unguarded > 0.15


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("picker", [RoundRobin(), LeastRequest(), PeakEwma()])
def test_with_ejection_it_costs_no_more_than_a_row_and_a_few_trials(picker: Picker, seed: int) -> None:
    made = fleet(picker, seed, ejection=Ejection())
    picked = made.run(60.0, 200.0, one_is("i0", Verdict.FAILED, 0.001))
    assert picked["i0"] <= 5 + 6  # ejected at once; tried after 1, 3, 7, 15, 31 seconds


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("verdict", [Verdict.REFUSED, Verdict.OVERLOADED])
def test_an_instance_that_refuses_at_once_attracts_nothing(verdict: Verdict, seed: int) -> None:
    picked = fleet(PeakEwma(), seed).run(30.0, 200.0, one_is("i0", verdict, 0.001))
    assert share(picked, "i0") < 0.01


def share_after_recovery(tau: float, seed: int) -> float:
    made = fleet(PeakEwma(tau=tau), seed)
    made.run(20.0, 200.0, one_is("i0", Verdict.OK, 0.2))
    made.run(8.0, 200.0, steady())
    return share(made.run(5.0, 200.0, steady()), "i0")


def test_an_instance_that_recovered_gets_its_share_again_and_sooner_with_a_short_memory() -> None:
    short = sum(share_after_recovery(3.0, seed) for seed in SEEDS) / len(SEEDS)
    long = sum(share_after_recovery(10.0, seed) for seed in SEEDS) / len(SEEDS)
    assert short == pytest.approx(0.1, abs=0.04)
    assert long < short / 2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("picker", [RoundRobin(), LeastRequest(), PeakEwma()])
def test_one_that_was_ejected_is_back_within_seconds_of_its_recovery(picker: Picker, seed: int) -> None:
    made = fleet(picker, seed, ejection=Ejection())
    made.run(4.0, 200.0, one_is("i0", Verdict.UNREACHABLE, 0.001))
    made.run(15.0, 200.0, steady())
    assert share(made.run(10.0, 200.0, steady()), "i0") == pytest.approx(0.1, abs=0.06)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("picker", [RoundRobin(), LeastRequest(), PeakEwma()])
def test_under_churn_nobody_is_picked_who_left(picker: Picker, seed: int) -> None:
    made = fleet(picker, seed, ejection=Ejection())
    present = list(NAMES)
    for second in range(30):
        present = [*present[1:], f"new{second}"]
        made.apply(*present)
        assert set(made.run(1.0, 100.0, steady(0.2))) <= set(present)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("picker", [RoundRobin(), LeastRequest(), PeakEwma()])
def test_weights_are_followed(picker: Picker, seed: int) -> None:
    made = Fleet(Balancer(picker), seed)
    made.apply(instance("light", weight=1.0), instance("heavy", weight=3.0))
    picked = made.run(30.0, 400.0, steady(0.02))  # eight in flight
    assert picked["heavy"] > 1.5 * picked["light"]
    assert picked["light"] > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_when_all_fail_the_calls_still_go_out_to_more_than_half_of_them(seed: int) -> None:
    """Ejection is for instances; if all of them fail it is something else, and must not fell the rest."""
    made = fleet(RoundRobin(), seed, ejection=Ejection())
    picked = made.run(60.0, 200.0, lambda _name, _now: (Verdict.FAILED, 0.01))
    assert sum(count > 100 for count in picked.values()) >= 5
    recovered = made.run(75.0, 200.0, steady())
    assert min(recovered[name] for name in NAMES) > 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("names", [["a", "b"], NAMES])
def test_a_burst_after_silence_is_spread(names: list[str], seed: int) -> None:
    made = fleet(PeakEwma(), seed, names=names)
    made.run(30.0, 1.0, steady(0.05))
    made.run(20.0, 1e-9, steady())
    picked = made.run(0.1, 1000.0, steady(1.0))
    assert max(picked.values()) <= 2.5 * picked.total() / len(names)


def test_the_same_seed_makes_the_same_picks() -> None:
    def run() -> dict[str, int]:
        return dict(fleet(PeakEwma(), 7, ejection=Ejection()).run(10.0, 100.0, one_is("i3", Verdict.FAILED, 0.1)))

    assert run() == run()
