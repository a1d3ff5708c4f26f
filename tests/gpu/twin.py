"""The numpy twin of kernels.cu: the same integers in the same order, for machines without a GPU."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge.engines.tensorrt.kernel_args import INDEX_SHIFT, WEIGHT_BITS, WEIGHT_ONE, RawScan, Stretch, axis
from edge.records import Counts, Image


def levels(counts: Counts, stretch: Stretch) -> npt.NDArray[np.int64]:
    """Grey levels 0 to 255 of counts, as the device function `level` has them: only + - * >> and 32-bit halves."""
    above = np.minimum(np.maximum(counts.astype(np.int64) - stretch.lo_counts, 0), stretch.span_counts)
    high, low = stretch.factor >> 32, stretch.factor & 0xFFFFFFFF
    grey: npt.NDArray[np.int64] = np.minimum(above * high + (above * low >> 32), 255)
    return grey


def fused(scan: RawScan) -> Image:
    """What the kernel writes for one scan: uint8 (planes, height_px, width_px)."""
    (height_px, width_px), size = scan.counts.shape, scan.size
    rows, row_weights = _unpacked(axis(height_px, size.height_px)[: size.height_px])
    columns, column_weights = _unpacked(axis(width_px, size.width_px)[: size.width_px])
    below, right = np.minimum(rows + 1, height_px - 1), np.minimum(columns + 1, width_px - 1)
    planes = []
    for stretch in scan.stretches:
        level = levels(scan.counts, stretch)
        upper, lower = level[rows], level[below]
        first, second = WEIGHT_ONE - column_weights, column_weights
        top = upper[:, columns] * first + upper[:, right] * second
        bottom = lower[:, columns] * first + lower[:, right] * second
        both = top * (WEIGHT_ONE - row_weights[:, np.newaxis]) + bottom * row_weights[:, np.newaxis]
        assert both.max() < 1 << 31, "the kernel's accumulator has 32 bits"
        planes.append((both + (1 << (2 * WEIGHT_BITS - 1)) >> 2 * WEIGHT_BITS).astype(np.uint8))
    return np.stack(planes)


def _unpacked(packed: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    wide = packed.astype(np.int64)
    return wide >> INDEX_SHIFT, wide & ((1 << INDEX_SHIFT) - 1)
