"""Every form of TIFF a scan may come in reads back the counts that were written."""

from __future__ import annotations

import hashlib
import itertools
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import tifffile

from edge.records import Scan
from edge.scans.scan import check_complete, modified_at, read_scan
from tests.support.tiff_files import (
    CODING,
    LENGTHS,
    LIMITS,
    LONG,
    OFFSETS,
    ORIENTATION,
    ROWS,
    SAMPLES,
    SHORT,
    counts_in,
    electrode,
    tiff,
    written_by_tifffile,
)

RADIOGRAPHS = Path(__file__).resolve().parents[4] / "shared" / "data" / "radiographs16"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "0001.tif"


class TestAcceptedForms:
    @pytest.mark.parametrize(
        ("coding", "predictor", "order", "layout", "is_big"),
        [
            form
            for form in itertools.product(
                [None, "lzw", "zlib", "deflate"],
                [False, True],
                "<>",
                ["one strip", "strips", "strip of a row", "tiles", "one tile"],
                [False, True],
            )
            if form[0] or not form[1]
        ],
    )
    def test_every_coding_order_predictor_layout_and_flavour_reads_back_the_same_counts(
        self, path: Path, coding: str | None, predictor: bool, order: str, layout: str, is_big: bool
    ) -> None:
        counts = electrode()
        data = written_by_tifffile(
            counts,
            compression=coding,
            predictor=predictor or None,
            byteorder=order,
            bigtiff=is_big,
            rowsperstrip={"one strip": 61, "strips": 7, "strip of a row": 1}.get(layout),
            tile={"tiles": (16, 32), "one tile": (64, 64)}.get(layout),
        )
        read = counts_in(path, data)
        np.testing.assert_array_equal(read, counts)
        assert read.dtype == np.uint16
        assert read.dtype.isnative
        assert read.flags.c_contiguous
        assert read.flags.aligned

    @pytest.mark.parametrize("coding", [None, "lzw", "zlib"])
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("rows", [61, 8])
    def test_a_white_is_zero_scan_is_inverted(self, path: Path, coding: str | None, order: str, rows: int) -> None:
        counts = electrode()
        data = written_by_tifffile(
            65535 - counts, photometric="miniswhite", compression=coding, byteorder=order, rowsperstrip=rows
        )
        np.testing.assert_array_equal(counts_in(path, data), counts)

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("pixels_at", [400, 401, 403])
    def test_pixels_may_begin_at_any_byte(self, path: Path, order: str, pixels_at: int) -> None:
        read = counts_in(path, tiff(order=order, pixels_at=pixels_at))
        np.testing.assert_array_equal(read, electrode())
        assert read.flags.aligned

    def test_strips_may_stand_in_any_order(self, path: Path) -> None:
        counts = electrode(4, 50)
        change = {ROWS: (LONG, [1]), OFFSETS: (LONG, [700, 400, 500, 600]), LENGTHS: (SHORT, [100] * 4)}
        shuffled = counts[[1, 2, 3, 0]]
        np.testing.assert_array_equal(counts_in(path, tiff(shuffled, change=change)), counts)

    def test_a_directory_behind_the_pixels_is_found(self, path: Path) -> None:
        data = tiff(pixels_at=8, directory_at=8 + electrode().nbytes)
        np.testing.assert_array_equal(counts_in(path, data), electrode())

    @pytest.mark.parametrize("optional", [ROWS, SAMPLES, CODING])
    def test_tags_with_a_default_may_be_missing(self, path: Path, optional: int) -> None:
        np.testing.assert_array_equal(counts_in(path, tiff(change={optional: None})), electrode())

    def test_bytes_after_the_scan_are_ignored(self, path: Path) -> None:
        np.testing.assert_array_equal(counts_in(path, tiff() + b"\0" * 9000 + b"station log"), electrode())

    def test_orientation_does_not_move_pixels(self, path: Path) -> None:
        np.testing.assert_array_equal(counts_in(path, tiff(change={ORIENTATION: (SHORT, [4])})), electrode())

    def test_a_scan_of_one_pixel_reads(self, path: Path) -> None:
        assert counts_in(path, tiff(np.array([[2200]], np.uint16))).tolist() == [[2200]]

    def test_a_frame_carries_what_identifies_the_file(self, path: Path) -> None:
        data = tiff()
        path.write_bytes(data)
        os.utime(path, ns=(0, 1_700_000_000_123_456_789))
        assert read_scan(path, file="lot/0001.tif", limits=LIMITS).scan == Scan(
            file="lot/0001.tif",
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            modified_at=datetime(2023, 11, 14, 22, 13, 20, 123456, UTC),
            width_px=45,
            height_px=61,
        )

    @pytest.mark.parametrize(("seconds", "year"), [(-(10**12), 1), (-1, 1969), (10**12, 9999)])
    def test_a_file_time_outside_the_calendar_does_not_stop_the_line(self, seconds: int, year: int) -> None:
        """Asked of the function, for few file systems store such times."""
        assert modified_at(seconds * 10**9).year == year

    @pytest.mark.skipif(not RADIOGRAPHS.is_dir(), reason="the real radiographs are not beside this checkout")
    def test_real_radiographs_read_as_an_independent_reader_reads_them(self) -> None:
        paths = sorted(RADIOGRAPHS.glob("*.tif"))
        assert len(paths) >= 10
        for radiograph in paths:
            check_complete(radiograph, LIMITS)
            frame = read_scan(radiograph, file=radiograph.name, limits=LIMITS)
            np.testing.assert_array_equal(frame.counts, tifffile.imread(radiograph))
