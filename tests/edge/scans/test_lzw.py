"""What edge.scans.lzw lets pass, the decoder in C decodes as the specification says, and the same way each time."""

from __future__ import annotations

import random

import cv2
import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.scans.lzw import CODES, complaint
from edge.scans.tiff import read_layout

CLEAR, END = 256, 257


def packed(codes: list[int]) -> bytes:
    """Codes as TIFF 6.0 writes them, whatever they stand for; 256 resets their width."""
    bits, count, since_clear = 0, 0, 0
    for code in codes:
        width = width_of(since_clear)
        bits, count = bits << width | code & (1 << width) - 1, count + width
        since_clear = 0 if code == CLEAR else since_clear + 1
    return (bits << -count % 8).to_bytes(-(-count // 8), "big")


def width_of(since_clear: int) -> int:
    return 9 + sum(END + since_clear >= limit for limit in (511, 1023, 2047))


def unpacked(raw: bytes) -> bytes | None:
    """Section 13 of TIFF 6.0, code by code; None if one of them stands for nothing."""
    bits, left, since_clear = int.from_bytes(raw, "big"), 8 * len(raw), 0
    table: list[bytes] = []
    before, found = b"", bytearray()
    while left >= (width := width_of(since_clear)):
        left -= width
        code = bits >> left & (1 << width) - 1
        since_clear += 1
        if code == END:
            break
        if code == CLEAR:
            table, before, since_clear = [bytes([byte]) for byte in range(256)] + [b"", b""], b"", 0
            continue
        if since_clear == 1 and table and code < CLEAR:
            now = bytes([code])
        elif before and code < len(table):
            now = table[code]
            table.append(before + now[:1])
        elif before and code == len(table):
            now = before + before[:1]
            table.append(now)
        else:
            return None
        found += now
        before = now
    return bytes(found)


def in_c(raw: bytes, room: int) -> bytes | None:
    try:
        return bytes(imagecodecs.lzw_decode(raw, out=bytearray(room)))
    except imagecodecs.LzwError:
        return None


@pytest.mark.parametrize("size", [0, 1, 2, 255, 5000, 60_000])
@pytest.mark.parametrize("levels", [1, 3, 256])
def test_what_writers_write_is_let_pass(size: int, levels: int) -> None:
    data = np.random.default_rng(size).integers(0, levels, size, np.uint8).tobytes()
    raw = imagecodecs.lzw_encode(data)
    assert complaint(memoryview(raw)) is None
    assert unpacked(raw) == data


@pytest.mark.parametrize("sigma", [0, 5, 3000])
def test_what_libtiff_writes_is_let_pass(sigma: float) -> None:
    counts = np.random.default_rng(1).normal(20_000, sigma, (300, 200)).astype(np.uint16)
    is_written, buffer = cv2.imencode(".tif", counts, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    assert is_written
    file = buffer.tobytes()
    layout = read_layout(lambda start, length: file[start : start + length], len(file), 100_000)
    for start, length in zip(layout.offsets_bytes, layout.lengths_bytes, strict=True):
        assert complaint(memoryview(file)[start : start + length]) is None


@given(st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_damaged_streams_are_refused_or_decoded_as_the_specification_says(seed: int) -> None:
    chance = random.Random(seed)
    data = bytes(chance.choices(range(chance.choice([2, 30, 256])), k=chance.randint(1, 6000)))
    raw = bytearray(imagecodecs.lzw_encode(data))
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(raw))
        raw[place : place + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        raw = raw or bytearray(1)
    expected = unpacked(bytes(raw))
    if expected is None:
        assert complaint(memoryview(raw)) is not None
    elif complaint(memoryview(raw)) is None and expected:
        assert in_c(bytes(raw), len(expected) + 1) == expected


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ([CLEAR, 300], "a code stands for nothing"),
        ([CLEAR, 65, 259], "a code stands for nothing"),
        ([CLEAR, 65, 258, 260, END], "a code stands for nothing"),
        ([CLEAR, 65, 258, 259, END], None),  # each refers to the very entry it makes
        ([CLEAR, 65, END, 300], None),  # what follows the end is no code
        ([65, 66, END], "the stream does not begin with clearing the table"),
        ([65, CLEAR, 65, END], "the stream does not begin with clearing the table"),
        ([CLEAR] * 10_000, "the table is cleared too often"),
        ([CLEAR] + [65] * (CODES - 1) + [CLEAR, 65, END], None),
        ([CLEAR] + [65] * CODES, "the table is full and not cleared"),
        ([CLEAR, 65, 66], "the stream breaks off"),
        ([CLEAR], "the stream breaks off"),
        ([], "the stream does not begin with clearing the table"),
    ],
)
def test_each_code_stands_for_something(codes: list[int], said: str | None) -> None:
    assert complaint(memoryview(packed(codes))) == said
