"""The whole way of a scan: judged by the line, answered at the desk, read by the MES, kept beside its evidence."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from edge.contract.messages import Health
from edge.desk.app import build_app, new_desk
from edge.desk.cli import main as edge_desk
from edge.desk.store import FILE_NAME, DeskStore, entry_hash
from edge.desk.verify import verify
from edge.evidence.record import open_piece, pieces
from edge.settings import load_settings
from edge.validation.labels import Label, read_labels
from tests.edge.daemon.test_line import arrive, running_line
from tests.support.chromium import Chromium, needs_chromium
from tests.support.desk import Browser, log_in, put_account, serving
from tests.support.mosquitto import free_port, needs_mosquitto

pytestmark = [pytest.mark.broker, needs_mosquitto]

PIXEL = """
(() => { picture.paint(); const x = picture.canvas.width >> 1, y = picture.canvas.height >> 1;
  const on = picture.at(x + .5, y + .5);
  return [Math.floor(on.x), Math.floor(on.y), picture.context.getImageData(x, y, 1, 1).data[0]]; })()
"""
"""Column and row of the scan in the middle of the canvas, and the grey level there."""


def until(found: Callable[[], Any]) -> Any:
    """What a function finds, as soon as it does."""
    end_s = time.monotonic() + 30
    while not (result := found()):
        assert time.monotonic() < end_s, "nothing came"
        time.sleep(0.05)
    return result


def test_an_answer_of_the_desk_reaches_the_mes_once_through_a_kill_of_either(tmp_path: Path) -> None:
    (tmp_path / "desk").mkdir()
    with running_line(tmp_path, f'[desk]\ndir = "{tmp_path / "desk"}"\n') as (daemon, _, mes):
        daemon.start()
        daemon.wait_for("ready")
        arrive(daemon.folder, "B01_0001.tif", 2700)
        settings = load_settings(daemon.config)
        evidence = settings.evidence_dir
        (name,) = until(lambda: pieces(evidence))
        verdict_id = name.rpartition("/")[2]
        store = DeskStore(tmp_path / "desk" / FILE_NAME)
        put_account(store, "ann")
        browser = Browser(build_app(new_desk(settings, store)))
        browser.log_in("ann")
        assert "0001" in browser.get("/").text

        daemon.send(signal.SIGKILL)
        assert browser.answer(verdict_id, "abnormal", kinds=["scratches"]).status == 303, (
            "no worker, and nothing is lost"
        )
        store._sql.execute("UPDATE answer SET is_handed = 0")  # a desk that was killed before it noted the hand-over
        store.close()
        daemon.start()
        with DeskStore(tmp_path / "desk" / FILE_NAME) as store:
            browser = Browser(build_app(new_desk(settings, store)))
            browser.log_in("ann")
            (payload,) = until(lambda: mes.payloads("disposition"))
            disposition = json.loads(payload)
            assert disposition["verdict_id"] == verdict_id
            assert (disposition["decision"], disposition["by"], disposition["stands"]) == (
                "abnormal",
                "ann",
                "abnormal",
            )
            assert disposition["kinds"] == ["scratches"]
            assert disposition["disposition_id"] == entry_hash(store.entry(2))[:32]
            kept = until(lambda: open_piece(evidence, name).disposition())
            assert kept == payload
            # The overview has its figures from the worker's own health, which another user may read.
            until(settings.state.health.is_file)
            assert "last told something" not in browser.get("/overview").text
            browser.answer(verdict_id, "normal")  # and changes their mind
            second = until(lambda: mes.payloads("disposition")[1:])
            assert json.loads(second[0])["previous"] == entry_hash(store.entry(2))
            problems, summary = verify(store, evidence, None)
            assert (problems, summary.split(":")[0]) == ([], "unchanged")
        arrive(daemon.folder, "B01_0002.tif", 2600)
        until(lambda: len(mes.payloads("verdict")) > 1)
        assert daemon.send(signal.SIGTERM) == 0
        health = Health.model_validate_json(settings.state.health.read_bytes())
        assert sum(health.outcomes.values()) == 1, "the overview counts what was judged in the last minute too"
    payloads = mes.payloads("disposition")
    assert len({json.loads(payload)["disposition_id"] for payload in payloads}) == len(set(payloads)) == 2


@pytest.mark.browser
@needs_chromium
def test_a_reader_at_the_page_is_heard_by_the_mes_and_leaves_labels_and_an_unbroken_record(tmp_path: Path) -> None:
    """Logs in, filters, turns the window, answers, all of it in Chromium and by keys; then exports and verifies."""
    (tmp_path / "desk").mkdir()
    desk = f'[desk]\ndir = "{tmp_path / "desk"}"\nport = {free_port()}\n'
    with running_line(tmp_path, desk) as (daemon, _, mes), Chromium(tmp_path / "profile") as browser:
        daemon.start()
        daemon.wait_for("ready")
        for name in ("B01_0001.tif", "B02_0002.tif"):
            arrive(daemon.folder, name, 2700)
        evidence = load_settings(daemon.config).evidence_dir
        until(lambda: len(pieces(evidence)) == 2)
        with DeskStore(tmp_path / "desk" / FILE_NAME) as store:
            put_account(store, "ann")
        with serving(daemon.config) as address:
            log_in(browser, address)
            browser.evaluate(
                "(() => { const lots = document.querySelector('[name=lot]'); lots.value = 'B02';"
                " lots.dispatchEvent(new Event('change', {bubbles: true})); })()"
            )
            browser.wait_for("document.querySelectorAll('a.case').length === 1")
            browser.press("Enter")
            browser.wait_for("document.getElementById('picture')?.dataset.ready")
            counts = tifffile.imread(daemon.folder / "B02_0002.tif")
            for low, high, key in ((0, 65535, "f"), (2600, 2800, "")):
                browser.press(key) if key else browser.evaluate(f"setWindow({low}, {high})")
                column, row, grey = browser.evaluate(PIXEL)
                assert grey == round((int(counts[row, column]) - low) / (high - low) * 255), (low, high)
            for key in ("a", "1", "Enter"):
                browser.press(key)
            browser.wait_for("document.getElementById('next')")
            (payload,) = until(lambda: mes.payloads("disposition"))
            said = json.loads(payload)
            assert (said["part_id"], said["decision"], said["by"]) == ("0002", "abnormal", "ann")
            assert said["verdict_id"] in [json.loads(told)["verdict_id"] for told in mes.payloads("verdict")]
            assert browser.complaints() == []
            assert edge_desk(["export", "--out", str(tmp_path / "out"), "--config", str(daemon.config)]) == 0
            (label,) = read_labels(tmp_path / "out" / "labels.csv")
            assert (label.label, label.part_id, label.kinds) == (Label.ABNORMAL, "0002", ("scratches",))
            assert np.array_equal(tifffile.imread(tmp_path / "out" / label.file), counts)
            assert edge_desk(["verify", "--config", str(daemon.config)]) == 0
        assert daemon.send(signal.SIGTERM) == 0
