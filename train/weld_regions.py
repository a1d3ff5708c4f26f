"""The defects of a weld, region by region: how clearly each stands out, and what it adds to the weld around it.

Regions are 8-connected parts of the mask, the paper's "two-connectivity" (L 3.3). The paper sorted its defects into
three contrasts by eye; here a contrast-to-noise ratio does, so that anybody gets the same sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from train.welds import Weld

Contrast = Literal["high", "mid", "low"]
CONTRASTS: tuple[Contrast, ...] = get_args(Contrast)

HIGH_CNR_MIN = 5.0
LOW_CNR_MAX = 2.5
"""Rose's criterion: from a ratio of about 5 on nobody misses a detail; below half of that observers disagree."""

RING_NEAR_PX = 3
RING_FAR_PX = 15
"""The ring around a region begins beyond its blurred rim and ends before the weld's own shape changes much."""

_ROBUST = 1.4826  # median absolute deviation -> standard deviation of a normal distribution
_RING_LEAST_PX = 40


@dataclass(frozen=True, slots=True)
class Region:
    """One connected defect. `label` is its value in the map of `label_regions`; box is (top, left, height, width)."""

    label: int
    box: tuple[int, int, int, int]
    area_px: int
    cnr: float
    contrast: Contrast


def label_regions(mask: npt.NDArray[np.bool_]) -> tuple[int, npt.NDArray[np.int32]]:
    """Number of regions of a mask bool (h, w), and the map int32 (h, w) of them: 0 outside, 1, 2, ... inside."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    return count - 1, np.asarray(labels, np.int32)


def find_regions(weld: Weld) -> tuple[list[Region], npt.NDArray[np.int32]]:
    """All regions of a masked weld with their contrast, and the map of their labels."""
    assert weld.mask is not None
    _, labels = label_regions(weld.mask)
    _, _, boxes, _ = cv2.connectedComponentsWithStats(weld.mask.astype(np.uint8), connectivity=8)
    regions = []
    for label, (left, top, width, height, area) in enumerate(boxes[1:].tolist(), 1):
        ratio = contrast_to_noise(weld.image, weld.mask, labels, label, (top, left, height, width))
        regions.append(Region(label, (top, left, height, width), area, ratio, contrast_of(ratio)))
    return regions, labels


def contrast_of(cnr: float) -> Contrast:
    """The class of a contrast-to-noise ratio."""
    return "high" if cnr >= HIGH_CNR_MIN else "low" if cnr < LOW_CNR_MAX else "mid"


def contrast_to_noise(
    image: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.bool_],
    labels: npt.NDArray[np.int32],
    label: int,
    box: tuple[int, int, int, int],
) -> float:
    """|mean inside - mean of the ring around| / deviation of the ring, the weld's slope taken off both.

    The ring is what lies 3 to 15 px around the region and 3 px from any other defect. A plane fitted to it, robustly in
    two rounds, is taken off inside and ring; the deviation is the scaled median absolute one, at least half a grey
    level. A region without a ring of 40 px, buried among others, is measured against all that lies within 15 px and is
    no defect.
    """
    top, left, height, width = box
    rows = slice(max(0, top - RING_FAR_PX), top + height + RING_FAR_PX)
    columns = slice(max(0, left - RING_FAR_PX), left + width + RING_FAR_PX)
    inside = labels[rows, columns] == label
    distance_px = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    near = (distance_px <= RING_FAR_PX) & ~mask[rows, columns]
    clear = cv2.dilate(mask[rows, columns].astype(np.uint8), np.ones((2 * RING_NEAR_PX + 1,) * 2, np.uint8)) == 0
    ring = near & clear
    if ring.sum() < _RING_LEAST_PX:
        ring = near
    grey = image[rows, columns].astype(np.float64)
    y, x = np.nonzero(ring)
    design = np.column_stack([np.ones(y.size), y - y.mean(), x - x.mean()])
    values, kept = grey[ring], np.ones(y.size, np.bool_)
    for _ in range(2):
        plane, *_ = np.linalg.lstsq(design[kept], values[kept], rcond=None)
        rest = values - design @ plane
        noise = max(0.5, _ROBUST * float(np.median(np.abs(rest - np.median(rest)))))
        kept = np.abs(rest) < 3 * noise
    inner_y, inner_x = np.nonzero(inside)
    expected = plane[0] + plane[1] * (inner_y - y.mean()) + plane[2] * (inner_x - x.mean())
    return float(abs((grey[inside] - expected).mean()) / noise)


def additive_map(weld: Weld) -> npt.NDArray[np.float32]:
    """W * delta of the whole weld, float32 (h, w) in [-1, 1]: in each region the image less its 1-px border's mean.

    0 outside the regions. No pixel of a border belongs to another region: it would touch this one, and be part of it.
    """
    assert weld.mask is not None
    count, labels = label_regions(weld.mask)
    _, _, boxes, _ = cv2.connectedComponentsWithStats(weld.mask.astype(np.uint8), connectivity=8)
    delta = np.zeros(weld.image.shape, np.float32)
    for label in range(1, count + 1):
        left, top, width, height, _ = boxes[label].tolist()
        rows, columns = slice(max(0, top - 1), top + height + 1), slice(max(0, left - 1), left + width + 1)
        inside = labels[rows, columns] == label
        border = (cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0) & ~inside
        grey = weld.image[rows, columns].astype(np.float32)
        delta[rows, columns][inside] = (grey[inside] - grey[border].mean()) / np.float32(255)
    return delta
