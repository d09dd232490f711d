"""What is believed of a source that fails, or that says that there is nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Literal, TypeAlias, final, get_args

from resilient.instance import Instance
from resilient.snapshot import Snapshot

__all__ = ["LastGood", "OnEmpty"]

_BY_ID = attrgetter("id")

OnEmpty: TypeAlias = Literal["keep", "fail", "grace"]
"""What happens when a source that had instances says that there are none.

`keep` goes on with the last ones for ever. `fail` believes it at once: calls fail with `NoInstance`. `grace` goes on
for a while and then believes it.
"""


@final
class LastGood:
    """Makes snapshots of what a source says, for every kind of source. No I/O: time is an argument.

    ==============================  =============================================================
    the source                      the snapshot
    ==============================  =============================================================
    has other instances             these
    has the same                    none; fresh again if it was stale
    fails                           the last good ones, stale; none before the first success
    has none, and had none          none; empty if it is the first answer
    has none any more               by `on_empty`: the last good ones, stale, or empty
    ==============================  =============================================================

    `grace` is how long an empty answer is not believed, in seconds (30.0): longer than the gap in a deployment that
    stops the old instances before it starts the new ones, short enough that nobody calls for long whoever has their
    addresses next. It begins anew after every answer with instances in it.
    """

    def __init__(self, on_empty: OnEmpty = "grace", grace: float = 30.0, versions: Iterator[int] | None = None) -> None:
        if on_empty not in get_args(OnEmpty):
            raise ValueError(f"on_empty={on_empty!r}: one of {', '.join(get_args(OnEmpty))}")
        if not grace > 0:
            raise ValueError(f"grace={grace!r}: a number of seconds, more than 0")
        self._patience = {"keep": math.inf, "fail": 0.0, "grace": grace}[on_empty]
        self._versions = itertools.count(1) if versions is None else versions
        self._last: Snapshot | None = None
        self._confirmed = -math.inf
        self._empty_since: float | None = None
        self.trouble: str | None = None
        """Why the source is not, or cannot be, believed; None: it is."""

    @property
    def settles_at(self) -> float:
        """The second from which on an empty answer is believed, if it is given again; infinite if none is pending."""
        return math.inf if self._empty_since is None else self._empty_since + self._patience

    def learn(self, instances: Iterable[Instance], now: float) -> Snapshot | None:
        """The source answered. Return the snapshot that follows, or None if nothing changed."""
        found = tuple(sorted(instances, key=_BY_ID))
        if not found and self._last is not None and self._last.instances:
            if self._empty_since is None:
                self._empty_since = now
            if now < self.settles_at:
                return self.fail("it says that there are no instances any more")
        self._empty_since = None
        self._confirmed = now
        self.trouble = None
        return self._publish(found, None)

    def confirm(self, now: float) -> None:
        """The source gave a sign of life at the second `now`, and nothing has changed."""
        if self.trouble is None:
            self._confirmed = max(self._confirmed, now)

    def fail(self, trouble: str) -> Snapshot | None:
        """The source failed. Return the snapshot that follows, or None if nothing changed."""
        self.trouble = trouble
        last = self._last
        if last is None or last.stale_since is not None:
            return None
        return self._publish(last.instances, self._confirmed)

    def _publish(self, instances: tuple[Instance, ...], stale_since: float | None) -> Snapshot | None:
        last = self._last
        if last is not None and last.instances == instances and last.stale_since == stale_since:
            return None
        self._last = Snapshot(version=next(self._versions), instances=instances, stale_since=stale_since)
        return self._last
