"""The desk in a real browser, as a reader uses it: log in, filter, look, answer by keys, export, verify."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.desk.store import FILE_NAME, DeskStore
from edge.records import Counts, Outcome
from edge.validation.labels import Label, read_labels
from tests.support.chromium import Chromium, needs_chromium
from tests.support.desk import BOUNDS, PASSWORD, log_in, put_account, put_piece, serving, sheet
from tests.support.mosquitto import free_port

pytestmark = [pytest.mark.browser, needs_chromium]

READY = "document.getElementById('picture')?.dataset.ready"
HOSTILE = '"><img src=x onerror=alert(1)>.tif'


@dataclass
class Served:
    """A desk that runs as its own process."""

    folder: Path
    url: str
    counts: dict[str, Counts]
    """By part."""
    damaged: dict[str, str]
    """Verdict whose evidence lacks this file."""

    def command(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edge.desk.cli", *map(str, words), "--config", str(self.folder / "edge.toml")]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def dispositions(self) -> list[dict[str, Any]]:
        return [
            json.loads(path.read_bytes()) for path in (self.folder / "state" / "requests").glob("disposition-*.json")
        ]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("desk")
    (folder / "state" / "requests").mkdir(parents=True)
    (folder / "desk").mkdir()
    outcomes = [Outcome.REVIEW, Outcome.ABNORMAL, Outcome.NORMAL, Outcome.UNREADABLE]
    counts = {}
    for number in range(1, 9):
        outcome = outcomes[number % 4]
        size = (2000, 1000) if number == 1 else (300, 150)
        counts[f"{number:04}"] = sheet(number, *size, flaw=outcome is not Outcome.NORMAL)
        put_piece(
            folder / "state" / "evidence",
            number,
            outcome,
            kept="sample" if outcome is Outcome.NORMAL else "outcome",
            counts=counts[f"{number:04}"],
            lot="B01" if number < 6 else "B02",
            file=HOSTILE if number == 6 else None,
        )
    damaged = {}
    for number, name in ((9, "scan.png"), (10, "image.png")):
        piece = put_piece(folder / "state" / "evidence", number, counts=sheet(number, 300, 150), lot="B09")
        (piece.path / name).unlink()
        damaged[name] = piece.record.verdict_id
    with DeskStore(folder / "desk" / FILE_NAME) as store:
        put_account(store, "ann", "admin")
        put_account(store, "bob")
    (folder / "edge.toml").write_text(
        f'[state]\ndir = "{folder}/state"\n[desk]\ndir = "{folder}/desk"\nport = {free_port()}\n', encoding="utf-8"
    )
    with serving(folder / "edge.toml") as url:
        yield Served(folder, url, counts, damaged)


@pytest.fixture
def browser(served: Served, tmp_path: Path) -> Iterator[Chromium]:
    """Logged in as ann."""
    with Chromium(tmp_path / "profile") as chromium:
        log_in(chromium, served.url)
        yield chromium


def open_part(browser: Chromium, served: Served, part: str, *, width: int = 1280, height: int = 900) -> str:
    browser.visit(f"{served.url}/?state=all&part={part}", width=width)
    verdict_id = str(browser.evaluate("document.querySelector('a.case').id.slice(5)"))
    browser.visit(f"{served.url}/scan/{verdict_id}", width=width, height=height)
    browser.wait_for(READY)
    return verdict_id


PIXEL = """
(() => {
  const c = document.getElementById('picture'), out = [];
  for (const [x, y] of %s) out.push(c.getContext('2d').getImageData(x, y, 1, 1).data[0]);
  return out;
})()
"""


def windowed(counts: Counts, low: int, high: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.clip((counts.astype(np.float64) - low) / (high - low) * 255, 0, 255)


def test_a_shift_from_logging_in_to_the_labels(browser: Chromium, served: Served) -> None:
    """The whole way: filter, window by keys and by drag with the pixels checked, answer by keys, export, verify."""
    browser.evaluate(
        "(() => { const s = document.querySelector('[name=lot]'); s.value = 'B02';"
        " s.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    browser.wait_for("document.querySelectorAll('a.case').length === 3")
    verdict_id = open_part(browser, served, "0005")
    counts = served.counts["0005"].astype(np.float64)
    for key in ("0", "+", "+", "+", "+", "+"):
        browser.press(key)
    # At a scale above 1 each pixel of the screen is one count, through the window.
    place = browser.evaluate(
        "(() => { const p = picture, x = p.canvas.width >> 1, y = p.canvas.height >> 1, at = p.at(x + .5, y + .5);"
        " return [x, y, Math.floor(at.x), Math.floor(at.y), p.scale]; })()"
    )
    x, y, column, row, scale = place
    assert scale > 1
    count = counts[row, column]
    for key, bounds in (("m", BOUNDS), ("f", (0, 65535))):
        browser.press(key)
        low, high = bounds
        browser.wait_for(f"picture.low === {low} && picture.high === {high}")
        browser.evaluate("picture.paint()")
        (grey,) = browser.evaluate(PIXEL % f"[[{x}, {y}]]")
        assert grey == round(float(windowed(np.array(count), low, high))), key
    browser.press("l")
    low, high = browser.evaluate("[picture.low, picture.high]")
    assert 1700 < low < high < 4000
    browser.drag(500, 400, 560, 400)
    assert browser.evaluate("picture.high - picture.low") > (high - low) * 1.1, "to the right is softer"
    browser.evaluate("picture.paint()")
    low, high = browser.evaluate("[picture.low, picture.high]")
    (grey,) = browser.evaluate(PIXEL % f"[[{x}, {y}]]")
    assert grey == pytest.approx(windowed(np.array(count), low, high), abs=0.51)
    browser.move(500, 400)
    x, y, count = map(int, re.findall(r"\d+", browser.evaluate("document.getElementById('pointer').textContent")))
    assert count == counts[y, x], "what stands under the pointer is the detector's count"

    browser.press("b")
    browser.press("0")
    browser.drag(430, 300, 500, 380)
    for key in ("a", "1", "7"):
        browser.press(key)
    browser.press("Enter")
    browser.wait_for("document.getElementById('next')")
    assert "lies in the review band" not in browser.evaluate("document.body.innerText")
    assert "classifier" in browser.evaluate("document.body.innerText"), "the line's reason is shown after the answer"
    (given,) = served.dispositions()
    assert (given["verdict_id"], given["decision"], given["by"]) == (verdict_id, "abnormal", "ann")
    assert given["kinds"] == ["bubbles", "scratches"] and len(given["boxes_px"]) == 1
    assert given["seconds_looked"] > 0 and given["is_blind"] is True
    assert browser.complaints() == []

    done = served.command("export", "--out", served.folder / "out")
    assert done.returncode == 0, done.stderr
    (labelled,) = read_labels(served.folder / "out" / "labels.csv")
    assert (labelled.label, labelled.kinds) == (Label.ABNORMAL, ("bubbles", "scratches"))
    verified = served.command("verify")
    assert verified.returncode == 0, verified.stdout
    assert verified.stdout.startswith("unchanged: 4 entries")


REDRAWS = 20
REDRAW = f"for (let n = 0; n < {REDRAWS}; n++) {{ picture.window(1700 + n, 2800 + n); picture.paint(); }}"


def thread_ms(browser: Chromium) -> float:
    """Processor time of the page's thread so far."""
    metrics = browser.call("Performance.getMetrics")["metrics"]
    return next(1e3 * float(each["value"]) for each in metrics if each["name"] == "TaskDuration")


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (2560, 2300)], ids=["1280 px", "each count has a pixel"])
def test_a_large_scan_follows_the_hand_at_30_frames_a_second(
    browser: Chromium, served: Served, width: int, height: int
) -> None:
    """Processor time of a redraw with another window, by the browser's own books: how long it takes by the clock says
    more of what else the machine does."""
    open_part(browser, served, "0001", width=width, height=height)
    assert (browser.evaluate("picture.scale") >= 1) == (height > 2000)
    browser.call("Performance.enable", timeDomain="threadTicks")
    before_ms, frames = thread_ms(browser), browser.evaluate("picture.frames")
    browser.evaluate(f"(() => {{ {REDRAW} }})()")
    drawn = browser.evaluate("picture.frames") - frames
    redraw_ms = (thread_ms(browser) - before_ms) / drawn
    print(f"2000 x 1000 px in a window of {width} x {height}: {redraw_ms:.1f} ms of processor a redraw")
    assert drawn >= REDRAWS
    assert 0 < redraw_ms < 1000 / 30


def test_a_large_scan_is_unpacked_once_and_before_anything_else(browser: Chromium, served: Served) -> None:
    open_part(browser, served, "0001")
    before = browser.evaluate("picture.frames")
    browser.drag(400, 300, 600, 500, steps=40)
    frames = browser.evaluate("picture.frames") - before
    print(
        f"first image {browser.evaluate(READY)} ms after the page was asked for, {frames} frames in a drag of 40 steps"
    )
    assert frames > 10
    requests = browser.requests()
    page = requests.index(str(browser.evaluate("location.href")))  # before it come late ones of the page before
    asked = [url.rsplit("/", 1)[1] for url in requests[page:] if "/scan/" in url]
    assert asked.count("counts") == 1, "what the page asks for ahead is what its script takes"
    assert asked.index("counts") < asked.index("thumbnail.jpg"), "nothing is unpacked before the picture itself"


def test_keys_lay_over_the_picture_what_spoke_for_abnormal_and_what_the_gate_could_not_reproduce(
    browser: Chromium, served: Served
) -> None:
    open_part(browser, served, "0008")
    for key in ("a", "Enter"):
        browser.press(key)
    browser.wait_for(f"document.getElementById('next') && {READY}")
    browser.press("x")  # the gate's box lies on it
    browser.wait_for("!picture.shown.boxes")
    for key, layer, place, words in (
        ("y", "reason", "facts.place", "where the classifier's answer comes from"),
        ("r", "residual", "facts.boxes[0]", "What the gate could not reproduce"),
    ):
        inside = browser.evaluate(
            f"(() => {{ const p = picture, b = {place};"
            " const at = (start, size, from) => Math.round(from + (start + size / 2) * p.scale);"
            " return [[at(b.x_px, b.width_px, p.left), at(b.y_px, b.height_px, p.top)]]; })()"
        )
        browser.evaluate("picture.paint()")
        before, size = browser.evaluate(PIXEL % inside), browser.evaluate("[canvas.width, canvas.height]")
        assert browser.evaluate(f"document.getElementById('legend-{layer}').hidden")
        browser.press(key)
        browser.wait_for(f"picture.shown.{layer} && picture.layers.{layer}")
        browser.evaluate("picture.paint()")
        assert browser.evaluate(PIXEL % inside) != before, layer
        assert browser.evaluate("[canvas.width, canvas.height]") == size, "the picture stays where it was"
        assert words in browser.evaluate("document.body.innerText")
        browser.press(key)
        browser.wait_for(f"!picture.shown.{layer}")
        browser.evaluate("picture.paint()")
        assert browser.evaluate(PIXEL % inside) == before, layer
    assert browser.complaints() == []
    browser.visit(browser.evaluate("location.href"), width=360)
    assert browser.evaluate(BEYOND) == [], "what appears with the verdict fits a phone too"
    for place in ("0", "document.body.scrollHeight"):
        browser.evaluate(f"scrollTo(0, {place})")
        assert browser.evaluate(IN_SIGHT % "#next"), "the way on lies below no facts"
    assert not browser.evaluate(COVERED), "nor does it cover any, at the end of the page"


def test_saving_keeps_the_place_and_window_and_the_next_scan_opens_with_the_chosen_one(
    browser: Chromium, served: Served
) -> None:
    """What the line said appears over the very spot that the reader looked at."""
    verdict_id = open_part(browser, served, "0005")
    for key in ("l", "+", "+", "ArrowRight", "q", "i", "u"):
        browser.press(key)
    view = "(() => { const p = picture, at = p.at(canvas.width / 2, canvas.height / 2);" + (
        " return [p.low, p.high, p.inverted, p.scale, at.x, at.y]; })()"
    )
    before = browser.evaluate(view)
    browser.evaluate("void (window.isOldPage = true)")
    browser.press("Enter")
    browser.wait_for(f"!window.isOldPage && location.pathname === '/scan/{verdict_id}' && {READY}")
    assert browser.evaluate(view) == pytest.approx(before, abs=0.5)
    open_part(browser, served, "0001")
    fitted = browser.evaluate("[picture.low, picture.high, picture.fitted === false]")
    assert fitted == [*browser.evaluate("picture.percentiles(0.01)"), False]
    browser.press("m")


def test_the_wheel_enlarges_what_is_under_the_pointer_and_the_hand_moves_it(browser: Chromium, served: Served) -> None:
    open_part(browser, served, "0002")
    window = browser.evaluate("[picture.low, picture.high]")
    under = "(() => { const r = canvas.getBoundingClientRect(), p = picture.at(500 - r.left, 400 - r.top);" + (
        " return [p.x, p.y, picture.scale]; })()"
    )
    x, y, scale = browser.evaluate(under)
    browser.call("Input.dispatchMouseEvent", type="mouseWheel", x=500, y=400, deltaX=0, deltaY=-400)
    browser.wait_for("picture.fitted === false")
    assert browser.evaluate(under) == pytest.approx([x, y, 2 * scale], abs=0.01)
    browser.evaluate("setDrag('pan')")
    browser.drag(500, 400, 540, 380)
    assert browser.evaluate(under) == pytest.approx([x - 40 / (2 * scale), y + 20 / (2 * scale), 2 * scale], abs=0.01)
    browser.press("ArrowRight")
    assert browser.evaluate(under)[0] == pytest.approx(x + 20 / (2 * scale), abs=0.01)
    assert browser.evaluate("[picture.low, picture.high]") == window, "none of it touches the window"
    browser.press("0")
    assert browser.evaluate(under) == pytest.approx([x, y, scale], abs=0.01)


UNDER = "document.getElementById('pointer').textContent"


def test_a_key_lays_the_picture_on_its_side_and_another_shows_each_count_on_a_pixel(
    browser: Chromium, served: Served
) -> None:
    open_part(browser, served, "0004")
    upright = browser.evaluate("picture.scale")

    def under(x: float, y: float) -> tuple[int, int]:
        browser.move(x, y)
        column, row, count = map(int, re.findall(r"\d+", browser.evaluate(UNDER)))
        assert count == served.counts["0004"][row, column], "the count under the pointer, however the picture lies"
        return column, row

    browser.press("t")
    browser.wait_for(f"picture.scale !== {upright}")
    column, row = under(430, 450)
    right, below = under(530, 450), under(430, 530)
    assert right[0] == column and right[1] < row, "what was up is right"
    assert below[1] == row and below[0] > column
    low, high = browser.evaluate("[picture.low, picture.high]")
    browser.drag(430, 450, 500, 450)
    assert browser.evaluate("picture.high - picture.low") > (high - low) * 1.1, "to the right is softer all the same"
    browser.press("b")
    browser.drag(430, 450, 530, 530)
    (box,) = browser.evaluate("picture.boxes")
    corners = [box["x_px"], box["y_px"], box["x_px"] + box["width_px"], box["y_px"] + box["height_px"]]
    assert corners == pytest.approx([column, right[1], below[0], row], abs=1)
    browser.press("Backspace")
    browser.press("ArrowRight")
    assert under(430, 450)[1] < row, "an arrow moves what the reader sees"
    browser.press("z")
    assert browser.evaluate("picture.scale") == 1
    open_part(browser, served, "0005")
    assert browser.evaluate("canvas.className") == "turned", "the next scan lies as this one"
    assert browser.evaluate(IN_SIGHT % "#picture")
    browser.press("t")
    browser.wait_for("!canvas.className")
    assert browser.complaints() == []


def test_a_box_the_tenth_kind_the_severity_and_a_comment_need_no_mouse(browser: Chromium, served: Served) -> None:
    verdict_id = open_part(browser, served, "0004")
    for key in ("b", "ArrowDown", "ArrowDown", "ArrowRight"):
        browser.press(key)
    middle = browser.evaluate("picture.draft")
    browser.press("ArrowRight", shift=True)
    wider = browser.evaluate("picture.draft")
    assert (wider["x_px"], wider["y_px"], wider["height_px"]) == (middle["x_px"], middle["y_px"], middle["height_px"])
    assert wider["width_px"] > middle["width_px"]
    browser.press("Enter")
    assert browser.evaluate("picture.boxes") == [wider] and browser.evaluate("drag") == "window"
    browser.press("b")
    browser.press("ArrowDown")
    browser.press("Escape")
    assert browser.evaluate("picture.boxes.length === 1 && !picture.draft"), "Esc drops the box, not the page"
    browser.press("!", shift=True, code="Digit1")
    for key in ("g", "g", "c", "n", "1", "Escape", "Enter"):
        browser.press(key)
    browser.wait_for("document.getElementById('next')")
    (given,) = (given for given in served.dispositions() if given["verdict_id"] == verdict_id)
    assert (given["decision"], given["kinds"], given["boxes_px"]) == ("abnormal", ["ink-fluctuations"], [wider])
    assert given["comment"] == "n1", "in the comment, keys are letters"
    assert browser.complaints() == []


def test_what_was_entered_survives_a_session_that_ends(browser: Chromium, served: Served) -> None:
    verdict_id = open_part(browser, served, "0002")
    browser.press("u")
    browser.press("2")
    browser.evaluate("document.querySelector('[name=comment]').value = 'kept'; keepDraft()")
    browser.call("Network.clearBrowserCookies")
    browser.press("Enter")
    browser.wait_for("document.querySelector('#problem a')")
    assert "Log in again" in browser.evaluate("document.getElementById('problem').textContent")
    browser.evaluate("document.querySelector('#problem a').click()")
    browser.wait_for("document.querySelector('.login')")
    browser.evaluate("document.querySelector('[name=account]').value = 'bob'")
    browser.evaluate(f"document.querySelector('[name=password]').value = {PASSWORD!r}")
    browser.evaluate("document.querySelector('.login form button').click()")
    browser.wait_for(f"location.pathname === '/scan/{verdict_id}' && {READY}")
    assert browser.evaluate("form.elements.decision.value") == "undecided"
    assert browser.evaluate("form.elements.comment.value") == "kept"
    assert browser.evaluate("[...document.querySelectorAll('[name=kinds]:checked')].map(k => k.value)") == ["lines"]


def test_enter_saves_nothing_before_the_script_is_there(browser: Chromium, served: Served) -> None:
    """Sent by the browser alone, an answer had taken no time."""
    browser.visit(f"{served.url}/?state=all&part=0007", width=1280)
    address = browser.evaluate("document.querySelector('a.case').href")
    browser.call("Network.setBlockedURLs", urls=["*/scan.js*"])
    browser.visit(address, width=1280)
    browser.evaluate(
        "(() => { document.getElementById('answer').addEventListener('submit', (event) => {"
        " event.preventDefault(); window.isSent = true; });"
        " const choice = document.querySelector('[name=decision]'); choice.click(); choice.focus(); })()"
    )
    browser.press("Enter")
    assert browser.evaluate("[document.activeElement.checked, window.isSent ?? false]") == [True, False]
    browser.call("Network.setBlockedURLs", urls=[])
    browser.visit(address, width=1280)
    browser.wait_for("!document.querySelector('#answer button.main').disabled")


def test_a_damaged_scan_says_over_its_place_what_is_wrong_and_what_to_do_and_can_be_answered(
    browser: Chromium, served: Served
) -> None:
    browser.visit(f"{served.url}/?lang=de", width=1280)
    browser.visit(f"{served.url}/scan/{served.damaged['scan.png']}", width=1280)
    browser.wait_for("document.querySelector('.veil.failed')")
    veil = browser.evaluate("document.getElementById('veil').innerText")
    assert "fehlt, ist beschädigt oder wurde verändert" in veil and "Was Sie tun können: das Teil selbst" in veil
    assert "scan.png: No such file" in veil
    assert browser.evaluate("[...document.querySelectorAll('.tools button')].every(button => button.disabled)")
    assert browser.evaluate(IN_SIGHT % ".veil > div")
    for key in ("u", "Enter"):
        browser.press(key)
    browser.wait_for("document.getElementById('next')")
    assert served.damaged["scan.png"] in {given["verdict_id"] for given in served.dispositions()}
    browser.visit(f"{served.url}/scan/{served.damaged['image.png']}", width=1280)
    browser.wait_for(READY)
    browser.press("v")
    browser.wait_for("!document.getElementById('layer-problem').hidden")
    note = browser.evaluate("document.getElementById('layer-problem').innerText")
    assert "Das Bild darunter ist heil" in note and "image.png: No such file" in note
    assert browser.evaluate("document.querySelector('[data-toggle=image]').getAttribute('aria-pressed')") == "false"


def test_hostile_names_are_read_and_nothing_is_loaded_from_elsewhere(browser: Chromium, served: Served) -> None:
    for path in ("/?state=all", "/overview"):
        browser.visit(served.url + path, width=1280)
        assert all(url.startswith(served.url) for url in browser.requests())
        assert browser.complaints() == []
    open_part(browser, served, "0006")
    assert HOSTILE in browser.evaluate("document.body.innerText")
    assert all(url.startswith((served.url, "blob:")) for url in browser.requests())
    assert browser.complaints() == []


PAGES = ("/?state=all", "/overview", "/login", "scan 0001", "scan 0004")

NAMELESS = """
[...document.querySelectorAll('button, a, input, select, textarea, canvas')].filter(e => e.type !== 'hidden' &&
  !(e.innerText || e.textContent || '').trim() && !e.getAttribute('aria-label') && !e.closest('label') &&
  !e.querySelector('img[alt]:not([alt=""])')).map(e => e.outerHTML.slice(0, 90))
"""
BEYOND = """
[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right >
  document.documentElement.clientWidth + 1 && !e.closest('.scroll, .neighbours ul')).map(e => e.outerHTML.slice(0, 90))
"""
IN_SIGHT = """
(() => { const box = document.querySelector('%s').getBoundingClientRect();
  return box.width > 0 && box.top >= 0 && box.bottom <= innerHeight; })()
"""
COVERED = """
[...document.querySelectorAll('.side > :not(.onward)')].some(e =>
  e.getBoundingClientRect().bottom > document.querySelector('.onward').getBoundingClientRect().top)
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_is_legible_and_has_names_for_a_screen_reader(
    browser: Chromium, served: Served, scheme: str
) -> None:
    from tests.edge.validation.test_report_browser import CONTRAST

    for page in PAGES:
        for width in (1280, 360):
            if page.startswith("scan"):
                browser.visit(f"{served.url}/?state=all&part={page[5:]}", width=width, scheme=scheme)
                address = browser.evaluate("document.querySelector('a.case').href")
            else:
                address = served.url + page
            browser.visit(address, width=width, scheme=scheme)
            where = (page, width, scheme)
            assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), where
            assert browser.evaluate(BEYOND) == [], where
            assert browser.evaluate(NAMELESS) == [], where
            assert [poor for poor in browser.evaluate(CONTRAST) if poor[1] < 4.5] == [], where
            assert browser.evaluate("document.documentElement.lang") == "en"
