"""The report in a real browser: it fits, it can be read, and it neither loads nor runs anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge.engines import Batch, EngineOutput
from edge.records import Size
from edge.settings import Settings
from edge.validation.replay import ReplayOptions, check_replay, run_replay
from tests.support.chromium import Chromium, needs_chromium
from tests.support.fakes import BOOT_ID, write_scan
from tests.support.models import bright_is_abnormal, scripted_model

pytestmark = [pytest.mark.browser, needs_chromium]

HOSTILE = ('B05_"><script>alert(1)<', "B05_<img src=x onerror=alert(2)>", "B05_'--><svg onload=alert(3)>")
LONG = "B06_" + "very-long-name" * 12
SCHEMES = ("light", "dark")

CONTRAST = """
(() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const e of document.querySelectorAll('main *')) {
    const words = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('');
    if (!words) continue;
    const style = getComputedStyle(e);
    const [a, b] = [rgb(e.closest('svg') ? style.fill : style.color), ground(e)].map(luminance);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push([words, ratio]);
  }
  return poor;
})()
"""

CUT_TEXT = """
[...document.querySelectorAll('svg text')].filter(text => {
  const [inner, outer] = [text.getBoundingClientRect(), text.closest('svg').getBoundingClientRect()];
  return inner.left < outer.left - 1 || inner.right > outer.right + 1 || inner.bottom > outer.bottom + 1
    || inner.top < outer.top - 1;
}).map(text => text.textContent)
"""

SMALLEST_TEXT = """
Math.min(...[...document.querySelectorAll('svg.chart text')].map(text =>
  parseFloat(getComputedStyle(text).fontSize) * text.closest('svg').getBoundingClientRect().width / 440))
"""

BEYOND_THE_PAGE = """
[...document.querySelectorAll('main *')].filter(e =>
  e.getBoundingClientRect().right > document.documentElement.clientWidth + 1 && !e.closest('.scroll')
).map(e => e.outerHTML.slice(0, 80))
"""


def shuffled_scores(images: Batch) -> EngineOutput:
    """Scores that follow the noise of a scan, so that there are mistakes of every kind."""
    output = bright_is_abnormal(images)
    noise = images[:, 0, ::7, ::5].astype(np.int64).sum(axis=(1, 2)) % 97 / 97
    p_abnormal = np.clip(output.p_abnormal * 0.4 + noise * 0.6, 0, 1).astype(np.float32)
    spread = (output.gate_mean_max * (0.5 + 3 * noise)).astype(np.float32)
    residual_map = np.repeat(np.repeat(spread[:, None, None], 6, 1), 4, 2) * np.linspace(0.2, 1, 4, dtype=np.float32)
    return EngineOutput(p_abnormal, spread, spread / 2, residual_map.astype(np.float32))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A replay of a small lot with every kind of scan, and with names that would like to be more than names."""
    lot = tmp_path_factory.mktemp("lot")
    lines = ["file,bundle,label,kinds,severity"]
    for number in range(60):
        name = f"B{number % 4 + 1:02}_{number:04}.tif"
        level = 2450 if number % 3 == 0 else 2100
        write_scan(lot / name, level, seed=number)
        lines.append(f"{name},B{number % 4 + 1:02},{'abnormal' if number % 3 == 0 else 'normal'},lines;bubbles,0.5")
    for number, stem in enumerate((*HOSTILE, LONG)):
        write_scan(lot / f"{stem}.tif", 2450, seed=100 + number)
        (lot / f"{stem}-broken.tif").write_bytes(b"no scan")
        write_scan(lot / f"{stem}-small.tif", 2100, size=Size(30, 30))
    (lot / "labels.csv").write_text("\n".join(lines))
    settings = Settings(station="xray-1")
    rules = ("balanced_accuracy_decided_high>=0.9", "unreadable_count<=1")
    options = ReplayOptions(folder=lot, labels=lot / "labels.csv", out=lot / "out", requirements=rules)
    model = scripted_model(shuffled_scores, threshold=0.45, review_band=(0.44, 0.46), gate=(0.03, 0.03))
    return run_replay(check_replay(options, settings), settings, model, BOOT_ID).report


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


@pytest.mark.parametrize("width", [360, 390, 768, 1400])
def test_nothing_sticks_out_of_the_page(browser: Chromium, report: Path, width: int) -> None:
    browser.open(report, width=width)
    assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.evaluate(BEYOND_THE_PAGE) == []


def test_a_printed_page_needs_no_scrolling(browser: Chromium, report: Path) -> None:
    browser.open(report, width=690, media="print")  # A4 less its margins
    assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.evaluate("[...document.querySelectorAll('.scroll')].every(e => e.scrollWidth <= e.clientWidth + 1)")


@pytest.mark.parametrize("width", [360, 1400])
def test_no_word_of_a_figure_is_cut_or_too_small(browser: Chromium, report: Path, width: int) -> None:
    browser.open(report, width=width)
    assert browser.evaluate("document.querySelectorAll('svg.chart text').length") > 30
    assert browser.evaluate(CUT_TEXT) == []
    assert browser.evaluate(SMALLEST_TEXT) > 9


@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_words_have_the_contrast_of_wcag_aa(browser: Chromium, report: Path, scheme: str) -> None:
    browser.open(report, width=1400, scheme=scheme)
    assert browser.evaluate(CONTRAST) == []


def test_the_dark_scheme_is_dark_and_paper_is_white(browser: Chromium, report: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    browser.open(report, width=1400, scheme="dark")
    assert browser.evaluate(ground) == "rgb(20, 23, 26)"
    browser.open(report, width=1400, scheme="dark", media="print")
    assert browser.evaluate(ground) == "rgb(255, 255, 255)"


def test_hostile_names_are_read_not_run_and_nothing_is_loaded(browser: Chromium, report: Path) -> None:
    browser.open(report, width=1400)
    assert browser.requests() == [report.as_uri()]
    assert browser.complaints() == []
    words = browser.evaluate("document.body.innerText")
    for name in HOSTILE:
        assert f"{name}-broken.tif" in words
    assert browser.evaluate("document.scripts.length + document.querySelectorAll('[onload], [onerror]').length") == 1


def test_the_table_of_scans_is_searched_filtered_and_sorted(browser: Chromium, report: Path) -> None:
    browser.open(report, width=1400)
    shown = "[...document.querySelectorAll('#scans tbody tr')].filter(row => !row.hidden)"
    everything = browser.evaluate(f"{shown}.length")
    assert everything == browser.evaluate("document.querySelectorAll('#scans tbody tr').length") == 72

    browser.evaluate("""
        document.querySelector('.filter select').value = 'mistake';
        document.querySelector('.filter select').dispatchEvent(new Event('change'))""")
    mistakes = browser.evaluate(f"{shown}.map(row => row.dataset.mistake)")
    assert mistakes and set(mistakes) <= {"escape", "overkill"}
    browser.evaluate("""
        document.querySelector('.filter select').value = '';
        document.querySelector('.filter input').value = 'B02 normal';
        document.querySelector('.filter input').dispatchEvent(new Event('input'))""")
    assert set(browser.evaluate(f"{shown}.map(row => row.cells[1].textContent)")) == {"B02"}
    assert "of 72 scans" in browser.evaluate("document.querySelector('.filter span').textContent")

    column = "[...document.querySelectorAll('#scans tbody tr')].map(row => row.cells[5].dataset.value)"
    for direction in (1, -1):
        browser.evaluate("document.querySelectorAll('#scans th button')[5].click()")
        values = browser.evaluate(column)
        known = [float(value) for value in values if value]
        assert known == sorted(known, reverse=direction < 0) and len(known) > 60
        assert values[len(known) :] == [""] * (72 - len(known))  # without a score: last


def test_a_picture_is_enlarged_by_a_click_and_by_the_keyboard(browser: Chromium, report: Path) -> None:
    browser.open(report, width=1400)
    size = "document.querySelector('dialog.zoom svg.picture').getBoundingClientRect().height"
    browser.evaluate("document.querySelector('svg.picture').dispatchEvent(new MouseEvent('click'))")
    assert browser.evaluate("document.querySelector('dialog.zoom').open")
    assert browser.evaluate(size) > 700
    browser.evaluate("document.querySelector('dialog.zoom').click()")
    assert not browser.evaluate("document.querySelector('dialog.zoom').open")
    browser.evaluate(
        "document.querySelector('svg.picture').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'}))"
    )
    assert browser.evaluate("document.querySelector('dialog.zoom').open")


def test_a_row_leads_to_the_picture_of_its_scan(browser: Chromium, report: Path) -> None:
    browser.open(report, width=1400)
    dead = "[...document.querySelectorAll('#scans a')].filter(a => !document.querySelector(a.getAttribute('href')))"
    assert browser.evaluate("document.querySelectorAll('#scans a').length") > 20
    assert browser.evaluate(f"{dead}.length") == 0


def test_the_page_forbids_what_it_does_not_need(browser: Chromium, report: Path) -> None:
    """Even a script that got in could do nothing: the policy of the page stops it."""
    browser.open(report, width=1400)
    browser.evaluate(
        "void document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    browser.evaluate(
        "void document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.1:9/'}))"
    )
    assert browser.evaluate("window.ran === undefined")
    texts = [str(event["params"].get("entry", {}).get("text", "")) for event in browser.complaints()]
    assert sum("Content Security Policy" in text for text in texts) == 2


def test_every_picture_decodes(browser: Chromium, report: Path) -> None:
    browser.open(report, width=1400)
    shown = browser.evaluate("document.querySelectorAll('svg.picture').length")
    assert shown > 20
    sources = browser.evaluate("[...document.querySelectorAll('svg.picture image')].map(i => i.getAttribute('href'))")
    assert len(sources) > shown
    assert all(source.startswith(("data:image/jpeg;base64,", "data:image/png;base64,")) for source in sources)
    heights = browser.evaluate(
        "[...document.querySelectorAll('svg.picture')].map(s => s.getBoundingClientRect().height)"
    )
    assert min(heights) > 50
