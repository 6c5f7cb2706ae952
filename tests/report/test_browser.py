"""report.html in a real browser: no error, no request, pictures there, text readable, no overflow.

Needs a Chromium or Chrome: on Debian and Ubuntu `apt-get install chromium`, or name a program in
APDM_TEST_BROWSER.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apdm_cli.report.assemble import compare_runs
from apdm_cli.report.evaluated import open_runs
from apdm_cli.report.publish import publish
from apdm_cli.report.requirement import parse
from tests.report.browser import Browser, find_browser
from tests.report.synthetic import make_run

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium or Chrome here: apt-get install chromium"
)

# The lowest contrast of any text against the background behind it (WCAG 2, where 4.5 is AA).
LOWEST_CONTRAST = """
(() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const f = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b);
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  let lowest = [99, ""];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ink = element.closest("svg") ? style.fill : style.color;
    const [a, b] = [light(parse(ink)), light(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < lowest[0]) lowest = [contrast, walk.currentNode.data.trim()];
  }
  return lowest;
})()
"""
SMALLEST_TEXT = """
Math.min(...[...document.querySelectorAll("main *, main svg text")]
  .filter(e => e.getClientRects().length && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
  .map(e => parseFloat(getComputedStyle(e).fontSize) *
            (e.ownerSVGElement ? e.getScreenCTM().a : 1)))
"""  # noqa: E501


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    make_run(root)
    runs = open_runs(root, [])
    return publish(compare_runs(runs, [parse("worst.dino<=0.3")]), runs).html


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(
    browser: Browser, report: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    browser.events.clear()
    browser.open(report.as_uri(), width, dark=dark)
    pictures = browser.evaluate(
        "[...document.images].map(i => i.complete && i.naturalWidth > 0 && i.width > 40)"
    )
    assert len(pictures) == 80 and all(pictures)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(LOWEST_CONTRAST)[0] >= 4.5, browser.evaluate(LOWEST_CONTRAST)
    assert browser.evaluate(SMALLEST_TEXT) >= 10
    shown = browser.evaluate(
        "[...document.querySelectorAll('figure.chart')].map(f => "
        "[...f.children].filter(c => c.getClientRects().length).length)"
    )
    assert shown == [1, 1, 1]  # the wide or the narrow drawing of each chart, never both
    shot = tmp_path / "page.png"
    browser.screenshot(shot)
    with Image.open(shot) as picture:
        assert picture.width == width and len(picture.convert("RGB").getcolors(1 << 24) or ()) > 99
    assert _complaints(browser.events) == []
    assert _requests(browser.events) == {report.as_uri()}


def test_it_prints(browser: Browser, report: Path) -> None:
    browser.open(report.as_uri(), 1280)
    pages = browser.print_pages()
    assert pages.startswith(b"%PDF") and len(pages) > 20_000


def test_everything_can_be_reached_by_keyboard(browser: Browser, report: Path) -> None:
    browser.open(report.as_uri(), 390)
    unreachable = browser.evaluate(
        "[...document.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1 && "
        "['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0).length"
    )
    assert unreachable == 0
    first = "document.querySelector('a').textContent"
    assert browser.evaluate(first) == "Skip to the report"


def _complaints(events: list[dict[str, Any]]) -> list[Any]:
    kinds = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    return [event for event in events if event.get("method") in kinds]


def _requests(events: list[dict[str, Any]]) -> set[str]:
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    return {url for url in asked if not url.startswith("data:")}
