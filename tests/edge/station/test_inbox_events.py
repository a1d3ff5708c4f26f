"""Inbox and watcher in a running loop, with writers of every manner: nothing is missed, nothing judged half-written."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge.errors import ScanError, ScanIncomplete
from edge.pipeline.decide import out_of_spec
from edge.pipeline.prepare import Prepared
from edge.records import Arrival, FileStamp, Scan
from edge.scans.scan import Limits, read_scan
from edge.station.folder import Away
from edge.station.inbox import Inbox
from edge.station.watch import Watcher, WatchMode
from edge.store.ledger import Entry, open_ledger
from tests.support.fakes import verdict_factory
from tests.support.station import drop, tiff

PERIOD_S = 0.4
PATIENCE_S = 30.0
"""Only a failing test waits that long."""

LIMITS = Limits()
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class RunningLine:
    """The loop of the inbox thread, with a reader that gives its verdict on each file by hash."""

    def __init__(self, folder: Path, *, is_watched: bool = True, incomplete_after_s: float = 60.0) -> None:
        self.folder = folder
        self.wake = threading.Event()
        self.inbox = Inbox(folder, known={}, limits=LIMITS, incomplete_after_s=incomplete_after_s, rewrite_hold_s=0.5)
        self.watcher = Watcher(folder, self.wake, self.inbox.touch)
        self.verdicts: dict[str, list[str]] = {}
        self.read: list[tuple[FileStamp, Scan]] = []
        self.judged = threading.Condition()
        self._is_watched = is_watched
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> RunningLine:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.wake.set()
        self._thread.join()
        self.watcher.stop()

    def wait_until(self, is_reached: Callable[[], bool]) -> bool:
        with self.judged:
            return self.judged.wait_for(is_reached, PATIENCE_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.wake.clear()
            if self._is_watched:
                self.watcher.step(time.monotonic())
            for arrival in self.inbox.poll(time.monotonic(), NOW):
                stamp = arrival.stamp
                verdict = self._read(stamp, is_final=arrival.is_final)
                if verdict is None:
                    self.inbox.retry(stamp)
                else:
                    self.verdicts.setdefault(stamp.file, []).append(verdict)
                    self.inbox.finished(stamp)
            with self.judged:
                self.judged.notify_all()
            self.wake.wait(self.inbox.wait_s(time.monotonic(), PERIOD_S))

    def _read(self, stamp: FileStamp, *, is_final: bool) -> str | None:
        """The hash of a good scan or the reason against it; None while it may still be completed."""
        try:
            scan = read_scan(self.folder / stamp.file, file=stamp.file, limits=LIMITS).scan
            self.read.append((stamp, scan))
            return scan.sha256
        except ScanIncomplete as error:
            return error.reason if is_final else None
        except ScanError as error:
            return error.reason


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "scans"
    path.mkdir()
    return path


@pytest.fixture
def line(folder: Path) -> Iterator[RunningLine]:
    with RunningLine(folder) as running:
        yield running


def entry(stamp: FileStamp, scan: Scan) -> Entry:
    """A scan with some verdict, as the worker hands it to the ledger."""
    prepared = Prepared(Arrival(stamp, NOW, is_final=False), scan, None, out_of_spec(), None, 0.0, 0.0)
    verdict = verdict_factory().without_scores(prepared, out_of_spec(), NOW)
    return Entry(stamp, scan, verdict)


def expected(scans: dict[str, bytes]) -> dict[str, list[str]]:
    return {name: [hashlib.sha256(data).hexdigest()] for name, data in scans.items()}


@pytest.mark.parametrize("is_watched", [True, False], ids=["with events", "without events"])
def test_a_burst_of_500_renamed_files_is_found_completely_and_once(folder: Path, is_watched: bool) -> None:
    scans = {f"{index:03d}.tif": tiff(index) for index in range(500)}

    with RunningLine(folder, is_watched=is_watched) as line:
        for name, data in scans.items():
            drop(folder / name, data)
        assert line.wait_until(lambda: len(line.verdicts) == 500)

    assert line.verdicts == expected(scans)
    assert line.watcher.restarts == 0


def write_in_chunks(path: Path, data: bytes, chunks: int, pause: threading.Event) -> None:
    """Front to back, with pauses longer than the time a file must stand still."""
    size = -(-len(data) // chunks)
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(data), size):
            file.write(data[start : start + size])
            pause.wait(0.3)


def write_preallocated(path: Path, data: bytes, chunks: int, pause: threading.Event) -> None:
    """Full size from the start, header and directory first, pixels after pauses."""
    size = -(-len(data) // chunks)
    with path.open("wb", buffering=0) as file:
        file.truncate(len(data))
        for start in range(0, len(data), size):
            os.pwrite(file.fileno(), data[start : start + size], start)
            pause.wait(0.3)


def write_backwards(path: Path, data: bytes, chunks: int, pause: threading.Event) -> None:
    """The end of the file first, its header last."""
    size = -(-len(data) // chunks)
    with path.open("wb", buffering=0) as file:
        for start in reversed(range(0, len(data), size)):
            os.pwrite(file.fileno(), data[start : start + size], start)
            pause.wait(0.3)


@pytest.mark.parametrize("write", [write_in_chunks, write_preallocated, write_backwards])
def test_slow_writers_are_waited_for_and_only_their_last_bytes_are_judged(
    line: RunningLine, tmp_path: Path, write: Callable[[Path, bytes, int, threading.Event], None]
) -> None:
    scans = {f"{index}.tif": tiff(index, height_px=300, width_px=200) for index in range(12)}
    pause = threading.Event()

    with ThreadPoolExecutor(len(scans)) as writers:
        for index, (name, data) in enumerate(scans.items()):
            writers.submit(write, line.folder / name, data, 2 + index, pause)
    assert line.wait_until(lambda: len(line.verdicts) == len(scans))

    # A last write that changes only the file's time makes a file worth a second look; the ledger behind the line
    # gives equal bytes no second verdict.
    with open_ledger(tmp_path / "ledger.sqlite", "xray-1") as ledger:
        for stamp, scan in line.read:
            ledger.commit([entry(stamp, scan)], NOW)
        messages = [json.loads(row.payload)["scan"] for row in ledger.outbox(0, 100)]
    judged = sorted((scan["file"], [scan["sha256"]]) for scan in messages)
    assert judged == sorted(expected(scans).items())


def test_a_writer_that_dies_leaves_a_file_that_is_called_truncated_in_the_end(folder: Path) -> None:
    with RunningLine(folder, incomplete_after_s=2.0) as line:
        (folder / "a.tif").write_bytes(tiff(1)[:500])
        (folder / "b.tif").write_bytes(tiff(2, 300, 200)[:2000] + bytes(len(tiff(2, 300, 200)) - 2000))
        drop(folder / "c.tif", tiff(3))
        assert line.wait_until(lambda: len(line.verdicts) == 3)

    assert line.verdicts == expected({"c.tif": tiff(3)}) | {"a.tif": ["truncated"], "b.tif": ["zero-tail"]}


def test_a_killed_observer_costs_one_period_at_most_and_is_replaced(line: RunningLine) -> None:
    drop(line.folder / "first.tif", tiff(0))
    assert line.wait_until(lambda: len(line.verdicts) == 1)
    assert line.watcher.mode is WatchMode.INOTIFY
    observer = line.watcher._observer
    assert observer is not None

    observer.stop()
    observer.join()
    scans = {f"{index:03d}.tif": tiff(index) for index in range(200)}
    for name, data in scans.items():
        drop(line.folder / name, data)
    assert line.wait_until(lambda: len(line.verdicts) == 201)

    assert line.verdicts == expected(scans | {"first.tif": tiff(0)})
    assert line.wait_until(lambda: line.watcher.alive)
    assert line.watcher.restarts == 1


def test_a_file_rewritten_in_place_is_judged_again_at_its_last_bytes(line: RunningLine) -> None:
    drop(line.folder / "a.tif", tiff(1))
    assert line.wait_until(lambda: len(line.verdicts.get("a.tif", [])) == 1)

    (line.folder / "a.tif").write_bytes(tiff(2))

    assert line.wait_until(lambda: len(line.verdicts["a.tif"]) == 2)
    assert line.verdicts["a.tif"] == [hashlib.sha256(tiff(seed)).hexdigest() for seed in (1, 2)]


def test_a_folder_that_comes_and_goes_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "scans", tmp_path / "elsewhere"
    elsewhere.mkdir()
    scans = {}

    with RunningLine(folder) as line:
        for cycle in range(3):
            assert line.wait_until(lambda: line.inbox.state.away is Away.MISSING)
            for index in range(5):
                scans[f"{cycle} {index}.tif"] = tiff(10 * cycle + index)
                drop(elsewhere / f"{cycle} {index}.tif", tiff(10 * cycle + index))
            elsewhere.rename(folder)
            assert line.wait_until(lambda: len(line.verdicts) == len(scans))
            assert line.wait_until(lambda: line.watcher.alive)
            folder.rename(elsewhere)

    assert line.verdicts == expected(scans)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Mounts one and the same share, which keeps its files, on `tmp_path / "scans"`."""
    share, folder = tmp_path / "share", tmp_path / "scans"
    share.mkdir()
    folder.mkdir()

    def run(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting takes root: {done.stderr.strip()}")

    def mount() -> None:
        run("mount", "--bind", str(share), str(folder))

    run("mount", "-t", "tmpfs", "none", str(share))
    yield mount
    while os.path.ismount(folder):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    subprocess.run(["umount", "--lazy", str(share)], check=True)


def test_an_unmounted_share_is_told_from_the_mount_point_below(tmp_path: Path, mount: Callable[[], None]) -> None:
    folder, share = tmp_path / "scans", tmp_path / "share"
    drop(folder / "stray.tif", tiff(99))  # somebody copied it while nothing was mounted
    mount()
    scans = {"1.tif": tiff(1), "2.tif": tiff(2)}

    with RunningLine(folder) as line:
        drop(share / "1.tif", tiff(1))
        assert line.wait_until(lambda: len(line.verdicts) == 1)
        for _ in range(3):
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
            assert line.wait_until(lambda: line.inbox.state.away is Away.UNMOUNTED)
            drop(share / "2.tif", tiff(2))
            mount()
            assert line.wait_until(lambda: line.inbox.state.away is None)
        assert line.wait_until(lambda: len(line.verdicts) == 2)

    assert set(line.verdicts) == set(scans)
    assert line.verdicts["1.tif"] == expected(scans)["1.tif"]
