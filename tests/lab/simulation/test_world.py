"""A running world: what all policies have in common in it, and what is counted."""

from __future__ import annotations

from collections import deque

import pytest

from resilient.balancing import Balance
from resilient.call import Policy, Priority
from resilient.lab.arrivals import constant, poisson
from resilient.lab.faults import BlackHole, Crash, Fail, Fault, Stop
from resilient.lab.scenario import OpenLoop, Scenario, Tier
from resilient.lab.simulation.run import run
from resilient.lab.simulation.world import fairness
from resilient.lab.stacks import Stack, made_by
from resilient.lab.world.chance import Chance
from resilient.lab.world.job import Job
from resilient.lab.world.queues import Fifo
from resilient.lab.world.service_times import Constant, Exponential
from resilient.policies.adaptive_throttle import AdaptiveThrottle
from resilient.policies.rate_limit import RateLimit
from resilient.policies.timeout import Timeout
from tests.lab.worlds import metrics_of, series_of, world


def watched(*, seen: list[tuple[float, int, int, float]], **options) -> Scenario:
    """A world that notes which attempt was begun when, and how long it takes."""

    class Watch(Fault):
        def begin(self, world):
            for server in world.fleet().servers:

                def receive(job, server=server, receive=server.receive):
                    draw, takes = server._draw, server._quantile
                    number, attempt = job.errand.number, job.attempt
                    seen.append((world.engine.now(), number, attempt, takes(draw(number, attempt))))
                    receive(job)

                server.receive = receive

        def end(self, world):
            """Never."""

    return world(Watch(), **options)


POISSON = OpenLoop(arrivals=lambda random: poisson(20, random))


def test_all_policies_meet_the_same_arrivals_and_the_same_work(backend):
    """Common random numbers: what is compared is the policies, and not their luck."""
    first_attempts, all_attempts = [], []
    for policy in ("none", "retry1", "retry3", "default"):
        seen: list[tuple[float, int, int, float]] = []
        scenario = watched(seen=seen, load=POISSON, tier={"service_time": Exponential(0.3)}, attempt_timeout=0.5)
        run(scenario, policy, 3, backend=backend)
        first_attempts.append([(when, number, takes) for when, number, attempt, takes in seen if attempt == 0])
        all_attempts.append({(number, attempt): takes for _, number, attempt, takes in seen})
    assert all(attempts == first_attempts[0] for attempts in first_attempts)
    assert len(first_attempts[0]) > 300
    most = all_attempts[2]  # three retries
    assert len(most) > 1.2 * len(first_attempts[0])
    for attempts in all_attempts:
        assert {key: most[key] for key in attempts if key in most} == {
            key: takes for key, takes in attempts.items() if key in most
        }


def test_the_work_is_what_the_seed_says(backend):
    seen: list[tuple[float, int, int, float]] = []
    run(watched(seen=seen, load=POISSON, tier={"service_time": Exponential(0.1)}), "none", 5, backend=backend)
    draw = Chance(5).of_call("service times of it")
    assert all(takes == Exponential(0.1).quantile(draw(number, attempt)) for _, number, attempt, takes in seen)


def test_clients_do_not_share_their_policies():
    """Each has a balancer of its own, which begins where it begins."""
    services = []

    def make():
        services.append([Balance(), Timeout(1.0)])
        return services[-1]

    metrics = metrics_of(world(clients=3), Stack(name="mine", make=made_by(make)))
    assert len(services) == 3
    assert metrics["success"] == 1.0


def test_what_never_ends_has_failed(backend):
    stack = Stack(name="patient", make=made_by(lambda: [Balance(), Timeout(1e9)]))
    metrics = metrics_of(world(BlackHole(at=10)), stack, backend=backend)
    assert metrics["calls"] == 200
    assert metrics["success"] == pytest.approx(0.5, abs=0.01)
    assert metrics["max"] == pytest.approx(0.1)


def test_calls_are_counted_after_the_warm_up_only():
    metrics = metrics_of(world(Crash(at=0, seconds=5), warmup=5))
    assert (metrics["calls"], metrics["success"], metrics["goodput"]) == (150, 1.0, 10.0)


def test_a_trigger_divides_the_run_into_before_during_and_after(backend):
    metrics = metrics_of(world(Stop(at=8, seconds=4), trigger=(8, 12), rate=20), backend=backend)
    assert metrics["goodput.before"] == pytest.approx(20, abs=0.5)
    assert metrics["goodput.during"] == pytest.approx(0, abs=1)
    assert metrics["goodput.after"] < 20
    assert 0 <= metrics["recovery"] <= 4


def test_amplification_is_attempts_by_calls(backend):
    failing = world(Fail(at=0, ratio=1.0))
    for policy, attempts in [("none", 1.0), ("retry1", 2.0), ("retry3", 4.0)]:
        metrics = metrics_of(failing, policy, backend=backend)
        assert (metrics["success"], metrics["amplification"]) == (0.0, attempts)
    assert 1.0 < metrics_of(failing, "default", backend=backend)["amplification"] < 1.3


def test_each_priority_has_a_success_of_its_own(backend):
    shares = {Priority.CRITICAL: 0.25, Priority.SHEDDABLE: 0.75}
    seen: dict[str, int] = {}

    def measure(world):
        errand_of = world.errands()
        for number in range(1000):
            name = errand_of(number).priority.name
            seen[name] = seen.get(name, 0) + 1
        return {}

    load = OpenLoop(arrivals=lambda _random: constant(10), priorities=shares)
    metrics = metrics_of(world(load=load, measure=measure), backend=backend)
    assert (metrics["success.critical"], metrics["success.sheddable"]) == (1.0, 1.0)
    assert seen["CRITICAL"] == pytest.approx(250, abs=50)
    assert seen["SHEDDABLE"] == 1000 - seen["CRITICAL"]


def test_writes_have_their_effects_counted(backend):
    load = OpenLoop(arrivals=lambda _random: constant(10), writes=0.5)
    scenario = world(load=load, measure=lambda world: {"effects": float(world.effects.total())})
    metrics = metrics_of(scenario, backend=backend)
    assert metrics["duplicates"] == 0
    assert metrics["effects"] == pytest.approx(100, abs=25)
    assert "duplicates" not in metrics_of(world(), backend=backend)


def test_series_have_a_value_for_each_second(backend):
    found = series_of(world(duration=7.5), backend=backend)
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(
        (
            *("offered", "goodput", "failures", "rejected", "p50", "p99"),
            *("attempts", "queue", "ejected", "open", "throttled"),
        ),
        8,
    )
    assert found["attempts"] == [0, 10, 10, 10, 10, 10, 10, 10]  # of the second before


def test_what_policies_reject_is_seen_and_how_far_the_throttle_is_open(backend):
    def limited() -> list[Policy]:
        return [AdaptiveThrottle(window=20.0), RateLimit("5/second"), Balance(), Timeout(0.5)]

    stack = Stack(name="limited", make=made_by(limited))
    found = series_of(world(Fail(at=4.0, status=503)), stack, backend=backend)
    assert found["rejected"][1:4] == [5, 5, 5]
    assert found["throttled"][:4] == [0, 0, 0, 0]
    assert 0.1 < found["throttled"][-1] < 1


def test_shares_of_the_attempts_add_up():
    metrics = metrics_of(world())
    assert [metrics[f"share.it-{place}"] for place in range(4)] == [0.25] * 4
    assert metrics["fairness"] == 1.0


def test_fairness_is_jains_index():
    assert fairness([0.5, 0.5]) == 1.0
    assert fairness([1.0, 0.0, 0.0, 0.0]) == 0.25
    assert fairness([0.75, 0.25]) == pytest.approx(0.8)
    assert "fairness" not in metrics_of(world(tier={"instances": 1}))


# -- tiers ----------------------------------------------------------------------------------------------------------


def tiers(**options):
    return [
        Tier(name="front", instances=2, workers=8, service_time=Constant(0.05), calls=("middle",)),
        Tier(name="middle", instances=2, workers=8, service_time=Constant(0.05), calls=("back",)),
        Tier(name="back", instances=2, workers=8, service_time=Constant(0.05), **options),
    ]


def test_a_call_goes_through_all_tiers(backend):
    metrics = metrics_of(world(tiers=tiers()), backend=backend)
    assert (metrics["success"], metrics["amplification"]) == (1.0, 1.0)
    assert metrics["mean"] == pytest.approx(0.15)


def test_retries_multiply_from_tier_to_tier(backend):
    scenario = world(Fail(at=0, ratio=1.0, tier="back"), tiers=tiers(), timeout=60.0, attempt_timeout=20.0)
    assert metrics_of(scenario, "retry1", backend=backend)["amplification"] == 8.0
    # Each client may add a tenth and one a second: 10, 12, 15.2 and 18.7 attempts a second.
    assert metrics_of(scenario, "default", backend=backend)["amplification"] < 1.88


def test_a_deadline_goes_with_the_call(backend):
    deadlines = []

    class Watch(Fault):
        def begin(self, world):
            for server in world.fleet("back").servers:

                def receive(job, receive=server.receive):
                    deadlines.append(None if job.deadline is None else job.deadline - world.engine.now())
                    receive(job)

                server.receive = receive

        def end(self, world):
            """Never."""

    metrics_of(world(Watch(), tiers=tiers(), timeout=0.8, attempt_timeout=0.7), "default", backend=backend)
    # Each tier takes 50 ms of what the users' attempt may take.
    assert deadlines == [pytest.approx(0.7 - 0.1)] * len(deadlines)
    assert len(deadlines) == 200
    deadlines.clear()
    metrics_of(world(Watch(), tiers=tiers(), timeout=0.8, attempt_timeout=0.7), "none", backend=backend)
    assert set(deadlines) == {None}  # others do not tell


# -- what must not go unnoticed -------------------------------------------------------------------------------------


class Leaky:
    """A queue that forgets every tenth call."""

    def __init__(self):
        self.line: deque[Job] = deque()
        self.pushed = 0

    def __len__(self):
        return len(self.line)

    def push(self, job, now):
        self.pushed += 1
        if self.pushed % 10:
            self.line.append(job)

    def pop(self, now, discard):
        return self.line.popleft() if self.line else None


class Echoing(Leaky):
    """A queue that gives every tenth call twice."""

    def push(self, job, now):
        self.pushed += 1
        self.line.append(job)
        if self.pushed % 10 == 0:
            self.line.append(job)


@pytest.mark.parametrize("make", [Leaky, Echoing])
def test_a_queue_that_miscounts_ends_the_run(backend, make):
    with pytest.raises((RuntimeError, KeyError)) as caught:
        metrics_of(world(rate=50, tier={"queue": make}), backend=backend)
    assert make is Echoing or "test: " in str(caught.value)
    assert make is Echoing or "a queue lost calls, or kept them twice" in str(caught.value)


@pytest.mark.parametrize("policy", ["none", "retry3", "default"])
@pytest.mark.parametrize("limit", [None, 5])
def test_littles_law_holds_in_every_run(backend, policy, limit):
    faults = [Stop(at=4, seconds=2), Crash(at=9, seconds=1, places=[1]), Fail(at=12, seconds=2, ratio=0.3)]
    scenario = world(*faults, rate=35, tier={"service_time": Exponential(0.1), "queue": lambda: Fifo(limit=limit)})
    assert metrics_of(scenario, policy, backend=backend)["little"] == pytest.approx(1.0, abs=1e-9)


def test_calls_inside_are_what_comes_in_times_how_long_it_stays(backend):
    """Little's law between what the servers count and what the callers measure."""
    inside: dict[str, float] = {}

    def measure(world):
        now = world.engine.now()
        inside["area"], _ = world.fleet().call_seconds(now)
        return {}

    scenario = world(
        rate=30, duration=200, tier={"service_time": Exponential(0.1)}, measure=measure, attempt_timeout=99, timeout=99
    )
    metrics = metrics_of(scenario, backend=backend)
    assert metrics["success"] == 1.0
    assert inside["area"] == pytest.approx(metrics["calls"] * metrics["mean"], rel=1e-9)


def test_a_mistake_in_a_fault_ends_the_run(backend):
    class Broken(Fault):
        def begin(self, world):
            raise LookupError("a mistake of its author")

        def end(self, world):
            """Never."""

    with pytest.raises(LookupError, match="a mistake of its author"):
        metrics_of(world(Broken(at=3)), backend=backend)


def test_a_run_without_calls_has_no_values(backend):
    metrics = metrics_of(world(load=OpenLoop(arrivals=lambda _random: iter(()))), backend=backend)
    assert (metrics["calls"], metrics["goodput"], metrics["queue.max"]) == (0, 0.0, 0)
    for name in ("success", "mean", "amplification", "wasted", "little"):
        assert metrics[name] is None


def test_a_mode_that_is_none_is_refused():
    with pytest.raises(ValueError, match="mode='tcp': 'functions' or 'http'"):
        metrics_of(world(), mode="tcp")
    with pytest.raises(ValueError, match="backend='curio'"):
        metrics_of(world(), backend="curio")


def test_other_dice_give_policies_another_luck_in_the_same_world():
    flaky = world(Fail(ratio=0.3), load=OpenLoop(arrivals=lambda random: poisson(20, random, duration=20.0)))
    own = run(flaky, "default", 3).metrics
    assert run(flaky, "default", 3, dice=3).metrics == own
    other = run(flaky, "default", 3, dice=4).metrics
    assert other["calls"] == own["calls"]
    assert other["mean"] != own["mean"]
