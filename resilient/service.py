"""A service: where its instances are, which one gets a call, and what happens when it fails."""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, final, overload

import anyio
from anyio.from_thread import start_blocking_portal

from resilient.balancing import Balancer, Explanation, Filter, HealthCheck, Load, Picker, Priorities, Standing
from resilient.balancing.checking import Checking
from resilient.call import Call, Policy
from resilient.context import Options, current_runtime, detached
from resilient.discovery import Discovery, connect
from resilient.discovery.following import Follower
from resilient.errors import DiscoveryError
from resilient.events import Event, send_event
from resilient.instance import Instance
from resilient.machines.outlier import Ejection
from resilient.pipeline import Pipeline, decorate
from resilient.policies.honoured import Honoured
from resilient.runtime import Runtime
from resilient.snapshot import Snapshot
from resilient.stack import budget_of, default_policies, with_balance, with_key
from resilient.verdict import Classifier

__all__ = ["Honoured", "Service"]

P = ParamSpec("P")
T = TypeVar("T")
Y = TypeVar("Y")
S = TypeVar("S")

_STARTUP = 5.0
_EJECTION = Ejection()
_LOOK = 0.05


@final
class Service:
    """One remote service: found by discovery, balanced, and called through policies.

    ::

        orders = Service("orders", "file:///run/registry/orders/", idempotency=Honoured())

        async with orders:
            @orders
            async def quote(instance: Instance, sku: str) -> float: ...

            async with resilient.http.client(orders) as client:
                await client.post("/orders", json={"sku": "A-1"})

    `name`
        Of the service: the host in `http://orders/...`, and its name in events and errors.
    `discovery`
        Where the instances are learned: a URL (see `resilient.discovery.connect`) or any `Discovery`.
    `balancer`
        How an instance is chosen: a picker (`PeakEwma()` by default), or a whole `Balancer`.
    `ejection`
        When an instance that fails is left out (`Ejection()`); None: never. Not together with a `Balancer`, which has
        its own.
    `filters`
        Which instances are there for this client, and with what weight, in this order (`PreferZone("eu-1")`,
        `Subset(20)`, ...). Not together with a `Balancer`, which has its own.
    `health`
        How the instances are asked in the background whether they are well (`HealthCheck(HttpCheck("/health"))`). By
        default they are not: what calls come to says enough, where there are calls.
    `idempotency`
        `Honoured()` says that the service honours the Idempotency-Key header. Without it a POST is not repeatable.
    `policies`
        Replace the default stack (`default_policies`). `Balance()` marks where the instance is picked; where it
        is missing, it stands just outside the innermost `Timeout`, or innermost.
    `classify`
        Judges results and exceptions of decorated functions; HTTP has its own.
    `startup`
        How many seconds opening waits at most for discovery's first answer (5.0). After that the service is
        open all the same, and calls raise `NoInstance` until there is an answer; `ready` is for those who must
        know.
    `runtime`
        Replaces the ambient runtime.

    It is open inside `async with`, or inside `with` where there is no event loop: a thread then keeps it up to
    date. While it is open, the instances that discovery reports are followed in the background; an error of
    discovery keeps the last good ones.

    Thread-safe. Raises `ValueError` or `TypeError` for a URL, an order of policies or an argument that cannot work.
    """

    def __init__(
        self,
        name: str,
        discovery: str | Discovery,
        *,
        balancer: Picker | Balancer | None = None,
        ejection: Ejection | None = _EJECTION,
        filters: Sequence[Filter] = (),
        health: HealthCheck | None = None,
        idempotency: Honoured | None = None,
        policies: Sequence[Policy] | None = None,
        classify: Classifier | None = None,
        startup: float = _STARTUP,
        runtime: Runtime | None = None,
    ) -> None:
        if not name:
            raise ValueError("name='': a service needs a name; it is the host of its URLs")
        if not (math.isfinite(startup) and startup >= 0):
            raise ValueError(f"startup={startup!r}: a finite number of seconds, at least 0")
        self.name = name
        self.discovery = connect(discovery) if isinstance(discovery, str) else discovery
        if isinstance(balancer, Balancer):
            if ejection is not _EJECTION:
                raise ValueError(f"ejection={ejection!r}: {balancer!r} has its own; give it there")
            if filters:
                raise ValueError(f"filters={filters!r}: {balancer!r} has its own; give them there")
            if _lists_backups(self.discovery) and not _goes_by_priorities(balancer.filters):
                raise ValueError(
                    f"discovery={discovery!r}: it lists backups, and {balancer!r} would use them like the others; "
                    "give it filters=[Priorities()], or the source backups=False (in a URL, backups=no)"
                )
            self.balancer = balancer
        else:
            if _lists_backups(self.discovery) and not _goes_by_priorities(filters):
                filters = [*filters, Priorities()]
            self.balancer = Balancer(balancer, ejection=ejection, filters=filters, name=name)
        if not (health is None or isinstance(health, HealthCheck)):
            raise TypeError(f"health={health!r}: a HealthCheck(...), which says what is asked and how often, or None")
        self.health = health
        stack = default_policies(idempotency=idempotency) if policies is None else with_key([*policies], idempotency)
        self.pipeline = Pipeline(*with_balance(stack, self.balancer), classify=classify, runtime=runtime)
        self.budget = budget_of(self.pipeline.policies)
        self.startup = startup
        self._runtime = runtime
        self._in_use = threading.Lock()  # held while it is open, by whoever opened it
        self._follower: Follower | None = None
        self._open: AsyncExitStack | None = None
        self._portal: ExitStack | None = None
        self._checking: Checking | None = None

    def __repr__(self) -> str:
        return f"Service({self.name!r}, {self.discovery!r})"

    # -- what a call goes through ---------------------------------------------------------------------------------

    @overload
    def __call__(
        self, fn: Callable[Concatenate[Instance, P], Coroutine[Any, Any, T]], /
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __call__(
        self, fn: Callable[Concatenate[Instance, P], AsyncGenerator[Y, S]], /
    ) -> Callable[P, AsyncGenerator[Y, S]]: ...
    @overload
    def __call__(
        self, fn: Callable[Concatenate[Instance, P], AsyncIterator[Y]], /
    ) -> Callable[P, AsyncGenerator[Y, None]]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Instance, P], T], /) -> Callable[P, T]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Callable[..., Any]:
        """Decorate a function that receives the chosen instance as its first argument; its callers do not pass it."""
        self._check_probe()
        return decorate(self.pipeline, fn, _instance_first, self.prepare)

    @overload
    def method(
        self, fn: Callable[Concatenate[S, Instance, P], Coroutine[Any, Any, T]], /
    ) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]: ...
    @overload
    def method(
        self, fn: Callable[Concatenate[T, Instance, P], AsyncGenerator[Y, S]], /
    ) -> Callable[Concatenate[T, P], AsyncGenerator[Y, S]]: ...
    @overload
    def method(
        self, fn: Callable[Concatenate[S, Instance, P], AsyncIterator[Y]], /
    ) -> Callable[Concatenate[S, P], AsyncGenerator[Y, None]]: ...
    @overload
    def method(self, fn: Callable[Concatenate[S, Instance, P], T], /) -> Callable[Concatenate[S, P], T]: ...
    def method(self, fn: Callable[..., Any], /) -> Callable[..., Any]:
        """Decorate a method, which receives the chosen instance after `self`."""
        self._check_probe()
        return decorate(self.pipeline, fn, _instance_second, self.prepare)

    def _check_probe(self) -> None:
        probing = self.balancer.probing
        if probing is not None and probing.ask is None:
            raise TypeError(
                f"balancer={self.balancer.picker!r}: functions have no protocol by which an instance is asked how busy "
                "it is: give the picker probe=..., an async function of the instance that returns a Load"
            )

    def begin(
        self,
        name: str,
        invoke: Callable[[Call], Awaitable[Any]],
        request: Any,
        *,
        repeatable: bool = False,
        options: Options | None = None,
    ) -> Call:
        """Make the call of an adapter, to be passed to `pipeline.chain`; see `Pipeline.begin`."""
        call = self.pipeline.begin(name, invoke, request, repeatable=repeatable, options=options)
        self.prepare(call)
        return call

    def prepare(self, call: Call) -> None:
        """Give a call that begins what its attempts share: where it was tried, and the destination's budget."""
        call.tried = []
        if self.budget is not None:
            call.budget = self.budget
            self.budget.deposit(call.runtime.now())

    # -- what is known of the instances ---------------------------------------------------------------------------

    def instances(self) -> tuple[Standing, ...]:
        """How each instance stands at this moment: its state, load, score and failures."""
        return self.balancer.instances(self._now())

    def explain(self) -> Explanation:
        """Why a call made now would go where it goes; `str()` makes a table of it."""
        return self.balancer.explain(self._now())

    def report(self, instance: Instance, load: Load) -> None:
        """Say how busy an instance is, by its own account: for pickers that go by that, such as `WeightedRoundRobin`.

        HTTP clients do so themselves, from the header `endpoint-load-metrics`; this is for decorated functions.
        """
        self.balancer.report(instance, load, self._now())

    async def ready(self, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - it knows the service's clock
        """Wait until discovery knows an instance: at start-up, before the first call.

        At most `timeout` seconds (10.0); then it raises `DiscoveryError`, which says where was asked and what came of
        it. Stale instances count: they may serve. Raises `RuntimeError` if the service is not open.
        """
        runtime = self._present()
        until = self._wait_until(timeout, runtime)
        while not self._is_ready(timeout, until, runtime):
            await runtime.sleep(min(_LOOK, until - runtime.now()))

    def sync_ready(self, timeout: float = 10.0) -> None:
        """Wait in plain code, as `ready` does in a coroutine: inside `with service:`. It blocks its thread."""
        runtime = self._present()
        until = self._wait_until(timeout, runtime)
        while not self._is_ready(timeout, until, runtime):
            runtime.pause(max(0.0, min(_LOOK, until - runtime.now())))

    def _wait_until(self, timeout: float, runtime: Runtime) -> float:
        if not (math.isfinite(timeout) and timeout >= 0):
            raise ValueError(f"timeout={timeout!r}: a finite number of seconds, at least 0")
        return runtime.now() + timeout

    def _is_ready(self, timeout: float, until: float, runtime: Runtime) -> bool:
        if not self._in_use.locked():
            raise RuntimeError(f"{self!r} is not open: nobody asks {self.discovery!r}")
        snapshot = self.balancer.snapshot
        if snapshot is not None and snapshot.instances:
            return True
        if runtime.now() < until:
            return False
        told = "has not answered" if snapshot is None else "knows no instance"
        if self._follower is not None and self._follower.trouble:
            told += f": {self._follower.trouble}"
        raise DiscoveryError(f"{self.name}: not ready after {timeout:g} s: {self.discovery!r} {told}")

    def _now(self) -> float:
        return self._present().now()

    # -- its life ---------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Service:
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError(f"{self!r} is open already; one `async with` keeps it up to date for everybody")
        async with AsyncExitStack() as stack:
            stack.callback(self._in_use.release)
            answered = anyio.Event()

            def deliver(snapshot: Snapshot) -> None:
                self._apply(snapshot)
                answered.set()

            self._follower = Follower(self.name, self.discovery, deliver, self._present())
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            if self.health is not None:
                self._checking = Checking(self.health, self.balancer, tasks, self._present, self._announce)
                stack.callback(self._checking.stop)
            with detached():  # what outlives the caller must not have its deadline
                tasks.start_soon(self._follower.run)
                if self.balancer.probing is not None:
                    tasks.start_soon(self.balancer.probing.run, self._runtime)
            with anyio.move_on_after(self.startup):
                await answered.wait()
            self._open = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._open = self._open, None
        if stack is not None:
            await stack.aclose()  # which need not know of the error: a task group would wrap it

    def __enter__(self) -> Service:
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(portal.wrap_async_context_manager(self))
            self._portal = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._portal = self._portal, None
        if stack is not None:
            stack.close()

    def _apply(self, snapshot: Snapshot) -> None:
        runtime = self._present()
        self._announce(self.balancer.apply(snapshot, runtime.now(), runtime.random))
        if self._checking is not None:
            self._checking.follow(snapshot.instances)

    def _present(self) -> Runtime:
        return self._runtime or current_runtime()

    def _announce(self, events: Iterable[Event]) -> None:
        emit = self._present().emit
        if emit is not None:
            for event in events:
                send_event(emit, event)


def _instance_first(call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs = cast("tuple[tuple[Any, ...], dict[str, Any]]", call.request)
    return (call.instance, *args), kwargs


def _instance_second(call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs = cast("tuple[tuple[Any, ...], dict[str, Any]]", call.request)
    return (args[0], call.instance, *args[1:]), kwargs


def _lists_backups(discovery: Discovery) -> bool:
    return bool(getattr(discovery, "backups", False))


def _goes_by_priorities(filters: Sequence[Filter]) -> bool:
    return any(isinstance(one, Priorities) for one in filters)
