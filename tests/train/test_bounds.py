"""Bounds of a folder of scans."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from edge.images.conversion import Bounds
from train.bounds import bounds_json, find_bounds, read_bounds
from train.dataset import read_labels
from train.errors import DataError


def _lot(folder: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["file,bundle,label"]
    for number in range(4):
        counts = rng.integers(1800, 2601, (200, 150)).astype(np.uint16)
        if number == 3:  # one hot scan: 0.1 % of it far above all others
            counts[0, :30] = 9000
        tifffile.imwrite(folder / f"{number}.tif", counts, photometric="minisblack")
        lines.append(f"{number}.tif,B{number % 2},normal")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def test_the_papers_bounds_are_the_extremes_of_the_scans(tmp_path: Path) -> None:
    _lot(tmp_path)
    report = find_bounds(read_labels(tmp_path), "per_scan")
    assert report.bounds == Bounds(1800, 9000)
    assert (report.scans, report.lots, report.highest) == (4, ("B0", "B1"), "3.tif")


def test_one_hot_scan_moves_pooled_bounds_less_where_it_is_one_of_many(tmp_path: Path) -> None:
    _lot(tmp_path)
    rows = [row for row in read_labels(tmp_path) if row.file != "3.tif"]
    cool = find_bounds(rows, "pooled").bounds
    assert cool == Bounds(1800, 2600)


def test_bounds_survive_the_way_through_their_file(tmp_path: Path) -> None:
    _lot(tmp_path)
    report = find_bounds(read_labels(tmp_path), "per_scan")
    path = tmp_path / "bounds.json"
    path.write_text(bounds_json(report))
    assert read_bounds(path) == report.bounds
    assert json.loads(path.read_text())["data_digest"] == report.data_digest


@pytest.mark.parametrize("text", ["", "{}", '{"lo_counts": 5, "hi_counts": 5}', '{"lo_counts": "x", "hi_counts": 9}'])
def test_a_file_without_bounds_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bounds.json"
    path.write_text(text)
    with pytest.raises(DataError, match="holds no bounds"):
        read_bounds(path)
