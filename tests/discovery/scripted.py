"""A source that says what a script says."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import anyio

from resilient.backends.listwatch import Changes, Listing
from resilient.discovery.reflector import Candidate
from resilient.instance import Instance


def instance(name: str, *, weight: float = 1.0) -> Instance:
    return Instance(id=name, host=name, port=80, weight=weight)


def objects(**found: str) -> dict[str, list[Candidate]]:
    """Objects by key, each with its instances: `objects(slice="a b")`."""
    return {key: [Candidate(instance(name)) for name in names.split()] for key, names in found.items()}


def listing(revision: int, **found: str) -> Listing[list[Candidate]]:
    return Listing(objects(**found), str(revision))


def changes(revision: int, *removed: str, **found: str) -> Changes[list[Candidate]]:
    return Changes(str(revision), objects(**found), removed)


class Scripted:
    """Lists and watches follow their scripts: what is said, seconds of silence, and exceptions.

    A list that has no script hangs, and so does a watch.
    """

    def __init__(self, lists: Sequence[Any], watches: Sequence[Sequence[Any]] = (), *, silence: float = 1e9) -> None:
        self.lists = list(lists)
        self.watches = [list(script) for script in watches]
        self.silence = silence
        self.listed_at: list[float] = []
        self.watched_at: list[float] = []
        self.revisions: list[str] = []
        self.open = 0

    async def listing(self) -> Any:
        self.listed_at.append(anyio.current_time())
        while self.lists:
            step = self.lists.pop(0)
            if isinstance(step, Exception):
                raise step
            if not isinstance(step, int | float):
                return step
            await anyio.sleep(step)
        return await anyio.sleep_forever()

    async def watch(self, revision: str) -> AsyncGenerator[Any, None]:
        self.watched_at.append(anyio.current_time())
        self.revisions.append(revision)
        self.open += 1
        try:
            if not self.watches:
                await anyio.sleep_forever()
            for step in self.watches.pop(0):
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, int | float):
                    await anyio.sleep(step)
                else:
                    await anyio.lowlevel.checkpoint()
                    yield step
        finally:
            self.open -= 1
