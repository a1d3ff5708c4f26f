"""A scan's strips or tiles to counts, once edge/scans/tiff.py has checked where they lie. Bytes in, no files.

Only coded scans touch code in C that was not written for hostile input. The line runs that in a process apart, see
edge/scans/decoder.py, and so `imagecodecs` is imported where it is called: the daemon never loads it.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from edge.records import Counts, Size
from edge.scans.lzw import complaint
from edge.scans.tiff import Compression, Layout, contradiction


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
        across = -(-width // layout.segment.width_px)
        for index in range(len(layout.offsets_bytes)):
            top = index // across * layout.segment.height_px
            left = index % across * layout.segment.width_px
            target = counts[top : top + layout.segment.height_px, left : left + layout.segment.width_px]
            stored = layout.segment if layout.is_tiled else Size(*target.shape)
            target[:] = _segment(data, layout, index, stored)[: target.shape[0], : target.shape[1]]
    if layout.is_inverted:
        counts = np.invert(counts, out=counts if counts.flags.writeable else None)
    return np.require(counts, requirements=["C", "A"])


def _segment(data: bytes, layout: Layout, index: int, stored: Size) -> Counts:
    """One strip or tile as it is stored, padding included, its predictor undone."""
    start, length = int(layout.offsets_bytes[index]), int(layout.lengths_bytes[index])
    if layout.compression is Compression.NONE:
        return _native(data, layout, stored, start)
    return _unpacked(memoryview(data)[start : start + length], layout, stored, index)


def _native(buffer: bytes | bytearray, layout: Layout, shape: Size, start: int) -> Counts:
    """Stored samples in this machine's byte order: in place where the buffer permits it, else as a copy."""
    stored = np.frombuffer(buffer, layout.byte_order + "u2", shape.height_px * shape.width_px, start).reshape(shape)
    if stored.dtype.isnative:
        return stored
    return stored.byteswap(inplace=stored.flags.writeable).view(np.uint16)


def _unpacked(raw: memoryview, layout: Layout, stored: Size, index: int) -> Counts:
    """One coded strip or tile; it must unpack to as many bytes as its pixels need, and is given room for one more."""
    import imagecodecs

    expected = stored.height_px * stored.width_px * 2
    is_lzw = layout.compression is Compression.LZW
    if is_lzw and (said := complaint(raw)) is not None:
        raise contradiction(f"strip or tile {index + 1}: {said}", reason="decoder-failed")
    unpack = imagecodecs.lzw_decode if is_lzw else imagecodecs.deflate_decode
    buffer = bytearray(expected + 1)
    try:
        found = len(unpack(cast(bytes, raw), out=buffer))  # any buffer will do, whatever its annotation says
    except (imagecodecs.LzwError, imagecodecs.DeflateError) as error:
        raise contradiction(f"strip or tile {index + 1}: {error}", reason="decoder-failed") from error
    if found != expected:
        at_least = "at least " if found > expected else ""
        raise contradiction(f"strip or tile {index + 1} unpacks to {at_least}{found} bytes: its pixels need {expected}")
    pixels = _native(buffer, layout, stored, 0)
    if layout.has_predictor:
        imagecodecs.delta_decode(pixels, axis=-1, out=pixels)
    return pixels
