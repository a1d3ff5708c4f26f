"""The desk as a web server: who may ask what, how a form is read, which headers every answer bears.

One guard stands before all pages: the name the browser asked for, the size and origin of what it sends, its session,
its account, and the word that its forms must repeat. Without a session only the log-in form and the style are readable.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from edge.desk import pages
from edge.desk.accounts import LoginLimit, Session, Sessions
from edge.desk.cases import CaseIndex, Claims
from edge.desk.hand_over import hand_over
from edge.desk.overview import note_health
from edge.desk.pages import Desk, Reply, Visit, error_page, message_page
from edge.desk.pixels import CountsCache, reason_png, residual_png
from edge.desk.store import Account, DeskStore
from edge.desk.words import LANGUAGES, Language, choose_language
from edge.errors import DeskError, EdgeError, SettingsError
from edge.evidence.record import Record
from edge.settings import DeskSettings, ServiceEnvironment, Settings
from edge.system.logs import event
from edge.system.service_manager import Notifier

log = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 65_536
HAND_OVER_S: Final = 5.0
COOKIE: Final = "desk_session"
LANGUAGE_COOKIE: Final = "desk_language"
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # a form's Origin would be `null` without any
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), usb=()",
    "Cache-Control": "no-store",
}

Page = Callable[..., Reply]


def build_app(desk: Desk) -> Starlette:
    """The application: every route behind the one guard."""

    def route(path: str, page: Page, *, method: str = "GET", is_open: bool = False) -> Route:
        async def endpoint(request: Request) -> Response:
            return await _answer(desk, request, page, is_open=is_open)

        return Route(path, endpoint, methods=[method])

    async def static(request: Request) -> Response:
        reply = pages.static_file(str(request.path_params["name"]))
        if reply is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return _response(desk, reply)

    async def problem(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
        key = "not_found" if status == HTTPStatus.NOT_FOUND else "bad_request"
        visit = _visit(request)
        return _response(desk, message_page(visit, status, key))

    async def defect(request: Request, error: Exception) -> Response:
        log.error("page failed", exc_info=error)
        visit = _visit(request)
        return _response(desk, message_page(visit, HTTPStatus.INTERNAL_SERVER_ERROR, "defect"))

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        courier = asyncio.create_task(_hand_over_for_ever(desk))
        yield
        courier.cancel()

    return Starlette(
        routes=[
            route("/login", pages.login_page, is_open=True),
            route("/login", pages.log_in, method="POST", is_open=True),
            route("/logout", _log_out, method="POST"),
            route("/", pages.queue_page),
            route("/next", pages.next_scan),
            route("/overview", pages.overview_page),
            route("/scan/{verdict_id}", pages.scan_page),
            route("/scan/{verdict_id}/counts", pages.scan_counts),
            route("/scan/{verdict_id}/image.png", pages.scan_image),
            route("/scan/{verdict_id}/residual.png", partial(pages.scan_layer, draw=residual_png)),
            route("/scan/{verdict_id}/reason.png", partial(pages.scan_layer, draw=reason_png)),
            route("/scan/{verdict_id}/thumbnail.jpg", pages.scan_thumbnail),
            route("/scan/{verdict_id}/answer", pages.answer, method="POST"),
            Route("/static/{name}", static, methods=["GET"]),
        ],
        exception_handlers={HTTPException: problem, Exception: defect},
        lifespan=lifespan,
    )


def new_desk(settings: Settings, store: DeskStore) -> Desk:
    """The desk of the settings, with no session yet."""
    return Desk(
        settings=settings,
        store=store,
        index=CaseIndex(settings.evidence_dir, time.monotonic, _read_shown(store)),
        sessions=Sessions(time.monotonic, settings.desk.session_idle_s),
        limit=LoginLimit(time.monotonic),
        claims=Claims(time.monotonic),
        counts=CountsCache(),
        clock=time.monotonic,
    )


def _read_shown(store: DeskStore) -> Iterator[Record]:
    """What readers were shown before, as far as this release reads it."""
    for data in store.shown():
        with contextlib.suppress(ValidationError):
            yield Record.model_validate_json(data)


def serve(settings: Settings, environment: ServiceEnvironment, store: DeskStore) -> int:
    """Answer browsers until a signal; the exit code. Raises SettingsError for a bad address or certificate."""
    notifier = Notifier(environment.notify_socket)
    server = _Server(_server_config(settings.desk, build_app(new_desk(settings, store))), notifier)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # the server raises again what ended it, which would end us by a signal
    with contextlib.suppress(SystemExit):  # how uvicorn ends where it cannot listen
        server.run()
    notifier.stopping()
    if not server.started:
        raise SettingsError(
            f"the desk cannot listen on {settings.desk.host}:{settings.desk.port}",
            hint="see the line above; set `desk.host` and `desk.port`",
        )
    return 0


class _Server(uvicorn.Server):
    """Tells the service manager when the page can be opened."""

    def __init__(self, config: uvicorn.Config, notifier: Notifier) -> None:
        super().__init__(config)
        self._notifier = notifier

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            address = f"{'https' if self.config.is_ssl else 'http'}://{self.config.host}:{self.config.port}/"
            event(log.info, "desk ready", address=address)
            self._notifier.ready(f"serving {address}")


def _server_config(settings: DeskSettings, app: Starlette) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=200,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=16_384,
        ssl_certfile=settings.cert_file,
        ssl_keyfile=settings.key_file,
    )
    try:
        config.load()
        if config.ssl is not None:
            config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"the certificate {settings.cert_file} or its key {settings.key_file} cannot be used: {error}",
            hint="check that they belong together and that this user may read them",
        ) from None
    return config


async def _hand_over_for_ever(desk: Desk) -> None:
    """Give the worker what it could not be given at once, and keep what it tells of the line.

    The newest entry of the record goes to the log, which is out of reach of who may write the record: what was cut off
    its end is found by `edge-desk verify --head`.
    """
    head = ""
    while True:
        try:
            await run_in_threadpool(hand_over, desk.store, desk.settings.state.dir)
            if (newest := await run_in_threadpool(desk.store.head)) != head:
                head = newest
                event(log.info, "record", newest=head)
            await run_in_threadpool(note_health, desk.store, desk.settings.state.health)
        except EdgeError as error:
            event(log.warning, "answers not handed over", error=error.message)
        await asyncio.sleep(HAND_OVER_S)


async def _answer(desk: Desk, request: Request, page: Page, *, is_open: bool) -> Response:
    """The guard: what a request must bring before a page sees it."""
    visit = _visit(request)
    if not _is_own_name(desk.settings.desk, request.headers.get("host", "")):
        return _response(desk, message_page(visit, HTTPStatus.BAD_REQUEST, "bad_request"))
    if request.method == "GET" and (chosen := request.query_params.get("lang")) in LANGUAGES:
        return _with_language(desk, request, visit, chosen)
    if request.method == "POST":
        body = await _body(request)
        if body is None:
            return _response(desk, message_page(visit, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large"))
        if not _is_own_form(request):
            return _response(desk, message_page(visit, HTTPStatus.FORBIDDEN, "forbidden"))
        try:
            form = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=200)
        except ValueError:
            return _response(desk, message_page(visit, HTTPStatus.BAD_REQUEST, "too_large"))
        visit = replace(visit, form=form)
    reply = await run_in_threadpool(_run_page, desk, request, visit, page, is_open)
    return _response(desk, reply)


def _run_page(desk: Desk, request: Request, visit: Visit, page: Page, is_open: bool) -> Reply:
    try:
        session, account = _who(desk, request, visit)
        if account is None and not is_open:
            return _ask_to_log_in(request, visit)
        if account is not None and session is not None:
            visit = replace(visit, account=account, csrf=session.csrf, token=request.cookies.get(COOKIE, ""))
            if request.method == "POST" and not is_open and visit.value("csrf") != session.csrf:
                return message_page(visit, HTTPStatus.FORBIDDEN, "forbidden")
        return page(desk, visit, **request.path_params)
    except pages.NotFound:
        return message_page(visit, HTTPStatus.NOT_FOUND, "not_found")
    except DeskError as error:
        event(log.error, "desk cannot save", error=error.message)
        return error_page(visit, HTTPStatus.INSUFFICIENT_STORAGE, error)
    except EdgeError as error:
        event(log.warning, "evidence not shown", error=error.message)
        return error_page(visit, HTTPStatus.UNPROCESSABLE_ENTITY, error)


def _who(desk: Desk, request: Request, visit: Visit) -> tuple[Session | None, Account | None]:
    """The session and account of the cookie; an account that was disabled, or has a new password, ends it."""
    token = request.cookies.get(COOKIE, "")
    session = desk.sessions.find(token, is_active="auto" not in visit.query)
    account = desk.store.account(session.account) if session is not None else None
    if session is None or account is None or account.is_disabled or account.secret != session.secret:
        desk.sessions.end(token)
        return None, None
    return session, account


def _ask_to_log_in(request: Request, visit: Visit) -> Reply:
    if request.method != "GET" or visit.is_fragment or not pages.LOCAL_PATH.fullmatch(visit.path):
        reply = message_page(visit, HTTPStatus.UNAUTHORIZED, "login_again")
        return replace(reply, headers={"HX-Redirect": "/login?again=1"}) if visit.is_fragment else reply
    has_cookie = {"again": "1"} if COOKIE in request.cookies else {}
    return pages.redirect("/login?" + urlencode({"to": visit.path, **has_cookie}))


def _log_out(desk: Desk, visit: Visit) -> Reply:
    """End the session."""
    desk.sessions.end(visit.token)
    return pages.redirect("/login", session="")


def _visit(request: Request) -> Visit:
    language = request.cookies.get(LANGUAGE_COOKIE)
    return Visit(
        path=str(request.scope["path"]),  # the whole address need not be UTF-8
        query=dict(request.query_params),
        language=language if language in LANGUAGES else choose_language(request.headers.get("accept-language", "")),
        address=request.client.host if request.client is not None else "unknown",
        is_fragment="hx-request" in request.headers,
    )


def _with_language(desk: Desk, request: Request, visit: Visit, language: Language) -> Response:
    rest = {key: value for key, value in request.query_params.items() if key != "lang"}
    path = visit.path if pages.LOCAL_PATH.fullmatch(visit.path) else "/login"
    response = _response(desk, pages.redirect(path + (f"?{urlencode(rest)}" if rest else "")))
    _set_cookie(desk, response, LANGUAGE_COOKIE, language, max_age=365 * 86_400)
    return response


async def _body(request: Request) -> bytes | None:
    """What a form sent; None if it is too much."""
    data = b""
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > MAX_BODY_BYTES:
                return None
    except ClientDisconnect:
        return None
    return data


def _is_own_name(settings: DeskSettings, host: str) -> bool:
    """Whether the browser asked for a name of this desk: else a foreign name could be pointed at its address."""
    found = re.fullmatch(r"(\[[0-9a-f:]+\]|[^:\[\]]+)(:\d+)?", host.lower())
    own = {settings.host.lower(), *map(str.lower, settings.names)}
    if settings.is_local:
        own |= {"127.0.0.1", "localhost", "::1"}
    return found is not None and found[1].strip("[]").rstrip(".") in own


def _is_own_form(request: Request) -> bool:
    """Whether a form comes from a page of this desk, as far as the browser tells."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return False
    try:
        return origin is None or urlsplit(origin).netloc == request.headers.get("host")
    except ValueError:
        return False


def _response(desk: Desk, reply: Reply) -> Response:
    headers = {**HEADERS, **reply.headers}
    if reply.location is not None:
        headers["Location"] = reply.location
    if desk.settings.desk.cert_file is not None:
        headers["Strict-Transport-Security"] = "max-age=31536000"
    afterwards = BackgroundTask(reply.afterwards) if reply.afterwards is not None else None
    response = Response(reply.body, status_code=reply.status, headers=headers, background=afterwards)
    response.headers["Content-Type"] = reply.kind
    if reply.session is not None:
        _set_cookie(desk, response, COOKIE, reply.session, max_age=None if reply.session else 0)
    return response


def _set_cookie(desk: Desk, response: Response, name: str, value: str, max_age: int | None) -> None:
    response.set_cookie(
        name,
        value,
        max_age=max_age,
        httponly=True,
        samesite="strict",
        secure=desk.settings.desk.cert_file is not None,
    )
