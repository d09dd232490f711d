"""Follows a source that can be listed and then watched: Kubernetes, etcd, Consul.

Every such system has the same traps, so they are met once, here. A watch can end, hang, expire or lie; what is true is
a list. Whoever has a source implements `Source`, and is told nothing of time, retries or differences.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass, field
from typing import Generic, NoReturn, Protocol, TypeVar, final

import anyio

from resilient.errors import DiscoveryError
from resilient.machines.backoff import Backoff
from resilient.runtime import Runtime

__all__ = ["Changes", "Expired", "ListWatch", "Listing", "Source", "SourceFailed", "View"]

_log = logging.getLogger("resilient.discovery")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)

_LONGEST_CLOSE = 1.0
"""Seconds in which a stream has to be closed: a connection to a black hole is worth no more."""
_SHORTEST = 1.0
"""Seconds: a watch that ends sooner, even cleanly, is paced like a failure."""
_LONGEST_HINT = 300.0
"""Seconds: no source may ask for a longer pause."""


@final
@dataclass(frozen=True, slots=True)
class Listing(Generic[T_co]):
    """All objects of a source at one moment, by key. What is not in it is not there any more.

    `revision` is where a watch goes on from here, in the source's own notation.
    """

    objects: Mapping[str, T_co]
    revision: str


@final
@dataclass(frozen=True, slots=True)
class Changes(Generic[T_co]):
    """What happened since: applied as one, so what the source did in one transaction is never half seen.

    `revision` is where a watch may go on after them. Changes that change nothing are a sign of life: a bookmark, a
    progress report, a heartbeat.
    """

    revision: str
    put: Mapping[str, T_co] = field(default_factory=dict[str, T_co])
    removed: Collection[str] = ()


class SourceFailed(DiscoveryError):
    """The source refused, or did not answer. `retry_after`: the seconds for which it asks to be left alone, if any."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Expired(DiscoveryError):
    """The source no longer remembers the revision that a watch should go on from: it has to be listed again."""


class Source(Protocol[T_co]):
    """What can be listed, and watched from there. It holds connections, but neither time nor memory.

    Both methods raise an `OSError` (a `TimeoutError` is one) or a `DiscoveryError` when they fail: `SourceFailed` if
    the source says for how long, `Expired` if the revision is unknown. Anything else is a bug, and is logged with its
    traceback. Either way it is tried again.
    """

    @property
    def silence(self) -> float:
        """After how many seconds without anything new, not even a sign of life, a watch is dead.

        Half-open connections are found by this, and by nothing else: longer than the source ever keeps quiet.
        """
        ...

    async def listing(self) -> Listing[T_co]:
        """Return everything, as it is now."""
        ...

    def watch(self, revision: str) -> AsyncGenerator[Listing[T_co] | Changes[T_co], None]:
        """Yield what happens after `revision`; end when the source ends the watch.

        A `Listing` replaces everything, for sources that tell no differences (Consul). The generator is closed in the
        task that reads it, but a read may be cancelled: it must not yield inside a cancel scope or a task group.
        """
        ...


class View(Protocol[T_contra]):
    """Where the objects are kept. It may raise a `DiscoveryError` about what it will not keep."""

    def replace(self, objects: Mapping[str, T_contra]) -> None:
        """Keep exactly these; find out what has gone."""
        ...

    def update(self, put: Mapping[str, T_contra], removed: Collection[str]) -> None:
        """Keep these too, or anew; forget those that were removed, if they are known."""
        ...


@final
class ListWatch(Generic[T]):
    """Keeps `view` the same as `source`, for ever: `run` it in a task.

    ======  ========================================  ====================================================
    while   this happens                              and then
    ======  ========================================  ====================================================
    list    an answer                                 the view is replaced; no trouble any more; watch
    list    a failure, or `list_timeout` is over      back off; list
    watch   changes                                   the view is updated; watch on
    watch   a listing                                 the view is replaced; watch on
    watch   a clean end, after signs of life          watch from the last revision
    watch   a clean end, after none                   list
    watch   the revision is expired                   back off; list
    watch   a failure, or nothing for `silence`       back off; list
    ======  ========================================  ====================================================

    A list follows whatever went wrong, because only a list tells what was removed meanwhile, and because a watch from a
    revision that the source does not have (restored from a backup, or behind) hangs without a word. That is also why a
    watch that never showed a sign of life is not believed again.

    The first failure in a row is a blip, and no `trouble` once anything is known; the second is. `backoff` (0.8 to
    30 s, full jitter: a fleet must not come back in step) is also paid by a watch that ends as soon as it began. A row
    ends with a watch that lasted for as long as the longest wait. A source's own hint (`Retry-After`) is kept, up to
    300 s.

    `news` may be waited for; `pending_since` tells since when there is some. Not thread-safe: for one event loop.
    """

    def __init__(
        self,
        source: Source[T],
        view: View[T],
        *,
        runtime: Runtime,
        backoff: Backoff | None = None,
        list_timeout: float = 60.0,
    ) -> None:
        if not (math.isfinite(list_timeout) and list_timeout > 0):
            raise ValueError(f"list_timeout={list_timeout!r}: a finite number of seconds, more than 0")
        self._source = source
        self._view = view
        self._runtime = runtime
        self._backoff = Backoff(base=0.8, cap=30.0) if backoff is None else backoff
        self._list_timeout = list_timeout
        self._row = 0
        """How many steps in a row ended too early."""
        self._news = anyio.Event()
        self.listed = False
        """Whether anything is known."""
        self.trouble: str | None = None
        """Why the view may be out of date; None: it is not."""
        self.heard_at = -math.inf
        """The second of the last sign of life."""
        self.pending_since: float | None = None
        """Since when there is something that nobody has taken."""

    async def news(self) -> None:
        """Wait until there is something that nobody has taken."""
        await self._news.wait()

    def take(self) -> None:
        """Whatever there was is taken."""
        self.pending_since = None
        self._news = anyio.Event()

    async def run(self) -> NoReturn:
        """Follow the source until cancelled."""
        revision: str | None = None
        while True:
            began = math.inf  # of the watch, once there is one
            hint = 0.0
            short = False
            try:
                if revision is None:
                    revision = await self._list()
                began = self._runtime.now()
                revision = await self._watch(revision)
                short = self._runtime.now() - began < _SHORTEST
            except Expired:
                revision = None
                short = True
            except Exception as error:  # noqa: BLE001 - what a source says may break any reader of it
                revision = None
                short = True
                hint = self._blame(error, lasted=self._runtime.now() - began)
            if self._runtime.now() - began >= self._backoff.cap:
                self._row = 0
            if short:
                self._row += 1
                wait = self._backoff.delay(self._row, self._runtime.random)
                await self._runtime.sleep(hint + wait)  # never early, and not all at once

    async def _list(self) -> str:
        with anyio.move_on_after(self._list_timeout) as patience:
            listing = await self._source.listing()
            self._learn(listing)
            return listing.revision
        assert patience.cancelled_caught
        raise DiscoveryError(f"it was not listed within {self._list_timeout:g} s")

    async def _watch(self, revision: str) -> str | None:
        """Watch until the source ends it; return where to go on, None: with a list."""
        alive = False
        stream = self._source.watch(revision)
        try:
            while True:
                said = None
                with anyio.move_on_after(self._source.silence) as patience:
                    said = await anext(stream, None)
                if patience.cancelled_caught:
                    raise DiscoveryError(f"nothing was heard for {self._source.silence:g} s")
                if said is None:
                    return revision if alive else None
                alive = True
                self._learn(said)
                revision = said.revision
        finally:
            with anyio.move_on_after(_LONGEST_CLOSE, shield=True):
                await stream.aclose()

    def _learn(self, said: Listing[T] | Changes[T]) -> None:
        self.heard_at = self._runtime.now()
        if isinstance(said, Listing):
            self._view.replace(said.objects)
            self.listed = True
            self.trouble = None
        elif said.put or said.removed:
            self._view.update(said.put, said.removed)
        else:
            return
        self._tell()

    def _blame(self, error: Exception, lasted: float) -> float:
        """Note what went wrong; return for how long the source asks to be left alone."""
        if not isinstance(error, OSError | DiscoveryError):
            _log.error("a source of instances answered what nobody understands", exc_info=error)
        again = self._row > 0 and lasted < self._backoff.cap
        if again or not self.listed:
            news = self.trouble is None
            self.trouble = str(error) or repr(error)
            if news:
                self._tell()
        if isinstance(error, SourceFailed) and error.retry_after is not None:
            return min(max(0.0, error.retry_after), _LONGEST_HINT)
        return 0.0

    def _tell(self) -> None:
        if self.pending_since is None:
            self.pending_since = self._runtime.now()
        self._news.set()
