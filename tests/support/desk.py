"""A desk for tests: evidence like a shift's, accounts, and a browser that needs no browser."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import cv2
import numpy as np

from edge.contract.messages import BoxPx, GateInfo, Verdict
from edge.desk.accounts import _scrypt
from edge.desk.store import Account, DeskStore, Role
from edge.evidence.piece import Offer, Scene, Why
from edge.evidence.reason import log_odds
from edge.evidence.record import Piece
from edge.images.residual_boxes import MapGeometry
from edge.records import Counts, Outcome, counts_sha256
from tests.support.chromium import Chromium
from tests.support.evidence import write_piece
from tests.support.samples import sample_verdict

ROOT = Path(__file__).parents[2]
PASSWORD = "correct horse battery"
SECRET = f"scrypt$2$8$1${b'salt'.hex()}${_scrypt(PASSWORD, b'salt', n=2).hex()}"
"""Cheap on purpose: a real one costs a tenth of a second at each log-in."""
_RUNNER = asyncio.Runner()
MORNING = datetime(2026, 3, 1, 6, 0, tzinfo=UTC)
BOUNDS = (1700, 2800)


def sheet(seed: int, height_px: int = 500, width_px: int = 250, *, flaw: bool = False) -> Counts:
    """A coated sheet with a bright border, as the detector sees it: uint16 (height_px, width_px)."""
    rng = np.random.default_rng(seed)
    counts = rng.normal(2150, 18, (height_px, width_px))
    counts += 40 * np.sin(np.linspace(0, 9, height_px))[:, None]
    edge = max(width_px // 12, 2)
    counts[:edge] = counts[-edge:] = 3900
    counts[:, :edge] = counts[:, -edge:] = 3900
    if flaw:
        y, x = (int(rng.uniform(0.25, 0.7) * size) for size in (height_px, width_px))
        radius = max(width_px // 22, 3)
        cv2.circle(counts, (x, y), radius, 2650.0, -1)
        cv2.line(counts, (x, y), (min(x + width_px // 4, width_px - edge), y + height_px // 7), 2500.0, 2)
    return np.clip(counts, 0, 65535).astype(np.uint16)


def put_piece(
    evidence: Path,
    number: int,
    outcome: Outcome = Outcome.REVIEW,
    *,
    kept: Why = "outcome",
    counts: Counts | None = None,
    lot: str = "B01",
    file: str | None = None,
    at: datetime | None = None,
    repeats: str | None = None,
) -> Piece:
    """Evidence of one verdict. `unreadable` has no pixels."""
    counts = sheet(number, flaw=outcome is not Outcome.NORMAL) if counts is None else counts
    name = file or f"{lot}_{number:04}.tif"
    verdict = verdict_of(number, outcome, counts, lot, name, at or MORNING + timedelta(minutes=3 * number))
    verdict = verdict.model_copy(update={"repeats": repeats})
    p_abnormal = verdict.p_abnormal
    if p_abnormal is None:
        return write_piece(evidence, Offer(verdict), kept)
    height, width = counts.shape
    cell = max(height // 20, 1)
    bright = np.clip((counts.astype(np.float64) - BOUNDS[0]) / (BOUNDS[1] - BOUNDS[0]) * 255, 0, 255)
    cells = bright[: height // cell * cell, : width // cell * cell].reshape(height // cell, cell, width // cell, cell)
    strange = np.abs(cells.mean((1, 3)) - np.median(bright)).clip(0, 255).astype(np.uint8)
    strange[:2] = strange[-2:] = strange[:, 0] = strange[:, -1] = 0
    if outcome is not Outcome.NORMAL:
        row, column = divmod(int(strange.argmax()), strange.shape[1])
        box = BoxPx(x_px=column * cell, y_px=row * cell, width_px=cell, height_px=cell)
        verdict = verdict.model_copy(update={"gate": verdict.gate.model_copy(update={"boxes_px": (box,)})})
    odds = log_odds(p_abnormal)
    says = np.full(strange.shape, odds, np.float32)
    if odds > 0:  # what is bright speaks for abnormal, the rest for normal
        says = np.asarray(-3 + (3 + odds) / strange.mean() * strange, np.float32)
    offer = Offer(
        verdict,
        counts,
        counts_sha256(counts),
        pixels=bright.astype(np.uint8)[np.newaxis],
        residual_map=strange * np.float32(0.004),
        reason_map=says,
    )
    geometry = MapGeometry(cell, 0)
    return write_piece(evidence, offer, kept, Scene(geometry, 0.05, geometry))


def verdict_of(number: int, outcome: Outcome, counts: Counts, lot: str, file: str, at: datetime) -> Verdict:
    """A verdict with scores that fit its outcome."""
    height, width = counts.shape
    scores = {Outcome.NORMAL: 0.03, Outcome.ABNORMAL: 0.97, Outcome.REVIEW: 0.52, Outcome.UNREADABLE: None}
    reasons = {Outcome.NORMAL: "normal", Outcome.REVIEW: "uncertain", Outcome.UNREADABLE: "truncated"}
    is_readable = outcome is not Outcome.UNREADABLE
    box = BoxPx(x_px=width // 3, y_px=height // 3, width_px=width // 6, height_px=width // 6)
    verdict = sample_verdict(number, decided_at=at)
    return verdict.model_copy(
        update={
            "part_id": f"{number:04}",
            "bundle": lot,
            "scan": verdict.scan.model_copy(
                update={
                    "file": file,
                    "height_px": height if is_readable else None,
                    "width_px": width if is_readable else None,
                }
            ),
            "outcome": outcome,
            "reasons": (reasons.get(outcome, "classifier"),),
            "detail": None if is_readable else f"{file}: the file ends after 1024 of 250000 bytes",
            "p_abnormal": scores[outcome],
            "gate": GateInfo(
                mean_max=0.02 if is_readable else None,
                std_max=0.02 if is_readable else None,
                mean_threshold=0.05,
                std_threshold=0.06,
                boxes_px=(box,) if outcome in (Outcome.REVIEW, Outcome.ABNORMAL) else (),
            ),
            "model": verdict.model.model_copy(update={"bounds_counts": BOUNDS}),
        }
    )


def as_published(given: Mapping[str, Any]) -> bytes:
    """An answer as the worker publishes it, and leaves it beside the evidence."""
    more = {"schema": "disposition/1", "station": "xray-1", "ledger_id": str(UUID(int=1)), "seq": 7}
    return json.dumps({**given, **more}).encode()


def put_account(store: DeskStore, name: str, role: Role = "reader") -> None:
    """An account with the password of all tests."""
    store.put_account(Account(name, SECRET, role, is_disabled=False), "add", "os:test", MORNING)


@contextmanager
def serving(config: Path, code: Path = ROOT) -> Iterator[str]:
    """Address of a desk that runs as its own process, with these settings and the code of this checkout."""
    command = [sys.executable, "-m", "edge.desk.cli", "run", "--config", str(config)]
    environment = {**os.environ, "PYTHONPATH": str(code)}
    desk = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=code, env=environment)
    try:
        assert desk.stderr is not None
        ready = next(line for line in desk.stderr if "desk ready" in line)
        (address,) = re.findall(r"http://[0-9.:]+", ready)
        yield address
    finally:
        desk.terminate()
        desk.communicate(timeout=20)
    assert desk.returncode == 0, "SIGTERM is a clean end"


def log_in(browser: Chromium, address: str, name: str = "ann") -> None:
    """Through the form, as far as the queue."""
    browser.visit(f"{address}/login", width=1280)
    browser.evaluate(f"document.querySelector('[name=account]').value = {name!r}")
    browser.evaluate(f"document.querySelector('[name=password]').value = {PASSWORD!r}")
    browser.evaluate("document.querySelector('.login form button').click()")
    browser.wait_for("document.getElementById('rows') && document.readyState === 'complete'")


@dataclass
class Answered:
    """What the application answered."""

    status: int
    headers: dict[str, str]
    body: bytes
    cookies: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.body.decode()


class Browser:
    """Asks an ASGI application in this process, keeps its cookies, and fills in its forms."""

    def __init__(self, app: Any, host: str = "127.0.0.1:8480", address: str = "127.0.0.1") -> None:
        self._app = app
        self.host = host
        self.address = address
        self.cookies: dict[str, str] = {}
        self.csrf = ""

    def get(self, path: str, **headers: str) -> Answered:
        return self.ask("GET", path, b"", headers)

    def post(self, path: str, form: Mapping[str, Any], **headers: str) -> Answered:
        body = urlencode({"csrf": self.csrf, **form}, doseq=True).encode()
        return self.ask("POST", path, body, {"content_type": "application/x-www-form-urlencoded", **headers})

    def log_in(self, name: str, password: str = PASSWORD) -> Answered:
        answered = self.post("/login", {"account": name, "password": password})
        if answered.status == 303:
            found = re.search(r'name="csrf" value="([^"]+)"', self.get("/").text)
            assert found is not None
            self.csrf = found[1]
        return answered

    def answer(self, verdict_id: str, decision: str, **fields: Any) -> Answered:
        """Open a scan and answer it by its own form."""
        page = self.get(f"/scan/{verdict_id}").text
        form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.split('id="answer"')[1]))
        return self.post(f"/scan/{verdict_id}/answer", {**form, "decision": decision, **fields})

    def ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answered:
        target, _, query = path.partition("?")
        sent = {"host": self.host, **{key.replace("_", "-"): value for key, value in headers.items()}}
        if self.cookies:
            sent["cookie"] = "; ".join(f"{key}={value}" for key, value in self.cookies.items())
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": target,
            "raw_path": target.encode("utf-8", "surrogatepass"),
            "root_path": "",
            "query_string": query.encode("utf-8", "surrogatepass"),
            "headers": [(key.encode("latin-1"), value.encode("latin-1")) for key, value in sent.items()],
            "client": (self.address, 50000),
            "server": ("127.0.0.1", 8480),
        }
        messages: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            messages.append(message)

        _RUNNER.run(self._app(scope, receive, send))
        pairs = [(key.decode().lower(), value.decode("latin-1")) for key, value in messages[0]["headers"]]
        for key, value in pairs:
            if key == "set-cookie":
                name, _, rest = value.partition("=")
                self.cookies[name] = rest.partition(";")[0].strip('"')
        content = b"".join(message.get("body", b"") for message in messages[1:])
        return Answered(messages[0]["status"], dict(pairs), content, dict(self.cookies))
