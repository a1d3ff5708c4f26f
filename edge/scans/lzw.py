"""Whether every code of an LZW stream stands for something, before a decoder in C is let loose on it.

A code may refer to the 256 bytes, to what the codes before it have put into the table, or, at most, to the very entry
it is about to make. The decoder in use looks codes up without asking that: a damaged file reads memory that was never
written, ends the process now and then, and decodes to something else the next time. Found by fuzzing.

TIFF 6.0, section 13: codes of 9 to 12 bits, most significant bit first; 256 clears the table, 257 ends the stream. How
wide a code is follows from its place after the last clearing alone, so a whole table's worth is looked at in one go.
The first code clears; a stream that breaks off before its end code loses a bit of its last code in that decoder.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CLEAR, END = 256, 257
TABLE = 4096
CODES = TABLE - END
"""From one clearing to the next, the one that clears included: with that many the table is full."""
MIN_CODES_PER_TABLE = 1024
"""On average: writers clear full tables. Less of it would let a file of nothing but clearings take minutes."""
SPARE_TABLES = 16


class _Places(NamedTuple):
    """Where the codes after a clearing lie, for a stream that goes on at bit 0 to 7 of a byte: arrays (CODES,)."""

    byte: npt.NDArray[np.intp]
    shift: npt.NDArray[np.uint32]
    """Of the 32 bits from that byte on, to the right."""
    mask: npt.NDArray[np.uint32]
    end_bit: npt.NDArray[np.intp]
    highest: npt.NDArray[np.uint32]
    """The last code that stands for something."""


def complaint(raw: memoryview) -> str | None:
    """What is wrong with the codes of one strip or tile; None when each stands for something."""
    bits = 8 * len(raw)
    padded = bytes(raw) + bytes(4)
    if int.from_bytes(padded[:2], "big") >> 7 != CLEAR:
        return "the stream does not begin with clearing the table"
    at_bit = 0
    for _ in range(SPARE_TABLES + bits // (9 * MIN_CODES_PER_TABLE)):
        places = _places(at_bit % 8)
        start = at_bit // 8
        count = int(np.searchsorted(places.end_bit, bits - 8 * start, side="right"))
        words = np.ndarray((len(padded) - 3 - start,), ">u4", padded, start, (1,))
        codes = words[places.byte[:count]] >> places.shift[:count] & places.mask[:count]
        stops = codes >> 1 == CLEAR >> 1
        stop = int(stops.argmax()) if stops.any() else count
        if (codes[:stop] > places.highest[:stop]).any():
            return "a code stands for nothing"
        if stop == count:
            return "the table is full and not cleared" if count == CODES else "the stream breaks off"
        if codes[stop] == END:
            return None
        at_bit = 8 * start + int(places.end_bit[stop])
    return "the table is cleared too often"


@cache
def _places(phase: int) -> _Places:
    # The first code makes no entry, each further one does; a code is wide enough for the entry after the next.
    entries = END + np.arange(CODES)
    width = np.select([entries < 511, entries < 1023, entries < 2047], [9, 10, 11], 12)
    end_bit = phase + np.cumsum(width)
    begin_bit = end_bit - width
    return _Places(
        byte=(begin_bit // 8).astype(np.intp),
        shift=(32 - width - begin_bit % 8).astype(np.uint32),
        mask=((1 << width) - 1).astype(np.uint32),
        end_bit=end_bit.astype(np.intp),
        highest=entries.astype(np.uint32),
    )
