"""Hedging against a model of it: whatever the attempts come to and however long they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anyio
from hypothesis import given
from hypothesis import strategies as st

from resilient.context import current_call, current_runtime, options
from resilient.pipeline import Pipeline
from resilient.policies.hedge import Hedge
from resilient.testing import virtual_time
from resilient.verdict import Verdict, classify_function

_FAILURES = {"may have run": ConnectionResetError, "had no effect": ConnectionRefusedError}


@dataclass(frozen=True)
class Plan:
    """An attempt: how long it takes, what it comes to, and how long it takes to leave when it is cancelled."""

    seconds: float
    comes_to: str
    leaving: float


@st.composite
def plans(draw: st.DrawFn) -> list[Plan]:
    """No two attempts end at one instant, nor does one when another begins, or both would be right."""
    return [
        Plan(
            seconds=draw(st.integers(0, 6)) + (number + 1) / 16,
            comes_to=draw(st.sampled_from(["a success", *_FAILURES])),
            leaving=draw(st.integers(0, 3)) / 256,
        )
        for number in range(draw(st.integers(2, 5)))
    ]


@dataclass
class Expected:
    """What is to come of a hedged call: who surfaces, when, and when each attempt began and left."""

    surfaces: int
    at: float
    began: list[float]
    left: dict[int, float]


def expect(attempts: list[Plan]) -> Expected:
    """One begins each second until one has ended or all are under way; the first success ends all others."""
    began: list[float] = []
    left: dict[int, float] = {}
    quiet = False
    while True:
        running = {n: began[n] + attempts[n].seconds for n in range(len(began)) if n not in left}
        upcoming = float(len(began))
        may_begin = not quiet and len(began) < len(attempts)
        if may_begin and upcoming < min(running.values(), default=upcoming + 1):
            began.append(upcoming)
            continue
        if not running:
            break
        ends = min(running, key=lambda n: running[n])
        now = left[ends] = running.pop(ends)
        quiet = True
        if attempts[ends].comes_to == "a success":
            left |= {n: now + attempts[n].leaving for n in running}
            return Expected(ends, max(left[n] for n in (ends, *running)), began, left)
    in_order = sorted(left, key=lambda n: left[n])
    unknown = (n for n in in_order if attempts[n].comes_to == "may have run")
    return Expected(next(unknown, in_order[-1]), max(left.values()), began, left)


def observe(attempts: list[Plan], backend: str) -> Expected:
    """What comes of it."""
    began: list[float] = []
    left: dict[int, float] = {}

    def now() -> float:
        return current_runtime().now()

    async def work() -> int:
        call = current_call()
        assert call is not None
        number = call.attempt - 1
        plan = attempts[number]
        began.append(now())
        try:
            await anyio.sleep(plan.seconds)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await anyio.sleep(plan.leaving)
            raise
        finally:
            left[number] = now()
        if plan.comes_to in _FAILURES:
            raise _FAILURES[plan.comes_to](number)
        return number

    async def main() -> Expected:
        surfaces: Any
        with options(idempotent=True):
            try:
                surfaces = await Pipeline(Hedge(1.0, max_hedges=len(attempts) - 1)).run(work)
            except ConnectionError as error:
                surfaces = error.args[0]
        return Expected(surfaces, now(), began, left)

    return virtual_time.run(main, backend=backend)


def test_the_failures_are_what_their_names_say() -> None:
    verdicts = {name: classify_function.error(kind()) for name, kind in _FAILURES.items()}
    assert verdicts == {"may have run": Verdict.FAILED, "had no effect": Verdict.UNREACHABLE}


@given(attempts=plans())
def test_it_does_what_the_model_does_on_asyncio(attempts: list[Plan]) -> None:
    assert observe(attempts, "asyncio") == expect(attempts)


@given(attempts=plans())
def test_it_does_what_the_model_does_on_trio(attempts: list[Plan]) -> None:
    assert observe(attempts, "trio") == expect(attempts)
