"""The defects of a weld, region by region: how clearly each stands out, and what it adds to the weld around it.

Regions are 8-connected parts of the mask, the paper's "two-connectivity" (L 3.3). The paper sorted its defects into
three contrasts by eye; here a contrast-to-noise ratio does, so that anybody gets the same sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from train.papers.welds.images import Weld

Contrast = Literal["high", "mid", "low"]
CONTRASTS: tuple[Contrast, ...] = get_args(Contrast)

HIGH_CNR_MIN = 7.0
LOW_CNR_MAX = 4.0
"""Set by looking at regions in order of their ratio: from 7 on each is plain to see, and below 4 most could as well be
film grain or the weld's own shape. (Half a region's pixels of pure noise, the brighter ones, have a ratio of 0.8.)"""

RING_NEAR_PX = 3
RING_FAR_PX = 15
"""The ring around a region begins beyond its blurred rim, and ends before the noise of the film is another."""

_FIT_SIGMA_PX = 10.0
_NOISE_LEAST = 0.5  # grey levels: an 8-bit image knows no less
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


def find_regions(weld: Weld) -> list[Region]:
    """All regions of a masked weld, with their contrast: a second or so of arithmetic, so do it once."""
    assert weld.mask is not None
    _, labels = label_regions(weld.mask)
    _, _, boxes, _ = cv2.connectedComponentsWithStats(weld.mask.astype(np.uint8), connectivity=8)
    regions = []
    for label, (left, top, width, height, area) in enumerate(boxes[1:].tolist(), 1):
        ratio = contrast_to_noise(weld.image, weld.mask, labels, label, (top, left, height, width))
        regions.append(Region(label, (top, left, height, width), area, ratio, contrast_of(ratio)))
    return regions


def contrast_of(cnr: float) -> Contrast:
    """The class of a contrast-to-noise ratio."""
    return "high" if cnr >= HIGH_CNR_MIN else "low" if cnr < LOW_CNR_MAX else "mid"


def of_contrast(regions: Sequence[Region], contrast: Contrast | None) -> list[Region]:
    """The regions of one contrast, or all."""
    return [region for region in regions if contrast in (None, region.contrast)]


def contrast_to_noise(
    image: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.bool_],
    labels: npt.NDArray[np.int32],
    label: int,
    box: tuple[int, int, int, int],
) -> float:
    """|mean of the region's stronger half, less what the weld has there| / deviation of the ring around it.

    What the weld has there is fitted from its clear pixels, 3 px from any defect, by a plane of its own at every pixel,
    Gaussian weights falling off over 10 px or the greatest distance to the region's rim. The stronger half are the
    pixels that deviate most in the direction of the region's mean: masks are drawn wide, and a pore may have a pale
    tail. The ring are the clear pixels within 15 px of the region, less their own fit; its deviation is the scaled
    median absolute one. Where fewer than 40 px are clear, those next to a defect count too.
    """
    top, left, height, width = box
    depth = cv2.distanceTransform(
        np.pad(labels[top : top + height, left : left + width] == label, 1).astype(np.uint8), cv2.DIST_L2, 5
    )
    sigma_px = max(_FIT_SIGMA_PX, float(depth.max()))
    around = int(3 * sigma_px) + RING_NEAR_PX
    rows = slice(max(0, top - around), top + height + around)
    columns = slice(max(0, left - around), left + width + around)
    inside = labels[rows, columns] == label
    near_defects = cv2.dilate(mask[rows, columns].astype(np.uint8), np.ones((2 * RING_NEAR_PX + 1,) * 2, np.uint8)) > 0
    within = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 5) <= RING_FAR_PX
    if (within & ~near_defects).sum() < _RING_LEAST_PX:
        near_defects = mask[rows, columns]
    ring = within & ~near_defects
    grey = image[rows, columns].astype(np.float32)
    expected = fitted(grey, ~near_defects, sigma_px, inside | ring)
    rest = grey[ring] - expected[ring]
    noise = max(_NOISE_LEAST, _ROBUST * float(np.median(np.abs(rest - np.median(rest)))))
    deviation = np.sort(grey[inside] - expected[inside])
    half = (deviation.size + 1) // 2
    stronger = deviation[-half:] if deviation.mean() > 0 else deviation[:half]
    return float(abs(stronger.mean()) / noise)


def fitted(
    grey: npt.NDArray[np.float32], clear: npt.NDArray[np.bool_], sigma_px: float, where: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """At each pixel of `where`, the level there of the plane through the clear pixels around it, Gaussian weights.

    All (h, w); elsewhere the result is 0. A little ridge on both slopes keeps a plane level that has
    clear pixels on one side only.
    """
    reach = int(3 * sigma_px)
    steps = np.arange(-reach, reach + 1) / sigma_px
    bell = np.exp(-(steps**2) / 2) / np.exp(-(steps**2) / 2).sum()
    kernels = (bell, bell * steps, bell * steps**2)

    def moment(values: npt.NDArray[np.float32], along: int, down: int) -> npt.NDArray[np.float64]:
        filtered = cv2.sepFilter2D(values, cv2.CV_64F, kernels[along], kernels[down], borderType=cv2.BORDER_CONSTANT)
        return np.asarray(filtered[where], np.float64)

    weights = clear.astype(np.float32)
    middle = grey[clear].mean()
    values = (grey - middle) * weights
    one, x, y = moment(weights, 0, 0), moment(weights, 1, 0), moment(weights, 0, 1)
    ridge = 0.05 * one + 1e-6
    xx, xy, yy = moment(weights, 2, 0) + ridge, moment(weights, 1, 1), moment(weights, 0, 2) + ridge
    normal = np.stack([one + 1e-9, x, y, x, xx, xy, y, xy, yy], axis=-1).reshape(-1, 3, 3)
    right = np.stack([moment(values, 0, 0), moment(values, 1, 0), moment(values, 0, 1)], axis=-1)
    level = np.linalg.solve(normal, right[..., None])[:, 0, 0]
    levels = np.zeros(grey.shape)
    levels[where] = level + middle
    return levels


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
