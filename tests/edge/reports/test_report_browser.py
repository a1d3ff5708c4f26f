"""The report of a shift in a real browser: it fits, it sorts and searches, and without a script it is whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.cli import main
from edge.records import Outcome
from tests.edge.validation.test_report_browser import BEYOND_THE_PAGE, CONTRAST
from tests.support.chromium import Chromium, needs_chromium
from tests.support.shift import HOSTILE, Night, make_night

pytestmark = [pytest.mark.browser, needs_chromium]

VISIBLE = "[...document.querySelectorAll('#cards > article:not([hidden])')]"
ROWS = f"{VISIBLE}.map(card => document.querySelector('[data-card=' + card.id + ']'))"
PARTS = f"{ROWS}.map(row => row.dataset.part)"
FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    return make_night(tmp_path_factory.mktemp("night"), 48)


@pytest.fixture(scope="module")
def report(night: Night) -> Path:
    out = night.root / "report.html"
    words = ["report", "--config", str(night.config), "--since", night.since.isoformat()]
    assert main([*words, "--until", night.until.isoformat(), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


@pytest.mark.parametrize("width", [360, 768, 1300])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_fits_and_can_be_read(browser: Chromium, report: Path, width: int, scheme: str) -> None:
    browser.open(report, width=width, scheme=scheme)
    assert browser.evaluate(FITS)
    assert browser.evaluate(BEYOND_THE_PAGE) == []
    assert browser.evaluate(CONTRAST) == []


def test_hostile_words_are_read_not_run_and_nothing_is_loaded(browser: Chromium, report: Path) -> None:
    browser.open(report, width=1300)
    assert browser.requests() == [report.as_uri()]
    assert browser.complaints() == []
    words = browser.evaluate("document.body.innerText")
    for name in HOSTILE[:3]:
        assert name in words
    assert HOSTILE[3] not in words, "a character that turns the reading direction is written out"
    assert "\\u202egnp.exe" in words
    assert browser.evaluate("document.scripts.length") == 1
    browser.evaluate(
        "void document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    assert browser.evaluate("window.ran === undefined"), "only the script of this hash runs"


def test_a_part_is_found_by_its_id_and_outcomes_are_filtered(browser: Chromium, report: Path, night: Night) -> None:
    browser.open(report, width=1300)
    assert browser.evaluate(f"{VISIBLE}.length") == 12
    type_in = "(e => { e.value = %r; e.dispatchEvent(new Event('input')) })(document.getElementById('search'))"
    browser.evaluate(type_in % "0019")
    assert browser.evaluate(PARTS) == ["0019", "0019"]
    assert browser.evaluate("document.getElementById('count').textContent") == "2 of 12"
    assert browser.evaluate("document.querySelectorAll('#index tbody tr:not([hidden])').length") == 2
    browser.evaluate(type_in % "")
    browser.evaluate("document.querySelector('[name=outcome][value=review]').click()")
    assert browser.evaluate(f"{VISIBLE}.length") == 12 - len(night.of(Outcome.REVIEW))
    assert not browser.evaluate(f"{ROWS}.some(row => row.dataset.outcome === 'review')")


def test_a_click_on_a_heading_sorts_cards_and_table_alike(browser: Chromium, report: Path) -> None:
    browser.open(report, width=1300)
    heading = "document.querySelector('#index th[data-key=p] button')"
    browser.evaluate(f"{heading}.click()")
    values = browser.evaluate(f"{ROWS}.map(row => row.dataset.p)")
    numbers = [float(value) for value in values if value]
    assert numbers == sorted(numbers)
    assert values[len(numbers) :] == [""] * 4, "what has no score comes last"
    browser.evaluate(f"{heading}.click()")
    values = browser.evaluate(f"{ROWS}.map(row => row.dataset.p)")
    assert [float(value) for value in values if value] == sorted(numbers, reverse=True)
    assert values[-4:] == [""] * 4
    order = browser.evaluate("[...document.querySelectorAll('#index tbody tr')].map(row => row.dataset.card)")
    assert order == browser.evaluate(f"{VISIBLE}.map(card => card.id)")


def test_a_picture_is_enlarged_and_closed_again_without_a_script(browser: Chromium, report: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(report, width=1300)
        card, link = "document.querySelector('#cards .zoom')", "document.querySelector('.large:target .close')"
        assert browser.evaluate(f"{card}.querySelector('svg').getBoundingClientRect().width") > 500
        browser.evaluate(f"void (location.hash = {card}.getAttribute('href'))")
        assert (
            browser.evaluate("document.querySelector('.large:target svg').getBoundingClientRect().width") >= 1300 - 48
        )
        browser.evaluate(f"void (location.hash = {link}.getAttribute('href'))")
        assert browser.evaluate("document.querySelector('.large:target')") is None
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_without_a_script_nothing_is_hidden_but_the_tools(browser: Chromium, report: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(report, width=1300)
        assert browser.evaluate(f"{VISIBLE}.length") == 12
        assert browser.evaluate("getComputedStyle(document.getElementById('tools')).display") == "none"
        times = browser.evaluate(f"{ROWS}.map(row => Number(row.dataset.time))")
        assert times == sorted(times)
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
