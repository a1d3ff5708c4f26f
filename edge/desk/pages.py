"""What each page of the desk shows, and what an answer does. No HTTP framework: edge/desk/app.py calls these."""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import jinja2
from jinja2.runtime import Context

from edge.desk import pixels
from edge.desk.accounts import NO_ACCOUNT, LoginLimit, Sessions, is_password
from edge.desk.answer_form import SEVERITIES, Form, FormRefusedError, read_form, whole
from edge.desk.cases import (
    ALL,
    ORDERS,
    PAGE_CASES,
    WAITING,
    Case,
    CaseIndex,
    Claims,
    Filter,
    Reader,
    Row,
    count_asked,
    neighbours,
    next_row,
    row_for,
    rows_for,
)
from edge.desk.hand_over import hand_over
from edge.desk.overview import note_health, overview_facts
from edge.desk.readings import Choice, State, Vote, read_of
from edge.desk.store import Account, DeskStore, now
from edge.desk.words import (
    LANGUAGES,
    Fault,
    Language,
    fault_of,
    moment,
    name_code,
    number,
    percent,
    seconds,
    word,
)
from edge.errors import DeskError, EdgeError, EvidenceError
from edge.evidence.record import Piece, open_piece
from edge.records import Outcome
from edge.settings import Settings
from edge.system.text import rfc3339

LOCAL_PATH: Final = re.compile(r"/(scan/[0-9a-f]{32}|overview)?", re.ASCII)
"""Where a log-in may lead on to."""
VERDICT_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Desk:
    """All that the pages work on."""

    settings: Settings
    store: DeskStore
    index: CaseIndex
    sessions: Sessions
    limit: LoginLimit
    claims: Claims
    counts: pixels.CountsCache
    clock: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of a browser."""

    path: str
    query: Mapping[str, str]
    language: Language
    address: str
    is_fragment: bool
    """Asked for by htmx: the list alone, not the whole page."""
    form: Form = field(default_factory=dict)
    account: Account | None = None
    csrf: str = ""
    token: str = ""
    """Cookie of the session."""

    def value(self, key: str) -> str:
        """The first value of a form's field, or an empty text."""
        return next(iter(self.form.get(key, [])), "")

    def word(self, key: str, **values: object) -> str:
        """A word in the visitor's language."""
        return word(self.language, key, **values)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the browser gets."""

    body: bytes = b""
    kind: str = "text/html; charset=utf-8"
    status: int = 200
    location: str | None = None
    session: str | None = None
    """Cookie to set; an empty text ends the session."""
    headers: Mapping[str, str] = field(default_factory=dict)
    afterwards: Callable[[], None] | None = None
    """What to do when the browser has its answer; it may raise nothing."""


def redirect(location: str, session: str | None = None) -> Reply:
    """Lead the browser to another page."""
    return Reply(status=HTTPStatus.SEE_OTHER, location=location, session=session)


@lru_cache
def _templates() -> jinja2.Environment:
    loader = jinja2.PackageLoader("edge.desk", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.globals["static"] = static_address
    for form in (moment, number, percent, seconds):
        environment.filters[form.__name__] = _in_language(form)
    return environment


def _in_language(form: Callable[[Language, Any], str]) -> Callable[[Context, Any], str]:
    """A template's filter that speaks the language of the page."""

    @jinja2.pass_context
    def filtered(context: Context, value: Any) -> str:
        return form(context["language"], value)

    return filtered


def render(visit: Visit, template: str, status: int = 200, **values: object) -> Reply:
    """A page from its template."""
    text = (
        _templates()
        .get_template(template)
        .render(
            t=visit.word,
            name_code=partial(name_code, visit.language),
            visit=visit,
            language=visit.language,
            other_language=(other := next(each for each in LANGUAGES if each != visit.language)),
            language_address="?" + urlencode({**visit.query, "lang": other}),
            **values,
        )
    )
    # A file name may hold what is no character.
    return Reply(text.encode("utf-8", "backslashreplace"), status=status)


def message_page(visit: Visit, status: int, key: str) -> Reply:
    """A page that says what is wrong, by the key of its words."""
    return render(visit, "message.html.j2", status, fault=Fault(visit.word(key)))


def error_page(visit: Visit, status: int, error: EdgeError) -> Reply:
    """A page that says what is wrong and what to try."""
    return render(visit, "message.html.j2", status, fault=fault_of(visit.language, error))


# -- log in ------------------------------------------------------------------------------------------------------


def login_page(desk: Desk, visit: Visit) -> Reply:
    """The form, or the queue for a reader who is logged in."""
    if visit.account is not None:
        return redirect("/")
    return _login_form(desk, visit, HTTPStatus.OK, visit.word("login_again") if "again" in visit.query else "")


def _login_form(desk: Desk, visit: Visit, status: int, problem: str) -> Reply:
    target = visit.query.get("to", "") or visit.value("to")
    return render(
        visit,
        "login.html.j2",
        status,
        problem=problem,
        to=target if LOCAL_PATH.fullmatch(target) else "/",
        has_accounts=bool(desk.store.accounts()),
    )


def log_in(desk: Desk, visit: Visit) -> Reply:
    """Compare the password, unless too many were wrong of late."""
    name = visit.value("account").strip().lower()[:64]
    wait_s = desk.limit.admit(name, visit.address)
    if wait_s > 0:
        text = visit.word("wait_login", seconds=math.ceil(wait_s))
        return _login_form(desk, visit, HTTPStatus.TOO_MANY_REQUESTS, text)
    account = desk.store.account(name)
    is_known = account is not None and not account.is_disabled
    secret = account.secret if account is not None and is_known else NO_ACCOUNT
    if not is_password(visit.value("password")[:1000], secret) or not is_known:
        return _login_form(desk, visit, HTTPStatus.UNAUTHORIZED, visit.word("wrong_login"))
    desk.limit.note_success(name, visit.address)
    target = visit.value("to")
    return redirect(target if LOCAL_PATH.fullmatch(target) else "/", session=desk.sessions.begin(name, secret))


# -- queue -------------------------------------------------------------------------------------------------------


def reader_of(desk: Desk, visit: Visit) -> Reader:
    """Who looks, as the index asks."""
    assert visit.account is not None
    return Reader(visit.account.name, visit.account.role == "admin", desk.settings.desk.blind)


def queue_page(desk: Desk, visit: Visit) -> Reply:
    """The list, oldest first, filtered."""
    reader = reader_of(desk, visit)
    chosen = Filter.parse(visit.query)
    is_poll = visit.is_fragment and chosen.state == WAITING
    rows = rows_for(_list_waiting(desk) if is_poll else desk.index.cases(), desk.store.votes(), reader)
    shown = chosen.in_order(rows)
    pages = max(-(-len(shown) // PAGE_CASES), 1)
    page = min(max(whole(visit.query.get("page", "")) or 1, 1), pages)
    values: dict[str, Any] = {
        "rows": shown[(page - 1) * PAGE_CASES : page * PAGE_CASES],
        "count": len(shown),
        "page": page,
        "pages": pages,
        "address": lambda **more: "/?" + urlencode({**chosen.words, **more}),
        "way": _address("", Filter.for_next(visit.query).words),
        "problem": fault_of(visit.language, desk.index.problem) if desk.index.problem else None,
        "filters_hidden": reader.is_blind and bool(chosen.outcome or chosen.reason),
        "damaged": sorted(desk.index.damaged()),
        "waiting": sum(row.is_asked for row in rows),
        "elsewhere": 0 if shown or chosen == Filter() else _count_all(desk, reader, chosen),
        "others": sum(_waits_for_others(row) for row in rows) if chosen == Filter() else 0,
    }
    if visit.is_fragment:
        return render(visit, "rows.html.j2", **values)
    told = [row.case.record for row in rows if not row.is_hidden]
    return render(
        visit,
        "queue.html.j2",
        chosen=chosen,
        to_next=_address("/next", Filter.for_next(visit.query).words),
        states=(WAITING, *State, ALL),
        orders=ORDERS,
        outcomes=list(Outcome),
        lots=sorted({row.case.record.bundle for row in rows if row.case.record.bundle}),
        reasons=sorted({reason for record in told for reason in record.reasons}),
        **values,
    )


def _count_all(desk: Desk, reader: Reader, chosen: Filter) -> int:
    """How many scans the filter finds whatever they wait for: a search for a part must not end with "nothing"."""
    return len(replace(chosen, state=ALL).in_order(rows_for(desk.index.cases(), desk.store.votes(), reader)))


def _waits_for_others(row: Row) -> bool:
    return not row.is_asked and not row.case.is_gone and row.standing.state is not State.DECIDED


def next_scan(desk: Desk, visit: Visit) -> Reply:
    """Lead to the next scan that waits for this reader, or to the queue."""
    row = _next_row(desk, visit, visit.query.get("after"))
    words = Filter.for_next(visit.query).words
    return redirect(_address(f"/scan/{row.case.verdict_id}" if row is not None else "/", words))


def _next_row(desk: Desk, visit: Visit, after: str | None) -> Row | None:
    reader = reader_of(desk, visit)
    cases, chosen = _list_waiting(desk, after), Filter.for_next(visit.query)
    return next_row(cases, desk.store.votes(), desk.claims, reader, chosen, after)


def _count_waiting(desk: Desk, visit: Visit) -> int:
    """How many the way from scan to scan still leads through."""
    chosen = Filter.for_next(visit.query)
    return count_asked(_list_waiting(desk), desk.store.votes(), reader_of(desk, visit), chosen)


def _list_waiting(desk: Desk, after: str | None = None) -> list[Case]:
    """Cases that may wait for somebody, oldest first; and the one that the way goes on from."""
    decided = desk.store.decided()
    return [case for case in desk.index.cases() if case.verdict_id not in decided or case.verdict_id == after]


def _address(path: str, words: Mapping[str, str]) -> str:
    return path + (f"?{urlencode(words)}" if words else "")


# -- one scan ----------------------------------------------------------------------------------------------------


def scan_page(desk: Desk, visit: Visit, verdict_id: str) -> Reply:
    """The scan with its answers, and what the line said where that may be shown."""
    case, account = _case(desk, verdict_id), reader_of(desk, visit).account
    row = _row(desk, visit, case)
    record = case.record
    if row.is_asked:
        desk.claims.claim(verdict_id, account)
        with suppress(DeskError):  # a full disk: the answer itself would say so
            desk.store.note_shown(verdict_id, record.model_dump_json(by_alias=True).encode())
    problem = Fault(visit.word("gone")) if case.is_gone else None
    damage, step, verdict = None, 1, None
    layers: dict[str, pixels.Layer | None] = {"reason": None, "residual": None}
    if case.has_scan:
        try:
            step = pixels.display_step(record.height_px or 0, record.width_px or 0)
        except EvidenceError as error:
            problem = problem or fault_of(visit.language, error)
    if not row.is_hidden and not case.is_gone:
        try:  # what the line said is no reason to show no picture
            verdict = case.piece.verdict()
            layers["residual"] = pixels.residual_layer(case.piece)
            layers["reason"] = pixels.reason_layer(case.piece)
        except EvidenceError as error:
            damage = fault_of(visit.language, error)
    words = Filter.for_next(visit.query).words
    own = [vote for vote in row.votes if vote.account == account]
    others = [vote for vote in row.votes if vote.account != account]
    return render(
        visit,
        "scan.html.j2",
        row=row,
        record=record,
        verdict=verdict,
        is_earlier_here=verdict is not None and desk.index.has(verdict.repeats),
        problem=problem,
        damage=damage,
        step=step,
        viewer=_viewer_words(visit, row, step, layers) | {"counts": _address(f"/scan/{verdict_id}/counts", words)},
        own=own[-1] if own else None,
        given=_answers(desk, verdict_id) if own else (),
        seen_others=len(others),
        seen_own=len(own),
        left=_count_waiting(desk, visit) - (row.is_asked and Filter.for_next(visit.query).takes(row)),
        both=_met(visit, row, others) if visit.query.get("met") else "",
        twice=visit.word("answered_twice") if visit.query.get("twice") else "",
        saved=visit.word("saved") if visit.query.get("saved") else "",
        kinds=desk.settings.desk.kinds,
        severities=tuple(SEVERITIES),
        choices=list(Choice),
        nonce=secrets.token_hex(16),
        to_answer=_address(f"/scan/{verdict_id}/answer", words),
        to_next=_address("/next", {**words, "after": verdict_id}),
        to_queue=_address("/", words),
        way=_address("", words),
        neighbours=[_row(desk, visit, other) for other in neighbours(desk.index.cases(), case)],
    )


def _answers(desk: Desk, verdict_id: str) -> list[tuple[Vote, dict[str, Any]]]:
    """Every answer on a scan with all that was said, oldest first."""
    return [(each.vote, json.loads(desk.store.entry(each.seq))) for each in desk.store.answers(verdict_id)]


def _met(visit: Visit, row: Row, others: Sequence[Vote]) -> str:
    if not others:
        return ""
    words = visit.word(str(row.standing.choice or row.standing.state))
    return visit.word("both_answered", account=others[-1].account, standing=words)


_SCRIPT_WORDS: Final = (
    "counts",
    "boxes_none",
    "boxes_count",
    "box_hint",
    "load_failed",
    "layer_failed",
    "no_answer",
    "choose",
)


def _viewer_words(visit: Visit, row: Row, step: int, layers: Mapping[str, pixels.Layer | None]) -> dict[str, Any]:
    """What the page's script needs; nothing of a verdict that is hidden."""
    record = row.case.record
    shown = not row.is_hidden
    place = record.reason_map.box_px if record.reason_map is not None else None
    return {
        "height": -(-(record.height_px or 0) // step),
        "width": -(-(record.width_px or 0) // step),
        "step": step,
        "bounds": record.bounds_counts,
        "boxes": [box.model_dump() for box in record.boxes_px] if shown else [],
        "layers": {
            name: None if layer is None else [layer.left, layer.top, layer.width, layer.height]
            for name, layer in layers.items()
        },
        "place": place.model_dump() if shown and place is not None else None,
        "hasImage": "image.png" in record.files,
        "words": {key: visit.word(key) for key in _SCRIPT_WORDS},
    }


def scan_counts(desk: Desk, visit: Visit, verdict_id: str) -> Reply:
    """The raw counts, uint16 little-endian; those of the next scan are unpacked while the reader looks at these."""

    def unpack_next() -> None:
        with suppress(EdgeError):  # it is told on its own page
            row = _next_row(desk, visit, verdict_id)
            if row is not None and row.case.has_scan:
                desk.counts.counts(row.case.piece)

    counts = desk.counts.counts(_case(desk, verdict_id).piece)
    return Reply(counts, kind="application/octet-stream", afterwards=unpack_next)


def scan_image(desk: Desk, _: Visit, verdict_id: str) -> Reply:
    """The image as the networks saw it."""
    return Reply(pixels.image_png(_case(desk, verdict_id).piece), kind="image/png")


def scan_layer(desk: Desk, visit: Visit, verdict_id: str, draw: Callable[[Piece], bytes]) -> Reply:
    """A layer that tells what the line thought: not before the first answer."""
    case = _case(desk, verdict_id)
    if _row(desk, visit, case).is_hidden:
        return message_page(visit, HTTPStatus.FORBIDDEN, "is_hidden")
    return Reply(draw(case.piece), kind="image/png")


def scan_thumbnail(desk: Desk, _: Visit, verdict_id: str) -> Reply:
    """A small picture for lists; a sign where the scan is damaged, which its own page explains."""
    case = _case(desk, verdict_id)
    try:
        return Reply(_thumbnail(desk.index.folder, case.evidence), kind="image/jpeg")
    except EvidenceError:
        return Reply(_static_bytes("damaged.svg"), kind="image/svg+xml")


@lru_cache(maxsize=500)
def _thumbnail(folder: Path, evidence: str) -> bytes:
    return pixels.thumbnail_jpeg(open_piece(folder, evidence))


def answer(desk: Desk, visit: Visit, verdict_id: str) -> Reply:
    """Record what the reader says, hand it to the worker, go on."""
    case, reader = _case(desk, verdict_id), reader_of(desk, visit)
    account, record = reader.account, case.record
    row = _row(desk, visit, case)
    try:
        form = read_form(visit.form, record, desk.settings.desk.kinds)
    except FormRefusedError as refused:
        return message_page(visit, HTTPStatus.BAD_REQUEST, str(refused))
    desk.store.add_answer(
        {
            "verdict_id": verdict_id,
            "file": record.file,
            "part_id": record.part_id,
            "bundle": record.bundle,
            "outcome": record.outcome.value,
            "kept": record.kept,
            "counts_sha256": record.counts_sha256,
            "decision": form.choice.value,
            "by": account,
            "at": rfc3339(now()),
            "is_blind": row.is_hidden and row.is_asked,  # the list shows what is decided
            **form.said,
        },
        form.key(account, verdict_id),
        lambda votes: read_of(record.outcome, votes, account, is_admin=reader.is_admin),
    )
    desk.claims.release(verdict_id)
    hand_over(desk.store, desk.settings.state.dir)
    after = desk.store.votes()[verdict_id]
    met = sum(vote.account != account for vote in after) > form.others_seen
    twice = sum(vote.account == account for vote in after) > form.own_seen + 1  # in another window
    words = Filter.for_next(visit.query).words
    if row.is_hidden or met or any(vote.account == account for vote in row.votes):
        told = {key: "1" for key, is_so in (("saved", True), ("met", met), ("twice", twice)) if is_so}
        return redirect(_address(f"/scan/{verdict_id}", {**words, **told}))
    return redirect(_address("/next", {**words, "after": verdict_id}))


# -- the rest ----------------------------------------------------------------------------------------------------


def overview_page(desk: Desk, visit: Visit) -> Reply:
    """Counts, latency, drift, and how line and people agree."""
    with suppress(DeskError):  # what is there is shown, whether or not there is room for more
        note_health(desk.store, desk.settings.state.health)
    facts = overview_facts(desk.store, desk.settings.desk.known_labels, now(), visit.language)
    rows = rows_for(desk.index.cases(), desk.store.votes(), reader_of(desk, visit))
    waiting = sum(row.standing.state is not State.DECIDED and not row.case.is_gone for row in rows)
    mine = sum(row.is_asked for row in rows)
    return render(visit, "overview.html.j2", facts=facts, waiting=waiting, mine=mine, head=desk.store.head())


STATIC: Final[dict[str, str]] = {
    "desk.css": "text/css; charset=utf-8",
    "queue.js": "text/javascript; charset=utf-8",
    "scan.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "htmx.min.js": "text/javascript; charset=utf-8",
}


@lru_cache
def static_file(name: str) -> Reply | None:
    """A file of the page itself; a browser may keep it, because `static_address` changes with its bytes."""
    if name not in STATIC:
        return None
    return Reply(
        _static_bytes(name),
        kind=STATIC[name],
        headers={"Cache-Control": "public, max-age=31536000, immutable"},
    )


def _static_bytes(name: str) -> bytes:
    return files("edge.desk").joinpath("static", name).read_bytes()


@lru_cache
def static_address(name: str) -> str:
    """Where a page finds a file of STATIC."""
    reply = static_file(name)
    assert reply is not None
    return f"/static/{name}?v={hashlib.sha256(reply.body).hexdigest()[:16]}"


class NotFound(DeskError):
    """There is no such case."""


def _case(desk: Desk, verdict_id: str) -> Case:
    case = desk.index.find(verdict_id) if VERDICT_ID.fullmatch(verdict_id) else None
    if case is None:
        raise NotFound(f"no case {verdict_id!r}", hint="")
    return case


def _row(desk: Desk, visit: Visit, case: Case) -> Row:
    return row_for(case, desk.store.votes().get(case.verdict_id, ()), reader_of(desk, visit))
