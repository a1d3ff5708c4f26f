"""Contrast beyond a straight stretch: two equalisations of an 8-bit image. Pure: no files, no clock.

`clahe`: contrast-limited adaptive histogram equalisation (Zuiderveld 1994), as OpenCV has it. `dhe`: dynamic histogram
equalisation (Abdullah-Al-Wadud, Kabir, Dewan, Chae 2007): the histogram is cut at its valleys, every part is given grey
levels by its width and weight, and is equalised within them, so that the large, even coating cannot take the levels
away from what is rare.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from edge.records import Image

GREYS = 256
CLIP_LIMIT = 2.0
"""Greatest slope of a tile's grey levels, as a multiple of the even one: more would lift the quantum noise."""
TILES = (8, 8)
"""Tiles down and across."""
DOMINATION = 0.683
"""Share of a part's pixels within one standard deviation of its mean; with fewer, some level dominates the part."""
EMPHASIS = 1.0
"""Exponent of the logarithm of a part's pixel count when grey levels are allotted; 0 would leave its width alone."""

GreyHistogram = npt.NDArray[np.int64]
"""Pixels per grey level: int64, shape (256,)."""
GreyTable = npt.NDArray[np.uint8]
"""New grey level of every grey level: uint8, shape (256,), never falling."""


def clahe(channel: Image) -> Image:
    """Adaptive equalisation of a uint8 image (height_px, width_px) in 8 x 8 tiles."""
    # A new object each time: one of OpenCV's holds scratch memory that threads must not share.
    return np.asarray(cv2.createCLAHE(CLIP_LIMIT, TILES).apply(channel), np.uint8)


def dhe_table(hist: GreyHistogram) -> GreyTable:
    """The grey levels of dynamic histogram equalisation for an image with this histogram.

    An image of one grey level keeps it. Raises ValueError for a histogram without pixels.
    """
    present = np.flatnonzero(hist)
    if present.size == 0:
        raise ValueError("equalisation of a histogram without pixels")
    if present.size == 1:
        return np.arange(GREYS, dtype=np.uint8)
    parts = [part for whole in _cut_at_valleys(hist) for part in _cut_where_dominated(hist, *whole)]
    pixels = np.array([int(hist[first:end].sum()) for first, end in parts])
    widths = np.array([end - first for first, end in parts])
    # log(1 + n), not log(n): a part of one pixel is still worth something.
    shares = widths * np.log1p(pixels) ** EMPHASIS
    edges = np.concatenate([[0.0], np.cumsum(shares) / shares.sum() * (GREYS - 1)])
    table = np.zeros(GREYS)
    for (first, end), count, (low, high) in zip(parts, pixels, pairwise(edges), strict=True):
        table[first:end] = low + (high - low) * np.cumsum(hist[first:end]) / count
    table[parts[-1][1] :] = GREYS - 1
    return np.rint(np.maximum.accumulate(table)).astype(np.uint8)


def _cut_at_valleys(hist: GreyHistogram) -> list[tuple[int, int]]:
    """Parts [first, end) between the local minima of the histogram smoothed over 3 levels; none without pixels."""
    present = np.flatnonzero(hist)
    first, last = int(present[0]), int(present[-1])
    smooth = np.convolve(hist, np.ones(3, np.int64), mode="same")
    valleys = [
        level for level in range(first + 1, last) if smooth[level] < smooth[level - 1] and _rises(smooth, level, last)
    ]
    cuts = [first, *valleys, last + 1]
    return [(a, b) for a, b in pairwise(cuts) if hist[a:b].any()]


def _rises(smooth: GreyHistogram, level: int, last: int) -> bool:
    """Whether the next change above a level is upwards: a flat valley is cut at its lower end."""
    above = smooth[level + 1 : last + 1]
    different = np.flatnonzero(above != smooth[level])
    return bool(different.size and above[different[0]] > smooth[level])


def _cut_where_dominated(hist: GreyHistogram, first: int, end: int) -> list[tuple[int, int]]:
    """A part in three where some of its levels dominate it, the middle one looked at again; else as it is."""
    levels, weights = np.arange(first, end), hist[first:end]
    total = int(weights.sum())
    mean = float((levels * weights).sum()) / total
    std = float(np.sqrt((weights * (levels - mean) ** 2).sum() / total))
    low, high = max(first, int(np.ceil(mean - std))), min(end, int(np.floor(mean + std)) + 1)
    if int(hist[low:high].sum()) >= DOMINATION * total or (low, high) == (first, end) or low >= high:
        return [(first, end)]
    outer = [(a, b) for a, b in ((first, low), (high, end)) if hist[a:b].any()]
    middle = _cut_where_dominated(hist, low, high) if hist[low:high].any() else []
    return _without_gaps(sorted([*outer, *middle]), end)


def _without_gaps(parts: list[tuple[int, int]], end: int) -> list[tuple[int, int]]:
    """Parts that each reach to the next: levels without pixels belong to the part below them."""
    ends = [first for first, _ in parts[1:]] + [end]
    return [(first, following) for (first, _), following in zip(parts, ends, strict=True)]
