"""The report page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.resources import files
from itertools import combinations, pairwise

import pytest

from resilient.lab.drawing.chart import choose_colours
from resilient.lab.drawing.report import (
    Band,
    Cell,
    Column,
    Line,
    Listing,
    Marker,
    Page,
    Plot,
    Points,
    Section,
    Stat,
    Table,
    Text,
)

NASTY = """<script>alert("1")</script> & 'quotes'"""


class Reader(HTMLParser):
    """Reads a page strictly: every element is closed, in order."""

    VOID = frozenset({"input", "meta"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def all(self, tag: str, kind: str | None = None) -> list[dict[str, str]]:
        return [a for t, a in self.elements if t == tag and (kind is None or kind in a.get("class", "").split())]


def read(*blocks, title="A page", lead="", facts=None) -> Reader:
    return Reader(Page(title=title, lead=lead, facts=facts or {}, sections=[Section(blocks=blocks)]).html())


def ramp(label: str, **options) -> Line:
    return Line(label=label, points=[(0, 0.0), (1, 1.0), (2, 2.0)], **options)


def full_page(text: str) -> Page:
    """Everything that a page can have, with `text` wherever a text can stand."""
    return Page(
        title=text,
        lead=text,
        facts={text: text},
        switches=[text],
        sections=[
            Section(
                title=text,
                lead=text,
                anchor=text,
                blocks=[
                    Text(text),
                    Text(f"`{text}`", large=True),
                    Points([(text, text)]),
                    Listing(text, [text]),
                    Stat(text, text, text),
                    Plot(
                        title=text,
                        unit=text,
                        note=text,
                        lines=[ramp(text), ramp(text + "2", muted=True, spread=[(0, 0.0, 1.0), (1, 0.5, 1.5)])],
                        bands=[Band(0, 1, text)],
                        markers=[Marker(1.5, text)],
                    ),
                    Table(
                        columns=[Column(title=text), Column(title=text, unit=text)], rows=[[text, 1.5], [text, text]]
                    ),
                    Table(columns=[Column(title=text)], rows=[[Cell(text, [text], anchor=text)]]),
                ],
            )
        ],
    )


def test_every_text_is_escaped():
    html = full_page(NASTY).html()
    reader = Reader(html)
    assert "<script" not in html
    assert "script" not in {tag for tag, _ in reader.elements}
    assert any(NASTY in text for text in reader.texts)
    assert {name for _, attributes in reader.elements for name in attributes if name.startswith("on")} == set()


def test_the_page_needs_nothing_from_elsewhere():
    html = full_page("text").html()
    reader = Reader(html)
    names = {name for _, attributes in reader.elements for name in attributes}
    assert names.isdisjoint({"src", "xlink:href", "srcset", "action", "data"})
    assert [a["href"] for a in reader.all("a")] == ["#text"]
    assert {"script", "link", "img", "iframe", "object"}.isdisjoint({tag for tag, _ in reader.elements})
    assert re.search(r"url\(|@import|https?://", html) is None
    (policy,) = [a["content"] for a in reader.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_the_same_page_is_the_same_bytes():
    assert full_page("text").html() == full_page("text").html()


def test_the_facts_stand_in_the_head():
    reader = read(facts={"Seed": "7", "Machine": "2 cores"})
    assert [text for text in reader.texts if text.strip()] == ["A page", "A page", "Seed", "7", "Machine", "2 cores"]


def test_empty_parts_leave_nothing_behind():
    reader = read()
    tags = {tag for tag, _ in reader.elements}
    assert tags.isdisjoint({"dl", "p", "h2", "figure", "table"})


def test_neighbours_of_a_kind_share_a_row():
    plot = Plot(title="Plot", lines=[ramp("a")])
    reader = read(Stat("a", "1"), Stat("b", "2"), plot, plot, Text("between"), plot)
    assert len(reader.all("div", "stats")) == 1
    assert len(reader.all("div", "stat")) == 2
    assert len(reader.all("div", "plots")) == 2
    assert len(reader.all("figure", "plot")) == 3


# Charts


def test_a_chart_says_in_words_what_it_shows():
    plot = Plot(
        title="Goodput",
        unit="calls/s",
        lines=[Line(label="default", points=[(0, 280.0), (1, None), (2, 250.0)]), Line(label="none", points=[])],
        bands=[Band(0.5, 1.5, "database down")],
        markers=[Marker(1, "restart")],
    )
    reader = read(plot)
    assert (
        "default: between 250 calls/s and 280 calls/s, at the end 250 calls/s. none: no values. "
        "database down: from second 0.5 to second 1.5. restart: at second 1." in reader.texts
    )
    (chart,) = reader.all("svg", "chart")
    assert chart["role"] == "img"
    ids = {attributes["id"] for _, attributes in reader.elements if "id" in attributes}
    assert set(chart["aria-labelledby"].split()) <= ids


def test_names_are_unique_on_the_page():
    plot = Plot(title="Plot", lines=[ramp("a")])
    html = Page(title="p", sections=[Section(blocks=[plot, plot]), Section(blocks=[plot])]).html()
    ids = [attributes["id"] for _, attributes in Reader(html).elements if "id" in attributes]
    assert len(ids) == len(set(ids)) == 6


def test_a_gap_interrupts_a_line_and_a_lonely_point_is_a_dot():
    points = [(0, 1.0), (1, 2.0), (2, None), (3, 4.0), (4, float("nan")), (5, 3.0), (6, 3.0)]
    reader = read(Plot(title="Gaps", lines=[Line(label="some", points=points)]))
    (path,) = [a for a in reader.all("path") if a["d"] != "M1 4H19"]  # that is the legend's
    assert path["d"] == "M0.0 120.0L166.7 80.0M500.0 0.0M833.3 40.0L1000.0 40.0"
    (dot,) = reader.all("circle")
    assert (dot["cx"], dot["class"]) == ("50%", "c0")


def test_steps_keep_their_value_until_the_next():
    line = Line(label="open", points=[(0, 0.0), (5, 1.0), (10, 0.0)], step=True)
    (path, _) = read(Plot(title="Circuit", lines=[line])).all("path")
    assert path["d"] == "M0.0 160.0H500.0V0.0H1000.0V160.0"


def test_only_the_seconds_asked_for_are_drawn():
    plot = Plot(
        title="Part",
        start=10,
        end=20,
        lines=[Line(label="all", points=[(n, 1.0) for n in range(40)])],
        bands=[Band(0, 5, "before"), Band(5, 15, "across"), Band(30, 35, "after")],
        markers=[Marker(9, "too early"), Marker(12, "inside")],
    )
    reader = read(plot)
    assert reader.all("path")[0]["d"].count("L") == 10
    flags = reader.all("text", "flag")
    assert [flag["x"] for flag in flags] == ["0%", "20%"]
    shaded = [(band["x"], band["width"]) for band in reader.all("rect", "band") if band["width"] != "0%"]
    assert shaded == [("0%", "50%")]


def test_labels_of_events_do_not_touch():
    labels = ["first of several long labels", "second", "third of them", "fourth"]
    markers = [Marker(at, label) for at, label in zip((10, 11, 12, 95), labels, strict=True)]
    reader = read(Plot(title="Events", start=0, end=100, markers=markers))
    rows = [flag["y"] for flag in reader.all("text", "flag")]
    assert len(set(rows[:3])) == 3
    assert rows[3] == rows[0]
    assert reader.all("text", "flag")[3]["text-anchor"] == "start"  # "fourth" fits beyond the edge


def test_a_long_label_at_the_right_edge_stands_to_the_left():
    reader = read(Plot(title="Events", start=0, end=100, markers=[Marker(95, "a label with no room to its right")]))
    assert reader.all("text", "flag")[0]["text-anchor"] == "end"


def test_labels_at_the_ends_of_lines_keep_their_distance():
    lines = [Line(label=f"line {n}", points=[(0, 0.0), (1, value)]) for n, value in enumerate((0, 0.1, 0.2, 9.9, 10))]
    places = [float(label["y"]) for label in read(Plot(title="Crowd", lines=lines)).all("text", "end")]
    assert places == sorted(places)
    assert all(below - above >= 13.9 for above, below in pairwise(places))
    assert 8 <= places[0] <= places[-1] <= 8 + 160


def test_labels_that_are_too_long_for_the_end_of_a_line_go_to_a_legend():
    assert len(read(Plot(title="p", lines=[ramp("short")])).all("div", "legended")) == 0
    assert len(read(Plot(title="p", lines=[ramp("x" * 19)])).all("div", "legended")) == 1


@pytest.mark.parametrize("log", [False, True])
def test_a_plot_without_values_is_still_a_plot(log):
    for line in (Line(label="none", points=[]), Line(label="none", points=[(0, None), (1, float("inf"))])):
        reader = read(Plot(title="Nothing", log=log, lines=[line]))
        assert len(reader.all("figure", "plot")) == 1
        assert len(reader.all("path")) == 1  # the legend's


def test_a_logarithmic_plot_leaves_out_what_is_not_positive():
    line = Line(label="latency", points=[(0, 0.01), (1, 0.1), (2, 0.0), (3, -1.0), (4, 0.1), (5, 1.0)])
    path = read(Plot(title="Latency", unit="s", log=True, lines=[line])).all("path")[0]
    assert path["d"].count("M") == 2


def test_a_common_top_makes_plots_comparable():
    plots = [Plot(title="p", top=10, lines=[Line(label="l", points=[(0, 0.0), (1, high)])]) for high in (1.0, 10.0)]
    reader = read(*plots)
    assert [label["y"] for label in reader.all("text", "end")] == ["152.0", "8.0"]


# Colours


def test_a_label_has_one_colour_on_the_whole_page_and_in_the_table():
    page = Page(
        title="p",
        sections=[
            Section(blocks=[Plot(title="1", lines=[ramp("a"), ramp("b"), ramp("offered", muted=True)])]),
            Section(
                blocks=[
                    Plot(title="2", lines=[ramp("b"), ramp("c")]),
                    Table(columns=[Column(title="Name")], rows=[["a"], ["b"], ["c"], ["offered"]]),
                ]
            ),
        ],
    )
    reader = Reader(page.html())
    assert [a["class"] for a in reader.all("text", "end")] == [
        "end c0", "end c1", "end muted", "end c1", "end c2",
    ]  # fmt: skip
    assert [a["class"] for a in reader.all("i")] == ["c0", "c1", "c2"]


def test_more_labels_than_colours_share_colours_only_between_plots():
    plots = [Plot(title=str(n), lines=[ramp(f"{n}a"), ramp(f"{n}b")]) for n in range(5)]
    colours = choose_colours(plots)
    assert max(colours.values()) < 6
    assert all(colours[f"{n}a"] != colours[f"{n}b"] for n in range(5))


def test_more_lines_in_one_plot_than_colours_are_dashed():
    reader = read(Plot(title="p", lines=[ramp(str(n)) for n in range(8)]))
    classes = [a["class"] for a in reader.all("path")][:8]
    assert classes == ["c0", "c1", "c2", "c3", "c4", "c5", "c0 dashed", "c1 dashed"]


# Severe colour blindness, as linear-light matrices (Machado, Oliveira and Fernandes 2009).
VISION = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}


def light(colour: str) -> list[float]:
    """Linear red, green and blue."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def luminance(rgb: list[float]) -> float:
    return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2]


def lab(rgb: list[float]) -> list[float]:
    """CIE L*a*b*, in which distances are about as large as they look."""
    r, g, b = rgb
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        luminance(rgb),
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz)
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


def palettes() -> list[dict[str, str]]:
    css = files("resilient.lab.drawing").joinpath("report.css").read_text(encoding="utf-8")
    themes = re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)
    return [dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6});", theme)) for theme in themes]


@pytest.mark.parametrize("palette", palettes(), ids=["light", "dark"])
def test_colours_stand_out_from_the_paper_and_from_each_other_for_everybody(palette):
    paper = luminance(light(palette["paper"]))
    for name, needed in {**{f"c{n}": 4.0 for n in range(6)}, "grey": 3.0, "soft": 4.5, "ink": 7.0}.items():
        dark, bright = sorted((luminance(light(palette[name])), paper))
        assert (bright + 0.05) / (dark + 0.05) >= needed - 0.05, name
    lines = [light(palette[name]) for name in ("c0", "c1", "c2", "c3", "c4", "c5", "grey")]
    for vision, matrix in VISION.items():
        seen = [lab([max(0.0, sum(a * b for a, b in zip(row, rgb, strict=True))) for row in matrix]) for rgb in lines]
        nearest = min(
            sum((a - b) ** 2 for a, b in zip(one, two, strict=True)) ** 0.5 for one, two in combinations(seen, 2)
        )
        assert nearest > 10, vision  # 2.3 is the least difference that an eye notices


# Tables


def test_a_table_aligns_numbers_and_marks_the_best():
    table = Table(
        columns=[Column(title="Policy"), Column(title="p99", unit="s", best="min"), Column(title="State")],
        rows=[["a", 0.0123, "closed"], ["b", 0.1, "open"], ["c", None, "open"]],
        caption="Below",
    )
    html = Page(title="p", sections=[Section(blocks=[table])]).html()
    assert '<th scope="col" class="number">p99 <span class="unit">ms</span></th>' in html
    assert '<tr><th scope="row">a</th><td class="number"><b>12</b></td><td>closed</td></tr>' in html
    assert '<tr><th scope="row">b</th><td class="number">100</td><td>open</td></tr>' in html
    assert '<td class="number">\N{EN DASH}</td>' in html
    assert "<figcaption>Below</figcaption>" in html


def test_a_table_whose_rows_do_not_fit_its_columns_is_refused():
    with pytest.raises(ValueError, match=r"rows: \['a', 1\] has 2 cells, and there are 1 columns"):
        Table(columns=[Column(title="Only")], rows=[["a", 1]])
    with pytest.raises(ValueError, match="columns"):
        Table(columns=[], rows=[])


def test_figures_that_are_written_already_have_notes_and_lead_somewhere():
    row = [
        Cell("never recovers", ["recovery"], anchor="storm"),
        Cell("1.2 s", ["[0.9, 1.6]", "(8 of 10)"], strong=True),
    ]
    html = Page(
        title="p",
        sections=[
            Section(anchor="storm", blocks=[Table(columns=[Column(title=""), Column(title="default")], rows=[row])])
        ],
    ).html()
    assert '<th scope="row"><a href="#storm">never recovers</a><small>recovery</small></th>' in html
    assert '<td class="number"><b>1.2 s</b><small>[0.9, 1.6]</small><small>(8 of 10)</small></td>' in html
    assert '<section id="storm">' in html


# Labels that can be hidden


def switched(*blocks):
    return Page(title="p", switches=["a", "b"], sections=[Section(blocks=blocks)]).html()


def test_what_belongs_to_a_label_bears_the_mark_of_its_switch():
    html = switched(
        Plot(
            title="1", lines=[ramp("a", spread=[(0, 0.0, 1.0), (1, 0.0, 2.0)]), ramp("b"), ramp("offered", muted=True)]
        ),
        Table(columns=[Column(title=""), Column(title="b")], rows=[["a", 1.0], ["other", 2.0]]),
    )
    reader = Reader(html)
    assert [a["class"] for a in reader.all("path")] == [
        "spread c0 s0", "c0 s0", "c1 s1", "muted",
        "c0 s0", "c1 s1", "muted",
    ]  # fmt: skip
    assert [a.get("class") for a in reader.all("li")] == ["s0", "s1", None]
    assert [a.get("class") for a in reader.all("tr")] == [None, "s0", None]
    assert [a["class"] for tag, a in reader.elements if tag in {"th", "td"} and "number" in a.get("class", "")] == [
        "number s1"
    ] * 3
    assert "body:has(#show-1:not(:checked)) .s1 { display: none; }" in html


def test_without_switches_there_are_none():
    html = Page(title="p", sections=[Section(blocks=[Plot(title="1", lines=[ramp("a")])])]).html()
    assert "<input" not in html
    assert ":has(#show" not in html


def test_a_switch_has_the_colour_of_its_label_and_is_on():
    reader = Reader(switched(Plot(title="1", lines=[ramp("b"), ramp("a")])))
    assert [a["class"] for a in reader.all("label")] == ["c1", "c0"]
    assert all("checked" in a and a["type"] == "checkbox" for a in reader.all("input"))


def test_plots_that_are_not_labelled_leave_that_to_the_switches():
    html = switched(Plot(title="1", lines=[ramp("a"), ramp("b")], labelled=False))
    reader = Reader(html)
    assert len(reader.all("div", "small")) == 1
    assert reader.all("text", "end") == []
    assert reader.all("ul") == []


# Areas


def test_an_area_lies_between_the_lowest_and_the_highest_and_has_gaps():
    spread = [
        (0, 1.0, 2.0),
        (1, 1.0, 4.0),
        (2, None, None),
        (3, 0.0, 4.0),
        (4, None, 1.0),
        (5, 2.0, 4.0),
        (6, 2.0, 2.0),
    ]
    line = Line(label="some", points=[(0, 1.0), (6, 4.0)], spread=spread)
    (area, *_) = read(Plot(title="Areas", lines=[line])).all("path")
    assert area["d"] == (
        "M0.0 80.0L166.7 0.0L166.7 120.0L0.0 120.0Z"  # there above, and back below
        "M833.3 0.0L1000.0 80.0L1000.0 80.0L833.3 80.0Z"
    )


def test_the_scale_reaches_as_far_as_the_areas():
    line = Line(label="some", points=[(0, 1.0), (1, 1.0)], spread=[(0, 0.5, 4.0), (1, 0.5, 4.0)])
    (area, path, _) = read(Plot(title="Areas", lines=[line])).all("path")
    assert area["d"].startswith("M0.0 0.0")
    assert path["d"].startswith("M0.0 120.0")


def test_an_area_that_touches_zero_ends_where_a_logarithmic_scale_does():
    line = Line(label="some", points=[(0, 1.0), (1, 10.0)], spread=[(0, 0.0, 10.0), (1, 1.0, 100.0)])
    (area, *_) = read(Plot(title="Areas", log=True, lines=[line])).all("path")
    assert area["d"].endswith("L0.0 160.0Z")


# Words


def test_labels_between_backticks_are_set_off_in_their_colour():
    html = Page(
        title="p",
        lead="`b` wins",
        sections=[
            Section(
                blocks=[
                    Text("`b` recovers in 1 s [0.9, 1.6]; `<i>` never", large=True),
                    Plot(title="1", lines=[ramp("a"), ramp("b")]),
                    Text("a lone ` stays, and [" + "x" * 31 + "] may be broken"),
                ]
            )
        ],
    ).html()
    assert '<p class="lead"><b class="name c1">b</b> wins</p>' in html
    assert '<b class="name c1">b</b> recovers in 1 s <span class="whole">[0.9, 1.6]</span>; ' in html
    assert '<b class="name ">&lt;i&gt;</b> never' in html
    assert "a lone ` stays, and [xxx" in html


def test_points_and_listings():
    html = switched(Points([("recovery", "`a` is best")]), Listing("Again", ["one --two", "three"]))
    assert '<dl class="points"><div><dt>recovery</dt><dd><b class="name ">a</b> is best</dd></div></dl>' in html
    assert "<details><summary>Again</summary><pre>one --two\nthree</pre></details>" in html
