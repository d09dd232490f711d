"""A running world: one scenario, one set of policies, one seed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from itertools import takewhile
from typing import final

from resilient.call import Policy, Priority
from resilient.context import serving
from resilient.errors import Rejected
from resilient.instance import Instance
from resilient.lab.engine import Engine
from resilient.lab.load import Record, Request, drive
from resilient.lab.results import Number
from resilient.lab.scenario import Computations, OpenLoop, Scenario, Tier, Users
from resilient.lab.simulation.caller import Calling, outcome_of
from resilient.lab.simulation.closed_loop import run_computations, run_users
from resilient.lab.simulation.fleet import Fleet
from resilient.lab.simulation.http_caller import HttpCaller
from resilient.lab.simulation.recording import Recording
from resilient.lab.simulation.wiring import Way, Wiring
from resilient.lab.stacks import Setting, Stack
from resilient.lab.world.chance import Chance
from resilient.lab.world.job import Errand, Job, Reply
from resilient.lab.world.network import Network
from resilient.lab.world.server import Handler, Server
from resilient.policies.adaptive_throttle import AdaptiveThrottle
from resilient.policies.circuit_breaker import CircuitBreaker

__all__ = ["World", "fairness"]

_MAX_IN_FLIGHT = 100_000
_TOLERANCE = 1e-6
_SHARES = 32
"""Up to how many instances each one's share of the attempts is a metric."""


@final
class World:
    """Servers, a network, callers with real policies, and what is recorded of them; `wiring` is what callers are."""

    def __init__(self, scenario: Scenario, stack: Stack, seed: int, engine: Engine, wiring: Wiring) -> None:
        self.scenario = scenario
        self.stack = stack
        self.engine = engine
        self.began = engine.now()
        self.chance = Chance(seed)
        self.network = Network(engine, self.chance, latency=scenario.latency)
        self.wiring = wiring
        self.effects: Counter[int] = Counter()
        """How often each write had its effect, by the number of the user's call."""
        self.accounts: Counter[int] = Counter()
        """The sum of these effects, by the key that they concern."""
        self.fleets: dict[str, Fleet] = {}
        for tier in scenario.tiers:
            self.fleets[tier.name] = Fleet(
                tier,
                engine,
                self.chance,
                self.network,
                wiring,
                handler=self._handler_of(tier.name) if tier.calls else None,
                effect=self._count_effect if scenario.load.writes > 0 and not tier.calls else None,
                joined=partial(self._joined, tier) if tier.calls else None,
            )
        self.callers: list[Calling] = []
        self.recording = Recording(
            start=scenario.warmup, end=scenario.duration, deadline=scenario.deadline, trigger=scenario.trigger
        )
        self.series: dict[str, list[Number]] = {"attempts": [], "queue": [], "ejected": [], "open": [], "throttled": []}
        self.extra: dict[str, Number] = {}
        """Metrics that parts of the world add."""
        self._servers_callers: dict[tuple[str, str], Calling] = {}
        self._last = self.fleets[scenario.tiers[-1].name]
        self._sampled = 0
        self._sent_to: list[dict[str, int]] = []

    def fleet(self, name: str = "") -> Fleet:
        """The servers of the tier `name`; by default those that the users call."""
        return self.fleets[name or self.scenario.tiers[0].name]

    # -- callers ----------------------------------------------------------------------------------------------------

    async def open(self, stack: AsyncExitStack) -> None:
        """Open every caller's service."""
        front = self.fleet()
        zones = self.scenario.client_zones
        for number in range(self.scenario.clients):
            self.callers.append(await self._caller(front, zones[number % len(zones)], stack))
        for tier in self.scenario.tiers:
            for server in self.fleets[tier.name].servers:
                await self._equip(tier, server, stack)

    async def _equip(self, tier: Tier, server: Server, stack: AsyncExitStack) -> None:
        """Open the services that a server calls."""
        for name in tier.calls:
            self._servers_callers[server.instance.id, name] = await self._caller(self.fleets[name], server.zone, stack)

    def _joined(self, tier: Tier, server: Server) -> None:
        server.reachable = False  # as a process that starts: it refuses calls until it can work
        self.engine.spawn(self._equip_for_good, tier, server)

    async def _equip_for_good(self, tier: Tier, server: Server) -> None:
        async with AsyncExitStack() as stack:
            await self._equip(tier, server, stack)
            server.reachable = True
            await self.engine.signal()  # to the end of the run: a service is closed by the task that opened it

    async def _caller(self, fleet: Fleet, zone: str | None, stack: AsyncExitStack) -> Calling:
        scenario, tier = self.scenario, fleet.tier
        setting = Setting(
            name=tier.name,
            timeout=scenario.timeout,
            attempt_timeout=scenario.attempt_timeout,
            honours_keys=tier.honours_keys,
            zone=zone,
            check=lambda instance: self.network.check(fleet.by_id[instance.id], zone),
            probe=lambda instance: self.network.probe(fleet.by_id[instance.id]),
        )
        service = await stack.enter_async_context(self.stack.make(setting, fleet.registry))
        if service.balancer.wants_reports:
            fleet.report_loads()
        caller = self.wiring.caller(service, tier.name, self._way_to(fleet), self.stack)
        if isinstance(caller, HttpCaller):
            await stack.enter_async_context(caller)
        return caller

    def _way_to(self, fleet: Fleet) -> Way:
        network, by_id, sent_to = self.network, fleet.by_id, fleet.sent_to
        gone, log, now = fleet.registry.gone, fleet.log if fleet.tier.log else None, self.engine.now

        def note(instance: str) -> None:
            fleet.sent += 1
            if log is not None:
                log.append(now())
            sent_to[instance] = sent_to.get(instance, 0) + 1
            if gone and gone.get(instance, math.inf) < now():
                fleet.astray += 1

        def send(
            errand: Errand, instance: str, deadline: float | None, idempotency_key: str | None
        ) -> Awaitable[Reply]:
            note(instance)
            return network.send(errand, by_id[instance], deadline, idempotency_key)

        return Way(note, send)

    def _handler_of(self, tier: str) -> Callable[[Instance], Handler]:
        def handler_at(instance: Instance) -> Handler:
            async def handle(job: Job) -> Reply:
                names = self.fleets[tier].tier.calls
                with serving(deadline=job.deadline, priority=job.priority):
                    for step, name in enumerate(names):
                        errand = job.errand.onward(job.attempt, step, instance.zone)
                        reply = await _onward(self._servers_callers[instance.id, name], errand)
                        if not reply.ok:
                            return reply
                return Reply()

            return handle

        return handler_at

    # -- users ------------------------------------------------------------------------------------------------------

    def errands(self) -> Callable[[int], Errand]:
        """A function that makes the errand of each of the users' calls, the same under every policy."""
        load, zones = self.scenario.load, self.scenario.client_zones
        of_call = self.chance.of_call
        writes, keys, priority = of_call("writes"), of_call("keys"), of_call("priorities")
        ladder = _ladder(load.priorities)
        clients = self.scenario.clients

        def errand(number: int) -> Errand:
            return Errand(
                number,
                repeatable=not (load.writes and writes(number, 0) < load.writes),
                priority=ladder[0][1] if len(ladder) == 1 else _step(ladder, priority(number, 0)),
                key=0 if load.keys is None else load.keys.key(keys(number, 0)),
                zone=zones[number % clients % len(zones)],
            )

        return errand

    async def run(self) -> None:
        """Let users call until the end."""
        self._sample()
        for fault in self.scenario.faults:
            fault.schedule(self)
        load = self.scenario.load
        if isinstance(load, OpenLoop):
            await self._open_loop(load)
        elif isinstance(load, Users):
            await run_users(self, load)
        elif isinstance(load, Computations):
            await run_computations(self, load)
        else:
            raise TypeError(f"load={load!r}: nobody knows how to make such a load")

    async def _open_loop(self, load: OpenLoop) -> None:
        scenario, callers = self.scenario, self.callers
        errand_of = self.errands()
        groups_of = self.groups()

        async def call(request: Request) -> Reply:
            errand = errand_of(request.number)
            try:
                return await callers[request.number % len(callers)].call(errand)
            finally:
                request.attempts = errand.attempts

        def note(record: Record) -> None:
            self.recording.record(record, () if groups_of is None else groups_of(errand_of(record.number)))

        await drive(
            call,
            takewhile(lambda due: due < scenario.duration, load.arrivals(self.chance.stream("arrivals").random)),
            judge=outcome_of,
            max_calls=10**9,
            max_seconds=scenario.duration,
            max_in_flight=_MAX_IN_FLIGHT,
            drain=scenario.drain,
            on_record=note,
            keep=False,
            engine=self.engine,
        )

    def groups(self) -> Callable[[Errand], tuple[str, ...]] | None:
        """A function that says which groups a call counts for; None where there are none."""
        by_priority, named = len(self.scenario.load.priorities) > 1, self.scenario.group
        if not by_priority and named is None:
            return None

        def groups_of(errand: Errand) -> tuple[str, ...]:
            priority = (errand.priority.name.lower(),) if by_priority else ()
            return priority if named is None else (*priority, named(errand))

        return groups_of

    def _count_effect(self, job: Job) -> None:
        if not job.errand.repeatable:
            self.effects[job.errand.origin] += 1
            self.accounts[job.errand.key] += 1

    # -- what is seen -----------------------------------------------------------------------------------------------

    def _sample(self) -> None:
        """Look at the world once a second: at the servers, and at what the first caller knows of them."""
        second = len(self.series["queue"])
        if second >= math.ceil(self.scenario.duration):
            return
        last = self._last
        self.series["attempts"].append(last.sent - self._sampled)
        self._sampled = last.sent
        self.series["queue"].append(last.queued)
        self._sent_to.append(last.sent_to.copy())
        if self.callers:
            service = self.callers[0].service
            standings = service.instances()
            self.series["ejected"].append(sum(one.state in {"ejected", "trial"} for one in standings))
            self.series["open"].append(_open_circuits(service.pipeline.policies))
            self.series["throttled"].append(_throttled(service.pipeline.policies, self.engine.now()))
        self.engine.at(self.began + second + 1, self._sample)

    def share(self, instance: str, since: int, until: int) -> Number:
        """The share of the last tier's attempts that went to the instance between two seconds; None without any."""
        before, after = self._sent_to[since], self._sent_to[until]
        sent = sum(after.values()) - sum(before.values())
        return (after.get(instance, 0) - before.get(instance, 0)) / sent if sent else None

    def metrics(self) -> dict[str, Number]:
        """What the run comes to."""
        found = self.recording.metrics()
        offered = self.recording.offered
        counts = [fleet.counts() for fleet in self.fleets.values()]
        served = sum(count["served"] for count in counts)
        found["amplification"] = self._last.sent / offered if offered else None
        found["wasted"] = sum(count["wasted"] for count in counts) / served if served else None
        found["little"] = self._little()
        found["queue.max"] = max((value or 0 for value in self.series["queue"]), default=0)
        if self.scenario.load.writes > 0:
            found["duplicates"] = sum(times - 1 for times in self.effects.values())
        sent_to = self._last.sent_to
        if 1 < len(sent_to) <= _SHARES:
            shares = {name: sent / self._last.sent for name, sent in sorted(sent_to.items())}
            found["fairness"] = fairness(shares.values())
            found.update({f"share.{name}": share for name, share in shares.items()})
        found.update(self.extra)
        if self.scenario.measure is not None:
            found.update(self.scenario.measure(self))
        return found

    def _little(self) -> float | None:
        """The calls inside the servers on average over time, by how many should be there.

        By Little's law as many should be there as come in a second times the seconds that each stays. The two are
        counted apart, so that a queue that loses calls cannot go unnoticed.
        """
        now = self.engine.now()
        counted = [fleet.call_seconds(now) for fleet in self.fleets.values()]
        area, stayed = math.fsum(area for area, _ in counted), math.fsum(stayed for _, stayed in counted)
        if abs(area - stayed) > _TOLERANCE * max(1.0, stayed):
            raise RuntimeError(
                f"{self.scenario.name}: {area:.6g} call-seconds inside the servers, {stayed:.6g} by their calls: "
                "a queue lost calls, or kept them twice"
            )
        return area / stayed if stayed > 0 else None

    def all_series(self) -> dict[str, list[Number]]:
        """The same over time, one value a second."""
        return self.recording.series() | self.series


def fairness(shares: Collection[float]) -> float:
    """Jain's index of shares that are not all 0: 1 where they are equal, `1 / n` where one of `n` has all.

    Jain, Chiu, Hawe: *A Quantitative Measure of Fairness* (1984).
    """
    return math.fsum(shares) ** 2 / (len(shares) * math.fsum(share * share for share in shares))


async def _onward(caller: Calling, errand: Errand) -> Reply:
    """Call the next tier as a server does: what fails there fails here, as an overload or as an error."""
    try:
        reply = await caller.call(errand)
    except Rejected:
        return Reply(503)
    except Exception:  # noqa: BLE001 - whatever it is, a server says 500
        return Reply(500)
    return reply if reply.ok or reply.status == 503 else Reply(500)  # noqa: PLR2004 - as HTTP has it


def _ladder(shares: Mapping[Priority, float]) -> list[tuple[float, Priority]]:
    total = math.fsum(shares.values())
    steps: list[tuple[float, Priority]] = []
    reached = 0.0
    for priority in sorted(shares):
        reached += shares[priority] / total
        steps.append((reached, priority))
    return steps


def _step(ladder: list[tuple[float, Priority]], u: float) -> Priority:
    return next((priority for reached, priority in ladder if u < reached), ladder[-1][1])


def _throttled(policies: Iterable[Policy], now: float) -> float:
    """The share of calls that adaptive throttles reject, of the priority that they reject most of."""
    return max(
        (
            policy.probability(now, priority)
            for policy in policies
            if isinstance(policy, AdaptiveThrottle)
            for priority in Priority
        ),
        default=0.0,
    )


def _open_circuits(policies: Iterable[Policy]) -> int:
    return sum(isinstance(policy, CircuitBreaker) and policy.state.value != "closed" for policy in policies)
