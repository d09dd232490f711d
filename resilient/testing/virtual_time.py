"""Run async code in virtual time: an hour of sleeping takes milliseconds, and every run is the same.

```python
import anyio
from resilient.testing import virtual_time

async def main() -> float:
    await anyio.sleep(3600)
    return anyio.current_time()

assert virtual_time.run(main) == 3600.0
```

Whenever every task waits, the clock jumps to exactly the next timer. Code takes no virtual time: only sleeping
does. The world outside stands still meanwhile, so a socket, a worker thread, a subprocess or a signal handler is
refused with a `VirtualTimeError` instead of being waited for (on trio a signal receiver is not: it waits for ever),
and a wait that nothing can end raises `Deadlock`, which shows where each task stands.

Randomness and new ids come from the seed, and so does trio's choice among tasks that are ready at the same moment.
Code that reads `time` or `random` directly, or iterates over a set of strings, is beyond reach.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

import anyio

from resilient.context import current_runtime, use_runtime
from resilient.events import Event
from resilient.runtime import Runtime
from resilient.testing.clock import EPOCH, Deadlock, ManualClock, VirtualTimeError

__all__ = ["EPOCH", "Deadlock", "ManualClock", "VirtualTimeError", "run", "runtime", "shift_wall"]

T = TypeVar("T")


def run(
    main: Callable[[], Awaitable[T]],
    *,
    backend: str = "asyncio",
    seed: int = 0,
    emit: Callable[[Event], None] | None = None,
    on_step: Callable[[], object] | None = None,
) -> T:
    """Run the async function `main` to its end in virtual time and return its result.

    The clock starts at 0.0. Below `main` the ambient `Runtime` is virtual too: `now` is the event loop's own time,
    `wall` starts at `EPOCH`, `random` is `random.Random(seed).random`, `new_id` makes UUIDs from the seed, `pause`
    (a plain function that sleeps) moves the clock and lets timers fire once control is back at the loop, and
    events go to `emit`. `on_step`, a plain function, is called before each step of a task (on asyncio before each
    callback of the loop) and before each jump of the clock: it may wake tasks up, but must not raise.

    Raises what `main` raises, `Deadlock` when nothing can wake it any more, and `ValueError` for a backend that
    does not exist. trio has to be installed for `backend="trio"`.
    """
    clock = ManualClock()
    with use_runtime(_runtime(clock, anyio.sleep, seed, emit)):
        if backend == "asyncio":
            from resilient.testing import _asyncio

            return _asyncio.run(main, clock, on_step)
        if backend == "trio":
            from resilient.testing import _trio

            return _trio.run(main, clock, seed, on_step)
    raise ValueError(f"backend={backend!r}: virtual time runs on 'asyncio' and 'trio'")


def runtime(seed: int = 0, *, emit: Callable[[Event], None] | None = None) -> Runtime:
    """Return a runtime in virtual time for plain functions, where there is no event loop.

    Its clock starts at 0.0 and moves only by its own `pause` (and `sleep`), which take no real time:

    ```python
    from resilient.context import current_runtime, use_runtime
    from resilient.testing import virtual_time

    with use_runtime(virtual_time.runtime()):
        current_runtime().pause(3600.0)  # as the backoff of a decorated plain function does
        assert current_runtime().now() == 3600.0
    ```

    Not for several threads: whoever pauses moves the clock of all.
    """
    clock = ManualClock()

    async def sleep(seconds: float) -> None:
        clock.advance(seconds)

    return _runtime(clock, sleep, seed, emit)


def shift_wall(seconds: float) -> None:
    """Let the wall clock of the ambient virtual runtime jump by `seconds`, ahead or back; `now` does not notice.

    So do computers when their clock is set. Nothing that measures a duration may depend on it:

    ```python
    from resilient.context import current_runtime, use_runtime
    from resilient.testing import virtual_time

    with use_runtime(virtual_time.runtime()):
        virtual_time.shift_wall(-3600.0)
        assert current_runtime().wall() == virtual_time.EPOCH - 3600.0
        assert current_runtime().now() == 0.0
    ```

    (A whole machine that was suspended is `current_runtime().pause(seconds)`: both clocks leap, and whatever was due
    meanwhile is due at once.) Raises `VirtualTimeError` outside virtual time.
    """
    clock = getattr(current_runtime().wall, "__self__", None)
    if not isinstance(clock, ManualClock):
        raise VirtualTimeError("the wall clock of the ambient runtime is not virtual, and cannot be shifted")
    clock.shift_wall(seconds)


def _runtime(
    clock: ManualClock,
    sleep: Callable[[float], Awaitable[None]],
    seed: int,
    emit: Callable[[Event], None] | None,
) -> Runtime:
    ids = Random(f"{seed}:new_id")  # its own stream: a new id must not change the jitter that follows
    return Runtime(
        now=clock.now,
        wall=clock.wall,
        sleep=sleep,
        pause=clock.advance,
        random=Random(seed).random,
        new_id=lambda: str(uuid.UUID(int=ids.getrandbits(128), version=4)),
        emit=emit,
    )
