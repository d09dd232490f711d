"""Hedged calls whose attempts, limits and callers end whenever they like: nothing is left, lost or torn."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.call import Call, Next
from resilient.pipeline import Pipeline
from resilient.policies.hedge import Hedge
from resilient.policies.timeout import Timeout
from resilient.testing import virtual_time
from resilient.verdict import Classifier, classify_function
from tests.policies.races import hedged, me, now

# Everything happens at quarters of a second, so that much of it happens at once.
_QUARTERS = st.integers(1, 12).map(lambda number: number / 4)


@dataclass(frozen=True)
class Plan:
    """An attempt."""

    seconds: float
    comes_to: str
    when_cancelled: str
    leaving: float
    limit: tuple[str, float]


@dataclass(frozen=True)
class Story:
    """A hedged call, and what ends it from outside, and when."""

    plans: tuple[Plan, ...]
    ended_by: str
    at: float


def stories(*endings: str) -> st.SearchStrategy[Story]:
    limits = ["none", "anyio", "ours", *(["asyncio"] if "cancel" in endings else [])]
    plan = st.builds(
        Plan,
        seconds=_QUARTERS,
        comes_to=st.sampled_from(["result", "error"]),
        when_cancelled=st.sampled_from(["leaves", "answers", "fails"]),
        leaving=st.sampled_from([0.0, 0.25, 0.5]),
        limit=st.tuples(st.sampled_from(limits), _QUARTERS),
    )
    return st.builds(
        Story,
        plans=st.lists(plan, min_size=2, max_size=4).map(tuple),
        ended_by=st.sampled_from(["nothing", *endings]),
        at=_QUARTERS,
    )


@dataclass
class World:
    """What goes on while a story is told."""

    running: int = 0
    torn: int = 0
    swallowed: bool = False
    """An attempt did not let a cancellation pass."""
    opened: list[int] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)

    async def close(self, result: int) -> bool:
        self.closed.append(result)
        await anyio.sleep(0.25)
        return False

    async def attempt(self, plan: Plan) -> int:
        self.running += 1
        try:
            await anyio.sleep(plan.seconds)
        except anyio.get_cancelled_exc_class():
            await self._clean_up(plan.leaving)
            if plan.when_cancelled == "leaves":
                raise
            self.swallowed = True
            if plan.when_cancelled == "fails":
                raise KeyError from None
        finally:
            self.running -= 1
        if plan.comes_to == "error":
            raise OSError
        self.opened.append(me())
        return me()

    async def _clean_up(self, seconds: float) -> None:
        """Notice if it is cancelled although nobody but the race does that."""
        try:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(seconds)
        except anyio.get_cancelled_exc_class():
            self.torn += 1
            raise


async def foreign(call: Call, nxt: Next[Any]) -> Any:
    return await nxt(call)


async def call(story: Story, world: World) -> int:
    async def work() -> int:
        plan = story.plans[me() - 1]
        kind, seconds = plan.limit
        if kind == "asyncio":
            async with asyncio.timeout(seconds):
                return await world.attempt(plan)
        if kind == "anyio":
            with anyio.fail_after(seconds):
                return await world.attempt(plan)
        if kind == "ours":
            return await Pipeline(Timeout(seconds)).run(world.attempt, plan)
        return await world.attempt(plan)

    classify = Classifier(error=classify_function.error, discard=world.close)
    hedge = Hedge(0.5, max_hedges=len(story.plans) - 1)
    result: int = await hedged(work, hedge=hedge, classify=classify)
    world.returned.append(result)
    return result


def check(world: World) -> None:
    """What holds at the end of every story."""
    assert world.running == 0
    assert sorted(world.closed + world.returned) == sorted(world.opened)
    assert now() < 10.0


def may_be_torn(story: Story) -> bool:
    """Whether somebody else may cancel a clean-up past its shield: on asyncio, whatever knows nothing of anyio."""
    return story.ended_by in {"cancel", "timeout", "deadline"} or any(
        plan.limit[0] in {"asyncio", "ours"} for plan in story.plans
    )


async def tell(story: Story, world: World) -> object:
    """Run the call in what ends it; return what comes of it."""
    came_to: object = "ended"
    try:
        match story.ended_by:
            case "scope":
                with anyio.move_on_after(story.at):
                    came_to = await call(story, world)
            case "timeout":
                async with asyncio.timeout(story.at):
                    came_to = await call(story, world)
            case "deadline":
                came_to = await Pipeline(Timeout(story.at), foreign).run(call, story, world)
            case _:
                came_to = await call(story, world)
    except (OSError, KeyError) as error:  # a TimeoutError is an OSError
        return error
    return came_to


@settings(max_examples=300)
@given(story=stories("cancel", "scope", "timeout", "deadline"))
def test_on_asyncio(story: Story) -> None:
    world = World()
    fired: list[float] = []

    async def caller() -> object:
        task = asyncio.current_task()
        assert task is not None

        def cancel() -> None:
            fired.append(now())
            task.cancel()

        handle = asyncio.get_running_loop().call_later(story.at, cancel) if story.ended_by == "cancel" else None
        try:
            came_to = await tell(story, world)
        except asyncio.CancelledError:
            assert fired
            assert task.cancelling() == 1
            return "cancelled"
        finally:
            if handle is not None:
                handle.cancel()
        assert task.cancelling() == len(fired)
        while task.cancelling():
            task.uncancel()
        await anyio.lowlevel.checkpoint()  # no cancellation comes late
        return came_to

    async def main() -> None:
        task = asyncio.create_task(caller())
        await asyncio.wait([task])
        assert asyncio.all_tasks() == {asyncio.current_task()}
        check(world)
        if fired and not world.swallowed:
            assert task.result() == "cancelled"
        if story.ended_by != "scope":
            assert task.result() != "ended"
        assert may_be_torn(story) or world.torn == 0

    virtual_time.run(main)


@settings(max_examples=300)
@given(story=stories("scope", "deadline"), seed=st.integers(0, 9))
def test_on_trio(story: Story, seed: int) -> None:
    world = World()

    async def main() -> None:
        came_to = await tell(story, world)
        await anyio.lowlevel.checkpoint()
        check(world)
        if story.ended_by != "scope":
            assert came_to != "ended"
        assert world.torn == 0

    virtual_time.run(main, backend="trio", seed=seed)
