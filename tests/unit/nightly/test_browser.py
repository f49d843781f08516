"""The page of a night in a real browser: wide, narrow and in the dark, it is whole, readable, and asks for nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nightly import night
from tests.unit.nightly import made
from tests.unit.nightly.browser import Browser, opened

pytestmark = [pytest.mark.slow, pytest.mark.needs("a browser")]
WIDTHS = (1280, 390)
# WCAG 2.1, 1.4.3: of normal text, and of large text.
CONTRAST, CONTRAST_LARGE = 4.5, 3.0

# Each piece of text that is shown, with the contrast to what is behind it: relative luminance as WCAG 2.1 defines it.
TEXTS = """
(() => {
  const channel = value => { value /= 255; return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4 };
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const colour = numbers(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    if (!walker.currentNode.data.trim() || box.width < 2 || box.height < 2) continue;
    const svg = element.closest('svg');
    const [one, other] = [luminance(numbers(svg ? style.fill : style.color)), luminance(behind(svg ?? element))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    found.push({text: walker.currentNode.data.trim().slice(0, 60), contrast, large, size});
  }
  return found;
})()
"""
# What lies outside of the page's width, but for what is inside of an element that scrolls by itself.
OUTSIDE = """
[...document.body.querySelectorAll('*')].filter(one => {
  const box = one.getBoundingClientRect();
  return box.right > innerWidth + 1 && box.width > 1 && !one.closest('.scroll') && !one.closest('.end');
}).map(one => one.outerHTML.slice(0, 100))
"""
UNNAMED = """
[...document.querySelectorAll('figure, [role=region], nav, section')].filter(one => {
  const by = one.getAttribute('aria-labelledby');
  return !one.getAttribute('aria-label') && !(by && document.getElementById(by));
}).map(one => one.outerHTML.slice(0, 100))
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened() as browser:
        yield browser


@pytest.fixture(scope="module", params=["bad", "well"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a night in which much failed, with hostile texts; and of one where all is well."""
    folder = tmp_path_factory.mktemp("night")
    if request.param == "bad":
        xml = made.junit(folder / "tests", made.PLAIN, made.recording(), made.HOSTILE)
        results = made.results(folder / "results", xml, made.bench(0.7))
        failing = "test_number0.py::test_bad[host-gw]"
        made.keep(results, *(made.older(number, *([failing] if number < 4 else [])) for number in range(1, 61)))
        (results / "runs" / f"{'long-name-' * 20}.json").write_text("{")
    else:
        xml = made.junit(folder / "tests", made.recording(5))
        results = made.results(folder / "results", xml, made.bench(), made.outcome("tests"), made.outcome("bench"))
    return night.render(results).page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_whole_at_every_width_and_in_the_dark(
    browser: Browser, page: Path, width: int, dark: bool, tmp_path: Path
) -> None:
    browser.show(page, width=width, dark=dark)
    picture = tmp_path / f"page-{width}-{'dark' if dark else 'light'}.png"
    browser.screenshot(picture)
    assert picture.stat().st_size > 20_000
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.value(OUTSIDE) == []
    assert browser.requested() == [page.as_uri()]
    assert browser.complaints() == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(browser: Browser, page: Path, dark: bool) -> None:
    browser.show(page, width=1280, dark=dark)
    background = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(20, 24, 27)") is dark
    browser.value("document.querySelectorAll('details').forEach(one => one.open = true)")
    texts = browser.value(TEXTS)
    assert len(texts) > 200
    assert [one for one in texts if one["contrast"] < (CONTRAST_LARGE if one["large"] else CONTRAST)] == []
    # The labels of a plot's axes are scaled with it.
    assert min(one["size"] for one in texts) >= 9


def test_it_can_be_read_without_seeing_it(browser: Browser, page: Path) -> None:
    browser.show(page, width=1280)
    levels = browser.value("[...document.querySelectorAll('h1, h2, h3')].map(one => Number(one.tagName[1]))")
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert browser.value(UNNAMED) == []
    assert browser.value("document.documentElement.lang") == "en"
    assert browser.value("[...document.querySelectorAll('table')].every(one => one.caption)")
    assert browser.value("[...document.querySelectorAll('th')].every(one => one.scope)")
    assert browser.value("[...document.querySelectorAll('nav a')].every(one => document.querySelector(one.hash))")


def test_what_is_hostile_runs_nothing(browser: Browser, page: Path) -> None:
    browser.show(page, width=1280)
    assert browser.value("[document.scripts.length, document.images.length, document.links.length]") == [0, 0, 6]


def test_the_browser_sees_requests_errors_and_what_is_too_wide(browser: Browser, tmp_path: Path) -> None:
    wide = '<p style="width: 2000px">wide</p><img src="http://198.18.99.1/a.png"><script>console.error("no")</script>'
    page = tmp_path / "page.html"
    page.write_text(f"<!DOCTYPE html><body>{wide}")
    browser.show(page, width=390)
    assert "http://198.18.99.1/a.png" in browser.requested()
    assert browser.complaints()
    assert browser.value("document.documentElement.scrollWidth") > 390
    assert len(browser.value(OUTSIDE)) == 1
