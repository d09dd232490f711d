"""What a long run found: one line for each store and mode, and whether each promise was kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.reporting import in_words, table
from tests.torture.checker import Verdict
from tests.torture.operation import Way

IN_WORDS: dict[Way, str] = {
    "one_commit": "transactional, one commit",
    "transactional": "transactional",
    "derived": "fenced, derived keys",
    "fenced": "fenced, no keys",
    "at_most_once": "at_most_once",
}
NAMES = {"memory": "memory", "sqlite": "SQLite", "postgres": "PostgreSQL", "valkey": "Valkey"}
COLUMNS = (
    *("store", "mode", "called", "keys", "calls", "kills", "stops", "faults", "followed"),
    *("duplicates", "lost", "divergent", "stuck", "unknown"),
)


@dataclass(frozen=True)
class Line:
    """One run, as it is written down."""

    place: str
    way: Way
    web: bool
    seed: int
    seconds: float
    counts: Counter[str]
    verdict: Verdict

    @property
    def kept(self) -> bool:
        """Whether it went as theory predicts: duplicates where nothing prevents them, and nothing else anywhere."""
        broken = {violation.rule for violation in self.verdict.violations}
        return broken == {"I1"} and self.verdict.lost == 0 if self.way == "fenced" else not broken

    def count(self, *kinds: str) -> int:
        return sum(number for name, number in self.counts.items() if name.startswith(kinds))

    def as_json(self) -> dict[str, Any]:
        verdict = self.verdict.as_json()
        violations = verdict.pop("violations")
        return {
            "store": self.place,
            "way": self.way,
            "called": "over HTTP" if self.web else "directly",
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "kills": self.count("kill"),
            "stops": self.count("stop"),
            "cuts": self.count("cut"),
            "faults": self.count("fault"),
            **verdict,
            "what_happened": dict(sorted(self.counts.items())),
            "violations": len(violations),
            "examples": violations[:10],
            "as_predicted": self.kept,
        }

    def cells(self) -> tuple[str, ...]:
        verdict = self.verdict
        unknown = verdict.unknown if self.way == "at_most_once" else "-"
        numbers = (
            *(verdict.keys, verdict.calls, self.count("kill"), self.count("stop"), self.count("fault", "cut")),
            *(verdict.followed, verdict.duplicates, verdict.lost, verdict.divergent, verdict.stuck, unknown),
        )
        called = "over HTTP" if self.web else "directly"
        return (NAMES[self.place], IN_WORDS[self.way], called, *(f"{number}" for number in numbers))


def as_markdown(head: dict[str, Any], lines: Sequence[Line], body: str) -> str:
    """The result as a page of the documentation includes it."""
    parts = [in_words(head), table(COLUMNS, [line.cells() for line in lines], markdown=True)]
    if body:
        parts.append(body)
    return "\n\n".join(parts) + "\n"


def summary(lines: Iterable[Line]) -> str:
    """One line about all of them."""
    lines = list(lines)
    total = Counter[str]()
    for line in lines:
        total["keys"] += line.verdict.keys
        total["kills"] += line.count("kill")
        total["stops"] += line.count("stop")
        total["as predicted"] += line.kept
    found = ", ".join(f"{total[name]:,} {name}" for name in ("keys", "kills", "stops"))
    return f"{found}: {total['as predicted']} of {len(lines)} runs went as theory predicts"
