"""The clock of virtual time, and what can go wrong in it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from pathlib import Path
from traceback import FrameSummary, StackSummary
from typing import Any, Protocol, final

__all__ = [
    "EPOCH",
    "Agenda",
    "Deadlock",
    "ManualClock",
    "VirtualTimeError",
    "describe_deadlock",
    "describe_wait",
    "refusal",
]

EPOCH = 1_767_225_600.0
"""What the wall clock shows at virtual second 0: 2026-01-01 00:00 UTC."""


class VirtualTimeError(RuntimeError):
    """The code asked for something that does not exist in virtual time, such as a socket or a thread."""


class Deadlock(VirtualTimeError):
    """Every task waits, and nothing is scheduled that could wake one. The message shows where each waits."""


def refusal(what: str) -> VirtualTimeError:
    """The error for `what`, which waits for the real world while virtual time jumps ahead."""
    return VirtualTimeError(
        f"{what} in virtual time: it would wait for the real world, which stands still while the virtual clock "
        "jumps; give the code under test an in-memory stand-in, or run it in real time"
    )


@final
class ManualClock:
    """A monotonic clock that moves only when it is told to, and never back."""

    __slots__ = ("_epoch", "_now")

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._epoch = EPOCH

    def now(self) -> float:
        """The current second."""
        return self._now

    def wall(self) -> float:
        """The current second since the Unix epoch: `EPOCH`, what this clock shows, and all shifts."""
        return self._epoch + self._now

    def shift_wall(self, seconds: float) -> None:
        """Let the wall clock alone jump by `seconds`, ahead or back. Raises ValueError if that is not finite."""
        if not math.isfinite(seconds):
            raise ValueError(f"seconds={seconds!r}: a wall clock jumps by a finite number of seconds")
        self._epoch += seconds

    def advance(self, seconds: float) -> None:
        """Move ahead by `seconds`. Raises ValueError if that is negative or not finite."""
        if not (seconds >= 0 and math.isfinite(seconds)):
            raise ValueError(f"seconds={seconds!r}: a clock moves ahead by a finite number of seconds, at least 0")
        self._now += seconds

    def advance_to(self, instant: float) -> None:
        """Move ahead to exactly `instant`, without rounding; do nothing if that is past."""
        self._now = max(self._now, instant)


class Agenda(Protocol):
    """What happens in virtual time besides the event loop's own timers."""

    def next(self) -> float:
        """When something is to be done next; infinity: never."""
        ...

    def keep(self, now: float) -> None:
        """Do what is due, now that the clock is there. It must not raise."""
        ...


def describe_deadlock(now: float, tasks: Iterable[tuple[str, object]]) -> str:
    """The message of `Deadlock`: each task's name and where it waits."""
    dumps = [f"{name}\n{describe_wait(coroutine)}" for name, coroutine in tasks]
    waiting = "1 task waits" if len(dumps) == 1 else f"{len(dumps)} tasks wait"
    head = f"at virtual second {now:.9g} nothing is scheduled and {waiting} for ever, the innermost await last:"
    return "\n\n".join([head, *dumps])


def describe_wait(coroutine: object) -> str:
    """Where a suspended coroutine waits, as a traceback shows it, without the event loop's inner works."""
    waiting: Any = coroutine
    chain: list[FrameSummary] = []
    while waiting is not None:
        for kind, following in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            frame = getattr(waiting, f"{kind}_frame", None)
            if frame is not None:
                chain.append(FrameSummary(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
                waiting = getattr(waiting, following)
                break
        else:  # a future, or an object that does not tell what it waits for
            break
    packages = [sys.modules[name] for name in ("asyncio", "anyio", "trio", __package__) if name in sys.modules]
    machinery = {Path(str(package.__file__)).parent for package in packages}
    inner = [not machinery.isdisjoint(Path(frame.filename).parents) for frame in chain]
    # Of the machinery only the call that the code itself awaits: `wait`, `acquire`, `sleep_forever`.
    awaited = next((i for i in range(len(chain), 0, -1) if not inner[i - 1]), 0)
    shown = [frame for i, frame in enumerate(chain) if i == awaited or not inner[i]]
    return "".join(StackSummary.from_list(shown).format()).rstrip()
