"""The page of lab results, as HTML. (test_page_in_browser.py looks at it.)"""

from __future__ import annotations

import re
from typing import Any

import pytest

from resilient.lab.drawing.report import Cell, Listing, Points, Table, Text
from resilient.lab.reporting.page import page
from tests.lab.drawing.test_report import NASTY, Reader
from tests.lab.samples import made, run, sample


@pytest.fixture(scope="module")
def results():
    return sample(seeds=6)


@pytest.fixture(scope="module")
def laid_out(results):
    return page(results, file="results.json")


def texts(html: str) -> str:
    return " ".join(" ".join(Reader(html).texts).split())


def table_of(section) -> Any:
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    return table


def figures(section) -> dict[str, dict[str, Cell]]:
    """The table of a section: metric, policy, cell."""
    table = table_of(section)
    titles = [column.title for column in table.columns[1:]]
    return {str(row[0]): dict(zip(titles, row[1:], strict=True)) for row in table.rows}


def test_each_scenario_has_a_section_that_the_overview_leads_to(laid_out, results):
    overview, *scenarios, _ = laid_out.sections
    assert [section.anchor for section in scenarios] == list(results.scenarios)
    table = table_of(overview)
    assert [row[0].anchor for row in table.rows] == list(results.scenarios)
    html = laid_out.html()
    ids = {attributes.get("id") for _, attributes in Reader(html).elements}
    assert {attributes["href"][1:] for attributes in Reader(html).all("a")} <= ids


def test_a_section_begins_with_its_verdict(laid_out):
    section = laid_out.sections[1]
    headline, judged, *_ = section.blocks
    assert headline == Text(
        "`default` recovers in 0 s [0, 3]; `none` recovers in only 1 of 6 seeds; `retry1` and `retry3` never recover.",
        large=True,
    )
    assert isinstance(judged, Points)
    assert [about for about, _ in judged.points] == ["recovery", "amplification", "goodput after"]


def test_figures_have_intervals_and_the_best_is_bold(laid_out):
    found = figures(laid_out.sections[2])
    assert list(found)[:3] == ["p99", "success", "goodput"]
    assert [policy for policy, cell in found["p99"].items() if cell.strong] == ["default"]
    assert re.fullmatch(r"\[\d.*, \d.*\]", found["p99"]["default"].notes[0])
    assert not any(cell.strong for cell in found["goodput"].values())  # it is no primary metric there
    assert "share node-9" in found


def test_metrics_that_nobody_knows_are_there(laid_out):
    assert {"peak 100 ms", "own", "admitted 60 s"} == set(figures(laid_out.sections[3]))


def test_runs_that_never_recovered_are_counted():
    found = page(made([run("o", "a", seed, recovery=1.0 if seed else None) for seed in range(4)]), file="r.json")
    assert figures(found.sections[0])["recovery"]["a"].notes == ["[1.0, never]", "(1 of 4 seeds never)"]


def test_a_scenario_that_a_policy_was_not_run_in_has_a_dash():
    runs = [run("one", "a", 0, recovery=1.0), run("two", "b", 0, recovery=1.0)]
    table = table_of(page(made(runs), file="r.json").sections[0])
    assert [[cell.text for cell in row[1:]] for row in table.rows] == [["1 s", "\N{EN DASH}"], ["\N{EN DASH}", "1 s"]]


def test_the_worst_run_of_each_policy_can_be_replayed():
    runs = [run("o", "a", 0, recovery=1.0), run("o", "a", 1, recovery=9.0), run("o", "b", 5, recovery=None)]
    section = page(made(runs), file="my results.json").sections[0]
    (listing,) = [block for block in section.blocks if isinstance(block, Listing)]
    assert listing.lines == [
        "resilient lab replay 'my results.json' --scenario o --policy a --seed 1",
        "resilient lab replay 'my results.json' --scenario o --policy b --seed 5",
    ]


def test_the_facts_say_how_to_make_it_again(laid_out, results):
    assert laid_out.facts["Seeds"] == "0\N{EN DASH}5"
    assert laid_out.facts["Python"] == "3.11.7"
    assert laid_out.facts["Made"] == "2026-11-24 18:00"
    text = texts(laid_out.html())
    assert results.header.command in text
    assert results.sha256 in text


@pytest.mark.parametrize(
    ("seeds", "written"), [((3,), "3"), ((0, 1, 2, 5), "0\N{EN DASH}2, 5"), ((1, 4, 5), "1, 4\N{EN DASH}5")]
)
def test_seeds_are_written_shortly(seeds, written):
    assert page(made([run("o", "a", seed) for seed in seeds]), file="r.json").facts["Seeds"] == written


def test_one_scenario_needs_no_overview_and_one_policy_no_comparison():
    found = page(sample(scenarios=["slow-instance"], policies=["default"], seeds=2), file="r.json")
    assert found.title == "One slow instance"
    assert [section.title for section in found.sections] == ["", "How to read it"]
    assert found.switches == ()
    assert found.lead == ""
    html = found.html()
    assert "<input" not in html
    assert html.count("One slow instance") == 2  # its title and its heading


def test_every_policy_has_a_switch_and_all_that_is_its_own_bears_its_mark(laid_out):
    html = laid_out.html()
    reader = Reader(html)
    assert [box["id"] for box in reader.all("input")] == ["show-0", "show-1", "show-2", "show-3"]
    for number in range(4):
        assert f"body:has(#show-{number}:not(:checked)) .s{number} {{ display: none; }}" in html
        marked = {tag for tag, attributes in reader.elements if f"s{number}" in attributes.get("class", "").split()}
        assert marked == {"path", "th", "td"}


def test_whatever_a_file_says_is_text():
    runs = [run(NASTY, NASTY + name, 0, series={NASTY: [1.0, 2.0]}, **{NASTY: 1.0}, recovery=2.0) for name in "ab"]
    html = page(made(runs, command=NASTY, versions={NASTY: NASTY}), file=NASTY).html()
    assert "<script" not in html
    reader = Reader(html)
    assert {name for _, attributes in reader.elements for name in attributes if name.startswith("on")} == set()


def test_the_page_needs_nothing_from_elsewhere(laid_out):
    html = laid_out.html()
    assert re.search(r"url\(|@import|https?://|src=|<script|<link|<img", html) is None
    assert all(attributes["href"].startswith("#") for attributes in Reader(html).all("a"))
    assert "default-src 'none'" in html


def test_the_same_results_are_the_same_page(laid_out, results):
    assert page(results, file="results.json").html() == laid_out.html()
