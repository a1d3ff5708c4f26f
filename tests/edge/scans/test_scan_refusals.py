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
    "a scan of two slices, one after the other in each strip": (
        "multi-page",
        lambda: tiff(change={IMAGE_DEPTH: (LONG, [2])}),
    ),
    "a scan of deep tiles": ("multi-page", lambda: tiff(change={TILE_DEPTH: (LONG, [16])})),
    "two slices in one coded strip": ("multi-page", lambda: two_slices()),
    "a second scan that calls itself a copy": ("multi-page", lambda: scan_and_copy(1)),
    "a second scan that calls itself a copy, below the first": ("multi-page", lambda: scan_and_copy(1, sub_ifds=1)),
    "a thumbnail, and the scan as its copy": ("multi-page", lambda: scan_and_copy(4, swapped=True)),
    "a thumbnail by the tag of TIFF 5": ("multi-page", lambda: tiff(change={OLD_SUBFILE: (SHORT, [2])})),
    "a page and a thumbnail that is not marked": ("multi-page", lambda: with_second_page(SUBFILE, 0)),
    "a page and a mask": ("multi-page", lambda: with_second_page(SUBFILE, 4)),
    "a page and the mask of a thumbnail": ("multi-page", lambda: with_second_page(SUBFILE, 5)),
    "a sub-image that is not marked": ("multi-page", lambda: with_second_page(SUBFILE, 0, is_below=True)),
    "a thumbnail that leads back": ("multi-page", lambda: with_second_page(SUBFILE, 1, following=8)),
    "sub-images": ("multi-page", lambda: tiff(change={SUB_IFDS: (LONG, [8])})),
    "a million sub-images": (
        "multi-page",
        lambda: tiff(change={SUB_IFDS: (LONG, list(range(10**6)))}, pixels_at=5 * 10**6),
    ),
    "an ImageJ stack behind one directory": (
        "multi-page",
        lambda: written_by_tifffile(np.stack([electrode()] * 3), imagej=True, truncate=True, metadata={}),
    ),
    "an ImageJ stack with a description of its own before": (
        "multi-page",
        lambda: written_by_tifffile(
            electrode(), description="a line of plants", software="ImageJ=1.54f\nimages=7\n"
        ).replace(b"\x31\1\2\0", b"\x0e\1\2\0", 1),  # the tag Software becomes a second ImageDescription
    ),
    "a tifffile stack behind one directory": (
        "multi-page",
        lambda: written_by_tifffile(np.stack([electrode()] * 3), truncate=True, metadata={}),
    ),
    "an ImageJ stack that says its slices alone": (
        "multi-page",
        lambda: written_by_tifffile(electrode(), description="ImageJ=1.54f\nslices=3\n"),
    ),
    "an ImageJ stack of two channels and two frames": (
        "multi-page",
        lambda: written_by_tifffile(electrode(), description="ImageJ=1.54f\nchannels=2\nframes=2\n"),
    ),
    "an OME stack behind one directory": (
        "multi-page",
        lambda: written_by_tifffile(
            electrode(),
            description=f'<?xml version="1.0"?><!--{"-" * 2000}--><OME><Pixels SizeX="45" SizeZ="3"/></OME>',
        ),
    ),
    "two frames without words behind one directory": (
        "multi-page",
        lambda: tiff() + electrode(seed=1).tobytes() + electrode(seed=2).tobytes(),
    ),
    "a frame without words between directory and metadata": (
        "multi-page",
        lambda: tiff(electrode(800, 700)) + electrode(800, 700, seed=1).tobytes() + b"made by a station",
    ),
    "a coded scan with a frame behind it": (
        "multi-page",
        lambda: written_by_tifffile(electrode(), compression="zlib") + electrode(seed=1).tobytes(),
    ),
    "a MetaMorph stack": ("multi-page", lambda: tiff(change={STK_PLANES: (LONG, list(range(12)))})),
    "a MetaMorph stack of unknown length": ("multi-page", lambda: tiff(change={STK_PLANE_LIST: (LONG, [1])})),
    "a thumbnail": ("multi-page", lambda: tiff(change={SUBFILE: (LONG, [1])})),
    "a mask": ("multi-page", lambda: tiff(change={SUBFILE: (LONG, [4])})),
    "JPEG 2000": ("unsupported-compression", lambda: tiff(change={CODING: (SHORT, [34712])})),
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
    "a row of tiles that are mostly padding": (
        "too-large",
        lambda: tiff(
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
    "no lengths of several strips": (
        "inconsistent-header",
        lambda: tiff(electrode(2, 50), change={ROWS: (LONG, [1]), OFFSETS: (LONG, [400, 500]), LENGTHS: None}),
    ),
    "no length of a coded strip": ("inconsistent-header", lambda: tiff(change={CODING: (SHORT, [8]), LENGTHS: None})),
    "a length in samples": ("inconsistent-header", lambda: tiff(change={LENGTHS: (LONG, [61 * 45])})),
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
    "strips and tiles": (
        "inconsistent-header",
        lambda: tiff(
            change={
                TILE_WIDTH: (LONG, [45]),
                TILE_LENGTH: (LONG, [61]),
                TILE_OFFSETS: (LONG, [400]),
                TILE_LENGTHS: (LONG, [5490]),
            }
        ),
    ),
    "a predictor without coding": ("inconsistent-header", lambda: tiff(change={PREDICTOR: (SHORT, [2])})),
    "a predictor with PackBits": (
        "inconsistent-header",
        lambda: tiff(change={PREDICTOR: (SHORT, [2]), CODING: (SHORT, [32773])}),
    ),
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
    "a Deflate bomb": ("inconsistent-header", lambda: coded(zlib.compress(bytes(10**8)), 8, electrode())),
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
    "LZW without its end": (
        "decoder-failed",
        lambda: coded(imagecodecs.lzw_encode(electrode().tobytes())[:-9], 5, electrode()),
    ),
    "no LZW at all": ("decoder-failed", lambda: coded(b"\xff" * 400, 5, electrode())),
    "LZW that only clears its table": ("inconsistent-header", lambda: coded(lzw_clearings(10**6), 5, electrode())),
    "PackBits that unpacks to less": (
        "inconsistent-header",
        lambda: coded(imagecodecs.packbits_encode(bytes(range(200))), 32773, electrode()),
    ),
    "PackBits that unpacks to more": ("decoder-failed", lambda: coded(b"\x81\7" * 100, 32773, electrode())),
    "PackBits without its end": (
        "decoder-failed",
        lambda: coded(imagecodecs.packbits_encode(electrode().tobytes())[:-9], 32773, electrode()),
    ),
}

UNFINISHED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "no bytes": ("empty", lambda: b""),
    "two bytes": ("truncated", lambda: b"II"),
    "six bytes": ("truncated", lambda: tiff()[:6]),
    "half a BigTIFF header": ("truncated", lambda: written_by_tifffile(electrode(), bigtiff=True)[:12]),
    "no directory yet": ("truncated", lambda: b"II*\0" + bytes(4) + tiff(electrode(600, 400))[8:]),
    "a BigTIFF directory beyond 2^63": ("truncated", lambda: b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**64 - 8)),
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
    "no length of several strips written": (
        "zero-tail",
        lambda: tiff(
            electrode(2, 50), change={ROWS: (LONG, [1]), OFFSETS: (LONG, [400, 500]), LENGTHS: (LONG, [0, 0])}
        ),
    ),
    "no length written and no pixels": (
        "zero-tail",
        lambda: tiff(np.zeros((61, 45), np.uint16), change={LENGTHS: (LONG, [0])}),
    ),
    "nothing but zeros": ("zero-tail", lambda: tiff(np.zeros((61, 45), np.uint16))),
    "a thumbnail whose directory is not written": ("zero-tail", lambda: tiff(next_page=5900) + bytes(100)),
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

    @pytest.mark.parametrize("coding", [5, 8, 32773])
    def test_coded_bytes_that_no_pixels_need_are_refused_before_any_work(self, path: Path, coding: int) -> None:
        path.write_bytes(coded(lzw_clearings(40_000_000), coding, electrode(64, 64)))
        started = time.process_time()
        with pytest.raises(ScanError, match="40000000 coded bytes for 8192 bytes of pixels") as caught:
            check_complete(path, LIMITS)
        assert time.process_time() - started < 0.5  # unpacking them takes longer
        assert caught.value.reason == "inconsistent-header"

    @pytest.mark.parametrize("what", {**FOREIGN, **DAMAGED, **UNFINISHED})
    def test_no_message_names_a_library_or_its_errors(self, path: Path, what: str) -> None:
        error = refusal(path, built({**FOREIGN, **DAMAGED, **UNFINISHED}[what][1]))
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
