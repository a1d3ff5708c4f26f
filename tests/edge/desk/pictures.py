"""`make pictures`: screenshots of the desk for docs/desk.md, on simulated electrodes."""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from edge.contract.messages import canonical_json
from edge.desk.readings import Read
from edge.desk.store import FILE_NAME, DeskStore
from edge.records import Outcome
from tests.support.chromium import Chromium
from tests.support.desk import log_in, put_account, put_piece, serving
from tests.support.samples import sample_health
from train.simulator.simulate import simulate_scan

PORT = 8481
KINDS = (["missing-ink"], ["bubbles", "lines"], ["agglomerate"])
OUTCOMES = (Outcome.ABNORMAL, Outcome.REVIEW, Outcome.REVIEW, Outcome.NORMAL)


def fill(folder: Path) -> None:
    """Evidence, answers and health of a morning."""
    (folder / "state" / "requests").mkdir(parents=True)
    (folder / "desk").mkdir()
    text = f'[state]\ndir = "{folder}/state"\n[desk]\ndir = "{folder}/desk"\nport = {PORT}\n'
    (folder / "edge.toml").write_text(text, encoding="utf-8")
    pieces = []
    for number in range(12):
        outcome = OUTCOMES[number % 4]
        scan = simulate_scan(
            7, number // 6, number, abnormal=outcome is not Outcome.NORMAL, kinds=KINDS[number % 3], scale=0.5
        )
        kept = "sample" if outcome is Outcome.NORMAL else "outcome"
        options = {"kept": kept, "counts": scan.counts, "lot": f"B{number // 6 + 41:02}"}
        pieces.append(put_piece(folder / "state" / "evidence", number + 101, outcome, **options))  # type: ignore[arg-type]
    with DeskStore(folder / "desk" / FILE_NAME) as store:
        put_account(store, "ann", "admin")
        put_account(store, "bob")
        for number, piece in enumerate(pieces[2:8]):
            record = piece.record
            choice = "normal" if record.outcome is Outcome.NORMAL or number % 3 == 0 else "abnormal"
            fields = {"verdict_id": record.verdict_id, "by": "bob", "decision": choice, "outcome": record.outcome}
            fields |= {"kept": record.kept, "file": record.file, "seconds_looked": 14.0 + number, "is_blind": True}
            fields |= {
                "part_id": record.part_id,
                "kinds": [],
                "boxes_px": [],
                "comment": "",
                "at": "2026-03-01T06:00:00Z",
            }
            store.add_answer(fields, f"{number:032x}", lambda _: Read.FIRST)
        for minute in range(0, 400, 4):
            at = datetime.now().astimezone() - timedelta(minutes=396 - minute)
            drift = {"p_abnormal": 0.11 + 0.02 * math.sin(minute / 40), "gate_mean_max": 0.02 + minute * 1e-5}
            outcomes = {"normal": 3 * minute, "review": minute // 9, "abnormal": minute // 20}
            told = {"at": at, "drift": drift, "outcomes": outcomes, "alarms": (), "last_verdict_at": at}
            store.add_health(int(at.timestamp() * 1000), canonical_json(sample_health().model_copy(update=told)))


def take(out: Path, address: str) -> None:
    """Every picture, from the desk at this address."""
    with tempfile.TemporaryDirectory() as profile, Chromium(Path(profile)) as browser:

        def shot(name: str) -> None:
            (out / f"desk-{name}.png").write_bytes(browser.screenshot())

        log_in(browser, address)
        browser.visit(f"{address}/?state=all", width=1280)
        browser.wait_for("[...document.images].every(image => image.complete)")
        shot("queue")
        browser.visit(f"{address}/next", width=1280)
        browser.wait_for("document.getElementById('picture')?.dataset.ready")
        for key in ("a", "8", "Enter"):
            browser.press(key)
        browser.wait_for("document.getElementById('next') && document.getElementById('picture')?.dataset.ready")
        browser.press("r")
        browser.wait_for("picture.layers.residual")
        shot("answered")
        browser.visit(f"{address}/overview", width=1280, scheme="dark")
        shot("overview")


def main() -> int:
    parser = argparse.ArgumentParser(description="Screenshots of the review desk for its page in the documents.")
    parser.add_argument("--out", type=Path, default=Path("docs"), metavar="DIR", help="where the pictures go")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder)
        with serving(folder / "edge.toml") as address:
            take(out, address)
    return 0


if __name__ == "__main__":
    sys.exit(main())
