"""Every way a file can be no scan, contradict itself, or end too early, each with its reason."""

from __future__ import annotations

import hashlib
import io
import re
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from edge.errors import ScanError, ScanIncomplete
from edge.scans.scan import Limits, check_complete, read_scan
from tests.support.tiff_files import (
    BITS,
    CODING,
    FILL_ORDER,
    IMAGE_DEPTH,
    LENGTH,
    LENGTHS,
    LIMITS,
    LONG,
    LONG8,
    OFFSETS,
    OLD_SUBFILE,
    PHOTOMETRIC,
    PREDICTOR,
    ROWS,
    SHORT,
    STK_PLANE_LIST,
    STK_PLANES,
    SUB_IFDS,
    SUBFILE,
    TILE_DEPTH,
    TILE_LENGTH,
    TILE_LENGTHS,
    TILE_OFFSETS,
    TILE_WIDTH,
    WIDTH,
    coded,
    electrode,
    refusal,
    tiff,
    with_second_page,
    written_by_tifffile,
)


def lzw_clearings(size_bytes: int) -> bytes:
    """The LZW code that clears the table, again and again."""
    eight = int("100000000" * 8, 2).to_bytes(9, "big")
    return (eight * (size_bytes // 9 + 1))[:size_bytes]


def scan_and_copy(step: int, *, sub_ifds: int = 0, swapped: bool = False) -> bytes:
    """A scan and, marked as its reduced copy, every `step`th pixel of another; or the two in the other's place."""
    file, pages = io.BytesIO(), [electrode(64, 48), electrode(64, 48, seed=1)[::step, ::step]]
    with tifffile.TiffWriter(file) as writer:
        first, second = reversed(pages) if swapped else pages
        writer.write(first, subifds=sub_ifds, photometric="minisblack", metadata=None)
        writer.write(second, subfiletype=1, photometric="minisblack", metadata=None)
    return file.getvalue()


def two_slices() -> bytes:
    """One LZW strip that unpacks to two images, as the tag of their number says and no other."""
    body = imagecodecs.lzw_encode(np.stack([electrode(), electrode(seed=1)]).tobytes())
    change: dict[int, tuple[int, list[int]] | None] = {
        CODING: (SHORT, [5]),
        LENGTHS: (LONG, [len(body)]),
        IMAGE_DEPTH: (LONG, [2]),
    }
    return tiff(change=change)[:400] + body


Made = Callable[[], bytes]
Files = dict[str, dict[str, Made]]
"""What a file is and its bytes, by the reason of its refusal."""

FOREIGN: Files = {
    "not-tiff": {
        "a JPEG": lambda: b"\xff\xd8\xff\xe0\0\x10JFIF" + b"x" * 500,
        "a text": lambda: b"II is how this text begins",
        "one byte": lambda: b"x",
        "TIFF version 41": lambda: b"II)\0" + tiff()[4:],
    },
    "not-16-bit": {
        "8 bits": lambda: written_by_tifffile(electrode().astype(np.uint8)),
        "32 bits": lambda: written_by_tifffile(electrode().astype(np.uint32)),
        "12 bits": lambda: tiff(change={BITS: (SHORT, [12])}),
        "no BitsPerSample": lambda: tiff(change={BITS: None}),
        "signed": lambda: written_by_tifffile(electrode().astype(np.int16)),
        "float16": lambda: written_by_tifffile(electrode().astype(np.float16)),
        "float32": lambda: written_by_tifffile(electrode().astype(np.float32)),
    },
    "multi-sample": {
        "RGB": lambda: written_by_tifffile(np.dstack([electrode()] * 3), photometric="rgb"),
        "grey and alpha": lambda: written_by_tifffile(np.dstack([electrode()] * 2), planarconfig="contig"),
    },
    "not-grayscale": {
        "palette": lambda: tiff(change={PHOTOMETRIC: (SHORT, [3])}),
        "colour filter array": lambda: tiff(change={PHOTOMETRIC: (SHORT, [32803])}),
    },
    "multi-page": {
        "two pages": lambda: written_by_tifffile(np.stack([electrode()] * 2)),
        "a page that follows itself": lambda: tiff(next_page=8),
        "a scan of two slices, one after the other in each strip": lambda: tiff(change={IMAGE_DEPTH: (LONG, [2])}),
        "a scan of deep tiles": lambda: tiff(change={TILE_DEPTH: (LONG, [16])}),
        "two slices in one coded strip": two_slices,
        "a second scan that calls itself a copy": lambda: scan_and_copy(1),
        "a second scan that calls itself a copy, below the first": lambda: scan_and_copy(1, sub_ifds=1),
        "a thumbnail, and the scan as its copy": lambda: scan_and_copy(4, swapped=True),
        "a thumbnail by the tag of TIFF 5": lambda: tiff(change={OLD_SUBFILE: (SHORT, [2])}),
        "a page and a thumbnail that is not marked": lambda: with_second_page(SUBFILE, 0),
        "a page and a mask": lambda: with_second_page(SUBFILE, 4),
        "a page and the mask of a thumbnail": lambda: with_second_page(SUBFILE, 5),
        "a sub-image that is not marked": lambda: with_second_page(SUBFILE, 0, is_below=True),
        "a thumbnail that leads back": lambda: with_second_page(SUBFILE, 1, following=8),
        "sub-images": lambda: tiff(change={SUB_IFDS: (LONG, [8])}),
        "a million sub-images": lambda: tiff(change={SUB_IFDS: (LONG, list(range(10**6)))}, pixels_at=5 * 10**6),
        "an ImageJ stack behind one directory": lambda: written_by_tifffile(
            np.stack([electrode()] * 3), imagej=True, truncate=True, metadata={}
        ),
        "an ImageJ stack with a description of its own before": lambda: written_by_tifffile(
            electrode(), description="a line of plants", software="ImageJ=1.54f\nimages=7\n"
        ).replace(b"\x31\1\2\0", b"\x0e\1\2\0", 1),  # the tag Software becomes a second ImageDescription
        "a tifffile stack behind one directory": lambda: written_by_tifffile(
            np.stack([electrode()] * 3), truncate=True, metadata={}
        ),
        "an ImageJ stack that says its slices alone": lambda: written_by_tifffile(
            electrode(), description="ImageJ=1.54f\nslices=3\n"
        ),
        "an ImageJ stack of two channels and two frames": lambda: written_by_tifffile(
            electrode(), description="ImageJ=1.54f\nchannels=2\nframes=2\n"
        ),
        "an OME stack behind one directory": lambda: written_by_tifffile(
            electrode(),
            description=f'<?xml version="1.0"?><!--{"-" * 2000}--><OME><Pixels SizeX="45" SizeZ="3"/></OME>',
        ),
        "two frames without words behind one directory": lambda: (
            tiff() + electrode(seed=1).tobytes() + electrode(seed=2).tobytes()
        ),
        "a frame without words between directory and metadata": lambda: (
            tiff(electrode(800, 700)) + electrode(800, 700, seed=1).tobytes() + b"made by a station"
        ),
        "a coded scan with a frame behind it": lambda: (
            written_by_tifffile(electrode(), compression="zlib") + electrode(seed=1).tobytes()
        ),
        "a MetaMorph stack": lambda: tiff(change={STK_PLANES: (LONG, list(range(12)))}),
        "a MetaMorph stack of unknown length": lambda: tiff(change={STK_PLANE_LIST: (LONG, [1])}),
        "a thumbnail": lambda: tiff(change={SUBFILE: (LONG, [1])}),
        "a mask": lambda: tiff(change={SUBFILE: (LONG, [4])}),
    },
    "unsupported-compression": {
        "JPEG 2000": lambda: tiff(change={CODING: (SHORT, [34712])}),
        "Zstandard": lambda: tiff(change={CODING: (SHORT, [50000])}),
        "float predictor": lambda: tiff(change={CODING: (SHORT, [8]), PREDICTOR: (SHORT, [3])}),
        "reversed bits": lambda: tiff(change={FILL_ORDER: (SHORT, [2])}),
    },
    "too-large": {
        "a 40 GB claim": lambda: tiff(change={WIDTH: (LONG, [200_000]), LENGTH: (LONG, [100_000])}),
        "2^32 - 1 wide": lambda: tiff(change={WIDTH: (LONG, [2**32 - 1])}),
        "a million strips": lambda: tiff(change={LENGTH: (LONG, [10**6]), WIDTH: (LONG, [1]), ROWS: (LONG, [1])}),
        "a row of tiles that are mostly padding": lambda: tiff(
            change={
                WIDTH: (LONG, [80_000]),
                LENGTH: (LONG, [1]),
                OFFSETS: None,
                LENGTHS: None,
                ROWS: None,
                TILE_WIDTH: (LONG, [8000]),
                TILE_LENGTH: (LONG, [8000]),
                TILE_OFFSETS: (LONG, list(range(400, 410))),
                TILE_LENGTHS: (LONG, [1] * 10),
                CODING: (SHORT, [8]),
            }
        ),
        "tiles of 4 Gpx": lambda: tiff(
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
    },
}

DAMAGED: Files = {
    "inconsistent-header": {
        "no width": lambda: tiff(change={WIDTH: None}),
        "width 0": lambda: tiff(change={WIDTH: (LONG, [0])}),
        "two widths": lambda: tiff(change={WIDTH: (SHORT, [45, 45])}),
        "width twice": lambda: tiff(change={255: (LONG, [46])}).replace(b"\xff\0\4\0", b"\0\1\4\0", 1),
        "no photometric interpretation": lambda: tiff(change={PHOTOMETRIC: None}),
        "rows per strip 0": lambda: tiff(change={ROWS: (LONG, [0])}),
        "too few rows per strip": lambda: tiff(change={ROWS: (LONG, [60])}),
        "no offsets": lambda: tiff(change={OFFSETS: None}),
        "no lengths of several strips": lambda: tiff(
            electrode(2, 50), change={ROWS: (LONG, [1]), OFFSETS: (LONG, [400, 500]), LENGTHS: None}
        ),
        "no length of a coded strip": lambda: tiff(change={CODING: (SHORT, [8]), LENGTHS: None}),
        "a length in samples": lambda: tiff(change={LENGTHS: (LONG, [61 * 45])}),
        "two offsets": lambda: tiff(change={OFFSETS: (LONG, [400, 4000])}),
        "a strip one byte short": lambda: tiff(change={LENGTHS: (LONG, [5489])}),
        "a strip one byte long": lambda: tiff(change={LENGTHS: (LONG, [5491])}) + b"x",
        "a strip in the directory": lambda: tiff(change={OFFSETS: (LONG, [50])}),
        "a strip in the header": lambda: tiff(change={OFFSETS: (LONG, [1])}),
        "overlapping strips": lambda: tiff(
            electrode(2, 50), change={ROWS: (LONG, [1]), OFFSETS: (LONG, [400, 450]), LENGTHS: (LONG, [100, 100])}
        ),
        "a strip in its own table": lambda: tiff(
            electrode(2, 50), change={ROWS: (LONG, [1]), OFFSETS: (LONG, [128, 400]), LENGTHS: (LONG, [100, 100])}
        ),
        "strips and tiles": lambda: tiff(
            change={
                TILE_WIDTH: (LONG, [45]),
                TILE_LENGTH: (LONG, [61]),
                TILE_OFFSETS: (LONG, [400]),
                TILE_LENGTHS: (LONG, [5490]),
            }
        ),
        "a predictor without coding": lambda: tiff(change={PREDICTOR: (SHORT, [2])}),
        "a predictor with PackBits": lambda: tiff(change={PREDICTOR: (SHORT, [2]), CODING: (SHORT, [32773])}),
        "a BigTIFF of 4-byte offsets": lambda: written_by_tifffile(electrode(), bigtiff=True).replace(
            b"+\0\x08", b"+\0\x04", 1
        ),
        "a BigTIFF of 2^60 entries": lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**60) + bytes(100),
        "Deflate that unpacks to less": lambda: coded(zlib.compress(bytes(range(200))), 8, electrode()),
        "a Deflate bomb": lambda: coded(zlib.compress(bytes(10**8)), 8, electrode()),
        "LZW that unpacks to less": lambda: coded(imagecodecs.lzw_encode(bytes(range(200))), 5, electrode()),
        "LZW that only clears its table": lambda: coded(lzw_clearings(10**6), 5, electrode()),
        "PackBits that unpacks to less": lambda: coded(
            imagecodecs.packbits_encode(bytes(range(200))), 32773, electrode()
        ),
    },
    "truncated": {
        "65,535 entries and no room": lambda: tiff()[:8] + b"\xff\xff" + tiff()[10:],
    },
    "decoder-failed": {
        "Deflate that unpacks to more": lambda: coded(zlib.compress(electrode().tobytes() + b"more"), 8, electrode()),
        "Deflate with a false checksum": lambda: coded(
            zlib.compress(electrode().tobytes())[:-1] + b"?", 8, electrode()
        ),
        "Deflate without its end": lambda: coded(zlib.compress(electrode().tobytes())[:-9], 8, electrode()),
        "no Deflate at all": lambda: coded(b"nothing of the kind" * 30, 8, electrode()),
        "LZW without its end": lambda: coded(imagecodecs.lzw_encode(electrode().tobytes())[:-9], 5, electrode()),
        "no LZW at all": lambda: coded(b"\xff" * 400, 5, electrode()),
        "PackBits that unpacks to more": lambda: coded(b"\x81\7" * 100, 32773, electrode()),
        "PackBits without its end": lambda: coded(
            imagecodecs.packbits_encode(electrode().tobytes())[:-9], 32773, electrode()
        ),
    },
}

UNFINISHED: Files = {
    "empty": {
        "no bytes": lambda: b"",
    },
    "truncated": {
        "two bytes": lambda: b"II",
        "six bytes": lambda: tiff()[:6],
        "half a BigTIFF header": lambda: written_by_tifffile(electrode(), bigtiff=True)[:12],
        "no directory yet": lambda: b"II*\0" + bytes(4) + tiff(electrode(600, 400))[8:],
        "a BigTIFF directory beyond 2^63": lambda: b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**64 - 8),
        "a directory past the end": lambda: tiff()[:4] + struct.pack("<I", 10**6) + tiff()[8:],
        "a next page past the end": lambda: tiff(next_page=10**6),
        "half the directory": lambda: tiff()[:60],
        "half the pixels": lambda: tiff()[:3000],
        "one byte missing": lambda: tiff()[:-1],
        "a strip beyond 2^63": lambda: tiff(change={OFFSETS: (LONG8, [2**64 - 8]), LENGTHS: (LONG8, [5490])}),
        "a table past the end": lambda: tiff(change={OFFSETS: (LONG8, [400])})[:150],
    },
    "zero-tail": {
        "reserved, nothing written": lambda: bytes(5000),
        "reserved, header written": lambda: tiff()[:8] + bytes(5000),
        "reserved, half the directory written": lambda: tiff()[:60] + bytes(5000),
        "no offset written": lambda: tiff(change={OFFSETS: (LONG, [0])}),
        "no length of several strips written": lambda: tiff(
            electrode(2, 50), change={ROWS: (LONG, [1]), OFFSETS: (LONG, [400, 500]), LENGTHS: (LONG, [0, 0])}
        ),
        "no length written and no pixels": lambda: tiff(np.zeros((61, 45), np.uint16), change={LENGTHS: (LONG, [0])}),
        "nothing but zeros": lambda: tiff(np.zeros((61, 45), np.uint16)),
        "a thumbnail whose directory is not written": lambda: tiff(next_page=5900) + bytes(100),
        "nothing but white-is-zero zeros": lambda: tiff(
            np.zeros((61, 45), np.uint16), change={PHOTOMETRIC: (SHORT, [0])}
        ),
    },
}


def cases(*tables: Files) -> pytest.MarkDecorator:
    """Runs a test with `reason` and `data` of each file."""
    groups = [group for table in tables for group in table.items()]
    files = [pytest.param(reason, data, id=what) for reason, group in groups for what, data in group.items()]
    return pytest.mark.parametrize(("reason", "data"), files)


class TestRefusedFiles:
    @cases(FOREIGN)
    def test_a_foreign_file_is_refused_for_good(self, path: Path, reason: str, data: Made) -> None:
        error = refusal(path, data())
        assert error.reason == reason
        assert not isinstance(error, ScanIncomplete)

    @cases(DAMAGED)
    def test_a_file_that_contradicts_itself_is_refused(self, path: Path, reason: str, data: Made) -> None:
        assert refusal(path, data()).reason == reason

    @cases(UNFINISHED)
    def test_a_file_that_may_still_grow_is_worth_another_look(self, path: Path, reason: str, data: Made) -> None:
        error = refusal(path, data())
        assert error.reason == reason
        assert isinstance(error, ScanIncomplete)

    @cases(FOREIGN, DAMAGED, UNFINISHED)
    def test_the_cheap_check_and_the_reading_give_the_same_reason(self, path: Path, reason: str, data: Made) -> None:
        """Unless only the pixels show it, which the cheap check does not read."""
        path.write_bytes(data())
        error = refusal(path)
        try:
            check_complete(path, LIMITS)
        except ScanError as cheap:
            found = (cheap.reason, type(cheap), cheap.message.split(": ", 1)[1])
        else:
            assert "unpacks" in error.message or error.reason in ("decoder-failed", "zero-tail")
            return
        assert found == (error.reason, type(error), error.message.split(": ", 1)[1])

    @pytest.mark.parametrize("coding", [5, 8, 32773])
    def test_coded_bytes_that_no_pixels_need_are_refused_before_any_work(self, path: Path, coding: int) -> None:
        path.write_bytes(coded(lzw_clearings(40_000_000), coding, electrode(64, 64)))
        started = time.process_time()
        with pytest.raises(ScanError, match="40000000 coded bytes for 8192 bytes of pixels") as caught:
            check_complete(path, LIMITS)
        assert time.process_time() - started < 0.5  # unpacking them takes longer
        assert caught.value.reason == "inconsistent-header"

    @cases(FOREIGN, DAMAGED, UNFINISHED)
    def test_no_message_names_a_library_or_its_errors(self, path: Path, reason: str, data: Made) -> None:
        error = refusal(path, data())
        assert not re.search("imagecodecs|imcd|returned|deflate_|LIBDEFLATE", error.message), error.message

    def test_more_strips_than_the_pixels_that_may_be_read_allow_are_refused(self, path: Path) -> None:
        counts = electrode(17_000, 2)
        rows = {ROWS: (LONG, [1]), OFFSETS: (LONG, list(range(300_000, 368_000, 4))), LENGTHS: (LONG, [4] * 17_000)}
        data = tiff(counts, pixels_at=300_000, change=rows)
        error = refusal(path, data, Limits(max_px=100_000))
        assert error.reason == "too-large"
        assert "folder.max_px" in error.hint
        path.write_bytes(data)
        read = read_scan(path, file="x.tif", limits=Limits(max_px=17_000 * 1024)).counts
        np.testing.assert_array_equal(read, counts)

    def test_an_error_carries_the_hash_of_the_bytes_that_were_read(self, path: Path) -> None:
        data = b"\xff\xd8\xff\xe0 no scan"
        scan = refusal(path, data).scan
        assert scan is not None
        assert (scan.file, scan.size_bytes) == ("lot/0001.tif", len(data))
        assert scan.sha256 == hashlib.sha256(data).hexdigest()
        assert (scan.width_px, scan.height_px) == (None, None)

    def test_an_error_behind_the_header_carries_the_size_of_the_scan(self, path: Path) -> None:
        scan = refusal(path, DAMAGED["decoder-failed"]["no LZW at all"]()).scan
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
