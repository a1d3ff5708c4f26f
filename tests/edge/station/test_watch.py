"""What wakes the inbox: the choice by file system, and an observer that outlives its folder and itself."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.station import watch
from edge.station.watch import RENEW_S, RETRY_S, Watcher, WatchMode
from tests.support.station import LOCAL_MOUNT

SOON_S = 10.0
"""Far more than an event takes; only a failing test waits that long."""


class Station:
    """A folder, its watcher, and what the watcher said."""

    def __init__(self, home: Path, mounts: str = LOCAL_MOUNT, *, recursive: bool = False) -> None:
        self.folder = home / "scans"
        self.folder.mkdir()
        mountinfo = home / "mountinfo"
        mountinfo.write_text(mounts)
        self.wake = threading.Event()
        self.touched: list[str] = []
        self.watcher = Watcher(
            self.folder,
            self.wake,
            self.touch,
            recursive=recursive,
            mountinfo=mountinfo,
        )

    def touch(self, name: str, _is_new: bool) -> None:
        self.touched.append(name)

    def is_woken(self) -> bool:
        woken = self.wake.wait(SOON_S)
        self.wake.clear()
        return woken

    def wait_for(self, name: str) -> bool:
        """Whether `name` is touched soon."""
        while name not in self.touched:
            if not self.is_woken():
                return False
        return True


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    station = Station(tmp_path)
    yield station
    station.watcher.stop()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_renamed_a_written_and_a_linked_file_wake_the_inbox(station: Station, tmp_path: Path) -> None:
    station.watcher.start()
    assert station.watcher.mode is WatchMode.INOTIFY
    assert station.watcher.alive
    (tmp_path / "elsewhere.tif").write_bytes(b"x")

    (tmp_path / "elsewhere.tif").rename(station.folder / "moved in.tif")
    assert station.wait_for("moved in.tif")
    (station.folder / "written.tif.tmp").write_bytes(b"x")
    (station.folder / "written.tif.tmp").rename(station.folder / "renamed.tif")
    assert station.wait_for("renamed.tif")
    os.link(station.folder / "renamed.tif", station.folder / "linked.tif")
    assert station.wait_for("linked.tif")


def test_a_rewrite_in_place_is_touched_when_it_is_closed(station: Station) -> None:
    scan = station.folder / "a.tif"
    scan.write_bytes(b"old")
    station.watcher.start()
    station.touched.clear()

    scan.write_bytes(b"new")

    assert station.wait_for("a.tif")


def test_a_draft_of_a_scan_wakes_nobody_and_the_scan_does(station: Station) -> None:
    station.watcher.start()
    draft = station.folder / ".a.tif.tmp"
    draft.write_bytes(b"x")

    draft.rename(station.folder / "a.tif")

    assert station.wait_for("a.tif")
    assert station.touched == ["a.tif"]


def test_reading_the_scans_wakes_nobody(station: Station) -> None:
    scan = station.folder / "a.tif"
    scan.write_bytes(b"x")
    station.watcher.start()
    station.wake.clear()

    scan.read_bytes()
    scan.unlink()
    (station.folder / "b.tif").write_bytes(b"x")

    assert station.wait_for("b.tif")
    assert "a.tif" not in station.touched


def test_names_that_are_not_text_are_handed_over_as_the_file_system_gives_them(station: Station) -> None:
    name = os.fsdecode(b"scan \xff\n.tif")
    station.watcher.start()

    (station.folder / name).write_bytes(b"x")

    assert station.wait_for(name)


def test_sub_folders_are_watched_if_asked_for(tmp_path: Path) -> None:
    station = Station(tmp_path, recursive=True)
    (station.folder / "monday").mkdir()
    station.watcher.start()
    try:
        (station.folder / "monday" / "a.tif").write_bytes(b"x")
        assert station.wait_for("monday/a.tif")
    finally:
        station.watcher.stop()


def test_a_linked_folder_is_watched_where_it_points(tmp_path: Path) -> None:
    station = Station(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(station.folder)
    watcher = Watcher(link, station.wake, station.touch, mountinfo=tmp_path / "mountinfo")
    watcher.start()
    try:
        (link / "a.tif").write_bytes(b"x")
        assert station.wait_for("a.tif")
    finally:
        watcher.stop()


def test_a_remote_folder_is_polled_and_gets_no_observer(tmp_path: Path) -> None:
    station = Station(tmp_path, "27 1 254:0 / / rw - nfs4 host:/x rw\n")

    station.watcher.start()
    station.watcher.step(0.0)

    assert station.watcher.mode is WatchMode.POLL
    assert station.watcher.reason == "inotify sees no remote writer on nfs4"
    assert not station.watcher.alive
    assert station.watcher.restarts == 0


def test_a_folder_that_is_missing_at_the_start_is_watched_once_it_appears(station: Station) -> None:
    station.folder.rmdir()
    station.watcher.start()
    station.watcher.step(0.0)
    assert station.watcher.mode is WatchMode.POLL
    assert station.watcher.reason == "the folder is away"

    station.folder.mkdir()
    station.watcher.step(0.5)

    assert station.watcher.mode is WatchMode.INOTIFY
    assert station.wake.is_set()
    (station.folder / "a.tif").write_bytes(b"x")
    assert station.wait_for("a.tif")


def test_a_folder_that_is_replaced_is_watched_anew(station: Station, tmp_path: Path) -> None:
    station.watcher.start()
    station.watcher.step(0.0)
    station.folder.rename(tmp_path / "former")
    station.watcher.step(0.5)
    assert not station.watcher.alive
    station.folder.mkdir()

    station.watcher.step(1.0)
    (station.folder / "a.tif").write_bytes(b"x")

    assert station.wait_for("a.tif")
    assert station.watcher.restarts == 0


def test_a_deleted_folder_is_watched_again_without_delay(station: Station) -> None:
    station.watcher.start()
    station.watcher.step(0.0)
    station.folder.rmdir()
    station.folder.mkdir()

    station.watcher.step(0.5)
    station.watcher.step(1.0)

    assert station.watcher.alive


def kill_observer(watcher: Watcher) -> None:
    observer = watcher._observer
    assert observer is not None
    observer.stop()
    observer.join(SOON_S)


def kill_emitter(watcher: Watcher) -> None:
    observer = watcher._observer
    assert observer is not None
    for emitter in observer.emitters:
        emitter.stop()
        emitter.join(SOON_S)


@pytest.mark.parametrize("kill", [kill_observer, kill_emitter])
def test_an_observer_that_dies_is_started_again(station: Station, kill: object) -> None:
    station.watcher.start()
    station.watcher.step(0.0)
    assert callable(kill)
    kill(station.watcher)
    assert not station.watcher.alive

    station.watcher.step(0.5)

    assert station.watcher.alive
    assert station.watcher.restarts == 1
    (station.folder / "a.tif").write_bytes(b"x")
    assert station.wait_for("a.tif")


def test_an_observer_that_dies_at_once_is_not_restarted_in_a_storm(station: Station) -> None:
    station.watcher.start()
    station.watcher.step(0.0)
    for turn in range(20):
        if station.watcher.alive:
            kill_observer(station.watcher)
        station.watcher.step(0.1 * turn)

    assert station.watcher.restarts == 2
    assert station.watcher.mode is WatchMode.POLL
    station.watcher.step(RETRY_S + 1)
    assert station.watcher.alive


def test_a_watch_is_renewed_because_an_unmount_ends_it_without_a_sign(station: Station) -> None:
    station.watcher.start()
    station.watcher.step(0.0)
    first = station.watcher._observer

    station.watcher.step(RENEW_S)

    assert station.watcher.alive
    assert station.watcher._observer is not first
    assert station.watcher.restarts == 0


def test_a_refused_watch_means_polling_and_another_try_later(
    station: Station, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def refuse(_self: object) -> None:
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    with monkeypatch.context() as patch:
        patch.setattr(watch._ArrivalEmitter, "on_thread_start", refuse)
        station.watcher.start()
        station.watcher.step(0.0)
        station.watcher.step(RETRY_S)
        assert station.watcher.reason == "inotify refused: inotify watch limit reached"
    station.watcher.step(RETRY_S * 1.5)
    assert station.watcher.mode is WatchMode.POLL

    station.watcher.step(RETRY_S * 2)

    assert station.watcher.mode is WatchMode.INOTIFY
    told = [(record.levelname, record.fields["by"]) for record in caplog.records if record.message == "folder watched"]
    assert told == [("WARNING", "poll"), ("INFO", "inotify")]  # once each, however often it is tried


def test_stopping_ends_every_thread_and_closes_every_descriptor(station: Station) -> None:
    threads, descriptors = threading.active_count(), open_descriptors()

    for _ in range(20):
        station.watcher.start()
        station.watcher.stop()
    station.watcher.stop()

    assert threading.active_count() == threads
    assert open_descriptors() == descriptors
