"""What the fake API server says in a watch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

from resilient.testing.kubernetes.objects import Change, Objects, Refused, Resource, refusal
from resilient.testing.kubernetes.selector import Selector

__all__ = ["Watch", "asks_for_initial_events", "encode"]

_STEP = 0.02


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a client wants to be told, and for how long."""

    resource: Resource
    namespace: str | None
    selector: Selector
    since: int
    initial: bool
    seconds: float
    bookmarks: float | None

    def lines(self, objects: Objects, over: Callable[[], bool]) -> Iterator[bytes]:
        """Make the lines, until the time is over, or it is `over`; an empty one when there is nothing to say."""
        since = self.since
        began = time.monotonic()
        until, bookmark_at = began + self.seconds, began + (self.bookmarks or 0.0)
        if since == 0:
            present = objects.page(self.resource, self.namespace, self.selector, 0, "")
            since = int(present["metadata"]["resourceVersion"])
            for found in present["items"]:
                yield self._line("ADDED", found)
            if self.initial:
                yield self._bookmark(since, annotations={"k8s.io/initial-events-end": "true"})
        while not over() and (now := time.monotonic()) < until:
            try:
                with objects.changed:
                    changes, since = objects.since(self.resource, self.namespace, since)
                    if not changes:
                        objects.changed.wait(min(_STEP, until - now))
            except Refused as expired:
                yield encode({"type": "ERROR", "object": expired.status})
                return
            for change in changes:
                yield from self._told(change)
            if self.bookmarks is not None and now >= bookmark_at:
                bookmark_at = now + self.bookmarks
                yield self._bookmark(since)
            yield b""

    def _told(self, change: Change) -> Iterator[bytes]:
        """Make what one who selects is told of a change: an object that no longer matches is as good as deleted."""
        before, after = self.selector.matches(change.before), self.selector.matches(change.after)
        if after and change.after is not None:
            yield self._line("MODIFIED" if before else "ADDED", change.after)
        elif before and change.before is not None:
            metadata = {**change.before["metadata"], "resourceVersion": str(change.revision)}
            yield self._line("DELETED", {**change.before, "metadata": metadata})

    def _bookmark(self, since: int, **metadata: Any) -> bytes:
        return self._line(
            "BOOKMARK", {"metadata": {"resourceVersion": str(since), **metadata}, **self.resource.bookmark}
        )

    def _line(self, kind: str, found: Mapping[str, Any]) -> bytes:
        typed = {"kind": self.resource.kind, "apiVersion": self.resource.api_version, **found}
        return encode({"type": kind, "object": typed})


def encode(found: Mapping[str, Any]) -> bytes:
    """Write an object as the API server does: compact, in UTF-8, with a line feed."""
    return json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def asks_for_initial_events(params: Mapping[str, str], *, known: bool) -> bool:
    """Whether a watch wants the present first; refuse it, in the words of a server that does not know of it."""
    if "sendInitialEvents" not in params:
        if "resourceVersionMatch" in params:
            raise _invalid("resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch")
        return False
    if not known:
        raise _invalid("resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch")
    if params.get("resourceVersionMatch") != "NotOlderThan" or not params.get("allowWatchBookmarks"):
        raise _invalid("sendInitialEvents: Forbidden: it needs resourceVersionMatch and allowWatchBookmarks")
    return params["sendInitialEvents"] in {"1", "true"}


def _invalid(message: str) -> Refused:
    details = {"group": "meta.k8s.io", "kind": "ListOptions"}
    return refusal(422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {message}', details)
