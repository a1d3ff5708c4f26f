"""Scans that are converted on the GPU: the host's half of edge/engines/tensorrt/kernels.cu, what it is told about each.

The kernel reads raw counts and writes the networks' uint8 image: stretch, then bilinear resize, in integers
throughout. Everything that depends on the scan's size or its grey levels is worked out here, exactly:

- a `Stretch` per plane. With above = min(max(count - lo, 0), span), the grey level of `conversion.stretch_table` is
  min(255, above * 256 // span), and the kernel gets the quotient without dividing: above * factor >> 32 with factor =
  2**40 // span + 1. The factor is at most 1 too large, so the product is at most above / 2**32 too large, which is
  less than 1 / span because above <= span < 2**16: no quotient crosses an integer. `naive` (count >> 8) is the same
  formula with factor = 2**24, exact too.
- a table per axis: for each target pixel, the source pixel before its centre and the weight of the one after it, in
  1/2048 as OpenCV has it, packed into a uint32. Centres are aligned as OpenCV's INTER_LINEAR aligns them, worked out
  in integers; beyond the outermost centres the border repeats.

The percentiles of `local` and `mixed` are found here too, with the histogram code that the CPU path and the training
use, in the decode pool, while the GPU works on the scans before: a second histogram in CUDA would have to be proven
equal, and would save a few milliseconds of a core that has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edge.images.conversion import LEVELS, Bounds, Histogram, Table, histogram, resize, scan_bounds
from edge.images.method import Method
from edge.records import Counts, Image, Size

WEIGHT_BITS = 11
WEIGHT_ONE = 1 << WEIGHT_BITS
INDEX_SHIFT = 12
"""A packed entry is `index << 12 | weight`: weights are 0..2048, so an axis has at most 2**20 pixels."""

FRAME = np.dtype(
    [(name, np.uint64) for name in ("counts", "image", "columns", "rows")]
    + [(name, np.int32) for name in ("source_width", "source_height", "target_width", "target_height", "planes", "_")]
    + [("stretches", [(name, np.uint32) for name in ("lo", "span", "factor_low", "factor_high")], 3)]
)
"""`struct Frame` of kernels.cu."""

Axis = npt.NDArray[np.uint32]
"""Packed source index and weight per target pixel: uint32 (target_px rounded up to 4,), read-only."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """How one plane maps counts to grey levels: min(255, min(max(count - lo, 0), span) * factor >> 32)."""

    lo_counts: int
    span_counts: int
    factor: int
    """Below 2**41."""


@dataclass(frozen=True, slots=True)
class RawScan:
    """A scan as the fused kernel takes it: uint16 counts (height_px, width_px), and the image they become."""

    counts: Counts
    stretches: tuple[Stretch, ...]
    """One per plane of the image."""
    size: Size

    def image(self) -> Image:
        """The image as the CPU path makes it, for pictures: uint8 (planes, *size)."""
        levels = (_table(stretch)[self.counts] for stretch in self.stretches)
        return resize(np.stack(list(levels)), self.size)


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel of kernels.cu and its geometry."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]


METHODS = (Method.NAIVE, Method.GLOBAL, Method.LOCAL, Method.MIXED)
"""What the kernel converts: every plane a stretch of its own. `clahe` and `dhe` equalise and stay on the host."""

NAIVE = Stretch(0, LEVELS - 1, 1 << 24)


def stretch_between(bounds: Bounds) -> Stretch:
    """The arithmetic of `conversion.stretch_table(bounds)`."""
    span = bounds.hi_counts - bounds.lo_counts
    return Stretch(bounds.lo_counts, span, (256 << 32) // span + 1)


def raw_scan(
    counts: Counts, method: Method, bounds: Bounds | None, size: Size, hist: Histogram | None = None
) -> RawScan:
    """Counts with the planes of `conversion.convert`, in its order, for a method of `METHODS`. Raises ValueError.

    `hist`: the counts' histogram where the caller has it.
    """
    if method not in METHODS:
        raise ValueError(f"conversion {method} is made on the host")
    stretches = []
    if method in (Method.NAIVE, Method.MIXED):
        stretches.append(NAIVE)
    if method in (Method.GLOBAL, Method.MIXED):
        if bounds is None:
            raise ValueError(f"conversion {method} needs the bounds of the training scans")
        stretches.append(stretch_between(bounds))
    if method in (Method.LOCAL, Method.MIXED):
        stretches.append(stretch_between(scan_bounds(histogram(counts) if hist is None else hist)))
    return RawScan(np.ascontiguousarray(counts), tuple(stretches), size)


@lru_cache(maxsize=64)
def axis(source_px: int, target_px: int) -> Axis:
    """Where each target pixel takes its value from along one axis. Raises ValueError beyond 2**20 source pixels."""
    if not 1 <= source_px < 1 << (32 - INDEX_SHIFT) or target_px < 1:
        raise ValueError(f"axis {source_px} to {target_px} px: expected 1 to {(1 << (32 - INDEX_SHIFT)) - 1}")
    # Centre of target pixel t in source pixels: (t + 1/2) * source / target - 1/2, over the denominator 2 * target.
    numerator = (2 * np.arange(target_px, dtype=np.int64) + 1) * source_px - target_px
    index, remainder = np.divmod(numerator, 2 * target_px)
    weight = (remainder * WEIGHT_ONE + target_px) // (2 * target_px)
    weight[index < 0] = 0
    weight[index >= source_px - 1] = 0
    packed = np.zeros(-(-target_px // 4) * 4, np.uint32)
    packed[:target_px] = index.clip(0, source_px - 1) << INDEX_SHIFT | weight
    packed.flags.writeable = False
    return packed


def launch(source: Size, target: Size) -> Launch:
    """Which kernel makes `target` of `source`, and on how many threads."""
    if source == target:
        return Launch("stretch", (-(-target.height_px * target.width_px // 2048), 1, 1), (256, 1, 1))
    return Launch("stretch_resize", (-(-target.width_px // 128), -(-target.height_px // 8), 1), (32, 8, 1))


def frame(scan: RawScan, *, counts: int, image: int, columns: int, rows: int) -> bytes:
    """The kernels' argument: addresses of the scan's counts, its image and its two axes, and its stretches."""
    packed = np.zeros((), FRAME)
    packed["counts"], packed["image"], packed["columns"], packed["rows"] = counts, image, columns, rows
    packed["source_height"], packed["source_width"] = scan.counts.shape
    packed["target_height"], packed["target_width"] = scan.size
    packed["planes"] = len(scan.stretches)
    for place, stretch in enumerate(scan.stretches):
        low, high = stretch.factor & 0xFFFFFFFF, stretch.factor >> 32
        packed["stretches"][place] = (stretch.lo_counts, stretch.span_counts, low, high)
    return packed.tobytes()


def _table(stretch: Stretch) -> Table:
    """Grey level of every count, by the kernel's arithmetic."""
    above = np.arange(LEVELS, dtype=np.int64) - stretch.lo_counts
    levels: Table = np.minimum(above.clip(0, stretch.span_counts) * stretch.factor >> 32, 255).astype(np.uint8)
    return levels
