"""What is known of a service's instances, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias, final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from resilient.instance import Instance
from resilient.snapshot import Snapshot

__all__ = ["Look"]

_Mark: TypeAlias = Literal["+", "-", "~"]

_STYLES: dict[_Mark | None, str] = {"+": "bold green", "-": "red strike", "~": "bold yellow", None: ""}
_RECENT = 10.0
"""For how many seconds a change is highlighted: long enough for an eye that was elsewhere."""


@final
class Look:
    """The newest snapshot, and what changed a moment ago. Times are arguments."""

    def __init__(self, url: str, began: float) -> None:
        self.url = url
        self.snapshot: Snapshot | None = None
        self.trouble: Callable[[], str | None] = lambda: None
        """Tells why nothing new is learned, where that is known."""
        self._began = began
        self._marks: dict[str, tuple[_Mark, float, Instance]] = {}
        self._news: list[str] = []

    def learn(self, snapshot: Snapshot, now: float) -> None:
        """Take a new snapshot and mark what it changes."""
        last, self.snapshot = self.snapshot, snapshot
        new = {instance.id: instance for instance in snapshot.instances}
        if last is None:
            self._news += [f"  {_tell(instance)}" for instance in snapshot.instances]
            return
        old = {instance.id: instance for instance in last.instances}
        for name in sorted(old.keys() | new.keys()):
            before, after = old.get(name), new.get(name)
            if before == after:
                continue
            mark: _Mark = "+" if before is None else "-" if after is None else "~"
            if (shown := after or before) is not None:
                self._marks[name] = (mark, now, shown)
                self._news.append(f"{mark} {_tell(shown)}")

    # -- for programs ---------------------------------------------------------------------------------------------

    def document(self, now: float, at: str) -> dict[str, Any]:
        """The newest snapshot as a JSON document; `at` is when, for the reader."""
        snapshot = self.snapshot
        stale_since = None if snapshot is None else snapshot.stale_since
        return {
            "at": at,
            "url": self.url,
            "version": None if snapshot is None else snapshot.version,
            "stale_for": None if stale_since is None else round(now - stale_since, 3),
            "trouble": self.trouble(),
            "instances": [
                {
                    "id": one.id,
                    "host": one.host,
                    "port": one.port,
                    "weight": one.weight,
                    "zone": one.zone,
                    "metadata": dict(one.metadata),
                }
                for one in (() if snapshot is None else snapshot.instances)
            ],
        }

    def log(self, now: float, at: str) -> Iterator[str]:
        """What changed since the last time, in lines."""
        yield f"{at}  {self.headline(now).plain}"
        yield from self._news
        self._news.clear()

    # -- for people -----------------------------------------------------------------------------------------------

    def headline(self, now: float) -> Text:
        """How many there are, and how far that can be believed."""
        snapshot, trouble = self.snapshot, self.trouble()
        if snapshot is None:
            text = Text(f"no answer for {now - self._began:.0f} s", style="yellow")
        else:
            count = len(snapshot.instances)
            text = Text("no instances" if not count else f"{count} instance{'s' if count > 1 else ''}", style="bold")
            text.append(f", version {snapshot.version}", style="not bold")
            if snapshot.stale_since is not None:
                text.append(f", stale for {now - snapshot.stale_since:.0f} s", style="yellow")
        if trouble is not None:
            text.append(f": {trouble}", style="yellow")
        return text

    def view(self, now: float) -> RenderableType:
        """A table; what changed is marked, and what is gone stays a moment longer."""
        snapshot = self.snapshot
        head = Text.assemble((self.url, "bold cyan"), "  ", self.headline(now))
        self._marks = {name: mark for name, mark in self._marks.items() if now - mark[1] < _RECENT}
        rows = {} if snapshot is None else {one.id: one for one in snapshot.instances}
        rows |= {name: one for name, (mark, _, one) in self._marks.items() if mark == "-"}
        if not rows:
            return head
        shown = [rows[name] for name in sorted(rows)]
        columns: list[tuple[str, Callable[[Instance], str]]] = [("instance", lambda one: one.id)]
        if any(one.id != one.address for one in shown):
            columns.append(("address", lambda one: one.address))
        columns.append(("weight", lambda one: f"{one.weight:.4g}"))
        if any(one.zone for one in shown):
            columns.append(("zone", lambda one: one.zone or ""))
        if any(one.metadata for one in shown):
            columns.append(("metadata", _metadata))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("", width=1)
        for name, _ in columns:
            table.add_column(name, justify="right" if name == "weight" else "left", overflow="fold")
        stale = snapshot is not None and snapshot.stale_since is not None
        for one in shown:
            mark = self._marks[one.id][0] if one.id in self._marks else None
            cells = [Text(mark or ""), *(Text(tell(one)) for _, tell in columns)]
            table.add_row(*cells, style=_STYLES[mark] or ("yellow" if stale else ""))
        return Group(head, table)


def _metadata(instance: Instance) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(instance.metadata.items()))


def _tell(instance: Instance) -> str:
    told = [instance.id]
    if instance.id != instance.address:
        told.append(f"at {instance.address}")
    told.append(f"weight={instance.weight:.4g}")
    if instance.zone:
        told.append(f"zone={instance.zone}")
    return " ".join([*told, _metadata(instance)]).rstrip()
