"""TIFF files made to measure, and what reading one is expected to do, for the tests beside this module."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

from edge.errors import ScanError
from edge.records import Counts
from edge.scans.scan import REASONS, Limits, check_complete, read_scan

LIMITS = Limits()
WIDTH, LENGTH, BITS, CODING, PHOTOMETRIC, OFFSETS, SAMPLES, ROWS, LENGTHS = 256, 257, 258, 259, 262, 273, 277, 278, 279
FILL_ORDER, PREDICTOR, TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_LENGTHS = 266, 317, 322, 323, 324, 325
SUBFILE, SUB_IFDS, SAMPLE_FORMAT, ORIENTATION = 254, 330, 339, 274
STK_PLANE_LIST, STK_PLANES = 33628, 33629
OLD_SUBFILE, IMAGE_DEPTH, TILE_DEPTH = 255, 32997, 32998
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


def with_second_page(tag: int, value: int, *, is_below: bool = False, following: int = 0) -> bytes:
    """A scan and a second directory of one tag and no pixels, as its next page or below it (SubIFD)."""
    at = 6000
    first = tiff(change={SUB_IFDS: (LONG, [at])}) if is_below else tiff(next_page=at)
    return first.ljust(at, b"\0") + struct.pack("<HHHIII", 1, tag, LONG, 1, value, following)


def with_tag_beyond_all_disks() -> bytes:
    """A scan, zeros behind it, and a tag nobody reads whose value lies at byte 2^62."""
    data = bytearray(written_by_tifffile(electrode(), bigtiff=True, extratags=[(65000, "s", 100, "a" * 99, True)]))
    entry_at = data.index(struct.pack("<HHQ", 65000, 2, 100))
    struct.pack_into("<Q", data, entry_at + 12, 1 << 62)
    return bytes(data) + bytes(2 * electrode().nbytes)


def coded(body: bytes, coding: int, counts: Counts) -> bytes:
    """A TIFF whose one strip holds `body`, declared as `counts.shape` pixels in the given coding."""
    change: dict[int, tuple[int, list[int]] | None] = {CODING: (SHORT, [coding]), LENGTHS: (LONG, [len(body)])}
    return tiff(counts, change=change)[:400] + body


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
