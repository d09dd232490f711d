"""A worker without an event loop, for jobs from a queue that may deliver one twice: `python examples/worker.py`.

Plain functions and threads; the same policies, the same guarantee.
"""

from __future__ import annotations

import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from resilient import Bulkhead, CircuitBreaker, Pipeline, Retry, Timeout, once
from resilient.backends.sqlite import SQLiteStore
from resilient.idempotency import BlockingClaim

folder = Path(tempfile.mkdtemp())
store = SQLiteStore(folder / "jobs.db")
rates = Pipeline(Timeout(2.0), Retry(on=ConnectionError), CircuitBreaker(), Bulkhead(4, max_queue=100))


@dataclass(frozen=True)
class Job:
    """What the queue delivers."""

    id: str
    cents: int


@rates
def exchange_rate(currency: str, *, lookups: list[str] = []) -> float:  # noqa: B006 - it counts, and fails at first
    """Ask a service that sometimes drops its connections."""
    lookups.append(currency)
    if len(lookups) % 5 == 1:
        raise ConnectionResetError("lost")
    return 1.1


def job_id(job: Job) -> str:
    """The same for every delivery of a job."""
    return job.id


@once(store, key=job_id, mode="transactional")
def pay(claim: BlockingClaim, job: Job) -> int:
    """Pay once for each job, however often it is delivered."""
    cents = round(job.cents * exchange_rate("EUR"))
    with claim.transaction() as connection:
        connection.execute("INSERT INTO payments VALUES (?, ?)", (job.id, cents))
    return cents


def main() -> None:
    """Process every job three times, in four threads."""
    with closing(sqlite3.connect(folder / "jobs.db")) as connection:
        connection.execute("CREATE TABLE payments (job TEXT, cents INTEGER)")
    jobs = [Job(f"job-{number}", 100 * number) for number in range(1, 11)]
    with ThreadPoolExecutor(4) as threads:
        for job in jobs:
            list(threads.map(pay, [job]))
        answers = list(threads.map(pay, jobs * 2))
    assert answers == [110 * number for number in range(1, 11)] * 2
    with closing(sqlite3.connect(folder / "jobs.db")) as connection:
        (paid,) = connection.execute("SELECT count(*) FROM payments").fetchone()
    print(f"{len(jobs)} jobs, delivered three times each, paid {paid} times")


if __name__ == "__main__":
    main()
