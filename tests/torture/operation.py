"""The operation under torture: an effect of two parts, under a claim, in one of the ways that effects are protected."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Literal, cast, get_args

import anyio

from resilient.backends.store import Mode, Store
from resilient.idempotency import BlockingClaim, Claim, once
from resilient.runtime import Runtime
from tests.torture.checker import Row
from tests.torture.history import Pen
from tests.torture.hooks import WRITING, Fate
from tests.torture.places import SCOPE, Deferred, Place

Way = Literal["one_commit", "transactional", "derived", "fenced", "at_most_once"]
"""How an effect is protected. `one_commit` is mode `transactional` with the claim in the same transaction, `derived` is
mode `fenced` with derived keys that the far side honours, `fenced` the same without."""
WAYS: tuple[Way, ...] = get_args(Way)

TTL = 3600.0


def mode_of(way: Way) -> Mode:
    modes: dict[Way, Mode] = {"one_commit": "transactional", "derived": "fenced"}
    return modes.get(way) or cast("Mode", way)


class HandlerError(Exception):
    """What a handler raises of its own."""


@dataclass
class Operation:
    """`plain` and `asynchronous` are what callers call."""

    place: Place
    store: Store
    way: Way
    lease: float
    pen: Pen
    fate: Fate
    random: Random
    runtime: Runtime
    wait: float = 0.0
    """Seconds for which callers wait for each other."""
    slow: float = 0.15
    """The share of handlers that take longer than their lease."""
    failing: float = 0.03
    """The share of handlers that fail, in the middle of their effect."""

    def __post_init__(self) -> None:
        decorate = once(
            self.store,
            key=lambda key, payload, op: key,
            fingerprint=lambda key, payload, op: payload,
            mode=mode_of(self.way),
            scope=SCOPE,
            ttl=TTL,
            lease=self.lease,
            runtime=self.runtime,
            wait=self.wait,
            resumable=self.way != "one_commit",
        )

        @decorate
        def plain(claim: BlockingClaim, key: str, payload: str, op: str) -> dict[str, Any]:
            attempt = self.begin(claim, key, payload, op)
            time.sleep(self.think())
            if mode_of(self.way) == "transactional":
                with claim.transaction() as connection:
                    rows = self.write(connection, key, payload, attempt)
            else:
                steps = _Steps(self, claim, Row(key, payload, attempt, 0))
                rows = [steps.first()]
                if steps.saves:
                    claim.save("first", rows[0])
                rows.append(steps.second())
            return self.reply(claim, attempt, rows)

        @decorate
        async def asynchronous(claim: Claim, key: str, payload: str, op: str) -> dict[str, Any]:
            return await self.handle(claim, key, payload, op)

        self.plain, self.asynchronous = plain, asynchronous

    async def handle(self, claim: Claim, key: str, payload: str, op: str) -> dict[str, Any]:
        """The coroutine under the claim; the web application calls it, too."""
        attempt = self.begin(claim, key, payload, op)
        await anyio.sleep(self.think())
        if mode_of(self.way) == "transactional":
            rows = await self._write_somehow(claim, key, payload, attempt)
        else:
            steps = _Steps(self, claim, Row(key, payload, attempt, 0))
            rows = [steps.first()]
            if steps.saves:
                await claim.save("first", rows[0])
            await anyio.lowlevel.checkpoint()
            rows.append(steps.second())
        return self.reply(claim, attempt, rows)

    def begin(self, claim: Claim | BlockingClaim, key: str, payload: str, op: str) -> str:
        attempt = uuid.uuid4().hex[:16]
        self.pen.write("begin", op=op, key=key, payload=payload, fence=claim.fence, attempt=attempt)
        return attempt

    def think(self) -> float:
        """Seconds: mostly none, sometimes more than a lease."""
        return self.lease * 1.2 if self.random.random() < self.slow else self.random.choice([0.0, 0.0, 0.0, 0.02])

    def fail(self) -> None:
        """Fail, now and then, in the middle of the effect."""
        self.fate.reach(WRITING)
        if self.random.random() < self.failing:
            raise HandlerError

    def reply(self, claim: Claim | BlockingClaim, attempt: str, rows: list[str]) -> dict[str, Any]:
        return {"by": attempt, "fence": claim.fence, "rows": rows}

    def write(self, connection: Any, key: str, payload: str, attempt: str) -> list[str]:
        write = connection.rows.append if isinstance(connection, Deferred) else partial(self.place.write, connection)
        write(Row(key, payload, attempt, 1))
        self.fail()
        write(Row(key, payload, attempt, 2))
        return [attempt, attempt]

    async def write_async(self, connection: Any, key: str, payload: str, attempt: str) -> list[str]:
        await self.place.write_async(connection, Row(key, payload, attempt, 1))
        self.fail()
        await self.place.write_async(connection, Row(key, payload, attempt, 2))
        return [attempt, attempt]

    async def _write_somehow(self, claim: Claim, key: str, payload: str, attempt: str) -> list[str]:
        """In a function or in a block, whichever comes up."""
        in_a_function = self.random.random() < 0.5
        if self.place.asynchronous and _on_asyncio():
            if in_a_function:
                return await claim.run(self.write_async, key, payload, attempt)
            async with claim.transaction() as connection:
                return await self.write_async(connection, key, payload, attempt)
        if in_a_function:
            return await claim.run(self.write, key, payload, attempt)
        async with claim.transaction() as connection:
            return self.write(connection, key, payload, attempt)


class _Steps:
    """The two steps of an effect elsewhere; between them half of the keys save how far they came."""

    def __init__(self, operation: Operation, claim: Claim | BlockingClaim, row: Row) -> None:
        self._operation, self._claim, self._row = operation, claim, row
        self.saves = sum(row.key.encode()) % 2 == 0 and claim.recovery_point == "started"

    def first(self) -> str:
        if self._claim.recovery_point == "first":
            done: str = self._claim.recovery_data
            return done
        return self._apply(1)

    def second(self) -> str:
        self._operation.fail()
        return self._apply(2)

    def _apply(self, part: int) -> str:
        row = Row(self._row.key, self._row.payload, self._row.attempt, part)
        key = self._claim.derive_key(f"part {part}") if self._operation.way == "derived" else None
        return self._operation.place.far_side.apply(row, key)


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
