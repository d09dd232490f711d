"""A service, from its discovery to its calls."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Sequence

import anyio
import pytest

import resilient
from resilient.balancing import Balancer, Filter, HealthCheck, PreferZone, RoundRobin, SlowStart, TcpCheck
from resilient.balancing.policy import Balance
from resilient.context import current_runtime, surroundings, use_runtime
from resilient.discovery import File, inline
from resilient.errors import DeadlineExceeded, DiscoveryError, NoInstance
from resilient.events import Event, InstanceEjected, InstancePicked, SnapshotApplied, SnapshotStale
from resilient.instance import Instance
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.hedge import Hedge
from resilient.policies.honoured import Honoured
from resilient.policies.retry import Retry, RetryBudget
from resilient.policies.timeout import Timeout
from resilient.service import Service
from resilient.snapshot import Snapshot
from resilient.stack import default_policies
from resilient.testing import virtual_time
from resilient.testing.cancellation import for_each_cancellation

THREE = "static://10.0.0.1:80,10.0.0.2:80,10.0.0.3:80"


def instances(*hosts: str) -> tuple[Instance, ...]:
    return tuple(Instance(id=host, host=host, port=80) for host in hosts)


class Scripted:
    """Discovery by a script: snapshots, seconds to wait, and errors to raise; then silence."""

    def __init__(self, *script: Snapshot | float | Exception) -> None:
        self.script = list(script)

    async def watch(self) -> AsyncIterator[Snapshot]:
        while self.script:
            step = self.script.pop(0)
            if isinstance(step, Exception):
                raise step
            if isinstance(step, float):
                await anyio.sleep(step)
            else:
                yield step
        await anyio.sleep_forever()


def names(policies: Sequence[object]) -> list[str]:
    return [type(policy).__name__ for policy in policies]


def test_the_function_receives_an_instance_that_its_caller_does_not_pass(backend):
    service = Service("orders", THREE)

    @service
    async def quote(instance: Instance, sku: str, *, count: int = 1) -> str:
        return f"{count} {sku} at {instance.host}"

    async def main():
        async with service:
            return await quote("A", count=2)

    assert virtual_time.run(main, backend=backend).startswith("2 A at 10.0.0.")


def test_methods_generators_and_plain_functions_receive_it_too(backend):
    service = Service("orders", THREE)

    class Orders:
        @service.method
        async def quote(self, instance: Instance, sku: str) -> str:
            assert isinstance(self, Orders)
            return f"{sku} at {instance.port}"

        @service.method
        async def stream(self, instance: Instance, sku: str) -> AsyncIterator[str]:
            yield f"{sku} from {instance.port}"

    @service
    async def lines(instance: Instance, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number + instance.port

    async def main():
        async with service:
            assert await Orders().quote("A") == "A at 80"
            assert [item async for item in Orders().stream("B")] == ["B from 80"]
            assert [item async for item in lines(2)] == [80, 81]
            assert all(standing.active == 0 for standing in service.instances())

    virtual_time.run(main, backend=backend)


def test_plain_functions_are_served_while_a_thread_follows_discovery():
    service = Service("orders", THREE)
    tried = []

    @service
    def quote(instance: Instance, sku: str) -> str:
        tried.append(instance.id)
        if len(tried) == 1:
            raise ConnectionRefusedError
        return sku

    with service:
        assert quote("A") == "A"
    assert len(set(tried)) == 2
    with service:  # and again: a service may be opened anew
        assert quote("B") == "B"


def test_attempts_go_to_instances_that_were_not_tried(backend):
    service = Service("orders", THREE, policies=[Retry(attempts=3, on=ConnectionError)])
    tried = []

    @service
    async def fails(instance: Instance) -> None:
        tried.append(instance.id)
        raise ConnectionResetError

    async def main():
        async with service:
            with pytest.raises(ConnectionResetError):
                await fails()

    virtual_time.run(main, backend=backend)
    assert len(set(tried)) == 3


def test_an_instance_that_hangs_is_ejected_because_its_timeout_is_inside(backend):
    events: list[Event] = []
    service = Service("orders", THREE, balancer=RoundRobin())

    @service
    async def ask(instance: Instance) -> str:
        if instance.id == "10.0.0.1:80":
            await anyio.sleep_forever()
        return instance.id

    async def main():
        async with service:
            with resilient.options(idempotent=True):
                for _ in range(30):
                    await ask()

    virtual_time.run(main, backend=backend, emit=events.append)
    ejected = [event for event in events if isinstance(event, InstanceEjected)]
    assert [event.instance for event in ejected[:1]] == ["10.0.0.1:80"]
    assert any(isinstance(event, SnapshotApplied) for event in events)
    assert any(isinstance(event, InstancePicked) and event.reason == "elsewhere" for event in events)


@pytest.mark.parametrize(("standstill", "blamed"), [(1.0, True), (30.0, False)])
def test_a_timeout_that_the_caller_slept_through_is_no_instances_fault(backend, standstill, blamed):
    """Twenty calls are under way when everything stands still, 1.5 s after they began; an attempt may take 2.5 s."""
    events: list[Event] = []
    service = Service("orders", THREE, balancer=RoundRobin())

    @service
    async def ask(instance: Instance) -> None:
        await anyio.sleep_forever()

    async def caller() -> None:
        with contextlib.suppress(DeadlineExceeded):
            await ask()

    async def main():
        async with service, anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(caller)
            await anyio.sleep(1.5)
            current_runtime().pause(standstill)
            await anyio.sleep(5.0)

    virtual_time.run(main, backend=backend, emit=events.append)
    assert any(isinstance(event, InstanceEjected) for event in events) is blamed


def test_a_stream_counts_as_active_until_it_is_over(backend):
    service = Service("orders", "static://10.0.0.1:80")

    @service
    async def numbers(instance: Instance) -> AsyncIterator[int]:
        yield 1
        yield 2

    async def main():
        async with service:
            stream = numbers()
            assert await anext(stream) == 1
            assert service.instances()[0].active == 1
            await stream.aclose()
            assert service.instances()[0].active == 0

    virtual_time.run(main, backend=backend)


def test_the_default_stack_is_in_its_documented_order():
    service = Service("orders", THREE, idempotency=Honoured(), policies=None)
    expected = ["Timeout", "Honoured", "Retry", "AdaptiveThrottle", "Balance", "Timeout"]
    assert names(service.pipeline.policies) == expected
    assert names(default_policies(hedge=Hedge(0.1))) == [
        "Timeout",
        "Retry",
        "Hedge",
        "AdaptiveThrottle",
        "Balance",
        "Timeout",
    ]
    assert names(default_policies(timeout=None, attempt_timeout=None)) == ["Retry", "AdaptiveThrottle", "Balance"]


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ([], ["Balance"]),
        ([Timeout(5)], ["Timeout", "Balance"]),
        ([Timeout(5), Retry()], ["Timeout", "Retry", "Balance"]),
        ([Timeout(5), Retry(), Timeout(1)], ["Timeout", "Retry", "Balance", "Timeout"]),
        ([Retry(), CircuitBreaker(), Timeout(1)], ["Retry", "CircuitBreaker", "Balance", "Timeout"]),
        ([Timeout(5), Retry(), Balance(), CircuitBreaker()], ["Timeout", "Retry", "Balance", "CircuitBreaker"]),
    ],
)
def test_balance_stands_where_it_is_marked_or_just_outside_the_attempts_timeout(policies, expected):
    assert names(Service("orders", THREE, policies=policies).pipeline.policies) == expected


def test_the_key_goes_just_outside_of_what_repeats():
    service = Service("orders", THREE, policies=[Timeout(5), Retry()], idempotency=Honoured())
    assert names(service.pipeline.policies) == ["Timeout", "Honoured", "Retry", "Balance"]
    mine = Honoured(window=60)
    service = Service("orders", THREE, policies=[mine, Retry()], idempotency=Honoured())
    assert service.pipeline.policies[0] is mine


def test_the_callers_list_of_policies_is_left_as_it_was():
    policies = [Retry(), Balance(), Timeout(1)]
    Service("orders", THREE, policies=policies, idempotency=Honoured())
    assert names(policies) == ["Retry", "Balance", "Timeout"]
    assert policies[1] == policies[1]


def test_a_budget_is_the_destinations_and_has_one_deposit_a_logical_call(backend):
    budget = RetryBudget(ratio=1.0, floor=0.0)
    service = Service("orders", THREE, policies=[Retry(budget=budget, on=OSError), Retry(on=OSError)])
    assert service.budget is budget
    sent = []

    @service
    async def fails(instance: Instance) -> None:
        sent.append(instance)
        raise ConnectionResetError

    async def main():
        async with service:
            with pytest.raises(ConnectionResetError):
                await fails()

    virtual_time.run(main, backend=backend)
    assert len(sent) == 2  # one deposit pays for one extra attempt, of whichever layer


def test_hedges_without_retries_have_a_budget_too():
    assert isinstance(Service("orders", THREE, policies=[Hedge(0.1)]).budget, RetryBudget)
    assert Service("orders", THREE, policies=[Timeout(1)]).budget is None
    assert Service("orders", THREE, policies=[Retry(budget=None)]).budget is None


def test_an_error_of_discovery_keeps_the_last_instances_and_is_begun_again(backend):
    events: list[Event] = []
    first = Snapshot(version=1, instances=instances("a"))
    second = Snapshot(version=2, instances=instances("b"))
    service = Service("orders", Scripted(first, 1.0, RuntimeError("broken"), second))

    async def main():
        async with service:
            assert [one.instance.id for one in service.instances()] == ["a"]
            await anyio.sleep(1.0)
            assert [one.instance.id for one in service.instances()] == ["a"]
            await anyio.sleep(20)
            assert [one.instance.id for one in service.instances()] == ["b"]

    virtual_time.run(main, backend=backend, emit=events.append)
    assert [event.error for event in events if isinstance(event, SnapshotStale)] == ["broken"]


def test_opening_waits_for_the_first_answer_but_not_for_ever(backend):
    late = Service("orders", Scripted(2.0, Snapshot(version=1, instances=instances("a"))))
    silent = Service("silent", Scripted(), startup=3.0)

    async def main():
        async with late:
            assert anyio.current_time() == 2.0
            await late.ready()
        async with silent:
            assert anyio.current_time() == 5.0
            with pytest.raises(DiscoveryError, match=r"silent.*has not answered"):
                await silent.ready(timeout=1.0)

            @silent
            async def ask(instance: Instance) -> None: ...

            with pytest.raises(NoInstance, match="silent"):
                await ask()

    virtual_time.run(main, backend=backend)


def test_ready_tells_that_there_is_no_instance(backend):
    service = Service("orders", Scripted(Snapshot(version=1, instances=())))

    async def main():
        async with service:
            with pytest.raises(DiscoveryError, match="knows no instance"):
                await service.ready(timeout=0.5)

    virtual_time.run(main, backend=backend)


def test_what_is_not_ready_in_time_says_where_was_asked_and_what_came_of_it(backend, tmp_path):
    async def main():
        broken = Service("orders", Scripted(OSError("the registry burns")), startup=0.0)
        async with broken:
            began = anyio.current_time()
            with pytest.raises(DiscoveryError, match=r"orders: not ready after 1 s: .*Scripted.*not answered: the reg"):
                await broken.ready(timeout=1.0)
            assert anyio.current_time() - began == pytest.approx(1.0)
        missing = Service("orders", File(tmp_path / "orders.toml", offload=inline), startup=0.0)
        async with missing:
            with pytest.raises(DiscoveryError, match=r"File\(path=.*orders\.toml.*has not answered: .*No such file"):
                await missing.ready(timeout=1.0)

    virtual_time.run(main, backend=backend)


def test_ready_waits_for_the_first_instance_and_takes_stale_ones(backend):
    stale = Snapshot(version=2, instances=instances("a"), stale_since=0.0)
    service = Service("orders", Scripted(Snapshot(version=1, instances=()), 3.0, stale))

    async def main():
        async with service:
            await service.ready()
            assert anyio.current_time() == pytest.approx(3.0, abs=0.06)
            await service.ready(timeout=0.0)

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("timeout", [-1.0, float("nan"), float("inf")])
def test_a_wait_is_bounded(backend, timeout):
    service = Service("orders", THREE)

    async def main():
        async with service:
            with pytest.raises(ValueError, match="timeout="):
                await service.ready(timeout)

    virtual_time.run(main, backend=backend)
    with service, pytest.raises(ValueError, match="timeout="):
        service.sync_ready(timeout)


def test_what_is_not_open_will_never_be_ready(backend):
    service = Service("orders", THREE)

    async def main():
        with pytest.raises(RuntimeError, match="is not open"):
            await service.ready()
        async with service:
            await service.ready()
        with pytest.raises(RuntimeError, match="is not open"):
            await service.ready()

    virtual_time.run(main, backend=backend)
    with pytest.raises(RuntimeError, match="is not open"):
        service.sync_ready()


def test_a_thread_waits_until_it_is_ready():
    late = Snapshot(version=1, instances=instances("a"))
    with Service("late", Scripted(0.1, late), startup=0.0) as service:
        service.sync_ready()
        assert len(service.instances()) == 1
    with (
        Service("silent", Scripted(), startup=0.0) as silent,
        pytest.raises(DiscoveryError, match=r"silent: not ready after 0\.1 s: .*has not answered"),
    ):
        silent.sync_ready(0.1)


def test_the_bodys_own_exception_leaves_the_block_unwrapped(backend):
    service = Service("orders", THREE)

    async def main():
        with pytest.raises(KeyError):
            async with service:
                raise KeyError
        with anyio.move_on_after(1) as scope:
            async with service:
                await anyio.sleep(5)
        assert scope.cancelled_caught

    virtual_time.run(main, backend=backend)


def test_opening_twice_at_once_is_refused(backend):
    service = Service("orders", THREE)

    async def main():
        async with service:
            with pytest.raises(RuntimeError, match="open already"):
                await service.__aenter__()

    virtual_time.run(main, backend=backend)


def test_the_service_says_why_a_call_goes_where_it_goes(backend):
    service = Service("orders", THREE, balancer=Balancer(RoundRobin(), name="orders"))

    async def main():
        async with service:
            told = str(service.explain())
            assert "3 of 3 instances are used" in told
            assert "10.0.0.2:80" in told

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": ""}, ValueError, "name=''"),
        ({"discovery": "gopher://x"}, ValueError, "gopher"),
        ({"startup": -1}, ValueError, "startup=-1"),
        ({"policies": [Balance(), Balance()]}, ValueError, "stands twice"),
        ({"policies": [Balance(), Retry()]}, ValueError, "Put Retry before Balance"),
        ({"policies": [Retry(), Honoured()]}, ValueError, "Put Honoured before Retry"),
        ({"policies": [Retry]}, TypeError, r"Retry\(\.\.\.\)"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    arguments = {"name": "orders", "discovery": THREE, **arguments}
    with pytest.raises(error, match=message):
        Service(**arguments)


def test_opening_it_while_somebody_else_is_opening_it_is_refused(backend):
    service = Service("orders", Scripted(2.0, Snapshot(version=1, instances=instances("a"))))

    async def first() -> None:
        async with service:
            assert anyio.current_time() == 2.0  # its answer was not given to somebody else

    async def main():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first)
            await anyio.sleep(1)
            with pytest.raises(RuntimeError, match="open already"):
                async with service:
                    raise AssertionError("it was opened twice")
        async with service:
            pass

    virtual_time.run(main, backend=backend)


def test_opening_and_closing_may_be_cancelled_at_every_moment(backend):
    def fresh() -> Service:
        return Service("orders", Scripted(0.1, Snapshot(version=1, instances=instances("a")), 0.1, OSError("broken")))

    async def scenario(service: Service) -> None:
        async with service:
            await anyio.sleep(1)

    async def check(service: Service) -> None:
        with anyio.fail_after(60):
            async with service:  # it is closed, and may be opened anew
                pass

    assert for_each_cancellation(fresh, scenario=scenario, check=check, backend=backend) > 5


def test_several_errors_of_the_body_leave_it_as_they_are(backend):
    service = Service("orders", THREE)

    async def main():
        with pytest.raises(ExceptionGroup, match="mine") as caught:
            async with service:
                raise ExceptionGroup("mine", [KeyError("a"), OSError("b")])
        assert [type(error) for error in caught.value.exceptions] == [KeyError, OSError]
        with pytest.raises(BaseExceptionGroup) as other:
            async with service, anyio.create_task_group():
                raise SystemExit(3)
        assert isinstance(other.value.exceptions[0], SystemExit)
        with pytest.raises(KeyboardInterrupt):
            async with service:
                raise KeyboardInterrupt

    virtual_time.run(main, backend=backend)


def test_the_watch_of_a_discovery_is_closed(backend):
    closed: list[str] = []

    class Watched:
        def watch(self) -> AsyncIterator[Snapshot]:
            return self.generate()

        async def generate(self) -> AsyncIterator[Snapshot]:
            try:
                yield Snapshot(version=1, instances=instances("a"))
                yield Snapshot(version=2, instances=instances("b"))
            finally:
                closed.append("closed")

    service = Service("orders", Watched())
    applied = []

    def apply(snapshot, now, random):
        applied.append(snapshot.version)
        raise ValueError("a filter is broken")

    service.balancer.apply = apply  # type: ignore[method-assign]  # what a broken filter does

    async def main():
        async with service:
            pass

    virtual_time.run(main, backend=backend)
    assert closed
    assert len(closed) == len(applied)


def test_discovery_outlives_the_deadline_of_whoever_opened_the_service(backend):
    seen: list[float | None] = []

    class Asking:
        async def watch(self) -> AsyncIterator[Snapshot]:
            seen.append(surroundings().deadline)
            yield Snapshot(version=1, instances=instances("a"))
            await anyio.sleep_forever()

    async def main():
        with resilient.serving(deadline=anyio.current_time() + 1.0):
            async with Service("orders", Asking()):
                pass

    virtual_time.run(main, backend=backend)
    assert seen == [None]


def test_what_happens_in_a_block_without_an_event_loop_leaves_it_and_closes_it():
    service = Service("orders", THREE)
    before = threading.active_count()
    for error in (KeyError, KeyboardInterrupt, GeneratorExit):
        with pytest.raises(error), service:
            assert service.instances()
            raise error
    assert threading.active_count() == before


def test_one_block_serves_all_threads_and_a_second_one_is_refused():
    service = Service("orders", THREE)
    refused: list[BaseException] = []

    def second() -> None:
        try:
            with service:
                pass
        except RuntimeError as error:
            refused.append(error)

    with service:
        threads = [threading.Thread(target=second) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 4
        assert len(service.instances()) == 3
    second()
    assert len(refused) == 4


def test_the_thread_of_a_block_is_on_the_clock_of_its_caller():
    service = Service("orders", THREE)
    with use_runtime(virtual_time.runtime()), service:
        (member, *_) = service.balancer._roster
        assert member.healthy_since == 0.0

        @service
        def ask(instance: Instance) -> str:
            return instance.id

        assert ask()


def test_a_discovery_that_never_answers_does_not_hold_a_block_for_ever():
    silent = Service("silent", Scripted(), startup=0.05)
    with silent, pytest.raises(NoInstance, match="has not answered"):
        silent(lambda instance: instance)()


def test_what_would_be_ignored_is_refused():
    with pytest.raises(ValueError, match=r"ejection=None.*has its own"):
        Service("orders", THREE, balancer=Balancer(), ejection=None)
    with pytest.raises(ValueError, match="give that to the service"):
        Service("orders", THREE, policies=[Balance(Balancer())])
    balancer = Balancer()
    assert Service("orders", THREE, balancer=balancer, policies=[Balance(balancer)]).balancer is balancer


def test_filters_and_health_checks_are_arguments_of_a_service():
    filters: list[Filter] = [PreferZone("a"), SlowStart()]
    rule = HealthCheck(TcpCheck())
    one, other = (Service(name, THREE, filters=filters, health=rule) for name in ("one", "other"))
    assert one.balancer.filters == other.balancer.filters == (PreferZone("a"), SlowStart())
    assert one.health is other.health is rule
    with pytest.raises(ValueError, match=r"filters=.*: .* has its own; give them there"):
        Service("orders", THREE, balancer=Balancer(), filters=filters)
    assert Service("orders", THREE, balancer=Balancer(), health=rule).health is rule
