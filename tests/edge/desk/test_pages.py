"""The desk's pages as a browser meets them: who may read what, what an answer does, and what bad input gets."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.contract.messages import canonical_json
from edge.desk import pixels
from edge.desk.accounts import add_account, disable_account
from edge.desk.app import _hand_over_for_ever, build_app, new_desk
from edge.desk.cases import Case, Reader, Row, row_for
from edge.desk.hand_over import disposition
from edge.desk.pages import Desk
from edge.desk.readings import Vote
from edge.desk.store import FILE_NAME, DeskStore
from edge.desk.words import keys, word
from edge.evidence.record import SCAN, Piece
from edge.records import Outcome
from edge.settings import DeskSettings, Settings, StateSettings
from tests.support.desk import BOUNDS, MORNING, PASSWORD, Browser, put_account, put_piece, sheet
from tests.support.samples import sample_health

HOSTILE = '"><script>alert(1)</script>_é\u202e.tif'


class Plant:
    """A desk, its evidence, and as many browsers as readers."""

    def __init__(self, folder: Path, **desk: object) -> None:
        self.folder = folder
        self.evidence = folder / "state" / "evidence"
        self.requests = folder / "state" / "requests"
        self.requests.mkdir(parents=True)
        (folder / "desk").mkdir()
        settings = Settings(
            station="xray-1",
            state=StateSettings(dir=folder / "state"),
            desk=DeskSettings(dir=folder / "desk", **desk),  # type: ignore[arg-type]
        )
        self.store = DeskStore(folder / "desk" / FILE_NAME)
        self.desk: Desk = new_desk(settings, self.store)
        self.app = build_app(self.desk)
        self.now_s = 1000.0
        self.desk.index._clock = self.clock  # the folder is read anew whenever a test turns the clock
        for name, role in (("ann", "reader"), ("bob", "reader"), ("cleo", "admin")):
            put_account(self.store, name, role)  # type: ignore[arg-type]

    def restart(self) -> None:
        """A new process on the same files: no sessions, no claims, no index."""
        self.desk = new_desk(self.desk.settings, self.store)
        self.app = build_app(self.desk)
        self.desk.index._clock = self.clock

    def clock(self) -> float:
        self.now_s += 10.0
        return self.now_s

    def browser(self, name: str) -> Browser:
        browser = Browser(self.app)
        assert browser.log_in(name).status == 303
        return browser

    def put(self, number: int, outcome: Outcome = Outcome.REVIEW, **options: object) -> str:
        return put_piece(self.evidence, number, outcome, **options).record.verdict_id  # type: ignore[arg-type]

    def dispositions(self) -> list[dict[str, object]]:
        return [json.loads(path.read_bytes()) for path in sorted(self.requests.glob("disposition-*.json"))]

    def dispositions_by_time(self) -> list[dict[str, object]]:
        return [disposition(self.store.entry(answer.seq)) for answer in self.store.answers()]


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


# -- who may read --------------------------------------------------------------------------------------------------


PARTS = ("", "/counts", "/image.png", "/residual.png", "/reason.png", "/thumbnail.jpg")
PATHS = ("/", "/next", "/overview", *(f"/scan/{{id}}{part}" for part in PARTS))


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_readable_without_logging_in(plant: Plant, path: str) -> None:
    verdict_id = plant.put(1)
    answered = Browser(plant.app).get(path.format(id=verdict_id))
    assert answered.status in (303, 401)
    assert b"0001" not in answered.body


def test_a_log_in_leads_on_to_the_page_that_was_asked_for(plant: Plant) -> None:
    verdict_id = plant.put(1)
    browser = Browser(plant.app)
    location = browser.get(f"/scan/{verdict_id}").headers["location"]
    assert f'value="/scan/{verdict_id}"' in browser.get(location).text
    answered = browser.post("/login", {"account": "ann", "password": PASSWORD, "to": f"/scan/{verdict_id}"})
    assert answered.headers["location"] == f"/scan/{verdict_id}"
    for elsewhere in ("//evil.example/", "https://evil.example", "/static/x", "/\\evil"):
        fresh = Browser(plant.app)
        assert (
            fresh.post("/login", {"account": "ann", "password": PASSWORD, "to": elsewhere}).headers["location"] == "/"
        )


def test_every_answer_bears_the_security_headers(plant: Plant) -> None:
    browser = plant.browser("ann")
    for path in ("/", "/login", "/static/desk.css", "/nothing", "/scan/x", "/overview"):
        headers = browser.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store" or path.startswith("/static/")
        assert "server" not in headers


def test_the_cookie_is_for_this_desk_alone(plant: Plant) -> None:
    cookie = Browser(plant.app).post("/login", {"account": "ann", "password": PASSWORD}).headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "secure" not in cookie
    plant.desk.settings.__dict__["desk"] = plant.desk.settings.desk.model_copy(update={"cert_file": Path("c")})
    answered = Browser(plant.app).post("/login", {"account": "ann", "password": PASSWORD})
    assert "secure" in answered.headers["set-cookie"].lower()
    assert "max-age" in answered.headers["strict-transport-security"]


def test_a_wrong_password_and_an_unknown_or_disabled_account_are_answered_alike(plant: Plant) -> None:
    disable_account(plant.store, "bob", "os:test")
    pages = [
        Browser(plant.app).post("/login", {"account": name, "password": word})
        for name, word in (("ann", "wrong"), ("nobody", PASSWORD), ("bob", PASSWORD))
    ]
    assert {page.status for page in pages} == {401}
    assert len({page.body for page in pages}) == 1


def test_a_thousand_guesses_get_nowhere(plant: Plant) -> None:
    """Not even with the right password among them, and no session comes of it."""
    plant.desk.limit._clock = lambda: 0.0  # however long a thousand take here
    browser = Browser(plant.app)
    words = [f"guess {number}" for number in range(999)]
    words.insert(500, PASSWORD)
    answers = [browser.post("/login", {"account": "ann", "password": word}).status for word in words]
    assert answers.count(401) == 5
    assert answers.count(429) == 995
    assert "desk_session" not in browser.cookies


def test_logging_out_ends_the_session_for_every_copy_of_the_cookie(plant: Plant) -> None:
    browser = plant.browser("ann")
    copy = Browser(plant.app)
    copy.cookies = dict(browser.cookies)
    assert copy.get("/").status == 200
    assert browser.post("/logout", {}).status == 303
    assert copy.get("/").status == 303


def test_an_account_disabled_in_mid_session_saves_nothing_more(plant: Plant) -> None:
    verdict_id = plant.put(1)
    browser = plant.browser("ann")
    page = browser.get(f"/scan/{verdict_id}")
    assert page.status == 200
    disable_account(plant.store, "ann", "os:test")
    answered = browser.post(f"/scan/{verdict_id}/answer", {"decision": "normal", "nonce": "a" * 32})
    assert answered.status == 401
    assert "Log in again" in answered.text
    assert plant.store.answers() == []
    put_account(plant.store, "ann")
    assert browser.get("/").status == 303, "the old session does not come back with the account"


def test_a_new_password_ends_the_sessions_of_the_old_one(plant: Plant) -> None:
    """Also where the account was disabled in between and no request met it disabled."""
    verdict_id = plant.put(1)
    browser = plant.browser("ann")
    page = browser.get(f"/scan/{verdict_id}")
    disable_account(plant.store, "ann", "os:test")
    add_account(plant.store, "ann", "another horse battery", "reader", "os:test")
    answered = browser.post(f"/scan/{verdict_id}/answer", {"decision": "normal", "nonce": "a" * 32})
    assert (page.status, answered.status) == (200, 401)
    assert plant.store.answers() == []


def test_two_windows_of_one_reader_on_one_scan_are_told_of_each_other(plant: Plant) -> None:
    verdict_id = plant.put(1)
    ann = plant.browser("ann")
    forms = [ann.get(f"/scan/{verdict_id}").text for _ in range(2)]
    answers = []
    for page, decision in zip(forms, ("normal", "abnormal"), strict=True):
        form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.split('id="answer"')[1]))
        answers.append(ann.post(f"/scan/{verdict_id}/answer", {**form, "decision": decision}).headers["location"])
    assert "twice" not in answers[0] and "twice=1" in answers[1]
    assert "You had already answered this scan in another window" in ann.get(answers[1]).text
    assert [each["stands"] for each in plant.dispositions_by_time()] == ["normal", "abnormal"], "the later one counts"
    assert "twice" not in ann.answer(verdict_id, "normal").headers["location"], "nor is a change of mind"


def test_the_log_names_the_newest_entry_of_the_record_whenever_there_is_one(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Outside of the file: entries that are cut off its end with all that they told are found by what the log has."""
    verdict_id = plant.put(1)
    monkeypatch.setattr("edge.desk.app.HAND_OVER_S", 0.005)
    caplog.set_level("INFO", "edge.desk.app")

    async def run() -> None:
        courier = asyncio.create_task(_hand_over_for_ever(plant.desk))
        await asyncio.sleep(0.1)
        courier.cancel()

    heads = []
    for _ in range(2):
        asyncio.run(run())
        heads.append(plant.store.head())
        plant.browser("ann").answer(verdict_id, "normal")
    said = [record.fields["newest"] for record in caplog.records if record.message == "record"]  # type: ignore[attr-defined]
    assert said == heads and heads[0] != heads[1]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"content_type": "text/plain"},
        {"origin": "http://[bad"},
    ],
)
def test_a_form_of_another_site_is_refused(plant: Plant, headers: dict[str, str]) -> None:
    verdict_id = plant.put(1)
    browser = plant.browser("ann")
    fields = {"decision": "normal", "nonce": "a" * 32}
    assert browser.post(f"/scan/{verdict_id}/answer", fields, **headers).status == 403
    browser.csrf = "guessed"
    assert browser.post(f"/scan/{verdict_id}/answer", fields).status == 403
    assert plant.store.answers() == []


def test_a_form_sent_twice_is_one_answer_and_one_changed_in_between_is_another(plant: Plant) -> None:
    """Back in the browser, another choice, saved again: the page that is shown once more has the same hidden fields."""
    verdict_id, other_id = plant.put(1), plant.put(2)
    browser = plant.browser("ann")
    for decision in ("normal", "normal", "abnormal"):
        fields = {"decision": decision, "seconds": "1", "nonce": "a" * 32}
        assert browser.post(f"/scan/{verdict_id}/answer", fields).status == 303
    browser.post(f"/scan/{other_id}/answer", {"decision": "normal", "nonce": "a" * 32})
    assert [(each.verdict_id, each.vote.choice) for each in plant.store.answers()] == [
        (verdict_id, "normal"),
        (verdict_id, "abnormal"),
        (other_id, "normal"),
    ]
    assert len(plant.dispositions()) == 3


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8480", "127.0.0.1.evil.example", "", "[::1", "a b"])
def test_a_foreign_name_that_leads_here_is_refused(plant: Plant, host: str) -> None:
    assert Browser(plant.app, host=host).get("/login").status == 400


@pytest.mark.parametrize("host", ["127.0.0.1:8480", "localhost:8480", "[::1]:8480", "desk.plant.example", "LOCALHOST"])
def test_the_own_names_are_answered(tmp_path: Path, host: str) -> None:
    plant = Plant(tmp_path, names=("desk.plant.example",))
    assert Browser(plant.app, host=host).get("/login").status == 200


# -- queue ---------------------------------------------------------------------------------------------------------


def parts(page: str) -> list[str]:
    return re.findall(r'class="case"[^>]*>([^<]*)<', page)


def test_the_queue_is_oldest_first_and_filtered(tmp_path: Path) -> None:
    plant = Plant(tmp_path, blind=False)
    plant.put(3, Outcome.REVIEW, lot="B02")
    plant.put(1, Outcome.ABNORMAL, lot="B01")
    plant.put(2, Outcome.UNREADABLE, lot="B01")
    plant.put(4, Outcome.NORMAL, lot="B02", kept="sample", at=MORNING + timedelta(days=2))
    browser = plant.browser("ann")
    assert parts(browser.get("/").text) == ["0001", "0002", "0003", "0004"]
    for query, expected in {
        "outcome=review": ["0003"],
        "lot=B01": ["0001", "0002"],
        "part=0002": ["0002"],
        "part=b02_": ["0003", "0004"],
        "reason=truncated": ["0002"],
        "since=2026-03-02": ["0004"],
        "until=2026-03-01": ["0001", "0002", "0003"],
        "state=decided": [],
        "state=all&outcome=nonsense&since=9999-99-99&until=0001-01-01": ["0001", "0002", "0003", "0004"],
        "lot=B01&outcome=abnormal": ["0001"],
    }.items():
        assert parts(browser.get(f"/?{query}").text) == expected, query
    fragment = browser.get("/?lot=B02", hx_request="true").text
    assert parts(fragment) == ["0003", "0004"]
    assert "<html" not in fragment


def test_a_long_queue_has_pages(plant: Plant) -> None:
    small = sheet(1, 40, 20)
    for number in range(1, 61):
        plant.put(number, counts=small)
    browser = plant.browser("ann")
    assert len(parts(browser.get("/").text)) == 50
    assert parts(browser.get("/?page=2").text) == [f"{number:04}" for number in range(51, 61)]
    for page in ("0", "-1", "99", "x", "9" * 40):
        assert browser.get(f"/?page={page}").status == 200


def test_a_reader_who_filters_is_led_through_what_the_filter_shows(tmp_path: Path) -> None:
    plant = Plant(tmp_path, blind=False)
    first, other, last = (plant.put(number, lot=lot) for number, lot in ((1, "B02"), (2, "B01"), (3, "B02")))
    ann = plant.browser("ann")
    assert 'id="start" href="/next?lot=B02"' in ann.get("/?state=all&lot=B02").text
    assert ann.get("/next?state=decided&lot=B02").headers["location"] == f"/scan/{first}?lot=B02"
    page = ann.get(f"/scan/{first}?lot=B02").text
    (action,) = re.findall(r'action="(/scan/[^"]+)"', page)
    assert action == f"/scan/{first}/answer?lot=B02"
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.split('id="answer"')[1]))
    assert ann.post(action, {**form, "decision": "normal"}).headers["location"] == f"/next?lot=B02&after={first}"
    assert ann.get(f"/next?lot=B02&after={first}").headers["location"] == f"/scan/{last}?lot=B02"
    assert f'href="/next?lot=B02&amp;after={first}"' in ann.get(f"/scan/{first}?lot=B02").text
    ann.answer(last, "normal")
    assert ann.get(f"/next?lot=B02&after={last}").headers["location"] == "/?lot=B02", "not into the other lot"
    assert ann.get("/next").headers["location"] == f"/scan/{other}"


def test_the_queue_is_sorted_and_what_is_hidden_stays_in_the_order_of_time(plant: Plant) -> None:
    outcomes = (Outcome.REVIEW, Outcome.ABNORMAL, Outcome.NORMAL, Outcome.ABNORMAL)
    lots = ("B2", "B1", "B3", "B0")
    ids = [plant.put(n, outcome, lot=lot) for n, outcome, lot in zip((1, 2, 3, 4), outcomes, lots, strict=True)]
    ann = plant.browser("ann")

    def sorted_by(sort: str) -> list[str]:
        return parts(ann.get(f"/?state=all&sort={sort}").text)

    assert sorted_by("") == sorted_by("nonsense") == sorted_by("oldest") == ["0001", "0002", "0003", "0004"]
    assert sorted_by("newest") == ["0004", "0003", "0002", "0001"]
    assert sorted_by("lot") == ["0004", "0002", "0001", "0003"]
    assert sorted_by("outcome") == sorted_by("reason") == ["0001", "0002", "0003", "0004"], "nothing is told yet"
    ann.answer(ids[3], "abnormal")
    assert sorted_by("outcome") == sorted_by("reason") == sorted_by("people") == ["0004", "0001", "0002", "0003"]
    assert '<option value="lot" selected>' in ann.get("/?state=all&sort=lot").text
    assert ann.get("/next?sort=newest").headers["location"] == f"/scan/{ids[0]}", "the oldest is next all the same"


def test_a_scan_opened_from_the_list_and_a_change_of_language_keep_the_filter(plant: Plant) -> None:
    first, second = plant.put(1), plant.put(2)
    ann = plant.browser("ann")
    page = ann.get("/?state=all&lot=B01&sort=part").text
    assert f'href="/scan/{second}?lot=B01"' in page
    assert 'href="?state=all&amp;lot=B01&amp;sort=part&amp;lang=de"' in page
    assert ann.get("/?state=all&lot=B01&lang=de").headers["location"] == "/?state=all&lot=B01"
    scan = ann.get(f"/scan/{second}?lot=B01").text
    assert 'data-next="/next?lot=B01&amp;' in scan and f'href="/scan/{first}?lot=B01"' in scan


def test_a_filter_by_what_is_hidden_says_so(plant: Plant) -> None:
    plant.put(1)
    ann = plant.browser("ann")
    assert "is hidden until your first answer: this filter" in ann.get("/?outcome=review").text
    assert "this filter" not in ann.get("/?lot=B01").text


def test_a_search_for_a_part_that_waits_for_none_leads_to_it(plant: Plant) -> None:
    """The list begins with what waits: who seeks yesterday's part there was told that nothing waits."""
    ids = [plant.put(number) for number in range(1, 4)]
    ann = plant.browser("ann")
    ann.answer(ids[1], "normal")
    assert "Show all that fit" not in ann.get("/?part=0001").text, "what it finds is enough"
    (link,) = re.findall(r'href="([^"]*)">Show all that fit: 1<', ann.get("/?part=0002").text)
    assert f"case-{ids[1]}" in ann.get(link.replace("&amp;", "&")).text
    assert "Show all that fit" not in ann.get("/?part=0009").text
    for verdict_id in (ids[0], ids[2]):
        ann.answer(verdict_id, "normal")
    assert "Show all that fit" not in ann.get("/").text, "without a filter there is nothing to seek"


def test_an_earlier_verdict_on_the_same_image_is_a_link_where_it_can_be_shown(plant: Plant) -> None:
    earlier = plant.put(1)
    ids = [plant.put(number, repeats=repeats) for number, repeats in ((2, earlier), (3, "0" * 32))]
    ann = plant.browser("ann")
    pages = []
    for verdict_id in ids:
        ann.answer(verdict_id, "normal")
        pages.append(ann.get(f"/scan/{verdict_id}").text)
    assert f'href="/scan/{earlier}"><code>' in pages[0]
    assert "/scan/000" not in pages[1] and f"<code>{'0' * 32}</code>" in pages[1], "of normal ones few are kept"


def test_what_decided_is_said_in_words(plant: Plant) -> None:
    verdict_id = plant.put(1, Outcome.ABNORMAL)
    ann = plant.browser("ann")
    ann.answer(verdict_id, "abnormal")
    assert "p(abnormal) against the threshold" in ann.get(f"/scan/{verdict_id}").text


def test_a_reader_sees_how_many_more_wait_and_at_the_end_how_many_wait_for_others(plant: Plant) -> None:
    ids = [plant.put(number) for number in (1, 2, 3)]
    ann = plant.browser("ann")
    assert "2 more wait for you" in ann.get(f"/scan/{ids[0]}").text
    assert "1 more waits for you" not in ann.get(f"/scan/{ids[0]}?lot=B99").text
    for verdict_id in ids:
        ann.answer(verdict_id, "undecided")
    page = ann.get("/").text
    assert "Nothing waits here." in page and "3 scans wait for another reader:" in page
    assert parts(ann.get("/?state=second").text) == ["0001", "0002", "0003"]
    assert "wait for another reader" not in ann.get("/?lot=B99").text
    assert "more wait" not in ann.get(f"/scan/{ids[2]}").text


def test_the_overview_counts_what_waits_for_anyone(plant: Plant) -> None:
    verdict_id = plant.put(1)
    ann = plant.browser("ann")
    ann.answer(verdict_id, "undecided")
    page = ann.get("/overview").text
    assert '<a href="/">1</a>' in page and "0 of them for you" in page


def test_the_overview_shows_how_the_line_does(plant: Plant) -> None:
    """By the worker's newest health: what it judged today, latency, backlog, alarms, drift."""
    at = datetime.now(UTC)
    for minutes, drift in ((1, 0.11), (0, 0.12)):
        told = {"at": at - timedelta(minutes=minutes), "drift": {"p_abnormal": drift}, "outcomes": {"normal": 1234}}
        told |= {"backlog_scans": 56, "unsent_verdicts": 78}
        plant.desk.settings.state.health.write_bytes(canonical_json(sample_health().model_copy(update=told)))
        page = plant.browser("ann").get("/overview").text
    for words in ("normal 1234", ">56<", "Not yet at the broker: 78", "400 ms", "p99 1.2 s", "share-away"):
        assert words in page, words
    assert '<svg class="chart"' in page and 'aria-label="p(abnormal): 0.11 … 0.12"' in page
    plant.desk.settings.state.health.unlink()
    assert 'class="chart"' in plant.browser("ann").get("/overview").text, "what it told stays when it is away"


def test_a_folder_of_many_pieces_is_listed_without_comparing_each_with_each(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at 20,000 known pieces took seconds: a reader met one every two seconds."""
    piece = plant.desk.index.find(plant.put(1))
    assert piece is not None
    names = [f"2026-03-01/{number:032x}" for number in range(20_000)]

    def opened(_: Path, evidence: str) -> Piece:
        record = piece.record.model_copy(update={"verdict_id": evidence[11:]})
        return Piece(plant.evidence / evidence, record)

    monkeypatch.setattr("edge.desk.cases.pieces", lambda _folder: names)
    monkeypatch.setattr("edge.desk.cases.open_piece", opened)
    assert len(plant.desk.index.cases()) == 20_001
    began_s = time.process_time()
    assert sum(case.is_gone for case in plant.desk.index.cases()) == 1
    assert time.process_time() - began_s < 1.5


def test_the_way_through_a_long_queue_makes_a_row_of_few_scans(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows of each of 5,000 took a reader a tenth of a second from scan to scan."""
    ids = [plant.put(number) for number in range(1, 9)]
    ann = plant.browser("ann")
    made: list[str] = []

    def noted(case: Case, votes: Sequence[Vote], reader: Reader) -> Row:
        made.append(case.verdict_id)
        return row_for(case, votes, reader)

    monkeypatch.setattr("edge.desk.cases.row_for", noted)
    assert ann.get(f"/next?after={ids[4]}").headers["location"] == f"/scan/{ids[5]}"
    assert made == [ids[0], ids[5]], "where the way would begin again, and the next one"
    made.clear()
    assert "7 more wait for you" in ann.get(f"/scan/{ids[4]}").text
    assert made == []
    ann.answer(ids[4], "normal")
    assert ann.get(f"/next?after={ids[7]}").headers["location"] == f"/scan/{ids[0]}"


def test_two_readers_are_not_given_the_same_scan(plant: Plant) -> None:
    first, second = plant.put(1), plant.put(2)
    ann, bob = plant.browser("ann"), plant.browser("bob")
    assert ann.get("/next").headers["location"] == f"/scan/{first}"
    ann.get(f"/scan/{first}")
    assert bob.get("/next").headers["location"] == f"/scan/{second}"
    assert ann.get(f"/next?after={first}").headers["location"] == f"/scan/{second}"
    ann.answer(first, "normal")
    assert bob.get(f"/next?after={second}").headers["location"] == "/"


# -- blind ---------------------------------------------------------------------------------------------------------


def test_the_verdict_is_hidden_until_the_own_first_answer(plant: Plant) -> None:
    verdict_id = plant.put(1, Outcome.ABNORMAL)
    ann = plant.browser("ann")
    telling = (
        "classifier",
        "Strongest place",
        "kept_",
        "demo-1",
        "0.97",
        "result of the line",
        '"boxes": [{',
        'class="tag abnormal',
    )
    pages = [ann.get(path).text for path in ("/", "/?state=all", f"/scan/{verdict_id}")]
    for page in pages:
        assert [words for words in telling if words in page] == []
    layers = [f"/scan/{verdict_id}/{layer}.png" for layer in ("residual", "reason")]
    assert [ann.get(path).status for path in layers] == [403, 403]
    for query in ("outcome=abnormal", "outcome=normal", "reason=classifier"):
        assert parts(ann.get(f"/?state=all&{query}").text) == [], "a filter would tell"
    assert ann.answer(verdict_id, "abnormal").headers["location"] == f"/scan/{verdict_id}?saved=1"
    page = ann.get(f"/scan/{verdict_id}").text
    assert all(words in page for words in ("classifier", "demo-1", "0.97", "result of the line"))
    assert [ann.get(path).status for path in layers] == [200, 200]
    assert "classifier" not in plant.browser("bob").get(f"/scan/{verdict_id}").text
    (entry,) = [json.loads(entry) for _, entry in plant.store.entries() if b'"answer"' in entry]
    assert entry["is_blind"] is True


# -- where the classifier's answer comes from ------------------------------------------------------------------------


def test_the_place_that_spoke_for_abnormal_is_named_and_coloured(plant: Plant) -> None:
    verdict_id = plant.put(1, Outcome.ABNORMAL)
    ann = plant.browser("ann")
    ann.answer(verdict_id, "abnormal")
    page = ann.get(f"/scan/{verdict_id}").text
    scale = plant.desk.index.cases()[0].record.reason_map
    assert scale is not None
    box = scale.box_px
    assert box is not None
    assert f"{box.width_px} \u00d7 {box.height_px} px at x {box.x_px}, y {box.y_px}" in page
    assert f"{100 * (scale.share or 0):.1f} % of what speaks for abnormal" in page
    drawn = cv2.imdecode(np.frombuffer(ann.get(f"/scan/{verdict_id}/reason.png").body, np.uint8), cv2.IMREAD_UNCHANGED)
    opacity, cell = drawn[..., 3], scale.cell_px
    rows, columns = slice(box.y_px // cell, -(-(box.y_px + box.height_px) // cell)), slice(box.x_px // cell, None)
    assert opacity.max() == opacity[rows, columns].max() == 217
    assert opacity[0, 0] == 0, "the border says less than the threshold"


def test_a_map_of_a_scan_that_nothing_speaks_against_is_clear(plant: Plant) -> None:
    verdict_id = plant.put(1, Outcome.NORMAL, kept="sample", counts=sheet(1))
    ann = plant.browser("ann")
    ann.answer(verdict_id, "normal")
    assert "no place says more than the threshold" in ann.get(f"/scan/{verdict_id}").text
    drawn = ann.get(f"/scan/{verdict_id}/reason.png").body
    assert cv2.imdecode(np.frombuffer(drawn, np.uint8), cv2.IMREAD_UNCHANGED)[..., 3].max() == 0


def test_evidence_of_a_model_without_a_map_says_so(plant: Plant) -> None:
    verdict_id = plant.put(1, Outcome.ABNORMAL)
    record = next(plant.evidence.glob(f"*/{verdict_id}")) / "record.json"
    fields = json.loads(record.read_bytes())
    del fields["reason_map"], fields["files"]["reason.png"]
    record.write_text(json.dumps(fields | {"notes": [{"code": "no-reason-map", "detail": "it adds up to p 0.1"}]}))
    ann = plant.browser("ann")
    ann.answer(verdict_id, "abnormal")
    page = ann.get(f"/scan/{verdict_id}").text
    assert "unknown: no map from this model" in page and "it adds up to p 0.1" in page
    ann.cookies["desk_language"] = "de"
    german = ann.get(f"/scan/{verdict_id}").text
    assert 'keine Karte dessen, was für abnormal spricht: <span lang="en">it adds up to p 0.1</span>' in german
    assert 'data-toggle="reason"' not in page and 'data-toggle="residual"' in page
    assert ann.get(f"/scan/{verdict_id}/reason.png").status == 422


def test_a_map_that_was_changed_is_told_and_not_drawn(plant: Plant) -> None:
    verdict_id = plant.put(1, Outcome.ABNORMAL)
    kept = next(plant.evidence.glob(f"*/{verdict_id}/reason.png"))
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    ann = plant.browser("ann")
    ann.answer(verdict_id, "abnormal")
    page = ann.get(f"/scan/{verdict_id}").text
    assert "reason.png: not the bytes that were kept" in page
    assert 'data-toggle="reason"' not in page and 'data-toggle="residual"' in page
    assert ann.get(f"/scan/{verdict_id}/reason.png").status == 422


def test_a_control_cannot_be_told_from_a_result_of_the_line(plant: Plant) -> None:
    counts = sheet(1)
    control = plant.put(1, Outcome.NORMAL, kept="sample", counts=counts)
    result = plant.put(2, Outcome.ABNORMAL, counts=counts)
    ann = plant.browser("ann")

    def page(verdict_id: str) -> str:
        text = re.sub(r'(nonce" value=")[0-9a-f]+', r"\1", ann.get(f"/scan/{verdict_id}").text).replace(
            verdict_id, "ID"
        )
        return re.sub(r"B01_000\d|\b000\d\b|06:0\d:00|neighbours.*?</nav>", "", text, flags=re.DOTALL)

    assert page(control) == page(result)


def test_without_blind_mode_the_line_speaks_first(tmp_path: Path) -> None:
    plant = Plant(tmp_path, blind=False)
    verdict_id, later = plant.put(1), plant.put(2)
    ann = plant.browser("ann")
    assert "lies in the review band" in ann.get(f"/scan/{verdict_id}").text
    assert ann.answer(verdict_id, "normal").headers["location"] == f"/next?after={verdict_id}"
    assert ann.get(f"/next?after={verdict_id}").headers["location"] == f"/scan/{later}"


# -- answers -------------------------------------------------------------------------------------------------------


def test_an_answer_is_recorded_and_handed_to_the_worker_with_all_that_was_said(plant: Plant) -> None:
    verdict_id = plant.put(1)
    boxes = [{"x_px": 10, "y_px": 20, "width_px": 30, "height_px": 40}]
    plant.browser("ann").answer(
        verdict_id,
        "abnormal",
        kinds=["scratches", "bubbles"],
        severity="severe",
        comment=" at the edge\r\nmore ",
        boxes=json.dumps(boxes),
        seconds="12.34",
        window_low="1700",
        window_high="2800",
    )
    (given,) = plant.dispositions()
    assert {key: given[key] for key in ("verdict_id", "part_id", "decision", "by", "seconds_looked")} == {
        "verdict_id": verdict_id,
        "part_id": "0001",
        "decision": "abnormal",
        "by": "ann",
        "seconds_looked": 12.3,
    }
    assert given["kinds"] == ["bubbles", "scratches"] and given["boxes_px"] == boxes
    assert given["comment"] == "at the edge\nmore"
    entry = json.loads(list(plant.store.entries())[-1][1])
    assert (entry["window_counts"], entry["severity"], entry["read"]) == ([1700, 2800], 0.9, "first")
    assert plant.store.unhanded() == []
    assert plant.store.problems() == []


def test_two_readers_on_one_scan_are_both_kept_and_the_later_one_is_told(plant: Plant) -> None:
    verdict_id = plant.put(1)
    ann, bob = plant.browser("ann"), plant.browser("bob")
    for browser in (ann, bob):
        browser.get(f"/scan/{verdict_id}")
    target, form = f"/scan/{verdict_id}/answer", {"seen": "0"}
    first = ann.post(target, {**form, "decision": "normal", "nonce": "a" * 32}).headers["location"]
    location = bob.post(target, {**form, "decision": "abnormal", "nonce": "b" * 32}).headers["location"]
    assert "met" not in first
    assert "ann answered while you looked" in bob.get(location).text
    assert [each.vote.choice for each in plant.store.answers(verdict_id)] == ["normal", "abnormal"]
    assert len(plant.dispositions()) == 2


def test_what_the_first_reader_wrote_is_read_by_the_second_after_the_own_answer(plant: Plant) -> None:
    verdict_id = plant.put(1)
    ann, bob = plant.browser("ann"), plant.browser("bob")
    ann.answer(verdict_id, "undecided", kinds=["bubbles"], comment="by the <edge>")
    assert "by the" not in bob.get(f"/scan/{verdict_id}").text
    bob.answer(verdict_id, "normal")
    said = bob.get(f"/scan/{verdict_id}").text.split('class="answers"')[1].split("</section>")[0]
    assert "by the &lt;edge&gt;" in said and "bubbles" in said


def test_a_disagreement_asks_a_second_reader_and_a_dispute_an_admin(plant: Plant) -> None:
    verdict_id = plant.put(1, Outcome.ABNORMAL)
    ann, bob, cleo = (plant.browser(name) for name in ("ann", "bob", "cleo"))
    ann.answer(verdict_id, "normal")
    assert parts(ann.get("/").text) == []
    assert parts(bob.get("/").text) == ["0001"]
    assert "ann" not in bob.get(f"/scan/{verdict_id}").text.split("<main")[1]
    bob.answer(verdict_id, "undecided")
    assert parts(bob.get("/?state=arbiter").text) == ["0001"]
    assert parts(cleo.get("/").text) == ["0001"]
    cleo.answer(verdict_id, "normal")
    assert [given["read"] for given in plant.dispositions()].count("third") == 1
    assert parts(cleo.get("/?state=decided").text) == ["0001"]
    assert "Together" in ann.get(f"/scan/{verdict_id}").text


def test_an_answer_can_be_changed_and_both_stay_in_the_record(plant: Plant) -> None:
    verdict_id = plant.put(1)
    ann = plant.browser("ann")
    ann.answer(verdict_id, "normal")
    ann.answer(verdict_id, "abnormal")
    entries = [json.loads(entry) for _, entry in plant.store.entries() if b'"answer"' in entry]
    assert [(entry["decision"], entry["read"], entry["is_blind"]) for entry in entries] == [
        ("normal", "first", True),
        ("abnormal", "first", False),
    ]


def test_answers_wait_for_a_worker_that_is_not_there_and_keep_their_bytes(plant: Plant) -> None:
    plant.requests.rmdir()
    plant.requests.touch()  # no folder, and none can be made
    verdict_id = plant.put(1)
    ann = plant.browser("ann")
    assert ann.answer(verdict_id, "normal").status == 303
    assert plant.store.unhanded() == [4], "the first three are the accounts"
    plant.requests.unlink()
    plant.requests.mkdir()
    ann.answer(plant.put(2), "normal")
    assert plant.store.unhanded() == []
    before = {path.name: path.read_bytes() for path in plant.requests.iterdir()}
    plant.store._sql.execute("UPDATE answer SET is_handed = 0")  # as a kill between the two steps leaves it
    ann.answer(plant.put(3), "normal")
    after = {path.name: path.read_bytes() for path in plant.requests.iterdir()}
    assert before.items() <= after.items() and len(after) == 3


# -- bad input -----------------------------------------------------------------------------------------------------

BOXES: dict[str, str] = {
    "not JSON": "[",
    "no list": "{}",
    "no numbers": '[{"x_px": "1", "y_px": 0, "width_px": 1, "height_px": 1}]',
    "outside": '[{"x_px": 200, "y_px": 0, "width_px": 100, "height_px": 1}]',
    "without height": '[{"x_px": 1, "y_px": 1, "width_px": 9, "height_px": 0}]',
    "not a number": '[{"x_px": NaN, "y_px": 0, "width_px": 1, "height_px": Infinity}]',
    "negative": '[{"x_px": -1, "y_px": 0, "width_px": 1, "height_px": 1}]',
    "huge": '[{"x_px": 1e400, "y_px": 0, "width_px": 1, "height_px": 1}]',
    "deep": "[" * 20000,
    "true": '[{"x_px": true, "y_px": 0, "width_px": 1, "height_px": 1}]',
    "other keys": '[{"x": 1}]',
}


@pytest.mark.parametrize(
    "fields",
    [
        {"decision": "good"},
        {"decision": ""},
        {"kinds": ["unknown"]},
        {"severity": "very"},
        {"seconds": "nan"},
        {"seconds": "x"},
        {"nonce": "short"},
        {"comment": "x" * 2001},
        *({"boxes": text} for text in BOXES.values()),
        {"boxes": json.dumps([{"x_px": 1, "y_px": 1, "width_px": 1, "height_px": 1}] * 51)},
    ],
    ids=lambda fields: f"{next(iter(fields))}={str(next(iter(fields.values())))[:20]}",
)
def test_a_form_that_makes_no_sense_saves_nothing(plant: Plant, fields: dict[str, object]) -> None:
    verdict_id = plant.put(1)
    answered = plant.browser("ann").answer(verdict_id, str(fields.pop("decision", "normal")), **fields)
    assert answered.status == 400
    assert plant.store.answers() == []


def test_a_comment_of_full_length_may_have_lines(plant: Plant) -> None:
    """The page counts a line's end once, a browser sends it as two characters."""
    verdict_id = plant.put(1)
    lines = "a tear\n" * 285
    assert plant.browser("ann").answer(verdict_id, "normal", comment=lines.replace("\n", "\r\n")).status == 303
    assert plant.dispositions()[0]["comment"] == lines.strip()


def test_a_form_that_is_too_large_is_refused(plant: Plant) -> None:
    verdict_id = plant.put(1)
    ann = plant.browser("ann")
    assert ann.post(f"/scan/{verdict_id}/answer", {"comment": "x" * 70_000}).status == 413
    assert ann.post(f"/scan/{verdict_id}/answer", {f"field{number}": "" for number in range(300)}).status == 400


def test_a_hostile_name_is_read_not_run(plant: Plant) -> None:
    verdict_id = plant.put(1, file=HOSTILE, lot="<b>")
    ann = plant.browser("ann")
    for path in ("/", f"/scan/{verdict_id}"):
        page = ann.get(path).text
        assert "<script>alert" not in page and "<b>" not in page
        assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize("verdict_id", ["0" * 32, "x", "..%2f..%2fetc", "A" * 32, "0" * 33, "%00"])
def test_an_unknown_verdict_is_a_page_that_says_so(plant: Plant, verdict_id: str) -> None:
    plant.put(1)
    ann = plant.browser("ann")
    for rest in PARTS:
        answered = ann.get(f"/scan/{verdict_id}{rest}")
        assert answered.status == 404
        assert "no such page or scan" in answered.text
    assert ann.post(f"/scan/{verdict_id}/answer", {"decision": "normal"}).status == 404


def damaged_scan(path: Path) -> None:
    data = bytearray((path / SCAN).read_bytes())
    data[len(data) // 2] ^= 1
    (path / SCAN).write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [damaged_scan, lambda path: (path / SCAN).unlink(), lambda path: (path / SCAN).write_bytes(b"")],
    ids=["other bytes", "missing", "empty"],
)
def test_a_damaged_picture_is_told_and_the_rest_is_shown(plant: Plant, damage: Callable[[Path], None]) -> None:
    verdict_id = plant.put(1)
    ann = plant.browser("ann")
    damage(next(plant.evidence.glob(f"*/{verdict_id}")))
    assert ann.get(f"/scan/{verdict_id}").status == 200
    answered = ann.get(f"/scan/{verdict_id}/counts")
    assert answered.status == 422
    assert SCAN in answered.text
    assert ann.get("/").status == 200


def test_a_damaged_verdict_is_told_and_the_picture_is_shown_all_the_same(plant: Plant) -> None:
    verdict_id = plant.put(1)
    ann = plant.browser("ann")
    (next(plant.evidence.glob(f"*/{verdict_id}")) / "verdict.json").write_bytes(b"{}")
    ann.answer(verdict_id, "normal")
    page = ann.get(f"/scan/{verdict_id}").text
    assert "verdict.json: not the bytes that were kept" in page
    assert 'id="picture"' in page and "lies in the review band" in page


def test_a_damaged_record_is_listed_and_told(plant: Plant) -> None:
    good, bad = plant.put(1), plant.put(2)
    (next(plant.evidence.glob(f"*/{bad}")) / "record.json").write_bytes(b"{}")
    ann = plant.browser("ann")
    page = ann.get("/").text
    assert parts(page) == ["0001"]
    assert "1 pieces of evidence are damaged" in page and bad in page
    assert ann.get(f"/scan/{bad}").status == 422
    assert ann.get(f"/scan/{good}").status == 200


def test_a_verdict_whose_pictures_were_pruned_can_be_answered_by_whoever_saw_it(plant: Plant) -> None:
    verdict_id = plant.put(1)
    ann = plant.browser("ann")
    form = ann.get(f"/scan/{verdict_id}").text
    assert 'id="picture"' in form
    shutil.rmtree(next(plant.evidence.glob(f"*/{verdict_id}")))
    page = ann.get(f"/scan/{verdict_id}").text
    assert "were removed meanwhile" in page and 'id="picture"' not in page
    assert ann.get(f"/scan/{verdict_id}/counts").status == 422
    assert parts(ann.get("/").text) == []
    assert ann.answer(verdict_id, "normal").status == 303
    assert len(plant.dispositions()) == 1


def test_a_scan_that_was_pruned_while_the_desk_restarted_can_be_answered_by_whoever_saw_it(plant: Plant) -> None:
    seen, unseen = plant.put(1), plant.put(2)
    ann = plant.browser("ann")
    form = ann.get(f"/scan/{seen}").text
    shutil.rmtree(plant.evidence)
    plant.evidence.mkdir()
    plant.restart()
    ann._app = plant.app
    assert ann.post(f"/scan/{seen}/answer", {"decision": "abnormal"}).status == 401, "a restart ends sessions"
    again = plant.browser("ann")
    assert "were removed meanwhile" in again.get(f"/scan/{seen}").text
    (nonce,) = re.findall(r'name="nonce" value="(\w+)"', form)
    kept = {"decision": "abnormal", "nonce": nonce, "comment": "a tear", "seconds": "7", "seen": "0"}
    assert again.post(f"/scan/{seen}/answer", kept).status == 303
    assert [each["comment"] for each in plant.dispositions()] == ["a tear"]
    answered = again.get(f"/scan/{unseen}")
    assert answered.status == 404 and "no such page or scan" in answered.text
    assert parts(again.get("/").text) == [], "what is gone waits for nobody"


def test_errors_are_told_in_the_readers_language_with_the_programs_own_words_beside(plant: Plant) -> None:
    verdict_id = plant.put(1)
    (next(plant.evidence.glob(f"*/{verdict_id}")) / SCAN).unlink()
    ann = plant.browser("ann")
    ann.cookies["desk_language"] = "de"
    page = ann.get(f"/scan/{verdict_id}/counts").text
    assert "fehlt, ist beschädigt oder wurde verändert" in page and "das Teil selbst beurteilen" in page
    assert "judge by the scan itself" not in page
    assert re.search(r'<span lang="en">[^<]*scan\.png: No such file', page)


def test_a_folder_that_cannot_be_read_is_told_and_what_was_known_stays(plant: Plant) -> None:
    plant.put(1)
    ann = plant.browser("ann")
    assert parts(ann.get("/").text) == ["0001"]
    plant.evidence.rename(plant.evidence.with_name("away"))
    page = ann.get("/").text
    assert "cannot be read just now" in page and parts(page) == ["0001"]
    plant.evidence.with_name("away").rename(plant.evidence)
    assert "cannot be read just now" not in ann.get("/").text


def test_a_poll_of_the_queue_reads_only_the_answers_that_are_new(plant: Plant) -> None:
    first, second = plant.put(1), plant.put(2)
    ann = plant.browser("ann")
    ann.answer(first, "normal")
    ann.get("/")
    asked: list[str] = []
    newest = plant.store.answers()[-1].seq
    plant.store._sql.set_trace_callback(asked.append)
    assert parts(ann.get("/", hx_request="true").text) == ["0002"]
    queries = [query for query in asked if "FROM answer" in query]
    assert queries and all(f"seq > {newest} " in query for query in queries)
    ann.answer(second, "normal")
    assert parts(ann.get("/").text) == []


def test_a_disk_that_fills_while_an_answer_is_given_says_that_nothing_was_saved(small_disk: Path) -> None:
    plant = Plant(small_disk)
    verdict_id = plant.put(1, counts=sheet(1, 60, 40))
    ann = plant.browser("ann")
    plant.desk.settings.state.health.write_bytes(canonical_json(sample_health()))
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(b"x" * 4096)
    answers = [ann.answer(verdict_id, "normal", comment=f"{number}" + "x" * 1900) for number in range(40)]
    refused = [answered for answered in answers if answered.status == 507]
    assert refused and "nothing was saved" in refused[0].text and "free some space" in refused[0].text
    assert {answered.status for answered in answers} <= {303, 507}
    assert ann.get("/overview").status == 200, "what is there can be looked at"
    saved = [answered.status for answered in answers].count(303)
    assert len(plant.store.answers()) == saved, "what was said to be saved, and no more"
    ballast.unlink()
    assert ann.answer(verdict_id, "normal").status == 303
    assert plant.store.unhanded() == [], "those that the drop box had no room for are there now, too"
    assert len(plant.dispositions()) == saved + 1
    assert plant.store.problems() == []
    plant.store.close()


def test_the_one_script_of_others_is_the_one_that_the_documents_name(plant: Plant) -> None:
    page = (Path(__file__).parents[3] / "docs" / "desk.md").read_text(encoding="utf-8")
    script = plant.browser("ann").get("/static/htmx.min.js").body
    assert re.findall(r"`([0-9a-f]{64})`", page) == [hashlib.sha256(script).hexdigest()]
    assert b'version:"2.0.11"' in script and "htmx 2.0.11" in page


def test_a_small_picture_shows_what_the_large_one_does(plant: Plant) -> None:
    """Between their own extremes, sheets with a bright border were all but black in the queue."""
    verdict_id = plant.put(1, counts=sheet(1))
    data = plant.browser("ann").get(f"/scan/{verdict_id}/thumbnail.jpg").body
    small = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    middle = small[small.shape[0] // 4 : -small.shape[0] // 4, small.shape[1] // 4 : -small.shape[1] // 4]
    low, high = BOUNDS
    assert float(np.median(middle)) == pytest.approx((2150 - low) / (high - low) * 255, abs=12)


def test_a_very_large_scan_is_shown_smaller_and_a_larger_one_refused(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict_id = plant.put(1)  # 500 x 250 px
    ann = plant.browser("ann")
    monkeypatch.setattr(pixels, "MAX_SHOWN_PX", 20_000)
    page = ann.get(f"/scan/{verdict_id}").text
    assert "Shown at 1/3 of its size" in page
    assert len(ann.get(f"/scan/{verdict_id}/counts").body) == 2 * 167 * 84
    monkeypatch.setattr(pixels, "MAX_PX", 100_000)
    too_large = plant.put(2)
    assert "the desk shows up to 100000 px" in ann.get(f"/scan/{too_large}").text
    assert ann.get(f"/scan/{too_large}/counts").status == 422


def test_the_counts_are_those_that_the_line_judged(plant: Plant) -> None:
    counts = sheet(5)
    verdict_id = plant.put(1, counts=counts)
    answered = plant.browser("ann").get(f"/scan/{verdict_id}/counts")
    assert np.array_equal(np.frombuffer(answered.body, "<u2").reshape(counts.shape), counts)


def test_the_next_scan_is_unpacked_while_this_one_is_looked_at(plant: Plant) -> None:
    first, second = plant.put(1), plant.put(2, counts=sheet(2))
    ann = plant.browser("ann")
    assert ann.get(f"/scan/{first}/counts").status == 200
    next(plant.evidence.glob(f"*/{second}/{SCAN}")).unlink()
    assert ann.get(f"/scan/{second}/counts").body == sheet(2).astype("<u2").tobytes()


def test_unpacked_scans_take_no_more_memory_than_they_may(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [plant.put(number, counts=sheet(number, 100, 50)) for number in range(3)]
    monkeypatch.setattr(pixels, "MAX_CACHED_BYTES", 2 * 10_000)
    ann = plant.browser("ann")
    for verdict_id in (*ids, ids[0]):
        assert ann.get(f"/scan/{verdict_id}/counts").status == 200
    assert sum(map(len, plant.desk.counts._kept.values())) == 20_000


def test_a_fuzz_of_every_route_finds_no_defect(plant: Plant) -> None:
    """Addresses, queries, forms, cookies and headers drawn at random: every answer is one that was meant."""
    verdict_id = plant.put(1)
    plant.put(2, Outcome.UNREADABLE)
    rng = random.Random(20260301)
    ann = plant.browser("ann")
    session, csrf = dict(ann.cookies), ann.csrf
    routes = ["/", "/login", "/logout", "/next", "/overview", "/static/desk.css", "/static/../pages.py", "//", "/scan"]
    routes += [f"/scan/{{id}}{part}" for part in (*PARTS, "/answer")]
    names = [
        *("state", "outcome", "lot", "part", "reason", "since", "until", "page", "after", "lang", "to", "saved", "met"),
        *("decision", "kinds", "severity", "sort", "boxes", "comment", "seconds", "seen", "own_seen", "twice", "nonce"),
        *("window_low", "auto"),
    ]
    words = [
        *("normal", "1", "-1", "<script>", "[]", "{}", "[[1]]", "%", "%zz", "../..", "9999-12-31", "0001-01-01"),
        *("2026-02-30", "nan", "inf", "1e999", "decided", "de", "people", "reason"),
        *("", "9" * 30, "\x00", "\ud800", "é\u202e", "a" * 32, "\n"),
    ]
    heads = ["hx_request", "accept_language", "origin", "host", "content_type", "cookie", "range"]
    values = ["true", "de;q=x,en", "127.0.0.1:8480", "text/html", "", "desk_session=\x7f", "bytes=0-", "\xff"]
    seen = set()
    for _ in range(800):
        path = rng.choice(routes).format(id=rng.choice([verdict_id, verdict_id, "0" * 32, "x", "%00", "ä"]))
        pairs = {rng.choice(names): rng.choice(words) for _ in range(rng.randrange(5))}
        headers = {rng.choice(heads): rng.choice(values) for _ in range(rng.randrange(3))}
        ann.cookies, ann.csrf = dict(session), csrf
        if rng.random() < 0.5:
            query = "&".join(f"{key}={value}" for key, value in pairs.items())
            answered = ann.get(path + (f"?{query}" if query else ""), **headers)
        else:
            form = {key: value.encode("utf-8", "surrogatepass") for key, value in pairs.items()}
            answered = ann.post(path, form, **headers)
        seen.add(answered.status)
        assert answered.status in (200, 303, 400, 401, 403, 404, 405, 422, 429), (answered.status, path, pairs, headers)
        if ann.cookies.get("desk_session") == "" or answered.status == 401:
            ann = plant.browser("ann") if plant.desk.limit.admit("probe", "elsewhere") == 0 else ann
            session, csrf = dict(ann.cookies), ann.csrf
    assert {200, 303, 400, 403, 404, 405} <= seen


# -- languages -----------------------------------------------------------------------------------------------------


class Shown(HTMLParser):
    """What a page says to a reader who sees or hears it, less what it marks as English or as a code."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self._open: list[tuple[str, bool]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag not in ("meta", "link", "input", "img", "br"):
            is_code = tag in ("code", "script", "style", "kbd")
            self._open.append((tag, is_code or named.get("lang") == "en"))
        for label in ("aria-label", "title", "alt"):
            self.handle_data(f" {named.get(label) or ''} ")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not any(skipped for _, skipped in self._open):
            self.text += f" {data}"


def test_a_german_page_holds_no_english_word_number_or_time(plant: Plant) -> None:
    outcomes = (Outcome.REVIEW, Outcome.ABNORMAL, Outcome.UNREADABLE, Outcome.NORMAL)
    ids = [
        plant.put(n, outcome, kept="sample" if outcome is Outcome.NORMAL else "outcome")
        for n, outcome in enumerate(outcomes, 1)
    ]
    cleo = plant.browser("cleo")
    cleo.cookies["desk_language"] = "de"
    paths = ["/", "/overview", *(f"/scan/{verdict_id}" for verdict_id in ids), "/scan/x"]
    pages = {path: cleo.get(path).text for path in paths}
    pages["/login"] = Browser(plant.app).get("/login?again=1", accept_language="de").text
    at = datetime.now(UTC)
    for minutes, drift in ((90, 0.1125), (0, 0.1271)):
        told = {"at": at - timedelta(minutes=minutes), "drift": {"p_abnormal": drift, "gate_std_max": drift}}
        told |= {"alarms": ("disk-low", "broker-away"), "last_verdict_at": at, "outcomes": {"normal": 5}}
        message = sample_health().model_copy(update=told)
        plant.store.add_health(int(message.at.timestamp() * 1000), canonical_json(message))
    for verdict_id in ids:
        cleo.answer(verdict_id, "abnormal", kinds=["missing-ink", "lines"], severity="mild")
    plant.browser("bob").answer(ids[3], "abnormal")
    path = next(plant.evidence.glob(f"*/{ids[0]}"))
    (path / "verdict.json").write_bytes(b"{}")
    (path / SCAN).unlink()
    paths += [f"{path}?saved=1" for path in paths[2:4]] + ["/?state=all&page=1", f"/scan/{ids[0]}/counts"]
    pages |= {f"{path} answered": cleo.get(path).text for path in paths}
    english, german = (
        {each for key in keys() for each in re.findall(r"[^\W\d_]{2,}", word(language, key).lower())}  # type: ignore[arg-type]
        for language in ("en", "de")
    )
    assert len(pages) > 15 and len(english - german) > 300
    for path, page in pages.items():
        said = re.sub(r"\b[0-9a-f]{32,}\b", "", Shown(page).text)
        assert 'lang="de"' in page, path
        assert set(re.findall(r"[^\W\d_]{2,}", said.lower())) & (english - german) == set(), path
        rest = re.sub(r"\b\d\d\.\d\d\.(\d{4}\b)?", "", said)
        assert re.findall(r"\S*\d\.\d\S*|\d{4}-\d\d-\d\d", rest) == [], path
    scan, overview = pages[f"/scan/{ids[1]} answered"], pages["/overview answered"]
    assert "0,97" in scan and "Schwelle 0,5" in scan and "fehlende Tinte" in scan
    assert "keine Bilder: die Datei hat keine Bildpunkte, denen zu trauen ist" in pages[f"/scan/{ids[2]}"]
    assert "01.03.2026" in scan and "100,0 %" in overview and "die Platte ist fast voll" in overview


def test_the_page_speaks_the_browsers_language_or_the_chosen_one(plant: Plant) -> None:
    browser = Browser(plant.app)
    assert 'lang="en"' in browser.get("/login").text
    assert "Anmelden" in browser.get("/login", accept_language="fr, de-CH;q=0.9, en;q=0.8").text
    assert browser.get("/login?lang=de&again=1").headers["location"] == "/login?again=1"
    page = browser.get("/login", accept_language="en").text
    assert 'lang="de"' in page and "Passwort" in page
