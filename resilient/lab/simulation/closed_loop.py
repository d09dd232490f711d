"""Loads whose callers wait for their answers: users who think in between, computations that go on step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from resilient.lab.engine import Signal
from resilient.lab.load import OK, UNFINISHED, Record
from resilient.lab.scenario import Computations, Users
from resilient.lab.simulation.caller import outcome_of
from resilient.lab.world.job import Errand

if TYPE_CHECKING:
    from resilient.lab.simulation.world import World

__all__ = ["run_computations", "run_users"]


async def run_users(world: World, load: Users) -> None:
    """Let users think and call in turn until the scenario's duration is over."""
    loop = _ClosedLoop(world)
    think, think_time = world.chance.of_call("think"), load.think.quantile
    clients = world.scenario.clients
    # The calls of a user are those whose numbers differ by this: all of them are made by the same client.
    stride = -(-load.count // clients) * clients

    async def use(user: int) -> None:
        turn = 0
        while await loop.pause(think_time(think(user, turn))):
            await loop.call(user + turn * stride)
            turn += 1

    for user in range(load.count):
        world.engine.spawn(use, user)
    await loop.over()


async def run_computations(world: World, load: Computations) -> None:
    """Make all computations at once, and note which came out right when the scenario's duration is over."""
    loop = _ClosedLoop(world)
    ended: dict[int, None] = {}

    async def compute(computation: int) -> None:
        for step in range(load.steps):
            if not await loop.call(computation * load.steps + step, key=computation):
                return
        ended[computation] = None

    for computation in range(load.count):
        world.engine.spawn(compute, computation)
    await loop.over()
    world.extra["right"] = sum(world.accounts[computation] == load.steps for computation in ended) / load.count


@final
class _ClosedLoop:
    """The calls of those who wait for an answer before they call again. None begins after the scenario's duration."""

    def __init__(self, world: World) -> None:
        scenario = world.scenario
        self._engine = world.engine
        self._began = world.began
        self._callers = world.callers
        self._recording = world.recording
        self._errand_of = world.errands()
        self._groups_of = world.groups()
        self._ends = world.began + scenario.duration
        self._drain = scenario.drain
        self._running: dict[int, tuple[Errand, float]] = {}
        self._over = world.engine.signal()

    async def pause(self, seconds: float) -> bool:
        """Let so much time pass, and tell whether there is time for a call."""
        until = self._engine.now() + seconds
        if until < self._ends:
            signal = self._engine.signal()
            self._engine.at(until, _tell, signal)
            await signal
        return until < self._ends

    async def call(self, number: int, *, key: int | None = None) -> bool:
        """Make a call that is due now; tell whether it succeeded. False where there is no time for it."""
        now = self._engine.now()
        if now >= self._ends:
            return False
        errand = self._errand_of(number)
        if key is not None:
            errand.key = key
        self._running[number] = errand, now - self._began
        outcome = UNFINISHED
        try:
            reply = await self._callers[number % len(self._callers)].call(errand)
        except Exception as error:  # noqa: BLE001 - whatever the policies raise is a failed call
            outcome = type(error).__name__
        else:
            outcome = outcome_of(reply)
        finally:
            self._end(number, outcome)
        return outcome == OK

    def _end(self, number: int, outcome: str) -> None:
        running = self._running.pop(number, None)
        if running is None:
            return  # it was given up
        errand, due = running
        now = self._engine.now()
        record = Record(due, due, now - self._began, outcome == OK, outcome, max(1, errand.attempts), number)
        self._recording.record(record, () if self._groups_of is None else self._groups_of(errand))
        if now >= self._ends and not self._running:
            _tell(self._over)

    async def over(self) -> None:
        """Wait for the end, and as long as the scenario lets calls drain."""
        self._engine.at(self._ends, self._finish)
        await self._over

    def _finish(self) -> None:
        if self._running:
            self._engine.at(self._ends + self._drain, self._give_up)
        else:
            _tell(self._over)

    def _give_up(self) -> None:
        for number in [*self._running]:
            self._end(number, UNFINISHED)


def _tell(signal: Signal) -> None:
    if not signal.done():
        signal.set_result(None)
