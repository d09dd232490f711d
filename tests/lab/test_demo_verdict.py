"""What is concluded from two runs, and how it is shown."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Console

from resilient.events import InstanceEjected, InstancePicked, RetryScheduled, SnapshotApplied
from resilient.lab.demo.evidence import Evidence, recovery
from resilient.lab.demo.ledger import audit
from resilient.lab.demo.live import Show, comparison, outcome
from resilient.lab.demo.page import page
from resilient.lab.demo.script import Settings
from resilient.lab.demo.verdict import FIGURES, caution_of, judge
from resilient.lab.load import OK, Record

SETTINGS = Settings(rate=100.0, duration=20.0)
CALLS = 2000
ALL = set(range(CALLS))


def records(latency=0.02, *, failed=(), late=(), attempts=1) -> list[Record]:
    """2000 calls, 100 a second."""
    made: list[Record] = []
    for number in range(CALLS):
        due = number / 100
        took = 3.5 if number in late else latency
        outcome = "ReadTimeout" if number in failed else OK
        made.append(Record(due, due, due + took, outcome == OK, outcome, attempts))
    return made


def evidence(kind, *, rows=None, acknowledged=ALL, calls=None, events=()) -> Evidence:
    found = Counter(dict.fromkeys(ALL, 1) if rows is None else rows)
    return Evidence(
        kind=kind,
        settings=SETTINGS,
        records=records() if calls is None else calls,
        audit=audit(found, sent=ALL, acknowledged=acknowledged),
        events=events,
    )


def plain(**given) -> Evidence:
    return evidence("plain", rows={**dict.fromkeys(ALL, 1), 3: 2}, **given)


def verdict(first, second) -> list[bool]:
    return [condition.holds for condition in judge(first, second)]


def test_it_is_proven_when_the_plain_client_duplicates_and_resilient_neither_loses_nor_duplicates():
    assert verdict(plain(), evidence("resilient")) == [True, True, True, True]


def test_a_single_lost_order_refutes_it():
    rows = dict.fromkeys(ALL - {17}, 1)
    lost, *others = judge(plain(), evidence("resilient", rows=rows))
    assert not lost.holds
    assert lost.found == "resilient lost 1 order"
    assert all(condition.holds for condition in others)


def test_a_single_duplicated_order_refutes_it():
    rows = {**dict.fromkeys(ALL, 1), 17: 2}
    _, duplicated, *_ = judge(plain(), evidence("resilient", rows=rows))
    assert not duplicated.holds
    assert duplicated.found == "resilient duplicated 1 order"


def test_two_calls_in_two_thousand_may_be_late_and_three_may_not():
    two, three = ({100, 200}, {100, 200, 300})
    assert verdict(plain(), evidence("resilient", calls=records(late=two)))[2]
    _, _, in_time, _ = judge(plain(), evidence("resilient", calls=records(late={100}, failed={200, 300})))
    assert not in_time.holds
    assert "1,997 of 2,000 calls within 3 s" in in_time.found
    assert "(2 ReadTimeout, 1 late)" in in_time.found
    assert not verdict(plain(), evidence("resilient", calls=records(failed=three)))[2]


def test_disasters_that_make_the_plain_client_duplicate_nothing_prove_nothing():
    *_, tame = judge(evidence("plain"), evidence("resilient"))
    assert not tame.holds
    assert "too tame" in tame.found


def test_a_success_ratio_is_never_rounded_up():
    assert evidence("resilient", calls=records(late={1})).in_time_ratio == 0.9995
    assert evidence("resilient", calls=records(late={1, 2, 3, 4, 5, 6, 7}) + records()[:1]).in_time_ratio == 0.9965


def test_recovery_is_the_time_until_calls_are_prompt_again():
    slow = [call._replace(finished=call.intended + (0.5 if 5.0 <= call.intended < 7.0 else 0.02)) for call in records()]
    assert recovery(slow, start=5.0, end=10.0) == 2.0
    assert recovery(slow, start=5.0, end=7.0) is None
    assert recovery(slow, start=10.0, end=15.0) == 0.0


def test_a_failure_is_no_prompt_answer():
    failing = records(failed=range(500, 600))
    assert recovery(failing, start=5.0, end=10.0) == 1.0


def test_one_in_twenty_may_be_slow_in_a_second_that_counts_as_recovered():
    assert recovery(records(late=range(500, 505)), start=5.0, end=7.0) == 0.0
    assert recovery(records(late=range(500, 600, 10)), start=5.0, end=6.0) is None


def test_a_disaster_is_charged_with_the_calls_that_were_due_until_the_next_one():
    killed, stopped, *_ = SETTINGS.disasters
    first = int(killed.start * 100)
    last = int(stopped.start * 100)
    run = evidence("plain", rows={**dict.fromkeys(ALL, 1), first: 2, last - 1: 3, last: 2})
    assert [spell.duplicated for spell in run.spells] == [2, 1, 0, 0, 0]
    assert run.spells[0].summary.calls == last - first


def test_the_better_figure_wins_and_equal_ones_do_not():
    figures = {figure.title: figure for figure in FIGURES}
    fast, slow = evidence("plain", calls=records(0.02)), evidence("resilient", calls=records(0.03))
    assert figures["latency p50"].winner(fast, slow) is fast
    assert figures["success ratio"].winner(fast, slow) is None
    assert figures["orders sent"].winner(fast, slow) is None
    never = replace(slow, records=records(0.4))
    assert figures["recovery time"].of(never) is None
    assert figures["recovery time"].winner(never, fast) is fast


def test_a_load_generator_that_fell_behind_is_admitted():
    assert caution_of(plain(), evidence("resilient")) is None
    calls = records()
    calls[10] = calls[10]._replace(started=calls[10].intended + 0.4, finished=calls[10].intended + 0.5)
    told = caution_of(plain(), evidence("resilient", calls=calls))
    assert told is not None
    assert "late by 400 ms" in told


def shown(width, *what) -> str:
    console = Console(file=io.StringIO(), width=width)
    for one in what:
        console.print(one)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_comparison_fits_eighty_columns():
    runs = (plain(), evidence("resilient"))
    lines = shown(80, comparison(*runs), outcome(judge(*runs))).splitlines()
    for figure in FIGURES:
        assert sum(line.strip().startswith(f"{figure.title} ") for line in lines) == 1, figure.title
    (duplicated,) = (line for line in lines if "orders duplicated" in line)
    assert duplicated.split()[2:4] == ["1", "0"]
    assert lines[-1].strip() == "Proven."


def test_what_does_not_hold_is_marked():
    conditions = judge(evidence("plain"), evidence("resilient", calls=records(failed=ALL)))
    text = shown(200, outcome(conditions))
    assert text.count("✘") == 2
    assert "0 of 2,000 calls" in text
    assert text.strip().endswith("Not proven.")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_is_shown_while_it_goes_on(terminal):
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal)
    run = evidence("plain", rows={**dict.fromkeys(ALL, 1), 3: 2}, calls=records(late={1, 2}))
    with Show(console, SETTINGS) as show:
        show.starting("plain")
        show.loading("plain")
        show.happened(SETTINGS.acts()[0])
        show._last -= 1.0  # as if the last refresh had been a second ago
        for record in run.records[:3]:
            show.ended(record)
        show.finished(run)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "orders-1 is killed" in text
    if terminal:
        assert "0 lost, 1 duplicated" in text
        assert "1 ok/s" in text
    else:
        assert text.splitlines()[-1] == "plain httpx: 2,000 calls, 2 not in time"


EVENTS = [
    (0.5, InstancePicked(at=0.0, name="orders", instance="orders-1", reason="balanced")),
    (1.5, RetryScheduled(at=0.0, name="orders", attempt=1, delay=0.1, reason="failed")),
    (2.5, InstanceEjected(at=0.0, name="orders", instance="orders-2", seconds=5.0, reason="5 failures in a row")),
    (3.5, SnapshotApplied(at=0.0, name="orders", version=2, added=(), removed=("orders-1",))),
]


@pytest.mark.parametrize("calls", [records(), records(failed=ALL)], ids=["all well", "all failed"])
def test_the_report_shows_both_runs_and_what_the_library_did(calls):
    runs = (plain(), evidence("resilient", calls=calls, events=EVENTS))
    html = page(*runs, judge(*runs), made=datetime(2026, 1, 2, 3, 4, tzinfo=UTC)).html()
    for words in (
        "plain httpx: 1",
        "orders-2 stops itself",
        "orders-6 joins",
        "orders-2 gets no calls for 5.0 s: 5 failures in a row",
        "registry: orders-1 gone",
        "2026-01-02 03:04",
        "idempotency key of the first: 1.",
    ):
        assert words in html, words
    assert html.count("<figure class=") >= 8
