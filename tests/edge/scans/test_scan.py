"""Every form of TIFF a scan may come in reads back the counts that were written."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import struct
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import tifffile

from edge.records import Scan
from edge.scans.scan import Limits, check_complete, modified_at, read_scan
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
    STK_PLANES,
    SUBFILE,
    counts_in,
    electrode,
    tiff,
    with_second_page,
    with_tag_beyond_all_disks,
    written_by_tifffile,
)

RADIOGRAPHS = Path(__file__).resolve().parents[4] / "shared" / "data" / "radiographs16"


class TestAcceptedForms:
    @pytest.mark.parametrize(
        ("coding", "predictor", "order", "layout", "is_big"),
        [
            form
            for form in itertools.product(
                [None, "lzw", "zlib", "deflate", "packbits"],
                [False, True],
                "<>",
                ["one strip", "strips", "strip of a row", "tiles", "one tile"],
                [False, True],
            )
            if form[0] not in (None, "packbits") or not form[1]
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

    @pytest.mark.parametrize("coding", [None, "lzw", "zlib", "packbits"])
    def test_as_many_strips_are_read_as_a_scan_of_a_station_has_rows(self, path: Path, coding: str | None) -> None:
        counts = electrode(17_000, 47)
        path.write_bytes(written_by_tifffile(counts, rowsperstrip=1, compression=coding))
        np.testing.assert_array_equal(read_scan(path, file="x.tif", limits=LIMITS).counts, counts)

    @pytest.mark.parametrize(
        "data",
        [
            tiff() + b"made by a station" * 300,
            tiff() + bytes(100_000),
            written_by_tifffile(electrode(), extratags=[(700, 1, 60_000, bytes(range(256)) * 250, True)]),
            written_by_tifffile(electrode(), description='<OME><Pixels SizeZ="1" SizeC="1" SizeT="1"/></OME>'),
            written_by_tifffile(electrode(), description="ImageJ=1.54f\nimages=1\nslices=1\n"),
        ],
        ids=["metadata", "room for more", "a long tag", "OME", "ImageJ"],
    )
    def test_what_follows_the_pixels_is_no_further_image_if_it_is_shorter_named_or_zero(
        self, path: Path, data: bytes
    ) -> None:
        path.write_bytes(data)
        np.testing.assert_array_equal(read_scan(path, file="x.tif", limits=LIMITS).counts, electrode())

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

    @pytest.mark.timeout(20)
    def test_a_tag_that_points_far_beyond_the_file_is_not_followed(self, path: Path) -> None:
        np.testing.assert_array_equal(counts_in(path, with_tag_beyond_all_disks()), electrode())

    def test_a_directory_behind_the_pixels_is_found(self, path: Path) -> None:
        data = tiff(pixels_at=8, directory_at=8 + electrode().nbytes)
        np.testing.assert_array_equal(counts_in(path, data), electrode())

    @pytest.mark.parametrize("optional", [ROWS, SAMPLES, CODING])
    def test_tags_with_a_default_may_be_missing(self, path: Path, optional: int) -> None:
        np.testing.assert_array_equal(counts_in(path, tiff(change={optional: None})), electrode())

    def test_bytes_after_the_scan_are_ignored(self, path: Path) -> None:
        np.testing.assert_array_equal(counts_in(path, tiff() + b"\0" * 9000 + b"station log"), electrode())

    @pytest.mark.parametrize("missing", [None, (LONG, [0])], ids=["missing", "zero"])
    def test_the_length_of_a_single_uncompressed_strip_may_be_left_out(
        self, path: Path, missing: tuple[int, list[int]] | None
    ) -> None:
        np.testing.assert_array_equal(counts_in(path, tiff(change={LENGTHS: missing})), electrode())

    @pytest.mark.parametrize("is_below", [False, True], ids=["second page", "SubIFD"])
    def test_a_thumbnail_that_says_so_is_passed_over(self, path: Path, is_below: bool) -> None:
        np.testing.assert_array_equal(counts_in(path, with_second_page(SUBFILE, 1, is_below=is_below)), electrode())

    @pytest.mark.parametrize("is_big", [False, True])
    @pytest.mark.parametrize("sub_ifds", [0, 2])
    def test_smaller_copies_beside_the_scan_are_passed_over(self, path: Path, sub_ifds: int, is_big: bool) -> None:
        counts, file = electrode(64, 48), io.BytesIO()
        with tifffile.TiffWriter(file, bigtiff=is_big) as writer:
            options = {"photometric": "minisblack", "metadata": None, "tile": (16, 16)}
            writer.write(counts, subifds=sub_ifds, **options)
            writer.write(counts[::2, ::2], subfiletype=1, **options)
            writer.write(counts[::4, ::4], subfiletype=1, **options)
        np.testing.assert_array_equal(counts_in(path, file.getvalue()), counts)

    def test_the_pointer_to_a_next_page_may_be_missing_at_the_end_of_the_file(self, path: Path) -> None:
        at = 8 + electrode().nbytes
        data = tiff(pixels_at=8, directory_at=at, change={OFFSETS: (LONG, [8])})
        for left in range(4):
            np.testing.assert_array_equal(counts_in(path, data[: len(data) - 4 + left]), electrode())

    def test_what_ImageJ_and_tifffile_say_of_a_single_image_is_no_stack(self, path: Path) -> None:  # noqa: N802
        for options in ({"imagej": True, "metadata": {}}, {"metadata": {}}, {"metadata": {"axes": "YX"}}):
            np.testing.assert_array_equal(counts_in(path, written_by_tifffile(electrode(), **options)), electrode())
        one_plane = tiff(change={STK_PLANES: (LONG, list(range(6)))})
        at = one_plane.index(struct.pack("<HHI", STK_PLANES, LONG, 6))
        single = one_plane[: at + 4] + struct.pack("<I", 1) + one_plane[at + 8 :]
        np.testing.assert_array_equal(counts_in(path, single), electrode())

    def test_a_long_line_scan_may_have_one_strip_per_row(self, path: Path) -> None:
        counts = electrode(17_000, 1100)
        read = counts_in(path, written_by_tifffile(counts, rowsperstrip=1))
        np.testing.assert_array_equal(read, counts)

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
            expected = tifffile.imread(radiograph)
            # Two have a background of true zeros: their folder would say so, or no station writes into it.
            for zeros in (int(np.count_nonzero(expected == 0)), None):
                frame = read_scan(radiograph, file=radiograph.name, limits=Limits(expected_zero_px=zeros))
                np.testing.assert_array_equal(frame.counts, expected)
