"""Judged files are moved only if they are still the judged ones; evidence boxes lie on the scan."""

from pathlib import Path

import numpy as np

from edge.archive import Archive, Quarantine
from edge.evidence import MapGeometry, worst_windows
from edge.records import FileStamp, Size


def stamp_of(folder: Path, file: str) -> FileStamp:
    seen = (folder / file).lstat()
    return FileStamp(file, seen.st_ino, seen.st_size, seen.st_mtime_ns)


def test_a_judged_scan_moves_with_its_relative_path(tmp_path: Path) -> None:
    folder, target = tmp_path / "in", tmp_path / "out"
    (folder / "day").mkdir(parents=True)
    (folder / "day" / "a.tif").write_bytes(b"scan")
    Archive(folder, target).move(stamp_of(folder, "day/a.tif"))
    assert not (folder / "day" / "a.tif").exists()
    assert (target / "day" / "a.tif").read_bytes() == b"scan"


def test_a_scan_that_was_replaced_after_its_verdict_stays(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"old")
    stamp = stamp_of(tmp_path, "a.tif")
    (tmp_path / "a.tif").write_bytes(b"new bytes")
    Archive(tmp_path, tmp_path / "out").move(stamp)
    assert (tmp_path / "a.tif").read_bytes() == b"new bytes"


def test_a_taken_name_does_not_overwrite_the_archived_scan(tmp_path: Path) -> None:
    archive = Archive(tmp_path, tmp_path / "out")
    for content in (b"first", b"second"):
        (tmp_path / "a.tif").write_bytes(content)
        archive.move(stamp_of(tmp_path, "a.tif"))
    assert sorted(path.read_bytes() for path in (tmp_path / "out").iterdir()) == [b"first", b"second"]


def test_a_file_that_cannot_be_moved_is_logged_and_left(tmp_path: Path, caplog) -> None:
    (tmp_path / "a.tif").write_bytes(b"scan")
    (tmp_path / "out").write_bytes(b"a file where the folder should be")
    Archive(tmp_path, tmp_path / "out").move(stamp_of(tmp_path, "a.tif"))
    assert "scan not moved" in caplog.text
    assert (tmp_path / "a.tif").exists()


def test_the_quarantine_keeps_copies_within_its_budget(tmp_path: Path, caplog) -> None:
    (tmp_path / "a.tif").write_bytes(b"12345")
    (tmp_path / "b.tif").write_bytes(b"12345")
    quarantine = Quarantine(tmp_path / "quarantine", max_bytes=8)
    quarantine.keep(tmp_path / "a.tif", "a" * 64)
    quarantine.keep(tmp_path / "a.tif", "a" * 64)
    quarantine.keep(tmp_path / "b.tif", "b" * 64)
    assert [path.name for path in (tmp_path / "quarantine").iterdir()] == ["a" * 16 + "-a.tif"]
    assert "quarantine full" in caplog.text


def test_a_directory_or_link_is_never_copied_into_quarantine(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "quarantine", max_bytes=1000)
    (tmp_path / "x.tif").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "y.tif").symlink_to(tmp_path / "secret")
    quarantine.keep(tmp_path / "x.tif", "0" * 64)
    quarantine.keep(tmp_path / "y.tif", "1" * 64)
    assert list((tmp_path / "quarantine").iterdir()) == []


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
