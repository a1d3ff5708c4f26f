"""16-bit counts to the 8-bit image the networks see: bounds, stretch, resize. Pure: no files, no clock.

Source: Jensen, Moeslund, Andreasen 2022, section 2.3 (methods 1 to 4). Two errata of the paper are
corrected here. Its equations 1 and 2 as printed forget to subtract the lower bound, and their factor of
256 with a wrapping cast would turn the brightest pixels black: we subtract, and clamp to 255. Its upper
global bound is printed once as 28000; section 2.3.1 and the histogram say 2800. Two further conversions, `clahe` and
`dhe`, follow its outlook (section 5): each equalises what `global` makes (`edge.images.equalise`).

The line, the training and the export all call `prepare`: convert first, then resize, so that a hot pixel
is clipped before it can bleed into its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from edge.images.equalise import GREYS, clahe, dhe_table
from edge.images.method import Method
from edge.records import Counts, Image, Size

LEVELS = 65_536
"""Number of values a 16-bit count can take: the length of every histogram and table here."""

LOWER_PERCENT = 0.01
UPPER_PERCENT = 99.99
ROUNDING_COUNTS = 100

Histogram = npt.NDArray[np.int64]
"""Pixels per count: int64, shape (65536,). Histograms of several scans merge by plain addition."""

Table = npt.NDArray[np.uint8]
"""Grey level of every possible count: uint8, shape (65536,), read-only."""

_EXACT_FLOAT32_PX = 1 << 24
_FEW_PX = 1 << 17
"""Up to here numpy counts faster: OpenCV takes a third of a millisecond for its 65536 bins alone."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The counts that become black and white. Raises ValueError unless 0 <= lo < hi <= 65535."""

    lo_counts: int
    hi_counts: int

    def __post_init__(self) -> None:
        if not 0 <= self.lo_counts < self.hi_counts < LEVELS:
            raise ValueError(f"bounds {self.lo_counts}..{self.hi_counts} counts: expected 0 <= lower < upper <= 65535")


def histogram(counts: Counts) -> Histogram:
    """Pixels per count value of uint16 counts (height_px, width_px); exact. Raises ValueError."""
    _check_counts(counts)
    if counts.size <= _FEW_PX:
        return np.bincount(counts.reshape(-1), minlength=LEVELS)
    total = np.zeros(LEVELS, np.int64)
    # OpenCV counts in integers but answers in float32, exact up to 2**24 px in one bin: hence the blocks.
    rows = max(1, _EXACT_FLOAT32_PX // counts.shape[1])
    for first in range(0, counts.shape[0], rows):
        total += cv2.calcHist([counts[first : first + rows]], [0], None, [LEVELS], [0, LEVELS]).ravel().astype(np.int64)
    return total


def percentile(hist: Histogram, percent: float) -> int:
    """The smallest count that at least `percent` of the pixels do not exceed: see `percentiles`."""
    return percentiles(hist, (percent,))[0]


def percentiles(hist: Histogram, percents: Sequence[float]) -> tuple[int, ...]:
    """The smallest count, for each of `percents`, that at least so many of the pixels do not exceed (nearest rank).

    Exact: percents are taken as the decimals they are written as, 0 to 100, and ranks are worked out in integers.
    0 is the minimum and 100 the maximum. Raises ValueError for an empty histogram or another percent.
    """
    _check_histogram(hist)
    for percent in percents:
        if not 0 <= percent <= 100:
            raise ValueError(f"percentile {percent}: expected 0 to 100")
    cumulative = np.cumsum(hist)
    pixels = int(cumulative[-1])
    if pixels == 0:
        raise ValueError("percentile of a histogram without pixels")
    shares = [_share(percent) for percent in percents]
    ranks = [max(1, -(-part * pixels // whole)) for part, whole in shares]  # rounded up
    return tuple(np.searchsorted(cumulative, ranks).tolist())


@cache
def _share(percent: float) -> tuple[int, int]:
    """A percent, taken as the decimal it is written as, as a fraction of one: numerator and denominator."""
    return (Fraction(str(percent)) / 100).as_integer_ratio()


def scan_bounds(hist: Histogram) -> Bounds:
    """The 0.01th and 99.99th percentile of one scan, in counts (paper, section 2.3.1).

    A flat scan, whose percentiles coincide at v, gets (v, v + 1), or (65534, 65535) at the top of the range:
    it then converts to one grey level instead of failing.
    """
    return _widen(percentile(hist, LOWER_PERCENT), percentile(hist, UPPER_PERCENT), 1)


def global_bounds(per_scan: Sequence[Bounds]) -> Bounds:
    """The extremes over the training scans, each rounded to the nearest hundred counts, halves up.

    The paper's choice ("per scan"): one hot scan moves it. Raises ValueError for an empty sequence.
    """
    if not per_scan:
        raise ValueError("global bounds of no scans")
    half = ROUNDING_COUNTS // 2
    lo = min(bounds.lo_counts for bounds in per_scan) + half
    hi = max(bounds.hi_counts for bounds in per_scan) + half
    return _widen(lo // ROUNDING_COUNTS * ROUNDING_COUNTS, hi // ROUNDING_COUNTS * ROUNDING_COUNTS, ROUNDING_COUNTS)


def pooled_bounds(merged: Histogram) -> Bounds:
    """The 0.01th and 99.99th percentile of all training pixels together, rounded outwards to hundreds of counts.

    The robust alternative to the paper's bounds: one hot scan among many does not move it. Outwards, because the sheets
    of a dark lot lie within a few dozen counts: the nearest hundred above them would cut most of every scan.
    """
    lo = percentile(merged, LOWER_PERCENT) // ROUNDING_COUNTS * ROUNDING_COUNTS
    hi = -(-percentile(merged, UPPER_PERCENT) // ROUNDING_COUNTS) * ROUNDING_COUNTS
    return _widen(lo, min(hi, LEVELS - 1), ROUNDING_COUNTS)


@lru_cache(maxsize=32)
def stretch_table(bounds: Bounds) -> Table:
    """Grey level per count for methods 2 and 3: `min(255, (clip(x, lo, hi) - lo) * 256 // (hi - lo))`.

    Integer arithmetic, so exact. The float64 form `floor((x - lo) / (hi - lo) * 256)` agrees with it
    everywhere: multiplying by 256 is exact, and a quotient that is not a multiple of 1/256 differs from
    the next one by at least 1/(256 * 65535), far more than a rounding error.
    """
    above_lo = np.arange(LEVELS, dtype=np.int64).clip(bounds.lo_counts, bounds.hi_counts) - bounds.lo_counts
    levels = np.minimum(above_lo * 256 // (bounds.hi_counts - bounds.lo_counts), 255)
    return _read_only(levels.astype(np.uint8))


@cache
def naive_table() -> Table:
    """Grey level per count for method 1: `x >> 8`, the whole 16-bit range."""
    return _read_only((np.arange(LEVELS) >> 8).astype(np.uint8))


def convert(counts: Counts, method: Method, bounds: Bounds | None, hist: Histogram | None = None) -> Image:
    """Counts uint16 (height_px, width_px) to an image uint8 (channels, height_px, width_px), 0 to 255.

    `global`, `mixed`, `clahe` and `dhe` stretch between `bounds`, which come from the training scans; `local` and
    `mixed` find the scan's own; where a method does not use them, `bounds` is ignored. `hist`: the counts' histogram
    where the caller has it. Raises ValueError.
    """
    _check_counts(counts)
    tables = _tables(counts, method, bounds, hist)
    image = np.empty((len(tables), *counts.shape), np.uint8)
    for channel, table in zip(image, tables, strict=True):
        _look_up(counts, table, channel)
    if method is Method.CLAHE:
        image[0] = clahe(image[0])
    return image


def resize(image: Image, size: Size) -> Image:
    """Bilinear resize of uint8 (channels, height_px, width_px) to `size`; C-contiguous. Raises ValueError.

    An image that has the size already is returned as it is.
    """
    if image.ndim != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"image {image.dtype} of shape {image.shape}: expected uint8 (channels, height, width)")
    if min(size) < 1:
        raise ValueError(f"size {size.height_px} x {size.width_px} px: expected at least 1 x 1")
    if image.shape[1:] == tuple(size):
        return np.ascontiguousarray(image)
    resized = np.empty((image.shape[0], *size), np.uint8)
    for channel, target in zip(image, resized, strict=True):
        cv2.resize(
            channel,
            (size.width_px, size.height_px),
            dst=target,
            interpolation=cv2.INTER_LINEAR,
        )
    return resized


def prepare(counts: Counts, method: Method, bounds: Bounds | None, size: Size, hist: Histogram | None = None) -> Image:
    """Convert, then resize: the one path from a scan to a network's input. See `convert` and `resize`."""
    return resize(convert(counts, method, bounds, hist), size)


def clipped_fraction(pixels: Counts | Histogram, bounds: Bounds) -> float:
    """Share of pixels outside the bounds, 0 to 1: of counts uint16 (height_px, width_px), or of a histogram.

    Raises ValueError for other arrays and for a histogram without pixels.
    """
    if pixels.ndim == 1:
        _check_histogram(pixels)
        total = int(pixels.sum())
        if total == 0:
            raise ValueError("clipped fraction of a histogram without pixels")
        return (total - int(pixels[bounds.lo_counts : bounds.hi_counts + 1].sum())) / total
    _check_counts(pixels)
    outside = np.count_nonzero(pixels < bounds.lo_counts) + np.count_nonzero(pixels > bounds.hi_counts)
    return outside / pixels.size


def _tables(counts: Counts, method: Method, bounds: Bounds | None, hist: Histogram | None) -> list[Table]:
    """The table of each channel; all of a conversion but for `clahe`, which looks at neighbours too."""
    tables: list[Table] = []
    if hist is None and method in (Method.LOCAL, Method.MIXED, Method.DHE):
        hist = histogram(counts)
    if method in (Method.NAIVE, Method.MIXED):
        tables.append(naive_table())
    if method.needs_bounds:
        if bounds is None:
            raise ValueError(f"conversion {method} needs the bounds of the training scans")
        tables.append(stretch_table(bounds))
    if hist is not None and method in (Method.LOCAL, Method.MIXED):
        tables.append(stretch_table(scan_bounds(hist)))
    if hist is not None and method is Method.DHE:
        greys = np.zeros(GREYS, np.int64)
        np.add.at(greys, tables[0], hist)
        tables = [dhe_table(greys)[tables[0]]]
    return tables


def _look_up(counts: Counts, table: Table, target: npt.NDArray[np.uint8]) -> None:
    if _opencv_maps_16_bit():
        cv2.LUT(counts, table, dst=target)
    else:
        np.take(table, counts, out=target, mode="clip")  # "clip": the default mode would buffer `out`


@cache
def _opencv_maps_16_bit() -> bool:
    """OpenCV 5 looks 16-bit pixels up, 2.5 times as fast as numpy; OpenCV 4 refuses."""
    try:
        cv2.LUT(np.zeros((1, 1), np.uint16), np.zeros(LEVELS, np.uint8))
    except cv2.error:
        return False
    return True


def _widen(lo_counts: int, hi_counts: int, step_counts: int) -> Bounds:
    """Bounds that coincide are drawn apart by one step, upwards where there is room."""
    if lo_counts < hi_counts:
        return Bounds(lo_counts, hi_counts)
    if hi_counts + step_counts < LEVELS:
        return Bounds(lo_counts, hi_counts + step_counts)
    return Bounds(lo_counts - step_counts, hi_counts)


def _read_only(table: Table) -> Table:
    table.flags.writeable = False
    return table


def _check_counts(counts: Counts | Histogram) -> None:
    # Byte-swapped uint16 fails here too: OpenCV would read its bytes in the wrong order.
    if counts.ndim != 2 or counts.dtype != np.uint16 or counts.size == 0:
        raise ValueError(f"counts {counts.dtype} of shape {counts.shape}: expected uint16 (height, width)")


def _check_histogram(hist: Counts | Histogram) -> None:
    if hist.shape != (LEVELS,) or hist.dtype != np.int64:
        raise ValueError(f"histogram {hist.dtype} of shape {hist.shape}: expected int64 (65536,)")
