"""Scans for calibration and comparison: a part of a folder has the labels of the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.images.conversion import Bounds
from edge.images.method import Method
from edge.records import Size
from export.scans import converted_scans, scan_files
from tests.support.fakes import write_scan
from train.errors import DataError


def test_some_of_a_folders_scans_keep_their_labels_where_lots_number_their_scans_alike(tmp_path: Path) -> None:
    """A row of a scan that is left out must not be taken for one of its namesakes."""
    lines = ["file,bundle,label"]
    for lot in ("A", "B", "C"):
        (tmp_path / lot).mkdir()
        for number, label in enumerate(("normal", "abnormal")):
            write_scan(tmp_path / lot / f"{number}.tif")
            lines.append(f"{lot}/{number}.tif,{lot},{label}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    found = converted_scans(tmp_path, Method.GLOBAL, Bounds(1700, 2800), Size(64, 64), at_most=5)
    assert [(scan.file, scan.label) for scan in found] == [
        ("A/0.tif", 0),
        ("A/1.tif", 1),
        ("B/0.tif", 0),
        ("B/1.tif", 1),
        ("C/0.tif", 0),
    ]


@pytest.mark.usefixtures("rights_hold")
def test_a_sub_folder_that_may_not_be_listed_is_told(tmp_path: Path) -> None:
    """What is compared would be less than what there is."""
    for lot in ("A", "B"):
        (tmp_path / lot).mkdir()
        write_scan(tmp_path / lot / "0.tif")
    (tmp_path / "B").chmod(0)
    with pytest.raises(DataError, match="B cannot be listed: Permission denied"):
        scan_files(tmp_path)
