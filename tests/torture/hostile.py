"""TIFFs made to harm: fifty by hand, any number by mutation of healthy ones."""

from __future__ import annotations

import itertools
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.edge.scans.test_scan_mutations import healthy_files, mutate
from tests.support.tiff_files import (
    BITS,
    CODING,
    IMAGE_DEPTH,
    LENGTH,
    LENGTHS,
    LONG,
    LONG8,
    OFFSETS,
    PHOTOMETRIC,
    PREDICTOR,
    ROWS,
    SAMPLES,
    SHORT,
    SUB_IFDS,
    TILE_LENGTH,
    TILE_WIDTH,
    WIDTH,
    coded,
    tiff,
    with_tag_beyond_all_disks,
    written_by_tifffile,
)

REAL_SCANS = Path(__file__).parents[3] / "shared" / "data"
"""Optional local data: where it is, mutations start from real scans, too."""


def handmade() -> list[bytes]:
    """Each is another idea of what could hurt a reader."""
    whole = tiff()
    bomb = zlib.compress(bytes(64_000_000), 9)
    small = np.full((64, 64), 2000, np.uint16)
    files = [
        b"",
        b"I",
        b"II",
        b"II*",
        b"II*\0",
        b"II*\0\0\0\0\0",
        b"MM\0*\xff\xff\xff\xff",
        b"II*\0\x04\0\0\0",  # the directory is the header
        b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**63),
        b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**64 - 1),
        b"MM\0+\0\x08\0\0" + struct.pack(">Q", 16) + struct.pack(">Q", 2**64 - 1),
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"\xff\xd8\xff\xe0" + bytes(100),
        b"PK\x03\x04" + bytes(100),
        b"\x7fELF" + bytes(100),
        bytes(100_000),
        b"\xff" * 100_000,
        whole[:9],
        whole[:200],
        whole[:-1],
        whole + b"x" * 1_000_000,
        tiff(next_page=8),  # a directory that follows itself
        tiff(next_page=2**32 - 1),
        tiff(change={WIDTH: (LONG, [2**32 - 1])}),
        tiff(change={LENGTH: (LONG, [2**32 - 1])}),
        tiff(change={WIDTH: (LONG, [2**32 - 1]), LENGTH: (LONG, [2**32 - 1])}),
        tiff(change={WIDTH: (LONG, [0])}),
        tiff(change={ROWS: (LONG, [0])}),
        tiff(change={ROWS: (LONG, [2**32 - 1])}),
        tiff(change={ROWS: (LONG, [1])}),
        tiff(change={BITS: (SHORT, [65535])}),
        tiff(change={BITS: (SHORT, [16, 16, 16])}),
        tiff(change={SAMPLES: (SHORT, [65535])}),
        tiff(change={SAMPLES: (SHORT, [0])}),
        tiff(change={CODING: (SHORT, [7])}),
        tiff(change={CODING: (SHORT, [65535])}),
        tiff(change={PHOTOMETRIC: (SHORT, [6])}),
        tiff(change={PREDICTOR: (SHORT, [3])}),
        tiff(change={OFFSETS: (LONG, [0])}),
        tiff(change={OFFSETS: (LONG, [8])}),  # the strip is the directory
        tiff(change={OFFSETS: (LONG, [2**32 - 1])}),
        tiff(change={OFFSETS: (LONG, list(range(5000)))}),
        tiff(change={LENGTHS: (LONG, [2**32 - 1])}),
        tiff(change={LENGTHS: (LONG, [0])}),
        tiff(change={LENGTHS: (LONG8, [2**64 - 1])}),
        tiff(change={SUB_IFDS: (LONG, [8])}),
        tiff(change={TILE_WIDTH: (LONG, [2**31]), TILE_LENGTH: (LONG, [2**31])}),
        tiff(change={IMAGE_DEPTH: (LONG, [2])}),
        with_tag_beyond_all_disks(),
        coded(bomb, 8, small),  # a bomb behind a small header
        coded(bomb, 32946, small),
        coded(b"\x80" * 4000, 5, small),  # LZW: clear codes only
        coded(b"\xff" * 4000, 5, small),
        coded(zlib.compress(small.tobytes())[:-4], 8, small),
        coded(b"x\x9c" + bytes(50), 8, small),
        written_by_tifffile(np.zeros((3, 50, 50), np.uint16)),
        written_by_tifffile(np.zeros((50, 50), np.float32)),
        written_by_tifffile(np.full((1, 1), 9, np.uint16)),
    ]
    directory = bytearray(whole)
    struct.pack_into("<H", directory, 8, 65535)  # a directory of 65,535 entries
    repeated = bytearray(whole)
    repeated[22:34] = repeated[10:22]  # one tag twice
    return [*files, bytes(directory), bytes(repeated)]


def mutated(count: int, seed: int) -> Iterator[bytes]:
    """`count` files, each one to three changes away from a healthy one, which may be a real scan if there are any."""
    chance = random.Random(seed)
    sources = itertools.cycle([*healthy_files(), *real_scans()])
    for _ in range(count):
        yield mutate(chance, next(sources))


def real_scans(limit: int = 2) -> list[bytes]:
    """Whole files, of at most 8 MB."""
    files = sorted(REAL_SCANS.rglob("*.tif"))[:limit] if REAL_SCANS.is_dir() else []
    return [file.read_bytes() for file in files if file.stat().st_size < 8_000_000]
