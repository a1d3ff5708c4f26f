"""Reading scans: every accepted form of TIFF, every way a file can be wrong, unfinished, or no file at all."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import socket
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from edge import scan as scan_module
from edge.errors import ScanError, ScanIncomplete
from edge.records import Counts, Scan
from edge.scan import REASONS, Limits, check_complete, read_scan

LIMITS = Limits()
RADIOGRAPHS = Path(__file__).resolve().parents[3] / "shared" / "data" / "radiographs16"
WIDTH, LENGTH, BITS, CODING, PHOTOMETRIC, OFFSETS, SAMPLES, ROWS, LENGTHS = 256, 257, 258, 259, 262, 273, 277, 278, 279
FILL_ORDER, PREDICTOR, TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_LENGTHS = 266, 317, 322, 323, 324, 325
SUBFILE, SUB_IFDS, SAMPLE_FORMAT, ORIENTATION = 254, 330, 339, 274
SHORT, LONG, LONG8 = 3, 4, 16


def electrode(height: int = 61, width: int = 45, seed: int = 0) -> Counts:
    return np.random.default_rng(seed).normal(2250, 150, (height, width)).astype(np.uint16)


def written_by_tifffile(counts: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, counts, **{"photometric": "minisblack", "metadata": None, **options})
    return file.getvalue()


def tiff(
    counts: Counts | None = None,
    *,
    order: str = "<",
    pixels_at: int = 400,
    directory_at: int = 8,
    next_page: int = 0,
    change: dict[int, tuple[int, list[int]] | None] | None = None,
) -> bytes:
    """A classic TIFF of one uncompressed strip, made by hand; `change` maps a tag to its (type, values) or to None."""
    counts = electrode() if counts is None else counts
    height, width = counts.shape
    entries: dict[int, tuple[int, list[int]] | None] = {
        WIDTH: (LONG, [width]),
        LENGTH: (LONG, [height]),
        BITS: (SHORT, [16]),
        CODING: (SHORT, [1]),
        PHOTOMETRIC: (SHORT, [1]),
        OFFSETS: (LONG, [pixels_at]),
        SAMPLES: (SHORT, [1]),
        ROWS: (LONG, [height]),
        LENGTHS: (LONG, [counts.nbytes]),
        **(change or {}),
    }
    kept = {tag: entry for tag, entry in sorted(entries.items()) if entry is not None}
    directory = struct.pack(order + "H", len(kept))
    tables_at = directory_at + 2 + 12 * len(kept) + 4
    tables = b""
    for tag, (kind, values) in kept.items():
        raw = b"".join(struct.pack(order + {SHORT: "H", LONG: "I", LONG8: "Q"}[kind], value) for value in values)
        if len(raw) > 4:
            tables, raw = tables + raw, struct.pack(order + "I", tables_at + len(tables))
        directory += struct.pack(order + "HHI", tag, kind, len(values)) + raw.ljust(4, b"\0")
    directory += struct.pack(order + "I", next_page) + tables
    pixels = counts.astype(order + "u2").tobytes()
    data = bytearray(max(pixels_at + len(pixels), directory_at + len(directory)))
    data[:8] = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", directory_at)
    data[pixels_at : pixels_at + len(pixels)] = pixels
    data[directory_at : directory_at + len(directory)] = directory
    return bytes(data)


def coded(body: bytes, coding: int, counts: Counts) -> bytes:
    """A TIFF whose one strip holds `body`, declared as `counts.shape` pixels in the given coding."""
    change: dict[int, tuple[int, list[int]] | None] = {CODING: (SHORT, [coding]), LENGTHS: (LONG, [len(body)])}
    return tiff(counts, change=change)[:400] + body


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "0001.tif"


def counts_in(path: Path, data: bytes) -> Counts:
    path.write_bytes(data)
    check_complete(path, LIMITS)
    return read_scan(path, file="lot/0001.tif", limits=LIMITS).counts


def refusal(path: Path, data: bytes | None = None, limits: Limits = LIMITS) -> ScanError:
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ScanError) as caught:
        read_scan(path, file="lot/0001.tif", limits=limits)
    error = caught.value
    assert error.reason in REASONS
    assert error.message.startswith("lot/0001.tif: ")
    assert error.hint
    return error


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
        assert scan_module._modified_at(seconds * 10**9).year == year

    @pytest.mark.skipif(not RADIOGRAPHS.is_dir(), reason="the real radiographs are not beside this checkout")
    def test_real_radiographs_read_as_an_independent_reader_reads_them(self) -> None:
        paths = sorted(RADIOGRAPHS.glob("*.tif"))
        assert len(paths) >= 10
        for radiograph in paths:
            check_complete(radiograph, LIMITS)
            frame = read_scan(radiograph, file=radiograph.name, limits=LIMITS)
            np.testing.assert_array_equal(frame.counts, tifffile.imread(radiograph))


FOREIGN: dict[str, tuple[str, bytes | Callable[[], bytes]]] = {
    "a JPEG": ("not-tiff", b"\xff\xd8\xff\xe0\0\x10JFIF" + b"x" * 500),
    "a text": ("not-tiff", b"II is how this text begins"),
    "one byte": ("not-tiff", b"x"),
    "TIFF version 41": ("not-tiff", lambda: b"II)\0" + tiff()[4:]),
    "8 bits": ("not-16-bit", lambda: written_by_tifffile(electrode().astype(np.uint8))),
    "32 bits": ("not-16-bit", lambda: written_by_tifffile(electrode().astype(np.uint32))),
    "12 bits": ("not-16-bit", lambda: tiff(change={BITS: (SHORT, [12])})),
    "no BitsPerSample": ("not-16-bit", lambda: tiff(change={BITS: None})),
    "signed": ("not-16-bit", lambda: written_by_tifffile(electrode().astype(np.int16))),
    "float16": ("not-16-bit", lambda: written_by_tifffile(electrode().astype(np.float16))),
    "float32": ("not-16-bit", lambda: written_by_tifffile(electrode().astype(np.float32))),
    "RGB": ("multi-sample", lambda: written_by_tifffile(np.dstack([electrode()] * 3), photometric="rgb")),
    "grey and alpha": (
        "multi-sample",
        lambda: written_by_tifffile(np.dstack([electrode()] * 2), planarconfig="contig"),
    ),
    "palette": ("not-grayscale", lambda: tiff(change={PHOTOMETRIC: (SHORT, [3])})),
    "colour filter array": ("not-grayscale", lambda: tiff(change={PHOTOMETRIC: (SHORT, [32803])})),
    "two pages": ("multi-page", lambda: written_by_tifffile(np.stack([electrode()] * 2))),
    "a page that follows itself": ("multi-page", lambda: tiff(next_page=8)),
    "sub-images": ("multi-page", lambda: tiff(change={SUB_IFDS: (LONG, [8])})),
    "a thumbnail": ("multi-page", lambda: tiff(change={SUBFILE: (LONG, [1])})),
    "a mask": ("multi-page", lambda: tiff(change={SUBFILE: (LONG, [4])})),
    "JPEG 2000": ("unsupported-compression", lambda: tiff(change={CODING: (SHORT, [34712])})),
    "PackBits": ("unsupported-compression", lambda: written_by_tifffile(electrode(), compression="packbits")),
    "Zstandard": ("unsupported-compression", lambda: tiff(change={CODING: (SHORT, [50000])})),
    "float predictor": (
        "unsupported-compression",
        lambda: tiff(change={CODING: (SHORT, [8]), PREDICTOR: (SHORT, [3])}),
    ),
    "reversed bits": ("unsupported-compression", lambda: tiff(change={FILL_ORDER: (SHORT, [2])})),
    "a 40 GB claim": ("too-large", lambda: tiff(change={WIDTH: (LONG, [200_000]), LENGTH: (LONG, [100_000])})),
    "2^32 - 1 wide": ("too-large", lambda: tiff(change={WIDTH: (LONG, [2**32 - 1])})),
    "a million strips": (
        "too-large",
        lambda: tiff(change={LENGTH: (LONG, [10**6]), WIDTH: (LONG, [1]), ROWS: (LONG, [1])}),
    ),
    "tiles of 4 Gpx": (
        "too-large",
        lambda: tiff(
            change={
                OFFSETS: None,
                LENGTHS: None,
                ROWS: None,
                TILE_WIDTH: (LONG, [65536]),
                TILE_LENGTH: (LONG, [65536]),
                TILE_OFFSETS: (LONG, [400]),
                TILE_LENGTHS: (LONG, [5490]),
            }
        ),
    ),
}

DAMAGED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "no width": ("inconsistent-header", lambda: tiff(change={WIDTH: None})),
    "width 0": ("inconsistent-header", lambda: tiff(change={WIDTH: (LONG, [0])})),
    "two widths": ("inconsistent-header", lambda: tiff(change={WIDTH: (SHORT, [45, 45])})),
    "width twice": (
        "inconsistent-header",
        lambda: tiff(change={255: (LONG, [46])}).replace(b"\xff\0\4\0", b"\0\1\4\0", 1),
    ),
    "no photometric interpretation": ("inconsistent-header", lambda: tiff(change={PHOTOMETRIC: None})),
    "rows per strip 0": ("inconsistent-header", lambda: tiff(change={ROWS: (LONG, [0])})),
    "too few rows per strip": ("inconsistent-header", lambda: tiff(change={ROWS: (LONG, [60])})),
    "no offsets": ("inconsistent-header", lambda: tiff(change={OFFSETS: None})),
    "no lengths": ("inconsistent-header", lambda: tiff(change={LENGTHS: None})),
    "two offsets": ("inconsistent-header", lambda: tiff(change={OFFSETS: (LONG, [400, 4000])})),
    "a strip one byte short": ("inconsistent-header", lambda: tiff(change={LENGTHS: (LONG, [5489])})),
    "a strip one byte long": ("inconsistent-header", lambda: tiff(change={LENGTHS: (LONG, [5491])}) + b"x"),
    "a strip in the directory": ("inconsistent-header", lambda: tiff(change={OFFSETS: (LONG, [50])})),
    "a strip in the header": ("inconsistent-header", lambda: tiff(change={OFFSETS: (LONG, [1])})),
    "overlapping strips": (
        "inconsistent-header",
        lambda: tiff(
            electrode(2, 50), change={ROWS: (LONG, [1]), OFFSETS: (LONG, [400, 450]), LENGTHS: (LONG, [100, 100])}
        ),
    ),
    "a strip in its own table": (
        "inconsistent-header",
        lambda: tiff(
            electrode(2, 50), change={ROWS: (LONG, [1]), OFFSETS: (LONG, [128, 400]), LENGTHS: (LONG, [100, 100])}
        ),
    ),
    "strips and tiles": ("inconsistent-header", lambda: tiff(change={TILE_OFFSETS: (LONG, [400])})),
    "a predictor without coding": ("inconsistent-header", lambda: tiff(change={PREDICTOR: (SHORT, [2])})),
    "65,535 entries and no room": ("truncated", lambda: tiff()[:8] + b"\xff\xff" + tiff()[10:]),
    "a BigTIFF of 4-byte offsets": (
        "inconsistent-header",
        lambda: written_by_tifffile(electrode(), bigtiff=True).replace(b"+\0\x08", b"+\0\x04", 1),
    ),
    "a BigTIFF of 2^60 entries": (
        "inconsistent-header",
        lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**60) + bytes(100),
    ),
    "Deflate that unpacks to less": (
        "inconsistent-header",
        lambda: coded(zlib.compress(bytes(range(200))), 8, electrode()),
    ),
    "Deflate that unpacks to more": (
        "decoder-failed",
        lambda: coded(zlib.compress(electrode().tobytes() + b"more"), 8, electrode()),
    ),
    "a Deflate bomb": ("decoder-failed", lambda: coded(zlib.compress(bytes(10**8)), 8, electrode())),
    "Deflate with a false checksum": (
        "decoder-failed",
        lambda: coded(zlib.compress(electrode().tobytes())[:-1] + b"?", 8, electrode()),
    ),
    "Deflate without its end": (
        "decoder-failed",
        lambda: coded(zlib.compress(electrode().tobytes())[:-9], 8, electrode()),
    ),
    "no Deflate at all": ("decoder-failed", lambda: coded(b"nothing of the kind" * 30, 8, electrode())),
    "LZW that unpacks to less": (
        "inconsistent-header",
        lambda: coded(imagecodecs.lzw_encode(bytes(range(200))), 5, electrode()),
    ),
    "LZW that unpacks to more": (
        "inconsistent-header",
        lambda: coded(imagecodecs.lzw_encode(electrode().tobytes() + b"more"), 5, electrode()),
    ),
    "an LZW bomb": ("inconsistent-header", lambda: coded(imagecodecs.lzw_encode(bytes(10**7)), 5, electrode())),
    "no LZW at all": ("decoder-failed", lambda: coded(b"\xff" * 400, 5, electrode())),
}

UNFINISHED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "no bytes": ("empty", lambda: b""),
    "two bytes": ("truncated", lambda: b"II"),
    "six bytes": ("truncated", lambda: tiff()[:6]),
    "half a BigTIFF header": ("truncated", lambda: written_by_tifffile(electrode(), bigtiff=True)[:12]),
    "no directory yet": ("truncated", lambda: b"II*\0" + bytes(4) + tiff()[8:]),
    "a directory past the end": ("truncated", lambda: tiff()[:4] + struct.pack("<I", 10**6) + tiff()[8:]),
    "a next page past the end": ("truncated", lambda: tiff(next_page=10**6)),
    "half the directory": ("truncated", lambda: tiff()[:60]),
    "half the pixels": ("truncated", lambda: tiff()[:3000]),
    "one byte missing": ("truncated", lambda: tiff()[:-1]),
    "a strip beyond 2^63": (
        "truncated",
        lambda: tiff(change={OFFSETS: (LONG8, [2**64 - 8]), LENGTHS: (LONG8, [5490])}),
    ),
    "a table past the end": ("truncated", lambda: tiff(change={OFFSETS: (LONG8, [400])})[:150]),
    "reserved, nothing written": ("zero-tail", lambda: bytes(5000)),
    "reserved, header written": ("zero-tail", lambda: tiff()[:8] + bytes(5000)),
    "reserved, half the directory written": ("zero-tail", lambda: tiff()[:60] + bytes(5000)),
    "no offset written": ("zero-tail", lambda: tiff(change={OFFSETS: (LONG, [0])})),
    "no length written": ("zero-tail", lambda: tiff(change={LENGTHS: (LONG, [0])})),
    "nothing but zeros": ("zero-tail", lambda: tiff(np.zeros((61, 45), np.uint16))),
    "nothing but zeros, coded": (
        "zero-tail",
        lambda: written_by_tifffile(np.zeros((61, 45), np.uint16), compression="zlib"),
    ),
    "nothing but white-is-zero zeros": (
        "zero-tail",
        lambda: tiff(np.zeros((61, 45), np.uint16), change={PHOTOMETRIC: (SHORT, [0])}),
    ),
}


def built(data: bytes | Callable[[], bytes]) -> bytes:
    return data if isinstance(data, bytes) else data()


class TestRefusedFiles:
    @pytest.mark.parametrize("what", FOREIGN)
    def test_a_foreign_file_is_refused_for_good(self, path: Path, what: str) -> None:
        reason, data = FOREIGN[what]
        error = refusal(path, built(data))
        assert error.reason == reason
        assert not isinstance(error, ScanIncomplete)

    @pytest.mark.parametrize("what", DAMAGED)
    def test_a_file_that_contradicts_itself_is_refused(self, path: Path, what: str) -> None:
        reason, data = DAMAGED[what]
        assert refusal(path, data()).reason == reason

    @pytest.mark.parametrize("what", UNFINISHED)
    def test_a_file_that_may_still_grow_is_worth_another_look(self, path: Path, what: str) -> None:
        reason, data = UNFINISHED[what]
        error = refusal(path, data())
        assert error.reason == reason
        assert isinstance(error, ScanIncomplete)

    @pytest.mark.parametrize("what", {**FOREIGN, **DAMAGED, **UNFINISHED})
    def test_the_cheap_check_and_the_reading_give_the_same_reason(self, path: Path, what: str) -> None:
        """Unless only the pixels show it, which the cheap check does not read."""
        path.write_bytes(built({**FOREIGN, **DAMAGED, **UNFINISHED}[what][1]))
        error = refusal(path)
        try:
            check_complete(path, LIMITS)
        except ScanError as cheap:
            found = (cheap.reason, type(cheap), cheap.message.split(": ", 1)[1])
        else:
            assert "unpacks" in error.message or error.reason in ("decoder-failed", "zero-tail")
            return
        assert found == (error.reason, type(error), error.message.split(": ", 1)[1])

    def test_an_error_carries_the_hash_of_the_bytes_that_were_read(self, path: Path) -> None:
        data = b"\xff\xd8\xff\xe0 no scan"
        scan = refusal(path, data).scan
        assert scan is not None
        assert (scan.file, scan.size_bytes) == ("lot/0001.tif", len(data))
        assert scan.sha256 == hashlib.sha256(data).hexdigest()
        assert (scan.width_px, scan.height_px) == (None, None)

    def test_an_error_behind_the_header_carries_the_size_of_the_scan(self, path: Path) -> None:
        scan = refusal(path, DAMAGED["no LZW at all"][1]()).scan
        assert scan is not None
        assert (scan.width_px, scan.height_px) == (45, 61)

    def test_more_pixels_than_the_limit_are_not_decoded(self, path: Path) -> None:
        assert refusal(path, tiff(), Limits(max_px=61 * 45 - 1)).reason == "too-large"
        assert read_scan(path, file="x.tif", limits=Limits(max_px=61 * 45)).counts.size == 61 * 45

    def test_more_bytes_than_the_limit_are_not_even_read(self, path: Path) -> None:
        data = tiff()
        error = refusal(path, data, Limits(max_bytes=len(data) - 1))
        assert (error.reason, error.scan) == ("too-large", None)
        with pytest.raises(ScanError, match="at most"):
            check_complete(path, Limits(max_bytes=len(data) - 1))
        assert read_scan(path, file="x.tif", limits=Limits(max_bytes=len(data))).scan.size_bytes == len(data)

    def test_forty_sparse_gigabytes_are_refused_by_their_size(self, path: Path) -> None:
        with path.open("wb") as file:
            file.write(tiff())
            file.truncate(40 * 2**30)
        assert refusal(path).reason == "too-large"

    def test_a_table_of_sixty_million_strips_is_not_loaded(self, path: Path) -> None:
        data = bytearray(tiff())
        at = data.index(struct.pack("<HHI", OFFSETS, LONG, 1))
        struct.pack_into("<I", data, at + 4, 60_000_000)
        error = refusal(path, bytes(data))
        assert error.reason == "inconsistent-header"
        assert "60000000" in error.message


class TestUnfinishedPixels:
    """A writer that reserved the whole file and stopped: what it did not write is zero."""

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"byteorder": ">"},
            {"rowsperstrip": 8},
            {"photometric": "miniswhite"},
            {"compression": "lzw"},
            {"compression": "lzw", "predictor": True, "rowsperstrip": 8},
            {"compression": "zlib"},
            {"compression": "zlib", "predictor": True, "rowsperstrip": 8},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("is_reserved", [True, False])
    def test_no_beginning_of_a_scan_is_taken_for_the_scan(
        self, path: Path, options: dict[str, object], is_reserved: bool
    ) -> None:
        data = written_by_tifffile(electrode(), **options)
        for written in [*range(0, len(data) - 40, 97), len(data) - 40]:
            part = data[:written] + bytes(len(data) - written) * is_reserved
            error = refusal(path, part)
            assert isinstance(error, ScanIncomplete), (written, error.message)

    def test_a_hole_in_the_middle_of_the_pixels_is_seen(self, path: Path) -> None:
        data = bytearray(tiff(electrode(600, 400)))
        data[8192 : 8192 + 4096] = bytes(4096)
        error = refusal(path, bytes(data))
        assert (error.reason, type(error)) == ("zero-tail", ScanIncomplete)
        assert "byte 8192" in error.message

    def test_a_hole_in_the_middle_of_coded_pixels_is_seen(self, path: Path) -> None:
        for coding in ("lzw", "zlib"):
            data = bytearray(written_by_tifffile(electrode(600, 400), compression=coding, rowsperstrip=600))
            data[8192 : 8192 + 4096] = bytes(4096)
            assert refusal(path, bytes(data)).reason in ("zero-tail", "decoder-failed", "inconsistent-header")

    def test_zeros_beside_the_pixels_are_no_hole(self, path: Path) -> None:
        data = tiff(electrode(100, 400), pixels_at=20_000) + bytes(20_000)
        np.testing.assert_array_equal(counts_in(path, data), electrode(100, 400))

    def test_the_zeros_of_a_real_background_are_no_hole(self, path: Path) -> None:
        counts = electrode(600, 400)
        counts[:300, :] = 0
        np.testing.assert_array_equal(counts_in(path, tiff(counts)), electrode(600, 400) * (counts > 0))

    def test_a_background_of_zeros_may_reach_the_last_row_but_not_fill_4096_bytes(self, path: Path) -> None:
        counts = electrode(600, 400)
        counts[:300, :] = 0
        counts[-5:, :] = 0
        np.testing.assert_array_equal(counts_in(path, tiff(counts)), counts)
        counts[-6:, :] = 0
        assert refusal(path, tiff(counts)).reason == "zero-tail"

    def test_dead_pixels_are_no_hole(self, path: Path) -> None:
        counts = electrode()
        counts[::7, ::5] = 0
        counts[-1, -15:] = 0
        np.testing.assert_array_equal(counts_in(path, tiff(counts)), counts)

    def test_the_padding_of_tiles_is_no_hole(self, path: Path) -> None:
        counts = electrode(300, 270)
        np.testing.assert_array_equal(counts_in(path, written_by_tifffile(counts, tile=(256, 256))), counts)

    def test_black_is_not_unwritten_where_white_is_zero(self, path: Path) -> None:
        """Stored 65535 is count 0: a black last row was written; a white one looks like a missing one."""
        counts = electrode()
        counts[-1] = 0
        data = written_by_tifffile(65535 - counts, photometric="miniswhite")
        np.testing.assert_array_equal(counts_in(path, data), counts)
        counts[-1] = 65535
        assert refusal(path, written_by_tifffile(65535 - counts, photometric="miniswhite")).reason == "zero-tail"


@contextmanager
def without_privileges() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class TestNotARegularFile:
    @pytest.mark.parametrize(
        "read",
        [lambda path: read_scan(path, file=path.name, limits=LIMITS), lambda path: check_complete(path, LIMITS)],
        ids=["read", "check"],
    )
    @pytest.mark.parametrize("kind", ["pipe", "directory", "link", "link to itself", "socket", "device"])
    def test_what_is_no_file_is_refused_without_waiting(
        self, tmp_path: Path, kind: str, read: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "x.tif"
        (tmp_path / "real.tif").write_bytes(tiff())
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "directory":
                path.mkdir()
            case "link":
                path.symlink_to(tmp_path / "real.tif")
            case "link to itself":
                path.symlink_to(path)
            case "socket":
                monkeypatch.chdir(tmp_path)  # the path of a socket has to be short
                with socket.socket(socket.AF_UNIX) as server:
                    server.bind("x.tif")
            case "device":
                path = Path("/dev/zero")
        with pytest.raises(ScanError, match="expected a regular file") as caught:
            read(path)
        assert caught.value.reason == "not-a-file"
        assert not isinstance(caught.value, ScanIncomplete)

    def test_a_file_that_is_not_there_has_vanished(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        for path in (tmp_path / "x.tif", tmp_path / "gone" / "x.tif", tmp_path / "file" / "x.tif"):
            error = refusal(path)
            assert (error.reason, error.scan, type(error)) == ("vanished", None, ScanIncomplete)

    def test_a_file_that_may_not_be_read_says_so(self, path: Path) -> None:
        path.write_bytes(tiff())
        path.chmod(0)
        with without_privileges():
            error = refusal(path)
        assert (error.reason, error.scan, type(error)) == ("no-permission", None, ScanIncomplete)

    @pytest.mark.skipif(sys.platform != "linux", reason="needs the memory file of Linux")
    def test_a_disk_that_answers_with_an_error_is_named(self) -> None:
        """Reading address 0 of one's own memory is an input/output error on a regular file."""
        error = refusal(Path("/proc/self/mem"))
        assert (error.reason, type(error)) == ("read-failed", ScanIncomplete)

    def test_an_impossible_name_is_an_error_of_this_file_only(self, tmp_path: Path) -> None:
        assert refusal(tmp_path / ("x" * 300 + ".tif")).reason == "read-failed"


def rewrite(path: Path, data: bytes) -> None:
    """In place, and with the old time: only the bytes show it."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path, data: bytes) -> None:
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").replace(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "rewritten in place": lambda path: rewrite(path, tiff(electrode(seed=9))),
    "appended to": lambda path: path.write_bytes(tiff() + b"more"),
    "cut": lambda path: os.truncate(path, 3000),
    "touched": lambda path: os.utime(path, ns=(0, 1)),
    "replaced by another": lambda path: replace(path, tiff(electrode(seed=9))),
    "replaced by its equal": lambda path: replace(path, tiff()),
}


class TestChangesWhileReading:
    @pytest.mark.parametrize("how", CHANGES)
    @pytest.mark.parametrize("data", [tiff(), tiff()[:-50] + bytes(50)], ids=["whole", "half-written"])
    def test_a_file_that_changes_while_it_is_decoded_gives_no_pixels(
        self, path: Path, how: str, data: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def decode_and_meanwhile(data: bytes, layout: scan_module.Layout) -> Counts:
            CHANGES[how](path)
            return decode(data, layout)

        decode = scan_module.decode
        monkeypatch.setattr(scan_module, "decode", decode_and_meanwhile)
        error = refusal(path, data)
        assert (error.reason, type(error)) == ("changed-while-reading", ScanIncomplete)
        assert error.scan is not None
        assert error.scan.sha256 == hashlib.sha256(data).hexdigest()

    @pytest.mark.parametrize("size_bytes", [100, 9000])
    def test_a_file_whose_length_changes_before_it_is_read_is_not_decoded(
        self, path: Path, size_bytes: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read_and_before(fd: int, length: int) -> bytes:
            monkeypatch.undo()
            os.truncate(path, size_bytes)
            return os.read(fd, length)

        path.write_bytes(tiff())
        monkeypatch.setattr(os, "read", read_and_before)
        assert refusal(path).reason == "changed-while-reading"

    def test_a_scan_that_is_moved_on_after_it_was_read_keeps_its_verdict(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def decode_and_meanwhile(data: bytes, layout: scan_module.Layout) -> Counts:
            path.unlink()
            return decode(data, layout)

        decode = scan_module.decode
        monkeypatch.setattr(scan_module, "decode", decode_and_meanwhile)
        np.testing.assert_array_equal(counts_in(path, tiff()), electrode())

    def test_no_file_stays_open_after_reading_or_refusing(self, path: Path) -> None:
        before = set(Path("/proc/self/fd").iterdir())
        counts_in(path, tiff())
        refusal(path, b"no scan")
        assert set(Path("/proc/self/fd").iterdir()) == before
