"""A scan's strips or tiles to counts, once edge/scans/tiff.py has checked where they lie. Bytes in, no files.

Only coded scans touch code in C that was not written for hostile input. The line runs that in a process apart, see
edge/scans/decoder.py, and so `imagecodecs` is imported where it is called: the daemon never loads it.

Deflate proves by its checksum that it is whole, so a strip must unpack to exactly its pixels. LZW and PackBits have
no checksum, and writers end them in many ways: a strip must hold all its pixels, and what follows them is not read.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from edge.errors import ScanError
from edge.records import Counts, Size
from edge.scans.tiff import Compression, Layout, contradiction

_PACKBITS_RUN_BYTES = 128
"""The most that one code of PackBits unpacks to."""
_MOST_END_ZEROS = 8
"""Zero bytes at the end of an LZW or PackBits strip that may belong to its codes: real ones end in at most 6."""

CLEAR, END = 256, 257
TABLE = 4096
CODES = TABLE - END
"""LZW codes from one clearing to the next, the one that clears included: with that many the table is full."""
MIN_BYTES_PER_TABLE = 256
"""On average. Writers clear full tables, a few clear small ones; less would let a file of clearings take minutes."""
MIN_BYTES_PER_TABLE_OF_A_LARGE_SCAN = 2048
_LARGE_SCAN_PX = 8_000_000
SPARE_TABLES = 4
_SMALL_TABLE_CODES = 512


def decode(data: bytes, layout: Layout) -> Counts:
    """The counts of a scan: native uint16 (height_px, width_px), C-contiguous; perhaps a read-only view of `data`.

    Memory: at most two bytes per pixel beside `data`, and one strip or tile while it is unpacked.
    """
    height, width = layout.size
    counts: Counts
    if layout.is_one_block:
        counts = _native(data, layout, layout.size, int(layout.offsets_bytes[0]))
    elif len(layout.offsets_bytes) == 1 and not layout.is_tiled:
        counts = _segment(data, layout, 0, layout.size)
    else:
        counts = np.empty((height, width), np.uint16)
        for index in range(len(layout.offsets_bytes)):
            target = counts[layout.place(index)]
            stored = layout.segment if layout.is_tiled else Size(*target.shape)
            target[:] = _segment(data, layout, index, stored)[: target.shape[0], : target.shape[1]]
    if layout.is_inverted:
        counts = np.invert(counts, out=counts if counts.flags.writeable else None)
    return np.require(counts, requirements=["C", "A"])


def _segment(data: bytes, layout: Layout, index: int, stored: Size) -> Counts:
    """One strip without the padding below it, or one tile with its padding; its predictor undone."""
    start, length = int(layout.offsets_bytes[index]), int(layout.lengths_bytes[index])
    if layout.compression is Compression.NONE:
        return _native(data, layout, stored, start)
    import imagecodecs

    raw = memoryview(data)[start : start + length]
    where = f"strip or tile {index + 1}"
    expected = stored.height_px * stored.width_px * 2
    match layout.compression:
        case Compression.LZW:
            is_large = layout.size.height_px * layout.size.width_px > _LARGE_SCAN_PX
            per_table = MIN_BYTES_PER_TABLE_OF_A_LARGE_SCAN if is_large else MIN_BYTES_PER_TABLE
            buffer = _unpack_lzw(raw, expected, SPARE_TABLES + expected // per_table, where)
        case Compression.PACKBITS:
            buffer = _unpack_packbits(raw, expected, layout.segment_bytes, where)
        case _:
            buffer = _unpack_deflate(raw, expected, layout.segment_bytes, where)
    pixels = _native(buffer, layout, stored, 0)
    if layout.has_predictor:
        imagecodecs.delta_decode(pixels, axis=-1, out=pixels)
    return pixels


def _native(buffer: bytes | bytearray, layout: Layout, shape: Size, start: int) -> Counts:
    """Stored samples in this machine's byte order: in place where the buffer permits it, else as a copy."""
    stored = np.frombuffer(buffer, layout.byte_order + "u2", shape.height_px * shape.width_px, start).reshape(shape)
    if stored.dtype.isnative:
        return stored
    return stored.byteswap(inplace=stored.flags.writeable).view(np.uint16)


def _unpack_deflate(raw: memoryview, expected: int, padded: int, where: str) -> bytearray:
    """A whole Deflate stream of `expected` bytes, or of `padded`: some writers fill up the last strip."""
    import imagecodecs

    buffer = bytearray(padded + 1)
    try:
        found = len(imagecodecs.deflate_decode(cast(bytes, raw), out=buffer))  # takes any buffer, says its signature
    except imagecodecs.DeflateError as error:
        said = f"its Deflate data is damaged, or unpacks to more than {padded} bytes"
        raise contradiction(f"{where}: {said}", reason="decoder-failed") from error
    if found not in (expected, padded):
        raise _wrong_length(where, found, expected)
    return buffer


def _unpack_packbits(raw: memoryview, expected: int, padded: int, where: str) -> bytearray:
    """PackBits, TIFF 6.0 section 9, of `expected` to `padded` bytes; one code and a few zero bytes may follow."""
    import imagecodecs

    buffer = bytearray(padded + _PACKBITS_RUN_BYTES)
    try:
        found = len(imagecodecs.packbits_decode(_without_padding(raw), out=buffer))
    except imagecodecs.PackbitsError as error:
        said = f"its PackBits data breaks off, or unpacks to more than {padded} bytes"
        raise contradiction(f"{where}: {said}", reason="decoder-failed") from error
    if found < expected:
        raise _wrong_length(where, found, expected)
    return buffer


def _unpack_lzw(raw: memoryview, expected: int, most_tables: int, where: str) -> bytearray:
    """LZW up to `expected` bytes."""
    import imagecodecs

    sound = sound_lzw(_without_padding(raw), most_tables)
    buffer = bytearray(expected)
    found = len(imagecodecs.lzw_decode(sound.raw, out=buffer)) if sound.raw else 0
    if found < expected:
        if sound.flaw is not None:
            raise contradiction(f"{where}: {sound.flaw} after {found} of {expected} bytes", reason="decoder-failed")
        raise _wrong_length(where, found, expected)
    return buffer


def _wrong_length(where: str, found: int, expected: int) -> ScanError:
    return contradiction(f"{where} unpacks to {found} bytes: its pixels need {expected}")


def _without_padding(raw: memoryview) -> bytes:
    """A coded strip without the zeros that fill its last sector; those that codes may end in are kept."""
    used = bytes(raw).rstrip(b"\0")
    return used + bytes(min(len(raw) - len(used), _MOST_END_ZEROS))


class SoundLzw(NamedTuple):
    """The beginning of an LZW stream in which each code stands for something."""

    raw: bytes
    """Ends with an end code. Empty if the stream does not begin with a clearing."""
    flaw: str | None
    """Why the stream cannot be followed further; None if it has an end code."""


def sound_lzw(raw: bytes, most_tables: int) -> SoundLzw:
    """What a decoder in C may be given of an LZW stream: the codes before the first that stands for nothing.

    A code may refer to the 256 bytes, to what the codes before it have put into the table, or, at most, to the very
    entry it is about to make. The decoder in use looks codes up without asking that: a damaged file reads memory that
    was never written, ends the process now and then, and decodes to something else the next time. Found by fuzzing.
    That decoder loses a bit of the last code of a stream without an end code, so the result always has one.

    TIFF 6.0, section 13: codes of 9 to 12 bits, most significant bit first; 256 clears the table, 257 ends the stream.
    How wide a code is follows from its place after the last clearing alone, so a whole table is looked at in one go.
    """
    padded = raw + bytes(4)
    if int.from_bytes(padded[:2], "big") >> 7 != CLEAR:
        return SoundLzw(
            b"", "the LZW data does not begin with clearing the table, but breaks off or has another bit order"
        )
    flaw = "the LZW table is cleared too often"
    look = CODES + 1
    at_bit = 0
    for _ in range(most_tables):
        start = at_bit // 8
        places = _places(at_bit % 8)
        for most in (look, CODES + 1):
            count = min(most, int(np.searchsorted(places.end_bit, 8 * (len(raw) - start), side="right")))
            words = np.ndarray((len(padded) - 3 - start,), ">u4", padded, start, (1,))
            codes = words[places.byte[:count]] >> places.shift[:count] & places.mask[:count]
            wrong = (codes >> 1 == CLEAR >> 1) | (codes > places.highest[:count])
            wrong[CODES:] = True
            stop = int(wrong.argmax()) if wrong.any() else count
            if stop < count or count < most:
                break
        if stop < count and codes[stop] == END:
            return SoundLzw(raw, None)
        if stop == count or codes[stop] != CLEAR:
            flaw = "the LZW table is full and not cleared" if stop == CODES else "an LZW code stands for nothing"
            if stop == count:
                flaw = "the LZW data breaks off"
            at_bit = 8 * start + int(places.begin_bit[stop])
            return SoundLzw(_end_stream(padded, at_bit, int(places.width[stop])), flaw)
        at_bit = 8 * start + int(places.end_bit[stop])
        look = _SMALL_TABLE_CODES if stop < _SMALL_TABLE_CODES else CODES + 1  # as the table before it, most likely
    return SoundLzw(_end_stream(padded, at_bit, 9), flaw)


def _end_stream(padded: bytes, at_bit: int, width: int) -> bytes:
    """The stream up to a bit, and an end code there."""
    start, phase = divmod(at_bit, 8)
    kept = padded[start] >> (8 - phase) << (8 - phase)
    return padded[:start] + (kept << 24 | END << (32 - phase - width)).to_bytes(4, "big")


class _Places(NamedTuple):
    """Where the codes after a clearing lie, for a stream that goes on at bit 0 to 7 of a byte: arrays (CODES + 1,).

    The last place is that of the code behind a full table, which can only clear it or end the stream.
    """

    byte: npt.NDArray[np.intp]
    shift: npt.NDArray[np.uint32]
    """Bits by which the 32 bits from that byte on are shifted to the right."""
    mask: npt.NDArray[np.uint32]
    width: npt.NDArray[np.intp]
    begin_bit: npt.NDArray[np.intp]
    end_bit: npt.NDArray[np.intp]
    highest: npt.NDArray[np.uint32]
    """The last code that stands for something."""


@cache
def _places(phase: int) -> _Places:
    # The first code makes no entry, each further one does; a code is wide enough for the entry after the next.
    entries = END + np.arange(CODES + 1)
    width = np.select([entries < 511, entries < 1023, entries < 2047], [9, 10, 11], 12)
    end_bit = phase + np.cumsum(width)
    begin_bit = end_bit - width
    return _Places(
        byte=(begin_bit // 8).astype(np.intp),
        shift=(32 - width - begin_bit % 8).astype(np.uint32),
        mask=((1 << width) - 1).astype(np.uint32),
        width=width.astype(np.intp),
        begin_bit=begin_bit.astype(np.intp),
        end_bit=end_bit.astype(np.intp),
        highest=entries.astype(np.uint32),
    )
