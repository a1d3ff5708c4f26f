"""Files that are refused and files that cannot be read: what the MES hears of them, and how seldom."""

from __future__ import annotations

import errno
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

import edge.daemon.line
import edge.daemon.scan_alarms
import edge.scans.scan
import edge.station.backlog
from edge.contract.messages import Alarm, Health
from edge.daemon.line import Line, build_line, utc_now
from edge.engines.choose import Degraded
from edge.mqtt.alarms import AlarmBoard
from edge.scans.decoder import Decoder
from edge.scans.scan import Limits
from edge.settings import BrokerSettings, FolderSettings, Settings, StateSettings
from tests.support import fakes
from tests.support.models import scripted_model
from tests.support.tiff_files import written_by_tifffile

LOOK_S = 0.3


class Station:
    """A line whose loops the test turns, with a clock of its own, and no broker."""

    def __init__(self, line: Line, folder: Path) -> None:
        self.line = line
        self.folder = folder
        self.now_s = 0.0

    @property
    def board(self) -> AlarmBoard:
        return self.line.publisher._alarms

    def run(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += LOOK_S
            self.line.look(self.now_s, utc_now())
            while self.line.worker.step() or self.line.worker.in_flight:
                pass

    def said(self) -> list[tuple[str, bool]]:
        return [(alarm.code, alarm.active) for alarm in self.heard()]

    def heard(self) -> list[Alarm]:
        alarms = []
        while (alarm := self.board.take()) is not None:
            alarms.append(alarm)
        return alarms

    def standing(self, code: str) -> str:
        """Its words as they are now."""
        return self.board._standing[code].message


@contextmanager
def station(root: Path, *, degraded: str | None = None, after: Literal["keep", "move"] = "keep") -> Iterator[Station]:
    folder, judged = root / "scans", root / "judged"
    folder.mkdir(exist_ok=True)
    judged.mkdir(exist_ok=True)
    settings = Settings(
        station="xray-1",
        folder=FolderSettings(path=folder, incomplete_after_s=2.0, after=after, move_to=judged),
        state=StateSettings(dir=root / "state", min_free_bytes=0),
        broker=BrokerSettings(host="127.0.0.1", port=1, flush_s=0.0),
    )
    with ExitStack() as stack:
        model = scripted_model()
        if degraded is not None:
            model = edge.daemon.line.LoadedModel(
                model.signed, Degraded(model.engine, degraded, "look at the driver"), model.loaded_at
            )
        stack.callback(model.engine.close)
        line = build_line(settings, model, fakes.BOOT_ID, stack)
        stack.callback(line.publisher.stop, 0.0)
        yield Station(line, folder)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Station]:
    with station(tmp_path) as made:
        yield made


def break_reads_of(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """The disk's answer for these files."""

    def read(fd: int, length: int) -> bytes:
        if Path(f"/proc/self/fd/{fd}").readlink().name in names:
            raise OSError(errno.EIO, "Input/output error")
        return os.read(fd, length)

    broken = SimpleNamespace(**{name: getattr(os, name) for name in dir(os)} | {"read": read})
    monkeypatch.setattr(edge.scans.scan, "os", broken)


def test_a_file_rewritten_faster_than_it_is_held_raises_an_alarm_although_none_of_its_scans_is_read(
    here: Station, tmp_path: Path
) -> None:
    """A station with one file for all scans; its writer never closes it, as a share tells of no close."""
    slot = here.folder / "B01_1.tif"
    fakes.write_scan(slot)
    here.run(3)
    with slot.open("r+b", buffering=0) as writer:
        for seed in range(2, 30):
            fakes.write_scan(tmp_path / "next.tif", seed=seed)
            writer.seek(0)
            writer.write((tmp_path / "next.tif").read_bytes())
            here.run(5)
    assert here.said() == [("scans-rewritten", True)]
    assert here.standing("scans-rewritten").endswith("before any of their scans could be read: 1; first B01_1.tif")
    fakes.write_scan(here.folder / "B01_2.tif", seed=40)
    here.run(20)
    assert here.said() == [], "the slot was read by now, as a rewrite"
    fakes.write_scan(here.folder / "B01_3.tif", seed=41)
    here.run(70)
    assert here.said() == [("scans-rewritten", False)]


def test_a_new_file_that_is_written_to_for_minutes_is_told_and_a_slow_one_is_not(
    here: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.station.backlog, "WRITING_S", 30.0)
    fakes.write_scan(here.folder / "B01_1.tif")
    times = itertools.count(1)
    for _ in range(80):  # 24 s
        os.utime(here.folder / "B01_1.tif", (1, next(times)))
        here.run(LOOK_S)
    here.run(70)
    assert here.said() == []
    fakes.write_scan(here.folder / "B01_2.tif", seed=2)
    for _ in range(350):  # more than a minute and a half
        os.utime(here.folder / "B01_2.tif", (1, next(times)))
        here.run(LOOK_S)
    assert here.said() == [("scans-rewritten", True)]
    here.run(70)
    assert here.said() == [("scans-rewritten", False)]


def test_a_file_the_disk_does_not_give_raises_an_alarm_that_ends_when_it_is_judged(
    here: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.write_scan(here.folder / "B01_1.tif")
    with monkeypatch.context() as patch:
        break_reads_of(patch, "B01_1.tif")
        here.run(20)
        assert here.said() == [("scans-not-readable", True)]
        assert here.standing("scans-not-readable") == (
            "files without a verdict: 1; first B01_1.tif: Input/output error (read-failed)"
        )
        fakes.write_scan(here.folder / "B01_2.tif", seed=2)
        here.run(20)
        assert here.said() == [], "another file that is read does not end it, nor does it come again"
    here.run(20)
    assert here.said() == [("scans-not-readable", False)]
    assert here.line.ledger.pending().count == 2


def test_a_read_that_does_not_return_is_an_alarm_until_it_does(here: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a share whose server is gone: the reader's thread, and with it the worker's, is stuck in the kernel."""
    answers, read_whole = threading.Event(), edge.scans.scan._read_whole

    def hanging(*arguments: Any) -> bytes:
        answers.wait(30)
        return read_whole(*arguments)

    monkeypatch.setattr(edge.scans.scan, "_read_whole", hanging)
    fakes.write_scan(here.folder / "B01_1.tif")
    working = threading.Thread(target=here.run, args=(20,))
    working.start()
    until_s = time.monotonic() + 20
    while not (said := here.said()) and time.monotonic() < until_s:
        here.line.watch_reads(0.1)
    assert said == [("scans-not-readable", True)]
    assert "first B01_1.tif: reading it has lasted 0 s so far" in here.standing("scans-not-readable")
    answers.set()
    working.join()
    here.line.watch_reads(0.1)
    assert here.said() == [("scans-not-readable", False)]
    assert here.line.ledger.pending().count == 1


def test_coded_scans_without_a_process_to_unpack_them_raise_the_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(limits: Limits) -> Decoder:
        return Decoder(limits, program=["/bin/false"])

    monkeypatch.setattr(edge.daemon.line, "Decoder", never)
    plain = fakes.write_scan(tmp_path / "plain.tif")
    with station(tmp_path) as here:
        counts = edge.scans.scan.read_scan(plain, file="plain.tif", limits=Limits()).counts
        for index in range(2):
            (here.folder / f"B01_{index}.tif").write_bytes(written_by_tifffile(counts + index, compression="lzw"))
        here.run(20)
        assert here.said() == [("scans-not-readable", True)]
        words = here.standing("scans-not-readable")
        assert words.startswith("files without a verdict: 2; first B01_0.tif: no process can be started")


def test_the_alarm_ends_when_the_file_is_taken_away(here: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fakes.write_scan(here.folder / "B01_1.tif")
    break_reads_of(monkeypatch, "B01_1.tif")
    here.run(20)
    path.unlink()
    here.run(edge.daemon.scan_alarms.LOOK_S + 1)
    assert here.said() == [("scans-not-readable", True), ("scans-not-readable", False)]


def test_a_scan_that_is_taken_away_as_it_becomes_final_raises_no_alarm(
    here: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fakes.write_scan(here.folder / "B01_1.tif")
    break_reads_of(monkeypatch, "B01_1.tif")
    while not here.line.scan_alarms._failed_once:
        here.run(LOOK_S)
    path.unlink()
    here.run(edge.daemon.scan_alarms.LOOK_S + 20)
    assert here.said() == []
    assert not here.line.scan_alarms._failed_once


def test_refused_files_raise_one_alarm_that_counts_them_and_ends_after_a_scan_was_read(here: Station) -> None:
    here.run(1)
    for index in range(3):
        (here.folder / f"B01_{index}.tif").write_bytes(b"")
    here.run(10)
    assert here.said() == [("scans-refused", True)]
    assert here.standing("scans-refused") == "files refused since this began: 3; last B01_2.tif: empty"
    here.run(edge.daemon.scan_alarms.LOOK_S + 1)
    assert here.said() == [], "it stands until a scan is read"
    fakes.write_scan(here.folder / "B01_9.tif")
    here.run(edge.daemon.scan_alarms.LOOK_S + 1)
    (over,) = here.heard()
    assert (over.code, over.active) == ("scans-refused", False)
    assert over.message.startswith("files refused since this began: 3;")
    (here.folder / "B02_1.tif").write_bytes(b"no TIFF")
    here.run(5)
    assert here.standing("scans-refused") == "files refused since this began: 1; last B02_1.tif: not-tiff"


def test_good_and_bad_files_in_turns_cause_no_flood_of_alarms(here: Station) -> None:
    for index in range(40):
        (here.folder / f"B01_{index}.tif").write_bytes(b"no TIFF, number %d" % index)
        here.run(0.9)
        fakes.write_scan(here.folder / f"B02_{index}.tif", seed=index)
        here.run(0.9)
    assert here.line.ledger.pending().count == 80
    assert len(here.said()) <= 4


def test_a_station_that_rewrites_its_file_is_named_with_the_cure_until_it_makes_new_ones(
    here: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    health: list[Health] = []
    monkeypatch.setattr(here.line.publisher, "publish_health", health.append)
    slot = fakes.write_scan(here.folder / "B01_slot.tif")
    here.run(2.0)
    slot.touch()  # the same bytes: no scan was written
    here.run(12.0)
    assert here.said() == []
    other = fakes.write_scan(here.folder.parent / "other.tif", seed=2).read_bytes()
    with slot.open("r+b") as file:
        file.write(other)
    here.run(12.0)
    (alarm,) = here.heard()
    assert (alarm.code, alarm.message) == (
        "scans-rewritten",
        "scans written into the file of an older one: 1; last B01_slot.tif",
    )
    assert "rename it" in alarm.hint and "done_suffix" in alarm.hint
    fakes.write_scan(here.folder / "B01_1.tif", seed=3)
    here.run(61.0)
    assert here.said() == [("scans-rewritten", False)]
    with slot.open("r+b") as file:
        file.write(fakes.write_scan(here.folder.parent / "other.tif", seed=4).read_bytes())
    here.run(1.0)
    with slot.open("r+b") as file:
        file.write(fakes.write_scan(here.folder.parent / "other.tif", seed=5).read_bytes())
    here.run(12.0)
    here.line.report_health()
    assert health[0].overwritten == 0  # it had not stood still


@pytest.mark.parametrize("former", ["empty", "truncated", "preallocated", "not readable"])
@pytest.mark.parametrize("has_restarted", [False, True])
def test_a_file_that_was_given_up_unfinished_and_is_finished_later_is_no_rewrite(
    tmp_path: Path, former: str, has_restarted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        here = stack.enter_context(station(tmp_path))
        data = fakes.write_scan(here.folder.parent / "whole.tif", seed=2).read_bytes()
        scan = here.folder / "B01_1.tif"
        lengths = {"empty": 0, "truncated": 500, "preallocated": len(data) // 2}
        written = data[: lengths.get(former, len(data))]
        scan.write_bytes(written + bytes(len(data) - len(written) if former == "preallocated" else 0))
        barred = {scan} if former == "not readable" else set()
        really = os.open

        def opening(path: Any, *arguments: Any, **options: Any) -> int:
            if path in barred:
                raise PermissionError(errno.EACCES, "Permission denied")
            return really(path, *arguments, **options)

        monkeypatch.setattr(os, "open", opening)
        here.run(6.0)
        assert outcomes(here) == ["unreadable"]
        assert ("scans-refused", True) in here.said()
        if has_restarted:
            stack.close()
            here = stack.enter_context(station(tmp_path))
            here.run(1.0)
        time.sleep(0.01)  # file systems tick slowly
        if barred:
            barred.clear()
            scan.chmod(0o600)
        else:
            with scan.open("r+b") as file:
                file.write(data)
        here.run(2.0)
        assert len(outcomes(here)) == 2, "held"
        assert "scans-rewritten" not in [code for code, _ in here.said()]


def outcomes(here: Station) -> list[str]:
    """What the verdicts in the ledger say, the oldest first."""
    return [json.loads(row.payload)["outcome"] for row in here.line.ledger.outbox(0, 10)]


def test_a_name_that_names_no_part_is_an_alarm_until_one_fits_and_a_count_in_health(
    here: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    health: list[Health] = []
    monkeypatch.setattr(here.line.publisher, "publish_health", health.append)
    for index in range(2):
        fakes.write_scan(here.folder / f"nounderscore{index}.tif", seed=index)
    here.run(2.0)
    assert here.said() == [("part-unknown", True)]
    assert here.standing("part-unknown") == "verdicts without a part since this began: 2; last nounderscore1.tif"
    fakes.write_scan(here.folder / "B01_1.tif", seed=9)
    here.run(61.0)
    assert here.said() == [("part-unknown", False)]
    here.line.report_health()
    assert health[0].unnamed == 2


@pytest.mark.parametrize(("after", "alarms"), [("keep", []), ("move", [("scans-repeated", True)])])
def test_a_frozen_detector_under_one_name_is_an_alarm_where_judged_scans_are_moved_away(
    tmp_path: Path, after: Literal["keep", "move"], alarms: list[tuple[str, bool]]
) -> None:
    """Where they stay, the same file may only have been touched or restored."""
    with station(tmp_path, after=after) as here:
        for _ in range(2):
            fakes.write_scan(here.folder / "B01_1.tif")
            here.run(20)
            if after == "move":
                here.line.move_on(here.now_s)
                assert not (here.folder / "B01_1.tif").exists()
        assert here.said() == alarms
        assert here.line.ledger.pending().count == 1


def test_a_scan_for_a_person_to_look_at_is_not_refused(here: Station) -> None:
    fakes.write_scan(here.folder / "B01_1.tif", size=fakes.Size(700, 80))
    here.run(5)
    assert here.line.ledger.pending().count == 1
    assert here.said() == []


def test_a_line_that_does_not_run_as_configured_says_so_as_long_as_it_runs(tmp_path: Path) -> None:
    with station(tmp_path, degraded="TensorRT: no driver") as here:
        (alarm,) = here.heard()
        assert (alarm.code, alarm.active, alarm.message) == ("degraded", True, "TensorRT: no driver")
        assert alarm.hint == "look at the driver"
        fakes.write_scan(here.folder / "B01_1.tif")
        here.run(70)
        assert here.line.publisher.standing_alarms == ("degraded",)
    with station(tmp_path) as here:
        assert here.said() == []
