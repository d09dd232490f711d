"""Being found: an entry in a registry that is there as long as its process is."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, final

import anyio

from resilient.context import current_runtime, detached
from resilient.discovery.polling import Offload, in_thread
from resilient.discovery.records import RecordFile
from resilient.errors import DiscoveryError
from resilient.instance import Instance
from resilient.runtime import Runtime

__all__ = ["FileRegistration"]

_log = logging.getLogger("resilient.discovery")


@final
class FileRegistration:
    """A record in a folder, renewed while the block runs. For one block; made by `register`."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        instance: Instance,
        *,
        ttl: float,
        runtime: Runtime | None = None,
        offload: Offload = in_thread,
    ) -> None:
        self.instance = instance
        self.ttl = ttl
        self._folder = Path(folder)
        self._runtime = runtime
        self._offload = offload
        self._entered = False

    def __repr__(self) -> str:
        return f"FileRegistration({str(self._folder)!r}, {self.instance!r}, ttl={self.ttl!r})"

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError(f"{self!r} is for one block")
        self._entered = True
        runtime = self._runtime or current_runtime()
        self._record = RecordFile(self._folder, self.instance, self.ttl, runtime.new_id())
        try:
            await self._offload(partial(self._record.create, runtime.wall()))
        except OSError as error:
            raise DiscoveryError(f"{self.instance.id} could not be registered in {self._folder}: {error}") from error
        except BaseException:
            await self._withdraw()  # cancelled while a thread is writing
            raise
        self._renewing = anyio.CancelScope()
        self._stopped = anyio.Event()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        with detached():
            self._tasks.start_soon(self._renew, runtime)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._renewing.cancel()
        try:
            await self._withdraw()
            with anyio.CancelScope(shield=True):
                await self._stopped.wait()
        finally:
            # Without the block's error, which it would wrap in a group.
            await self._tasks.__aexit__(None, None, None)

    def __enter__(self) -> Self:
        from anyio.from_thread import start_blocking_portal

        self._runtime = self._runtime or current_runtime()
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(portal.wrap_async_context_manager(self))
            self._portal = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._portal.close()

    async def _renew(self, runtime: Runtime) -> None:
        failing = False
        try:
            with self._renewing:
                while True:
                    await runtime.sleep(self.ttl / (10.0 if failing else 3.0))
                    try:
                        await self._offload(partial(self._record.write, runtime.wall()))
                    except OSError as error:
                        if not failing:
                            _log.warning("%s: its registration could not be renewed: %s", self.instance.id, error)
                        failing = True
                    else:
                        failing = False
        finally:
            self._stopped.set()

    async def _withdraw(self) -> None:
        """Remove the record, whoever is cancelled meanwhile; wait no longer than it takes to expire by itself."""
        try:
            with anyio.move_on_after(self.ttl, shield=True):
                await self._offload(self._record.withdraw)
        except OSError as error:
            _log.warning("%s: its registration was not withdrawn and has to expire: %s", self.instance.id, error)
        except BaseException:
            # A native cancellation of asyncio pierces the shield, maybe before the thread began.
            if not self._record.withdrawing:
                self._record.withdraw()
            raise
