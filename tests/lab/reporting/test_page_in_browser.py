"""The page of lab results as a browser shows it: on a desk and on a telephone, in light and in dark, and switched."""

from __future__ import annotations

import pytest

from resilient.lab.reporting.page import page
from tests.lab.samples import POLICIES, sample
from tests.servers.chromium import Chromium

# A fresh machine installs the browser in the first test that needs it.
pytestmark = pytest.mark.timeout(300)

CAREFUL = "my_company.policies:careful_with_retries"


@pytest.fixture(scope="module")
def browser():
    with Chromium() as found:
        yield found


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "lab.html"
    results = sample(policies=[*POLICIES, CAREFUL], seeds=3)
    path.write_text(page(results, file="results.json").html(), encoding="utf-8")
    return path.as_uri()


VISIBLE = "[...document.querySelectorAll('{}')].filter(e => e.checkVisibility()).length"


def visible(tab, selector):
    return tab.evaluate(VISIBLE.format(selector))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_it_fits_asks_for_nothing_and_complains_of_nothing(browser, url, width, dark):
    with browser.tab(width=width, dark=dark) as tab:
        tab.open(url)
        assert tab.requests == [url]
        assert tab.complaints == []
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert tab.evaluate("innerWidth") == width  # a telephone would widen its window to fit what is too wide
        assert visible(tab, "figure.plot") == tab.evaluate("document.querySelectorAll('figure.plot').length") > 10


def test_the_browser_would_tell_of_what_is_too_wide_asks_or_complains(browser, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text("<div style='width: 900px'>wide</div><script>console.error('no')</script><img src='gone.png'>")
    with browser.tab(width=360) as tab:
        tab.open(path.as_uri())
        assert tab.requests == [path.as_uri(), (tmp_path / "gone.png").as_uri()]
        assert len(tab.complaints) == 2
        assert tab.evaluate("document.documentElement.scrollWidth") >= 900


@pytest.mark.parametrize("width", [360, 1440])
def test_a_policy_is_hidden_and_shown_by_a_click(browser, url, width):
    with browser.tab(width=width) as tab:
        tab.open(url)
        lines, cells, others = (visible(tab, selector) for selector in ("path.s1", "td.s1", "path.s3"))
        assert lines >= 10
        assert cells >= 20
        tab.click("label:nth-of-type(2)")
        assert (visible(tab, "path.s1"), visible(tab, "td.s1"), visible(tab, "th.s1")) == (0, 0, 0)
        assert visible(tab, "path.s3") == others
        tab.click("label:nth-of-type(4)")
        assert visible(tab, "path.s3") == 0
        tab.click("label:nth-of-type(2)")
        assert (visible(tab, "path.s1"), visible(tab, "td.s1")) == (lines, cells)
        assert visible(tab, "path.s3") == 0


def test_a_hidden_policy_is_really_not_drawn(browser, url, tmp_path):
    """The pixels of its colour are gone."""
    count = """(async () => {
        const svg = document.querySelector('figure.plot:nth-of-type(3) svg.lines');
        return [...svg.querySelectorAll('path.s2:not(.spread)')].map(e => e.getClientRects().length);
    })()"""
    with browser.tab() as tab:
        tab.open(url)
        assert tab.evaluate(count) == [1]
        before = tmp_path / "before.png"
        tab.screenshot(before)
        tab.click("#show-2")
        assert tab.evaluate(count) == [0]
        after = tmp_path / "after.png"
        tab.screenshot(after)
        assert before.read_bytes() != after.read_bytes()


def test_the_switches_can_be_used_with_the_keyboard(browser, url):
    with browser.tab() as tab:
        tab.open(url)
        tab.evaluate("document.querySelector('#show-0').focus()")
        for kind in ("keyDown", "keyUp"):
            tab.ask("Input.dispatchKeyEvent", type=kind, key=" ", code="Space", text=" ", windowsVirtualKeyCode=32)
        assert visible(tab, "path.s0") == 0


def test_the_switches_stay_in_sight(browser, url):
    with browser.tab(height=700) as tab:
        tab.open(url)
        tab.evaluate("window.scrollTo(0, document.body.scrollHeight / 2)")
        assert tab.evaluate("document.querySelector('.switches').getBoundingClientRect().top") == 0


def test_light_and_dark_differ(browser, url):
    papers = []
    for dark in (False, True):
        with browser.tab(dark=dark) as tab:
            tab.open(url)
            papers.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert papers == ["rgb(255, 255, 255)", "rgb(21, 24, 28)"]


def test_the_overview_leads_to_the_scenarios(browser, url):
    with browser.tab(height=700) as tab:
        tab.open(url)
        tab.click("a[href='#slow-instance']")
        top, bar = tab.evaluate(
            "['#slow-instance', '.switches'].map(s => document.querySelector(s).getBoundingClientRect())"
            ".map((r, i) => i ? r.bottom : r.top)"
        )
        assert bar <= top < bar + 60  # just below the switches


def test_what_is_folded_unfolds(browser, url):
    with browser.tab() as tab:
        tab.open(url)
        assert visible(tab, "pre") == 0
        tab.click("summary")
        assert visible(tab, "pre") == 1
        assert tab.evaluate("document.querySelector('pre').innerText").startswith("resilient lab replay results.json")
