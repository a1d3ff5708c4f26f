"""Damaged TIFFs: each is refused with a known reason, or read as its header declares it; none takes long.

A longer campaign: `python tests/edge/scans/test_scan_mutations.py 10000 1` (mutations, seed).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile

from edge.errors import ScanError
from edge.scans.scan import REASONS, Limits, check_complete, read_scan

LIMITS = Limits()
EXTREMES = [
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63,
    2**64 - 1,
]
SLOWEST_S = 2.0  # of processor time: a wait would end in the timeout of the test


@cache
def healthy_files() -> list[bytes]:
    """One small scan in every combination of coding, byte order, predictor, layout and flavour."""
    counts = np.random.default_rng(3).normal(2250, 150, (61, 45)).astype(np.uint16)
    files = []
    for coding, predictor, order, layout, is_big in itertools.product(
        [None, "lzw", "zlib", "deflate", "packbits"],
        [False, True],
        "<>",
        ["one strip", "strips", "tiles"],
        [False, True],
    ):
        if predictor and coding in (None, "packbits"):
            continue
        file = io.BytesIO()
        tifffile.imwrite(
            file,
            counts,
            byteorder=order,
            bigtiff=is_big,
            compression=coding,
            predictor=predictor or None,
            photometric="minisblack" if len(files) % 5 else "miniswhite",
            rowsperstrip={"one strip": 61, "strips": 8, "tiles": None}[layout],
            tile=(16, 32) if layout == "tiles" else None,
            metadata=None,
        )
        files.append(file.getvalue())
    return files


def entry_offsets(data: bytes) -> list[int]:
    """Where the entries of the directory begin, and its count and its pointer to a next one."""
    order = "<" if data[:1] == b"I" else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    if is_big:
        (first,) = struct.unpack_from(order + "Q", data, 8)
        (count,) = struct.unpack_from(order + "Q", data, first)
        return [first, *(first + 8 + 20 * index for index in range(count + 1))]
    (first,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, first)
    return [first, *(first + 2 + 12 * index for index in range(count + 1))]


def mutate(chance: random.Random, healthy: bytes) -> bytes:
    """One to three changes that know where the header, the directory and the pixels are."""
    data = bytearray(healthy)
    places = entry_offsets(healthy)
    order = "<" if healthy[:1] == b"I" else ">"
    for _ in range(chance.randint(1, 3)):
        if len(data) < 16:
            break
        at = chance.choice(places) + chance.choice([0, 2, 4, 8, 12])
        at = min(at, len(data) - 8)
        match chance.randrange(11):
            case 0:  # a bit anywhere
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            case 1:  # a bit in the header or directory
                data[min(chance.randrange(16), len(data) - 1) if chance.random() < 0.3 else at] ^= (
                    1 << chance.randrange(8)
                )
            case 2:  # an extreme 16-bit value: tag, type, count
                struct.pack_into(order + "H", data, at, chance.choice(EXTREMES) & 0xFFFF)
            case 3:  # an extreme 32-bit value: count, value, offset
                struct.pack_into(order + "I", data, at, chance.choice(EXTREMES) & 0xFFFFFFFF)
            case 4:  # an extreme 64-bit value
                struct.pack_into(order + "Q", data, at, chance.choice(EXTREMES))
            case 5:  # an offset into this very file, perhaps the directory itself
                struct.pack_into(order + "I", data, at, chance.choice([*places, chance.randrange(len(data))]))
            case 6:  # the end is missing
                del data[chance.randrange(len(data)) :]
            case 7:  # a part was never written
                start = chance.randrange(len(data))
                end = len(data) if chance.random() < 0.5 else min(len(data), start + chance.choice([1, 16, 300, 5000]))
                data[start:end] = bytes(end - start)
            case 8:  # one entry is copied over another
                source, target = chance.choice(places[1:]), chance.choice(places[1:])
                data[target : target + 12] = data[source : source + 12]
            case 9:  # something is inserted or appended
                start = chance.choice([len(data), chance.randrange(len(data))])
                data[start:start] = chance.randbytes(chance.choice([1, 8, 500]))
            case _:  # the pixels of another file
                other = chance.choice(healthy_files())
                start = chance.randrange(min(len(other), len(data)))
                data[start : start + 400] = other[start : start + 400]
    return bytes(data)


def outcome_of(path: Path, data: bytes) -> str:
    """Read mutated bytes as a scan; "read" or the reason word, after checking what holds for either."""
    path.write_bytes(data)
    started = time.thread_time()
    with contextlib.suppress(ScanError):
        check_complete(path, LIMITS)
    try:
        frame = read_scan(path, file="scan.tif", limits=LIMITS)
    except ScanError as refused:
        assert_it_is_explained(refused, len(data))
        outcome = refused.reason
    else:
        assert frame.counts.shape == (frame.scan.height_px, frame.scan.width_px)
        assert frame.counts.dtype == np.uint16
        assert frame.counts.flags.c_contiguous
        assert frame.counts.size <= LIMITS.max_px
        assert_an_independent_reader_agrees(data, frame.counts)
        check_complete(path, LIMITS)
        outcome = "read"
    assert time.thread_time() - started < SLOWEST_S
    return outcome


def assert_it_is_explained(error: ScanError, size_bytes: int) -> None:
    assert error.reason in REASONS
    assert error.message.startswith("scan.tif: ")
    assert error.hint
    assert error.scan is not None
    assert error.scan.size_bytes == size_bytes


def assert_an_independent_reader_agrees(data: bytes, counts: np.ndarray) -> None:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        try:
            stored = page.asarray()
        except imagecodecs.PackbitsError:  # PackBits that goes on behind its pixels: libtiff reads it
            stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        expected = ~stored if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE else stored
    np.testing.assert_array_equal(counts, expected)


def mutations(count: int, seed: int) -> Iterator[bytes]:
    chance = random.Random(seed)
    for index in range(count):
        yield mutate(chance, healthy_files()[index % len(healthy_files())])


def test_a_mutated_scan_is_refused_with_a_reason_or_read_as_it_stands(tmp_path: Path) -> None:
    for healthy in healthy_files():
        assert outcome_of(tmp_path / "scan.tif", healthy) == "read"
    outcomes = Counter(outcome_of(tmp_path / "scan.tif", data) for data in mutations(600, seed=7))
    assert {"read", "truncated", "zero-tail", "inconsistent-header", "decoder-failed", "too-large"} <= set(outcomes)


if __name__ == "__main__":
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        total = Counter(
            outcome_of(Path(folder) / "scan.tif", data) for data in mutations(int(sys.argv[1]), seed=int(sys.argv[2]))
        )
    print(total)
