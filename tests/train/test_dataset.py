"""Labelled folders: what is read, what is refused and how the refusal names the row."""

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from edge.images.conversion import Bounds, histogram, prepare
from edge.images.exposure import exposure
from edge.images.method import Method
from edge.images.sharpness import sharpness
from edge.records import Size
from train.dataset import (
    LoadedScans,
    Row,
    data_digest,
    load_scans,
    load_split,
    read_labels,
    split_by_lot,
    unlabelled_files,
)
from train.errors import DataError


def _scan(path: Path, level: int = 2000) -> np.ndarray:
    counts = np.random.default_rng(level).integers(level, level + 200, (80, 70)).astype(np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, counts, photometric="minisblack")
    return counts


def _labels(folder: Path, *lines: str) -> None:
    (folder / "labels.csv").write_text("\n".join(["file,bundle,label", *lines]) + "\n")


def test_labels_are_read_with_their_kinds_and_severity(tmp_path: Path) -> None:
    _scan(tmp_path / "a.tif")
    (tmp_path / "labels.csv").write_text("file,bundle,label,kinds,severity\na.tif,B1,abnormal,lines;bubbles,0.7\n")
    (row,) = read_labels(tmp_path)
    assert row == Row(tmp_path / "a.tif", "a.tif", "B1", 1, ("lines", "bubbles"), 0.7)


def test_unlabelled_scans_are_no_training_data_and_unlisted_ones_are_named(tmp_path: Path) -> None:
    for name in ("a.tif", "foreign.tif", "sub/b.tif", "new.tif", "sub/a.tif"):
        _scan(tmp_path / name)
    _labels(tmp_path, "a.tif,B1,OK", "foreign.tif,,", "b.tif,B1,NG")
    assert [(row.file, row.label) for row in read_labels(tmp_path)] == [("a.tif", 0), ("sub/b.tif", 1)]
    assert unlabelled_files(tmp_path) == (["new.tif", "sub/a.tif"], ["foreign.tif"])


@pytest.mark.parametrize("lot", [b"B\n1", b"B\xff1", b"B\xe2\x80\xae1"])
def test_a_lot_whose_name_cannot_stand_in_a_table_is_refused(tmp_path: Path, lot: bytes) -> None:
    folder = tmp_path / os.fsdecode(lot) / "normal"
    _scan(folder / "a.tif")
    with pytest.raises(DataError, match=r"the lot '?B.*invisible characters"):
        read_labels(tmp_path)
    if b"\xff" not in lot:  # of a table said by its own reader
        _scan(tmp_path / "b.tif")
        (tmp_path / "labels.csv").write_bytes(b'file,bundle,label\nb.tif,"' + lot + b'",normal\n')
        with pytest.raises(DataError, match=r"labels.csv line \d: .* holds (the control|invisible) character"):
            read_labels(tmp_path)


def test_all_rows_without_a_scan_are_told_at_once(tmp_path: Path) -> None:
    _scan(tmp_path / "a.tif")
    _labels(tmp_path, "a.tif,,normal", "b.tif,B1,normal", "c.tif,B1,normal")
    with pytest.raises(DataError, match=r"(?s)3 bad rows.*line 2: .*no lot.*line 3: there is no .*line 4: "):
        read_labels(tmp_path)


def test_a_folder_without_labels_is_read_by_its_folders(tmp_path: Path) -> None:
    for name in ("B2/normal/x.tif", "B1/abnormal/y.TIF", "B1/normal/z.tiff"):
        _scan(tmp_path / name)
    assert [(row.file, row.lot, row.label) for row in read_labels(tmp_path)] == [
        ("B1/abnormal/y.TIF", "B1", 1),
        ("B1/normal/z.tiff", "B1", 0),
        ("B2/normal/x.tif", "B2", 0),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("b.tif,B1,fine", "line 3: label 'fine' of 'b.tif'"),
        ("b.tif,,normal", "line 3: 'b.tif' has no lot"),
        ("missing.tif,B1,normal", "line 3: there is no file"),
        ("a.tif,B1,normal", "line 3: 'a.tif' is listed already on line 2"),
        ("../b.tif,B1,normal", "line 3: '../b.tif' lies outside the folder"),
        ("b\0.tif,B1,normal", r"line 3: 'b\x00.tif' holds a NUL character"),
    ],
)
def test_a_senseless_row_is_named_by_its_line(tmp_path: Path, line: str, words: str) -> None:
    _scan(tmp_path / "a.tif")
    _scan(tmp_path / "b.tif")
    _labels(tmp_path, "a.tif,B1,normal", line)
    with pytest.raises(DataError) as caught:
        read_labels(tmp_path)
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("file,bundle,label\na.tif,Prüfling,normal\n".encode("cp1252"), "line 2: bundle is not UTF-8: byte 0xfc"),
        ("file,bundle,label\ngröße.tif,B1,normal\n".encode("cp1252"), "line 2: file is not UTF-8: byte 0xf6"),
        (b"file,bundle,label\n" + b"x" * 200_000 + b",B1,normal\n", "is not a CSV file: field larger than field limit"),
    ],
)
def test_labels_that_are_no_csv_in_utf_8_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"labels\.csv {words}") as caught:
        read_labels(tmp_path)
    assert caught.value.hint


def test_labels_without_a_needed_column_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,label\na.tif,normal\n")
    with pytest.raises(DataError, match="line 1: no column, or more than one, named bundle"):
        read_labels(tmp_path)


def test_an_empty_folder_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no labelled scans"):
        read_labels(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        read_labels(tmp_path / "nowhere")


def _rows(lots: int, per_lot: int) -> list[Row]:
    return [Row(Path(f"{b}_{i}.tif"), f"{b}_{i}.tif", f"B{b:02d}", i % 2) for b in range(lots) for i in range(per_lot)]


@pytest.mark.parametrize("seed", range(5))
def test_a_lot_is_never_split_between_training_and_validation(seed: int) -> None:
    rows = _rows(10, 6)
    training, validation = split_by_lot(rows, 0.2, seed)
    assert {row.lot for row in training} & {row.lot for row in validation} == set()
    assert len(training) + len(validation) == len(rows)
    assert len({row.lot for row in validation}) == 2


def test_the_same_seed_holds_the_same_lots_back() -> None:
    assert split_by_lot(_rows(10, 4), 0.3, 7) == split_by_lot(_rows(10, 4), 0.3, 7)
    held = {frozenset(row.lot for row in split_by_lot(_rows(10, 4), 0.3, seed)[1]) for seed in range(6)}
    assert len(held) > 1


def test_one_lot_cannot_be_split() -> None:
    with pytest.raises(DataError, match="all 4 scans are of lot B00"):
        split_by_lot(_rows(1, 4), 0.2, 0)


def test_a_split_that_leaves_one_class_is_refused_by_name() -> None:
    rows = [Row(Path(f"{b}"), f"{b}", f"B{b}", int(b == 0)) for b in range(4)]
    with pytest.raises(DataError, match=r"lots \(B\d(, B\d)*\) hold no (normal|abnormal) scan"):
        split_by_lot(rows, 0.25, 0)
    normal = rows[1:]
    training, validation = split_by_lot(normal, 0.34, 0, needs=(0,))
    assert (len(training), len(validation)) == (2, 1)
    with pytest.raises(DataError, match="hold no abnormal scan"):
        split_by_lot(normal, 0.34, 0)


def test_scans_are_loaded_as_the_line_itself_prepares_them(tmp_path: Path) -> None:
    counts = [_scan(tmp_path / name, level) for name, level in (("a.tif", 1900), ("b.tif", 2400))]
    _labels(tmp_path, "a.tif,B1,normal", "b.tif,B2,abnormal")
    bounds, size = Bounds(2000, 2500), Size(40, 30)
    loaded = load_scans(read_labels(tmp_path), Method.GLOBAL, bounds, size)
    assert isinstance(loaded, LoadedScans)
    assert loaded.labels.tolist() == [0, 1]
    for image, of_scan in zip(loaded.images, counts, strict=True):
        np.testing.assert_array_equal(image, prepare(of_scan, Method.GLOBAL, bounds, size))
    assert loaded.facts[0].height_px == 80
    assert loaded.facts[0].clipped_fraction == pytest.approx(np.mean(counts[0] < 2000))
    assert [fact.sharpness for fact in loaded.facts] == [sharpness(one, histogram(one)) for one in counts]
    assert [fact.exposure for fact in loaded.facts] == [exposure(histogram(of_scan)) for of_scan in counts]


def test_a_scan_the_line_could_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"not a tiff at all")
    _labels(tmp_path, "a.tif,B1,normal")
    with pytest.raises(DataError, match=r"a\.tif"):
        load_scans(read_labels(tmp_path), Method.LOCAL, None, Size(40, 30))


def test_a_data_set_may_be_a_folder_of_links(tmp_path: Path) -> None:
    _scan(tmp_path / "elsewhere.tif")
    (tmp_path / "lot").mkdir()
    (tmp_path / "lot" / "a.tif").symlink_to(tmp_path / "elsewhere.tif")
    _labels(tmp_path / "lot", "a.tif,B1,normal")
    assert len(load_scans(read_labels(tmp_path / "lot"), Method.LOCAL, None, Size(40, 30)).images) == 1


def test_a_scan_that_lies_in_two_lots_is_not_learnt_from_and_tested_on(tmp_path: Path) -> None:
    for name, level in (("a.tif", 2000), ("b.tif", 2100)):
        _scan(tmp_path / name, level)
    tifffile.imwrite(tmp_path / "c.tif", tifffile.imread(tmp_path / "a.tif"), compression="deflate")  # other bytes
    _labels(tmp_path, "a.tif,B1,normal", "b.tif,B1,abnormal", "c.tif,B2,normal")
    one, two, copy = read_labels(tmp_path)
    with pytest.raises(DataError, match=r"a\.tif of lot B1 and c\.tif of lot B2 are the same scan$"):
        load_split([one, two], [copy], Method.LOCAL, None, Size(40, 30), lambda _: lambda *_: None)


def test_the_digest_follows_content_and_labels_not_order() -> None:
    rows, hashes = _rows(2, 2), ["a", "b", "c", "d"]
    digest = data_digest(rows, hashes)
    assert data_digest(rows[::-1], hashes[::-1]) == digest
    assert data_digest(rows, ["a", "b", "c", "e"]) != digest
    assert data_digest([Row(r.path, r.file, r.lot, 1 - r.label) for r in rows], hashes) != digest
