"""Lab results in the terminal, at 80 columns and more, with colours and without."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from resilient.lab.reporting.comparison import compare
from resilient.lab.reporting.gate import Rule, judge
from resilient.lab.reporting.terminal import show_comparison, show_judgements, show_results
from resilient.lab.results import Results
from tests.lab.samples import made, run, sample

LONG = "my_company.policies:careful"


def shown(show, *args, width=80, terminal=False, **options) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, color_system="truecolor" if terminal else None)
    show(*args, console, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def results():
    return sample(seeds=6)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_nothing_is_wider_than_the_console_and_nothing_is_cut(results, width):
    for all_metrics in (False, True):
        text = shown(show_results, results, width=width, all_metrics=all_metrics)
        assert max(map(len, text.splitlines())) <= width
        assert "\N{HORIZONTAL ELLIPSIS}" not in text


def test_a_table_has_a_row_a_policy_and_the_best_is_marked(results):
    lines = shown(show_results, results).splitlines()
    rows = {line.split()[0]: line for line in lines[:8] if line.strip()}
    assert rows["default"].split()[1:4] == ["*0", "s", "[0,"]
    assert "never [102 s, never] (5 of 6 seeds)" in rows["none"]
    assert rows["retry3"].split()[1] == "never"
    assert lines[1].split() == ["recovery", "amplification"]  # there is no room for the third beside them


def test_the_primary_and_the_usual_metrics_are_shown_or_all_of_them(results):
    few, every = shown(show_results, results), shown(show_results, results, all_metrics=True)
    assert "longest queue" not in few
    assert "share node-9" not in few
    assert "peak 100 ms" in few
    for title in ("longest queue", "share node-9", "admitted 60 s", "p99.9", "wasted"):
        assert title in every


def test_the_verdict_follows_in_words(results):
    text = " ".join(shown(show_results, results).split())
    assert "`default` recovers in 0 s [0, 3]; `none` recovers in only 1 of 6 seeds; `retry1` and `retry3` never" in text
    assert "`default` is clearly best; the next, `none` recovers in only 1 of 6 seeds." in text
    assert "`default` is best or level with the best in 5 of 6 primary metrics, `none` in 1" in text


def test_a_terminal_shows_colours_and_says_the_same(results):
    plain, coloured = shown(show_results, results), shown(show_results, results, terminal=True)
    assert "\x1b[" in coloured
    assert "\x1b[" not in plain
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_a_name_that_looks_like_markup_is_a_name():
    text = shown(show_results, made([run("[red]x", "[bold]y", 0, recovery=1.0)]))
    assert "[red]x" in text
    assert "[bold]y" in text


def test_a_run_without_metrics_is_shown_as_one():
    text = shown(show_results, made([run("outage", "a", 0), run("outage", "b", 0)]))
    assert "`a` and `b` have no value of recovery." in text


def test_long_names_of_policies_fit():
    found = sample(scenarios=["metastable-retry-storm"], policies=["none", LONG], seeds=2)
    text = shown(show_results, found)
    assert LONG in text
    assert max(map(len, text.splitlines())) <= 80


# Differences


def test_the_same_results_are_said_to_be_the_same(results):
    assert shown(show_comparison, compare(results, results)) == (
        "The same: all 72 runs that both have are equal to the last bit.\n"
    )


def test_what_differs_is_listed_with_what_is_clear(results):
    runs = [
        replace(
            old,
            metrics={
                **old.metrics,
                "p99": old.metrics["p99"] * 1.1,
                "p50": old.metrics["p50"] + 0.001 * (-1) ** old.seed,
            },
        )
        if (old.policy, old.scenario) == ("default", "slow-instance")
        else old
        for old in results.runs
        if old.policy != "retry1"
    ]
    found = compare(results, Results(header=results.header, runs=runs))
    text = shown(show_comparison, found)
    assert "metastable-retry-storm default: the same" in text
    (row,) = [line for line in text.splitlines() if line.strip().startswith("p99")]
    assert row.rstrip().endswith("worse")
    assert "+1" in row
    assert "p50" not in text
    assert "1 is clearly worse and 0 clearly better; 48 of 54 runs are equal" in " ".join(text.split())
    assert "only there before: 6 of metastable-retry-storm/retry1" in " ".join(text.split())
    every = [line.rstrip() for line in shown(show_comparison, found, all_metrics=True).splitlines()]
    assert [line.endswith("not clear") for line in every if line.strip().startswith("p50")].count(True) == 1
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("metric", "old", "new", "seeds", "word"),
    [
        ("p99", 2.0, 1.0, 6, "better"),
        ("p99", 1.0, 2.0, 6, "worse"),
        ("p99", 1.0, 2.0, 5, "too few seeds"),
        ("own", 1.0, 2.0, 6, "differs"),
    ],
)
def test_a_difference_has_a_word(metric, old, new, seeds, word):
    before, after = (
        made([run("o", "a", seed, **{"recovery": None, metric: value}) for seed in range(seeds)])
        for value in (old, new)
    )
    text = shown(show_comparison, compare(before, after), all_metrics=True)
    assert any(line.strip().startswith(metric) and line.rstrip().endswith(word) for line in text.splitlines())
    (same,) = [line.rstrip() for line in text.splitlines() if line.strip().startswith("recovery")]
    assert same.endswith("the same")


# Judgements


def test_judgements_say_what_holds_and_what_does_not():
    results = made([run("outage", "default", seed, p99=0.1) for seed in range(6)])
    rules = [Rule(scenario="outage", policy="default", metric="p99", at_most=bound) for bound in (1.0, 0.05)]
    text = shown(show_judgements, judge(rules, results))
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines == [
        "\N{HEAVY CHECK MARK} outage: default: p99 100 ms, asked for at most 1 s",
        "\N{HEAVY BALLOT X} outage: default: p99 100 ms, asked for at most 50 ms",
        "1 of 2 rules does not hold.",
    ]
    assert shown(show_judgements, judge(rules[:1], results)).splitlines()[-1] == "The rule holds."
    assert shown(show_judgements, judge(rules[:1] * 2, results)).splitlines()[-1] == "2 rules, all hold."
    assert shown(show_judgements, judge(rules[1:] * 2, results)).splitlines()[-1] == "2 of 2 rules do not hold."


def test_a_long_judgement_goes_on_below_its_text():
    rules = [Rule(scenario="outage", policy="defalt", metric="p99", at_most=1)]
    results = made([run("outage", f"policy-{number}", 0) for number in range(20)])
    _, *more = shown(show_judgements, judge(rules, results)).splitlines()[:-1]
    assert more
    assert all(line.startswith("  ") and len(line) <= 80 for line in more)
