"""Plays many runs, on all cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, final

from resilient.lab.bench.references import find_policy, make_scenario
from resilient.lab.results import Run
from resilient.lab.simulation.run import Mode, run

__all__ = ["Job", "play", "play_all"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run to be made: everything that decides its result."""

    scenario: str
    policy: str
    seed: int
    knobs: tuple[tuple[str, Any], ...] = ()
    backend: str = "asyncio"
    mode: Mode = "functions"


def play(job: Job) -> Run:
    """Make one run, in this process."""
    scenario = make_scenario(job.scenario, dict(job.knobs))
    return run(scenario, find_policy(job.policy, scenario), job.seed, backend=job.backend, mode=job.mode)


def play_all(
    jobs: Sequence[Job],
    *,
    processes: int | None = None,
    on_run: Callable[[Job, Run], object] | None = None,
) -> list[tuple[Job, Run]]:
    """Make all runs and return them in the order of the jobs.

    `processes` is how many run at once (one a core). `on_run` is told of each as it comes, in whatever order.
    Ctrl-C ends it early: what is finished by then is returned, and whoever called sees by the number that something is
    missing. What a run raises is raised here.
    """
    workers = max(1, min(processes or os.cpu_count() or 1, len(jobs)))
    if workers == 1:
        return _one_by_one(jobs, on_run)
    done: dict[int, Run] = {}
    # Fresh processes: what a thread of this one holds at this moment must not be copied.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_ignore_interrupts)
    waiting: dict[Future[Run], int] = {pool.submit(play, job): index for index, job in enumerate(jobs)}
    try:
        while waiting:
            ended, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ended:
                index = waiting.pop(future)
                done[index] = future.result()
                if on_run is not None:
                    on_run(jobs[index], done[index])
    except KeyboardInterrupt:
        pass
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [(job, done[index]) for index, job in enumerate(jobs) if index in done]


def _ignore_interrupts() -> None:
    """Ctrl-C reaches the whole group of processes; the one that started the others decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _one_by_one(jobs: Sequence[Job], on_run: Callable[[Job, Run], object] | None) -> list[tuple[Job, Run]]:
    done: list[tuple[Job, Run]] = []
    try:
        for job in jobs:
            done.append((job, play(job)))
            if on_run is not None:
                on_run(*done[-1])
    except KeyboardInterrupt:
        pass
    return done
