"""Judged files are moved only if they are still the judged ones; evidence boxes lie on the scan."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge.station.archive
from edge.images.residual_boxes import MapGeometry, worst_windows
from edge.records import FileStamp, Size
from edge.station.archive import Archive
from edge.station.folder import find_markers
from edge.station.mounts import FileSystem


def stamp_of(folder: Path, file: str) -> FileStamp:
    seen = (folder / file).lstat()
    return FileStamp(file, seen.st_ino, seen.st_size, seen.st_mtime_ns)


def archive_of(folder: Path, target: Path, **options: Any) -> Archive:
    """One whose stamps know no change time, so that it never has to ask."""
    return Archive(folder, target, is_judged=lambda *_: False, **options)


def test_where_inode_numbers_are_invented_anew_a_judged_scan_is_moved_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.tif").write_bytes(b"scan")
    stamp = replace(stamp_of(tmp_path, "a.tif"), inode=1)
    archive_of(tmp_path, tmp_path / "out").move(stamp)
    assert (tmp_path / "a.tif").exists()
    monkeypatch.setattr(edge.station.archive, "file_system", lambda _path: FileSystem("vfat", Path("/")))
    archive_of(tmp_path, tmp_path / "out").move(stamp)
    assert (tmp_path / "out" / "a.tif").read_bytes() == b"scan"


def test_a_judged_scan_moves_with_its_relative_path(tmp_path: Path) -> None:
    folder, target = tmp_path / "in", tmp_path / "out"
    (folder / "day").mkdir(parents=True)
    (folder / "day" / "a.tif").write_bytes(b"scan")
    archive_of(folder, target).move(stamp_of(folder, "day/a.tif"))
    assert not (folder / "day" / "a.tif").exists()
    assert (target / "day" / "a.tif").read_bytes() == b"scan"


def test_a_scan_that_was_replaced_after_its_verdict_stays(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"old")
    stamp = stamp_of(tmp_path, "a.tif")
    (tmp_path / "a.tif").write_bytes(b"new bytes")
    archive_of(tmp_path, tmp_path / "out").move(stamp)
    assert (tmp_path / "a.tif").read_bytes() == b"new bytes"


def test_a_taken_name_does_not_overwrite_the_archived_scan(tmp_path: Path) -> None:
    archive = archive_of(tmp_path, tmp_path / "out")
    for content in (b"first", b"second"):
        (tmp_path / "a.tif").write_bytes(content)
        archive.move(stamp_of(tmp_path, "a.tif"))
    assert sorted(path.read_bytes() for path in (tmp_path / "out").iterdir()) == [b"first", b"second"]


def test_a_file_that_cannot_be_moved_is_logged_and_left(tmp_path: Path, caplog) -> None:
    (tmp_path / "a.tif").write_bytes(b"scan")
    (tmp_path / "out").write_bytes(b"a file where the folder should be")
    archive_of(tmp_path, tmp_path / "out").move(stamp_of(tmp_path, "a.tif"))
    assert "scan not moved" in caplog.text
    assert (tmp_path / "a.tif").exists()


def test_a_scan_that_was_moved_before_is_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every start goes through the files of the ledger, most of which an earlier run has moved."""
    (tmp_path / "a.tif").write_bytes(b"scan")
    stamp = stamp_of(tmp_path, "a.tif")
    archive = archive_of(tmp_path, tmp_path / "out")
    for _ in range(2):
        archive.move(stamp)
    assert caplog.text == ""
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.tif"]


def test_to_another_disk_a_scan_moves_with_its_time(tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"scan")
    stamp = stamp_of(tmp_path, "a.tif")
    archive_of(tmp_path, small_disk / "out").move(stamp)
    assert not (tmp_path / "a.tif").exists()
    moved = stamp_of(small_disk / "out", "a.tif")
    assert (moved.size_bytes, moved.modified_ns) == (4, stamp.modified_ns)


def test_a_disk_that_fills_up_during_the_move_holds_no_part_of_the_scan(
    tmp_path: Path, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.tif").write_bytes(bytes(2_000_000))
    archive_of(tmp_path, small_disk / "out").move(stamp_of(tmp_path, "a.tif"))
    assert ["No space left" in record.fields["error"] for record in caplog.records] == [True]
    assert list((small_disk / "out").iterdir()) == []
    assert (tmp_path / "a.tif").stat().st_size == 2_000_000


def test_a_move_that_a_kill_cut_short_is_finished_and_leaves_one_copy(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the renaming there is a draft; before the removal the scan is in both places, and hidden at the last."""
    (tmp_path / "a.tif").write_bytes(b"scan")
    stamp = stamp_of(tmp_path, "a.tif")
    archive = archive_of(tmp_path, small_disk / "out")
    draft = f".{stamp.inode}.part"
    taken = f".{stamp.inode}.moving"
    for calls, name, turn, left, here in (
        (("replace", "unlink"), draft, 1, draft, "a.tif"),
        (("rename",), "a.tif", 2, "a.tif", "a.tif"),  # the first finds that it is another disk
        (("unlink",), taken, 1, "a.tif", taken),
    ):
        with monkeypatch.context() as patch:
            for call in calls:  # a kill leaves no time to remove the draft, either
                kill_at(patch, call, name, turn)
            with pytest.raises(SystemExit):
                archive.move(stamp)
        assert [path.name for path in (small_disk / "out").iterdir()] == [left]
        assert (tmp_path / here).read_bytes() == b"scan"
    archive.move(stamp)
    assert [path.name for path in tmp_path.iterdir()] == ["disk"]
    assert [path.name for path in (small_disk / "out").iterdir()] == ["a.tif"]


def test_a_kill_between_taking_and_naming_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = tmp_path / "in" / "a.tif"
    scan.parent.mkdir()
    for is_replaced in (False, True):
        scan.write_bytes(b"judged")
        stamp = stamp_of(scan.parent, "a.tif")
        archive = archive_of(scan.parent, tmp_path / "out")
        with monkeypatch.context() as patch:
            if is_replaced:
                swap_before(patch, "rename", "a.tif", lambda: renamed_over(scan, b"unread"))
                kill_at(patch, "hardlink_to", "a.tif", must_exist=False)
            else:
                kill_at(patch, "rename", f".{stamp.inode}.moving")
            with pytest.raises(SystemExit):
                archive.move(stamp)
        assert not scan.exists()
        archive.move(stamp)
        if is_replaced:
            assert scan.read_bytes() == b"unread"
        else:
            assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.tif"]
            (tmp_path / "out" / "a.tif").unlink()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("where", ["here", "on another disk"])
@pytest.mark.parametrize("change", ["a new scan", "a link", "a folder"])
def test_what_takes_a_judged_scans_name_in_the_gap_is_not_moved(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, where: str, change: str
) -> None:
    scan, outside = tmp_path / "in" / "a.tif", tmp_path / "outside.tif"
    scan.parent.mkdir()
    scan.write_bytes(b"judged")
    outside.write_bytes(b"outside")
    target = (tmp_path if where == "here" else small_disk) / "out"
    stamp = stamp_of(scan.parent, "a.tif")

    def swap() -> None:
        if change == "a new scan":
            renamed_over(scan, b"unread")
            return
        scan.unlink()
        if change == "a link":
            scan.symlink_to(outside)
        else:
            scan.mkdir()

    swap_before(monkeypatch, "rename", "a.tif", swap, turn=1 if where == "here" else 2)
    assert archive_of(scan.parent, target).move(stamp)
    assert [path.name for path in scan.parent.iterdir()] == ["a.tif"]
    assert change != "a new scan" or scan.read_bytes() == b"unread"
    assert change != "a link" or scan.readlink() == outside
    assert [path.read_bytes() for path in target.iterdir()] == ([] if where == "here" else [b"judged"])
    assert outside.read_bytes() == b"outside"


@pytest.mark.parametrize("where", ["here", "on another disk"])
def test_what_was_taken_by_mistake_is_not_put_back_over_a_newer_one(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    scan = tmp_path / "in" / "a.tif"
    scan.parent.mkdir()
    scan.write_bytes(b"judged")
    target, turn = (tmp_path / "out", 1) if where == "here" else (small_disk / "out", 2)
    swap_before(monkeypatch, "rename", "a.tif", lambda: renamed_over(scan, b"second"), turn)
    swap_before(monkeypatch, "hardlink_to", "a.tif", lambda: renamed_over(scan, b"third"))
    archive = archive_of(scan.parent, target)
    assert archive.move(stamp_of(scan.parent, "a.tif"))
    assert scan.read_bytes() == b"third"
    assert [path.name for path in scan.parent.iterdir()] == ["a.tif"]
    copied = [] if where == "here" else [b"judged"]
    assert sorted(path.read_bytes() for path in target.iterdir()) == [*copied, b"second"]
    assert "overwritten before it was read" in caplog.text and archive.overwritten_count == 1


def test_a_folder_that_becomes_a_link_moves_nothing_from_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the move, and in its gap."""
    folder, outside = tmp_path / "in", tmp_path / "outside"
    outside.mkdir()
    for is_early in (True, False):
        lot = folder / "lot"
        lot.mkdir(parents=True)
        (lot / "a.tif").write_bytes(b"judged")
        stamp = stamp_of(folder, "lot/a.tif")
        os.link(lot / "a.tif", outside / "a.tif")  # even where it is the very file

        def swap(lot: Path = lot) -> None:
            lot.rename(folder / ".old")
            lot.symlink_to(outside)

        with monkeypatch.context() as patch:
            if is_early:
                swap()
            else:
                swap_before(patch, "rename", "a.tif", swap)
            assert archive_of(folder, tmp_path / "out").move(stamp)
        assert (outside / "a.tif").read_bytes() == b"judged"
        shutil.rmtree(folder)
        (outside / "a.tif").unlink()


def test_what_cannot_be_moved_is_tried_again_until_it_can(tmp_path: Path, small_disk: Path) -> None:
    folder, target = tmp_path / "in", small_disk / "out"
    folder.mkdir()
    archive = archive_of(folder, target)
    filling = small_disk / "filling"
    with contextlib.suppress(OSError):
        filling.write_bytes(bytes(2_000_000))
    for index in range(3):
        (folder / f"{index}.tif").write_bytes(bytes(100_000))
        archive.add(stamp_of(folder, f"{index}.tif"))
    wait_s = archive.step(0.0)
    assert archive.failure is not None
    assert archive.failure.startswith(f"scans not moved to {target}: 3; last ")
    assert archive.failure.endswith("No space left on device")
    filling.unlink()
    assert archive.step(wait_s / 2) == wait_s / 2
    assert len(list(folder.iterdir())) == 3
    archive.step(wait_s)
    assert archive.failure is None
    assert list(folder.iterdir()) == []
    assert len(list(target.iterdir())) == 3


def test_nothing_is_moved_through_a_link_to_where_new_scans_are_looked_for(tmp_path: Path) -> None:
    folder, target = tmp_path / "in", tmp_path / "out"
    (folder / "day").mkdir(parents=True)
    (folder / "a.tif").write_bytes(b"scan")
    target.symlink_to(folder / "day")
    archive = archive_of(folder, target, recursive=True)
    assert not archive.move(stamp_of(folder, "a.tif"))
    assert archive.failure is not None
    assert archive.failure.endswith(f"it leads to {folder}/day, where the worker looks for new scans")
    assert (folder / "a.tif").exists()
    target.unlink()
    archive.step(0.0)
    assert (target / "a.tif").exists()


def test_a_target_that_is_not_mounted_gets_nothing_into_its_mount_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, target = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    homes = {folder: FileSystem("ext4", Path("/")), target: FileSystem("cifs", target)}
    monkeypatch.setattr(edge.station.archive, "file_system", homes.get)
    for name in ("a.tif", "b.tif"):
        (folder / name).write_bytes(name.encode())
    archive = archive_of(folder, target)
    assert archive.move(stamp_of(folder, "a.tif"))
    where = archive.whereabouts
    target.rename(tmp_path / "the-share")
    homes[target] = FileSystem("ext4", Path("/"))
    for is_there in (False, True):
        if is_there:
            target.mkdir()
        for tried in (archive, archive_of(folder, target, remembered=where)):
            assert not tried.move(stamp_of(folder, "b.tif"))
            assert tried.failure is not None
    assert list(target.iterdir()) == []
    target.rmdir()
    (tmp_path / "the-share").rename(target)
    homes[target] = FileSystem("cifs", target)
    assert archive.move(stamp_of(folder, "b.tif"))
    assert sorted(path.name for path in target.iterdir()) == ["a.tif", "b.tif"]


def renamed_over(scan: Path, content: bytes) -> None:
    """As a station does that makes its next scan of the same name."""
    draft = scan.with_name(".draft")
    draft.write_bytes(content)
    draft.rename(scan)


def swap_before(monkeypatch: pytest.MonkeyPatch, call: str, name: str, swap: Callable[[], None], turn: int = 1) -> None:
    """In the gap between the last look at a file and what is done with its name, at the turn-th call."""
    original = getattr(Path, call)
    turns = itertools.count(1)

    def swapping(path: Path, *arguments: object, **options: object) -> object:
        if path.name == name and next(turns) == turn:
            swap()
        return original(path, *arguments, **options)

    monkeypatch.setattr(Path, call, swapping)


def kill_at(monkeypatch: pytest.MonkeyPatch, call: str, name: str, turn: int = 1, *, must_exist: bool = True) -> None:
    """End the program where it would rename or remove the file of this name, at the turn-th call."""
    original = getattr(Path, call)
    turns = itertools.count(1)

    def killing(path: Path, *arguments: object, **options: object) -> object:
        if path.name == name and (path.exists() or not must_exist) and next(turns) == turn:
            raise SystemExit
        return original(path, *arguments, **options)

    monkeypatch.setattr(Path, call, killing)


def test_a_name_of_255_bytes_that_is_taken_leaves_room_for_the_number(tmp_path: Path) -> None:
    folder, target = tmp_path / "scans", tmp_path / "done"
    folder.mkdir()
    archive, name = archive_of(folder, target), "ü" * 125 + "x.tif"
    for content in (b"scan 1", b"scan 2"):
        (folder / ".draft").write_bytes(content)
        (folder / ".draft").rename(folder / name)
        archive.move(stamp_of(folder, name))
    assert archive.failure is None
    assert sorted(path.read_bytes() for path in target.glob("*.tif")) == [b"scan 1", b"scan 2"]


def test_no_archived_scan_is_overwritten_however_often_a_name_and_an_inode_come_again(
    tmp_path: Path, small_disk: Path
) -> None:
    stamp = None
    for content in (b"first", b"other", b"third"):
        (tmp_path / "a.tif").write_bytes(content)
        stamp = stamp_of(tmp_path, "a.tif")
        (small_disk / f"a.{stamp.inode}.tif").write_bytes(b"an earlier scan that had this inode")
        archive_of(tmp_path, small_disk).move(stamp)
    found = [path.read_bytes() for path in small_disk.iterdir()]
    assert {b"first", b"other", b"third"} <= set(found)
    assert not (tmp_path / "a.tif").exists()


@pytest.mark.parametrize("marker", ["a.tif.done", "a.done", "A.TIF.DONE", "a.DONE"])
def test_the_marker_goes_with_its_scan_so_that_the_next_scan_of_the_part_has_to_wait_for_its_own(
    tmp_path: Path, small_disk: Path, marker: str
) -> None:
    for target in (tmp_path / "out", small_disk / "out"):
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        for name in ("a.tif", marker, "b.tif.done", "b.done"):
            (folder / name).write_bytes(name.encode())
        archive_of(folder, target, done_suffix=".done").move(stamp_of(folder, "a.tif"))
        assert sorted(path.name for path in folder.iterdir()) == ["b.done", "b.tif.done"]
        assert {path.name: path.read_bytes() for path in target.iterdir()} == {
            "a.tif": b"a.tif",
            marker: marker.encode(),
        }


def test_a_kill_between_leaves_no_marker_without_its_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.tif", "a.tif.done"):
        (tmp_path / name).write_bytes(b"x")
    stamp = stamp_of(tmp_path, "a.tif")
    archive = archive_of(tmp_path, tmp_path / "out", done_suffix=".done")
    with monkeypatch.context() as patch:
        kill_at(patch, "rename", "a.tif")
        with pytest.raises(SystemExit):
            archive.move(stamp)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "out"]
    archive.move(stamp)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.tif", "a.tif.done"]


def test_a_marker_that_another_scan_needs_stays_until_that_one_goes(tmp_path: Path) -> None:
    for name in ("a.tif", "a.tiff", "a.done"):
        (tmp_path / name).write_bytes(b"x")
    archive = archive_of(tmp_path, tmp_path / "out", done_suffix=".done")
    archive.move(stamp_of(tmp_path, "a.tif"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.done", "a.tiff", "out"]
    archive.move(stamp_of(tmp_path, "a.tiff"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "when", ["before its marker is looked at", "before its marker is taken", "when it was put back"]
)
@pytest.mark.parametrize("where", ["here", "on another disk"])
def test_a_scan_that_takes_the_judged_ones_place_keeps_its_own_marker(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, when: str, where: str
) -> None:
    """Else it would wait for that marker for ever, in the folder and without a word."""
    folder, target = tmp_path / "in", (tmp_path if where == "here" else small_disk) / "out"
    folder.mkdir()
    scan, marker = folder / "a.tif", folder / "a.tif.done"
    scan.write_bytes(b"judged")
    marker.touch()
    stamp = stamp_of(folder, "a.tif")
    time.sleep(0.01)  # file systems tick slowly

    def next_scan() -> None:
        renamed_over(scan, b"unread")
        renamed_over(marker, b"of the unread")

    def looking(*arguments: Any) -> list[Path]:
        next_scan()
        return find_markers(*arguments)

    if when == "before its marker is looked at":
        monkeypatch.setattr(edge.station.archive, "find_markers", looking)
    elif when == "before its marker is taken":
        swap_before(monkeypatch, "rename", "a.tif.done", next_scan, turn=1 if where == "here" else 2)
    else:
        swap_before(monkeypatch, "rename", "a.tif.done", next_scan, turn=1 if where == "here" else 2)
        swap_before(monkeypatch, "hardlink_to", "a.tif.done", lambda: renamed_over(marker, b"of the unread"))
    archive = archive_of(folder, target, done_suffix=".done")
    assert archive.move(stamp)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "a.tif": b"unread",
        "a.tif.done": b"of the unread",
    }
    assert b"unread" not in [path.read_bytes() for path in target.iterdir()]
    assert archive.overwritten_count == 0
    assert "overwritten" not in caplog.text


def test_the_marker_of_a_scan_that_was_replaced_stays(tmp_path: Path) -> None:
    for name in ("a.tif", "a.tif.done"):
        (tmp_path / name).write_bytes(b"old")
    stamp = stamp_of(tmp_path, "a.tif")
    (tmp_path / "a.tif").write_bytes(b"new bytes")
    archive_of(tmp_path, tmp_path / "out", done_suffix=".done").move(stamp)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "a.tif.done"]


def test_the_worst_windows_come_first_and_scale_to_the_scan() -> None:
    residual_map = np.zeros((4, 5), np.float32)
    residual_map[1, 2], residual_map[3, 4], residual_map[0, 0] = 0.9, 0.5, 0.05
    boxes = worst_windows(residual_map, MapGeometry(10, 4), Size(50, 60), Size(100, 180), threshold=0.1)
    assert [(box.x_px, box.y_px) for box in boxes] == [(72, 28), (132, 68)]
    assert (boxes[0].width_px, boxes[0].height_px) == (30, 20)
    assert boxes[1].x_px + boxes[1].width_px <= 180


def test_a_nan_residual_is_evidence_too() -> None:
    residual_map = np.full((2, 2), np.nan, np.float32)
    assert len(worst_windows(residual_map, MapGeometry(8, 0), Size(16, 16), Size(16, 16), threshold=0.1)) == 4


def test_what_was_rewritten_under_its_former_size_and_time_while_its_move_waited_stays_until_it_is_judged(
    tmp_path: Path, small_disk: Path
) -> None:
    folder, target = tmp_path / "in", small_disk / "out"
    folder.mkdir()
    scan = folder / "a.tif"
    scan.write_bytes(b"scan of one part")
    judged = {hashlib.sha256(scan.read_bytes()).hexdigest()}
    archive = Archive(folder, target, is_judged=lambda _file, sha256: sha256 in judged)
    stamp = FileStamp.of("a.tif", scan.lstat())
    target.write_bytes(b"in the way")
    assert not archive.move(stamp)
    scan.write_bytes(b"scan of the next")
    os.utime(scan, ns=(stamp.modified_ns, stamp.modified_ns))
    target.unlink()
    archive.step(100.0)
    assert scan.read_bytes() == b"scan of the next", "moved unread"
    judged.add(hashlib.sha256(scan.read_bytes()).hexdigest())
    archive.add(FileStamp.of("a.tif", scan.lstat()))
    archive.step(200.0)
    assert (target / "a.tif").read_bytes() == b"scan of the next"


def test_a_judged_scan_whose_rights_alone_have_changed_since_is_moved(tmp_path: Path) -> None:
    scan = tmp_path / "a.tif"
    scan.write_bytes(b"scan")
    stamp, sha256 = FileStamp.of("a.tif", scan.lstat()), hashlib.sha256(b"scan").hexdigest()
    time.sleep(0.01)  # file systems tick slowly
    scan.chmod(0o444)
    Archive(tmp_path, tmp_path / "out", is_judged=lambda *asked: asked == ("a.tif", sha256)).move(stamp)
    assert (tmp_path / "out" / "a.tif").exists()
