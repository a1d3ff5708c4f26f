"""What a scan looks like whose writer reserved room and did not come back: zeros where pixels should be.

Uncompressed scans are judged by their pixels. Zeros that stand together, in the order in which a writer writes them,
may be missing pixels as well as a dead row, a mask or a background of true zeros; no reader can tell them apart. So
how many zeros a finished scan may hold is a setting (`folder.expected_zero_px`, by default none that stand together).
"Zero" is as stored: the brightest count of a MINISWHITE file.

Coded scans are judged by their coded bytes: true zeros are coded as short runs of other bytes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge.records import Counts
from edge.scans.tiff import Compression, Layout, unfinished

_RUN_PX = 256
"""Zeros in a row that look unwritten: one sector of a disk, or a whole strip or tile if that is less."""
_TAIL_PX = 16
"""Zeros in a row that look unwritten at the end of what was written last."""
_CODED_ZERO_BYTES = 16
"""More zero bytes in a row than the codes of LZW (6 at most) or PackBits (2 or 3) hold for any pixels."""
_BLOCK_PX = 2048
_ORDINARY_ZEROS = 0.01


def check_pixels(layout: Layout, counts: Counts, expected_zero_px: int | None) -> None:
    """Raise ScanIncomplete if zeros stand together in an uncompressed scan that has more than `expected_zero_px`.

    None: for folders that no station writes into. A background of true zeros is then told by the scan itself: not all
    of its zeros stand together, and those that do not are at least 1 % of its pixels.
    """
    if layout.compression is not Compression.NONE:
        return
    unwritten = 65_535 if layout.is_inverted else 0
    where = _zeros_together(layout, counts, unwritten)
    if where is None:
        return
    is_zero = counts == unwritten
    zero_px = int(np.count_nonzero(is_zero))
    if expected_zero_px is None:
        lengths = np.subtract(*_runs(is_zero.reshape(-1))[::-1])
        if zero_px - int(lengths[lengths >= _BLOCK_PX].sum()) >= _ORDINARY_ZEROS * counts.size:
            return
    elif zero_px <= expected_zero_px:
        return
    raise unfinished(
        "zero-tail",
        f"the samples are zero {where}, as in a file that was not written to its end; {zero_px} px are zero in all",
        hint="wait for the station to finish writing; if the scan is whole, with dead rows, a mask or a background of "
        f"zeros, set `folder.expected_zero_px` to the most that its scans may hold, here {zero_px}",
    )


def check_codes(data: bytes, layout: Layout) -> None:
    """Raise ScanIncomplete if an LZW or PackBits strip or tile has a hole: zero bytes with others after them.

    They would unpack to something. Deflate needs no such look: its checksum does not pass.
    """
    if layout.compression in (Compression.LZW, Compression.PACKBITS):
        for start, end in _segments(layout):
            hole = data.find(bytes(_CODED_ZERO_BYTES), start, end)
            if hole >= 0 and data[hole:end].strip(b"\0"):
                raise unfinished("zero-tail", f"the coded pixels from byte {hole} on are zeros: not written yet")


def has_unwritten_codes(data: bytes, layout: Layout) -> bool:
    """Whether zeros in the coded bytes may be why a scan could not be unpacked."""
    if layout.compression is Compression.NONE:
        return False
    return any(data.find(bytes(_CODED_ZERO_BYTES), start, end) >= 0 for start, end in _segments(layout))


def _segments(layout: Layout) -> list[tuple[int, int]]:
    ends = layout.offsets_bytes + layout.lengths_bytes
    return list(zip(layout.offsets_bytes.tolist(), ends.tolist(), strict=True))


def _zeros_together(layout: Layout, counts: Counts, unwritten: int) -> str | None:
    """Where zeros stand together as in a hole or at an unwritten end; None if nowhere."""
    width = counts.shape[1]
    last = int(layout.offsets_bytes.argmax())
    if layout.is_tiled:
        for index in range(len(layout.offsets_bytes)):
            rows, columns = layout.place(index)
            tile = counts[rows, columns]  # without padding, which is zeros as a rule
            if not (tile[:, ::_RUN_PX] == unwritten).any():
                continue  # every run of that length has one of these
            found = _first_run(tile.reshape(-1), unwritten, max(_TAIL_PX, min(_RUN_PX, tile.size)))
            if found is not None:
                down, across = divmod(found[0], tile.shape[1])
                return f"for {found[1]} px from row {rows.start + down}, column {columns.start + across} of a tile on"
    else:
        shortest = max(_TAIL_PX, min(_RUN_PX, layout.segment.height_px * width))
        found = _first_run(counts.reshape(-1), unwritten, shortest)
        if found is not None:
            return f"for {found[1]} px from row {found[0] // width}, column {found[0] % width} on"
    tail = counts[layout.place(last)]
    tail = tail[-1 - _TAIL_PX // tail.shape[1] :].reshape(-1)[-_TAIL_PX:]
    if len(tail) == _TAIL_PX and (tail == unwritten).all():
        return f"in the last {_TAIL_PX} px" + (" of the last tile" if layout.is_tiled else "")
    return None


def _first_run(flat: npt.NDArray[np.uint16], value: int, shortest: int) -> tuple[int, int] | None:
    """(first index, length) of the first run of `value` that is at least `shortest` long."""
    # A run of that length holds two samples in a row of those half of it apart.
    sampled = flat[:: shortest // 2] == value
    if not (sampled[1:] & sampled[:-1]).any():
        return None
    starts, ends = _runs(flat == value)
    long = np.flatnonzero(ends - starts >= shortest)
    return (int(starts[long[0]]), int((ends - starts)[long[0]])) if len(long) else None


def _runs(is_it: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Where the runs of True begin, and where they end."""
    edges = np.flatnonzero(np.diff(is_it, prepend=False, append=False))
    return edges[::2], edges[1::2]
