"""What following a large service costs: ten thousand pods, in a hundred slices of Kubernetes.

    make bench                                # with the others
    python -m benchmarks.discovery --check    # and fail where a goal is missed

By the processor's time, without a network: a line of a watch is read, merged with what is known, and a snapshot is
made. `line` is the reading alone, of a slice of a hundred; `change` is one pod of it that is another one, up to the
snapshot; `event` the share of one event in a burst that gives a single snapshot; `first` the list, once.

A result file holds the header, `pods`, `seconds`, and `figures`: a step's name, the `ms` of the fastest tenth of its
rounds, and the `median_ms`.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from time import perf_counter, process_time
from typing import Any

from benchmarks.measuring import percentile
from benchmarks.reporting import Verdict, begin, finish, options, table
from resilient.discovery import LastGood
from resilient.discovery.reflector import Merged
from resilient.discovery.slices import candidates, key_of

__all__ = ["main"]

SLICE = 100
BURST = 100
GOAL = 2.0


@dataclass(frozen=True, slots=True)
class Figure:
    """What one step costs, in milliseconds."""

    step: str
    ms: float
    median_ms: float


def line(number: int, successor: int = 0) -> bytes:
    """A slice as it stands in a watch; its first pod is the `successor`-th of its place."""
    endpoints = [
        {
            "addresses": [f"10.{number // 250}.{number % 250}.{pod + 1}"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "targetRef": {
                "kind": "Pod",
                "namespace": "shop",
                "name": f"orders-{number:04}-{pod:03}",
                "uid": f"{successor if pod == 0 else 0:08x}-883e-4f0d-9dc8-e505a45d9e8c",
            },
            "nodeName": f"node-{pod}",
            "zone": "abc"[pod % 3],
        }
        for pod in range(SLICE)
    ]
    found = {
        "metadata": {"name": f"orders-{number:04}", "resourceVersion": "7"},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    }
    return json.dumps({"type": "MODIFIED", "object": found}).encode()


def read(text: bytes) -> tuple[str, list[Any]]:
    """What a line says."""
    found = json.loads(text)["object"]
    return key_of(found), candidates(found, "http", "fallback")


def steps(pods: int) -> dict[str, Callable[[], float]]:
    """Each step, as a function that runs it once and returns its seconds."""
    slices = pods // SLICE
    whole = [line(number) for number in range(slices)]
    merged, known, successors = Merged(), LastGood(), count(1)
    merged.replace(dict(map(read, whole)))
    known.learn(merged.instances(), 0.0)

    def timed(work: Callable[[], object]) -> float:
        began = process_time()
        work()
        return process_time() - began

    def first() -> float:
        def work() -> None:
            found = Merged()
            found.replace(dict(map(read, whole)))
            LastGood().learn(found.instances(), 0.0)

        return timed(work)

    def take(text: bytes) -> None:
        key, found = read(text)
        merged.update({key: found}, ())

    def change() -> float:
        text = line(slices // 2, next(successors))

        def work() -> None:
            take(text)
            if known.learn(merged.instances(), 1.0) is None:
                raise AssertionError("nothing changed")

        return timed(work)

    def event() -> float:
        texts = [line(number % slices, next(successors)) for number in range(BURST)]

        def work() -> None:
            for text in texts:
                take(text)
            known.learn(merged.instances(), 1.0)

        return timed(work) / BURST

    return {"first": first, "line": lambda: timed(lambda: read(whole[0])), "change": change, "event": event}


def measure(seconds: float, pods: int) -> Iterator[Figure]:
    """Run every step for its share of the time."""
    found = steps(pods)
    for name, step in found.items():
        took: list[float] = []
        until = perf_counter() + seconds / len(found)
        while len(took) < 2 or perf_counter() < until:
            took.append(step() * 1000.0)
        yield Figure(name, percentile(took, 10), statistics.median(took))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = options("Measure what following a large service costs.", seconds=10.0)
    parser.add_argument("--pods", type=int, default=10_000, help="of the service (default: %(default)s)")
    given = parser.parse_args(arguments)
    head = begin(parser, ())
    figures = list(measure(given.seconds, given.pods))
    rows = [(figure.step, f"{figure.ms:.3f}", f"{figure.median_ms:.3f}") for figure in figures]
    (change,) = (figure.ms for figure in figures if figure.step == "change")
    verdicts = [Verdict(f"ms for a change among {given.pods:,} pods", GOAL, change, change <= GOAL)]
    result = {
        **head,
        "pods": given.pods,
        "seconds": given.seconds,
        "figures": [asdict(figure) for figure in figures],
    }
    words = table(("step", "ms", "median"), rows, markdown=given.markdown)
    return finish(given, result, words, verdicts)


if __name__ == "__main__":
    sys.exit(main())
