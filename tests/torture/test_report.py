"""What is written down of a long run, and what counts as it should be."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.torture.__main__ import DIRECTLY, OVER_HTTP, plans
from tests.torture.checker import Verdict, Violation
from tests.torture.operation import WAYS, Way
from tests.torture.report import COLUMNS, IN_WORDS, Line, summary


def line(way: Way, *rules: str, lost: int = 0) -> Line:
    violations = [Violation(rule, "k", "what") for rule in rules]
    counts = Counter(
        {"kill after the claim": 2, "killed at any moment": 3, "stop after the record": 1, "fault slow": 4}
    )
    return Line("sqlite", way, False, 7, 1.25, counts, Verdict(keys=10, lost=lost, violations=violations))


@pytest.mark.parametrize(
    ("way", "rules", "lost", "kept"),
    [
        ("transactional", (), 0, True),
        ("transactional", ("I1",), 0, False),
        ("at_most_once", ("whole",), 0, False),
        ("fenced", ("I1", "I1"), 0, True),
        ("fenced", (), 0, False),  # a harness that finds no duplicates there finds none anywhere
        ("fenced", ("I1",), 1, False),
        ("fenced", ("I1", "I2"), 0, False),
    ],
)
def test_each_way_is_held_to_what_theory_predicts(way: Way, rules: tuple[str, ...], lost: int, kept: bool) -> None:
    assert line(way, *rules, lost=lost).kept is kept


def test_a_line_counts_what_happened() -> None:
    written = line("fenced", "I1").as_json()
    assert (written["kills"], written["stops"], written["faults"], written["cuts"]) == (5, 1, 4, 0)
    assert (written["seed"], written["seconds"], written["keys"]) == (7, 1.2, 10)
    assert written["examples"] == ["I1 k: what"]
    assert len(line("fenced").cells()) == len(COLUMNS)
    assert summary([line("fenced"), line("derived")]) == (
        "20 keys, 10 kills, 2 stops: 1 of 2 runs went as theory predicts"
    )


def test_every_way_is_walked() -> None:
    assert {way for ways in DIRECTLY.values() for way in ways} == set(WAYS) == set(IN_WORDS)
    assert len(plans(None)) == sum(map(len, DIRECTLY.values())) + len(OVER_HTTP)
    assert {place for place, _, _ in plans("valkey")} == {"valkey"}
