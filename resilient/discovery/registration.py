"""Being found: an entry in a registry that is there as long as its process is."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Protocol, Self, TypeAlias, TypeVar, final

import anyio
import anyio.to_thread

from resilient.context import current_runtime, detached
from resilient.discovery.polling import Offload
from resilient.discovery.termination import BeforeTermination
from resilient.errors import DiscoveryError
from resilient.instance import Instance
from resilient.runtime import Runtime

__all__ = ["Entry", "EntryFactory", "LeasedRegistration", "RemoteEntry"]

_log = logging.getLogger("resilient.discovery")

T = TypeVar("T")


class Entry(Protocol):
    """One's own entry in a registry. Blocking, and safe to use from several threads.

    What goes wrong is an `OSError` or a `DiscoveryError`. Once its withdrawal has begun, nothing writes it any more.
    """

    @property
    def withdrawing(self) -> bool:
        """Has its withdrawal begun?"""
        ...

    def create(self) -> None:
        """Write it, over whatever an earlier life of the same instance left."""
        ...

    def renew(self) -> None:
        """Prolong it; write it again if it is gone."""
        ...

    def withdraw(self) -> None:
        """Remove it, unless somebody else is registered under its id by now."""
        ...

    def abandon(self) -> None:
        """Withdraw it although nobody can wait any more. Must not block for long."""
        ...


EntryFactory: TypeAlias = Callable[[Runtime], Entry]
"""Makes the entry for a block, with the block's runtime. It must not do anything else."""


class RemoteEntry(ABC):
    """An entry in a registry that is reached over a network: one request at a time, and the withdrawal is the last."""

    def __init__(self) -> None:
        self.withdrawing = False
        self._withdrawn = False
        self._lock = threading.Lock()

    def create(self) -> None:
        """Write it."""
        with self._lock:
            if not self.withdrawing:
                self._create()

    def renew(self) -> None:
        """Prolong it, or write it again."""
        with self._lock:
            if not self.withdrawing:
                self._renew()

    def withdraw(self) -> None:
        """Remove it."""
        self.withdrawing = True
        with self._lock:
            if not self._withdrawn:
                self._withdraw()
                self._withdrawn = True

    def abandon(self) -> None:
        """Remove it from a thread, for which the interpreter waits before it ends."""
        self.withdrawing = True  # at once: no renewal may come in between
        threading.Thread(target=self._withdraw_quietly, name="withdrawal").start()

    def _withdraw_quietly(self) -> None:
        try:
            self.withdraw()
        except (OSError, DiscoveryError) as error:
            _log.warning("a registration was not withdrawn and has to expire: %s", error)

    @abstractmethod
    def _create(self) -> None: ...

    @abstractmethod
    def _renew(self) -> None: ...

    @abstractmethod
    def _withdraw(self) -> None: ...


@final
class LeasedRegistration:
    """An entry that is renewed while the block runs. For one block; made by `register`.

    `where` names the registry in messages. `offload` runs what the entry does: in worker threads of its own, so that an
    application that has all its worker threads busy does not expire.
    """

    def __init__(
        self,
        where: str,
        instance: Instance,
        enter: EntryFactory,
        *,
        ttl: float,
        runtime: Runtime | None = None,
        sigterm: bool = True,
        offload: Offload | None = None,
    ) -> None:
        self.instance = instance
        self.ttl = ttl
        self._where = where
        self._enter = enter
        self._runtime = runtime
        self._offload: Offload = _Worker() if offload is None else offload
        self._sigterm = sigterm
        self._guard: BeforeTermination | None = None
        self._entry: Entry | None = None

    def __repr__(self) -> str:
        return f"LeasedRegistration({self._where!r}, {self.instance!r}, ttl={self.ttl!r})"

    async def __aenter__(self) -> Self:
        if self._entry is not None:
            raise RuntimeError(f"{self!r} is for one block")
        runtime = self._runtime or current_runtime()
        self._entry = entry = self._enter(runtime)
        self._guard_it()
        try:
            await self._create(entry)
        except BaseException:
            self._unguard_it()
            raise
        self._renewing = anyio.CancelScope()
        self._stopped = anyio.Event()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        with detached():
            self._tasks.start_soon(self._renew, entry, runtime)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        assert self._entry is not None
        self._renewing.cancel()
        try:
            await self._withdraw(self._entry)
            with anyio.CancelScope(shield=True):
                await self._stopped.wait()
        finally:
            self._unguard_it()
            # Without the block's error, which it would wrap in a group.
            await self._tasks.__aexit__(None, None, None)

    def __enter__(self) -> Self:
        from anyio.from_thread import start_blocking_portal

        self._runtime = self._runtime or current_runtime()
        with ExitStack() as stack:
            self._guard_it()  # here, since the portal is not the main thread
            stack.callback(self._unguard_it)
            portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(portal.wrap_async_context_manager(self))
            self._portal = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._portal.close()

    def _guard_it(self) -> None:
        if self._sigterm and self._guard is None:
            self._guard = BeforeTermination(self._withdraw_at_once)

    def _unguard_it(self) -> None:
        if self._guard is not None:
            self._guard.cancel()

    def _withdraw_at_once(self) -> None:
        """The process is about to end."""
        if self._entry is not None:
            with suppress(OSError, DiscoveryError):
                self._entry.withdraw()

    async def _create(self, entry: Entry) -> None:
        try:
            await self._offload(entry.create)
        except (OSError, DiscoveryError) as error:
            raise DiscoveryError(f"{self.instance.id} could not be registered in {self._where}: {error}") from error
        except BaseException:
            await self._withdraw(entry)  # cancelled while a thread is writing
            raise

    async def _renew(self, entry: Entry, runtime: Runtime) -> None:
        failing = False
        try:
            with self._renewing:
                while True:
                    await runtime.sleep(self.ttl / (10.0 if failing else 3.0))
                    try:
                        await self._offload(entry.renew)
                    except (OSError, DiscoveryError) as error:
                        if not failing:
                            _log.warning("%s: its registration could not be renewed: %s", self.instance.id, error)
                        failing = True
                    else:
                        failing = False
        finally:
            self._stopped.set()

    async def _withdraw(self, entry: Entry) -> None:
        """Remove the entry, whoever is cancelled meanwhile; wait no longer than it takes to expire by itself."""
        try:
            with anyio.move_on_after(self.ttl, shield=True):
                await self._offload(entry.withdraw)
        except (OSError, DiscoveryError) as error:
            _log.warning("%s: its registration was not withdrawn and has to expire: %s", self.instance.id, error)
        except BaseException:
            # A native cancellation of asyncio pierces the shield, maybe before the thread began.
            if not entry.withdrawing:
                entry.abandon()
            raise


@final
class _Worker:
    """Worker threads that nobody else can keep busy: one for the renewal, one for the withdrawal that overtakes it."""

    def __init__(self) -> None:
        self._limiter: anyio.CapacityLimiter | None = None

    async def __call__(self, work: Callable[[], T], /) -> T:
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(2)  # belongs to the event loop of the block
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)
