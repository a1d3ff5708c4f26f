"""Perturbations of the weld benchmark: natural-image indications to the letter, and the six synthetic anomalies.

All are W * delta, float32 (192, 192) in [-1, 1], to be added to an accepted patch in [0, 1] (L 3.3). The gate for
electrodes trains on its own variant, `train.gate.perturb.indications`: of both signs, since electrodes fail both ways.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from train.gate.perturb import PATCH_PX, Patch, lorentzian, walked_region
from train.papers.welds.patches import RIM_PX

Anomaly = Literal[
    "circular-hollow-inclusion", "dogbone", "elongated", "partial-circle", "raster", "circular-indication"
]
TESTED: tuple[Anomaly, ...] = ("circular-hollow-inclusion", "dogbone", "elongated", "partial-circle", "raster")
LEARNT: tuple[Anomaly, ...] = ("circular-indication", "partial-circle")
"""Those with test sets, and those that the patch classifier is shown in training."""

REGIONS = (1, 4)
REGION_PX = (10, 8000)
ELONGATION = (1.0, 40.0)
AMPLITUDE = (0.05, 0.2)
GAUSSIAN_SIGMA_PX = (2.0, 9.0)
LORENTZIAN_HALF_WIDTH_PX = (0.15, 0.4)

PRINTED_SIGMA_PX = 9.0
"""Blur of the synthetic anomalies as printed; it leaves the elongated one a fifth of its amplitude."""

SHARP_SIGMA_PX = 2.0
"""Blur that keeps the shapes: the lower limit of the paper's Gaussian, its estimate of the real system's blur."""

Mask = npt.NDArray[np.bool_]


def natural_indications(texture: Patch, rng: np.random.Generator) -> Patch:
    """1 to 4 regions of a grey photograph float32 (192, 192) in [0, 1], each scaled, all blurred together.

    A region's brightest pixel has the drawn amplitude, which is positive: the paper names no negative one. Gaussian or
    Lorentzian blur are equally likely.
    """
    total = np.zeros((PATCH_PX, PATCH_PX), np.float32)
    for _ in range(int(rng.integers(REGIONS[0], REGIONS[1] + 1))):
        size_px = int(rng.integers(REGION_PX[0], REGION_PX[1] + 1))
        region = walked_region(rng, PATCH_PX, size_px, float(rng.uniform(*ELONGATION)))
        values = np.where(region, texture, np.float32(0))
        peak = float(values.max())
        amplitude = np.float32(rng.uniform(*AMPLITUDE))
        # A region all black in its photograph has no grey values to scale: it becomes a flat one.
        total += (values / np.float32(peak) if peak > 0 else region.astype(np.float32)) * amplitude
    if rng.random() < 0.5:
        return np.asarray(cv2.GaussianBlur(total, (0, 0), float(rng.uniform(*GAUSSIAN_SIGMA_PX))), np.float32)
    kernel = lorentzian(float(rng.uniform(*LORENTZIAN_HALF_WIDTH_PX)))
    return np.asarray(cv2.filter2D(total, -1, kernel, borderType=cv2.BORDER_CONSTANT), np.float32)


def anomaly(kind: Anomaly, rng: np.random.Generator, sigma_px: float) -> Patch:
    """One synthetic anomaly at a random place and angle, blurred. Its amplitude is that before the blur, as printed.

    It lies as a whole within the part of the patch that is reconstructed, blur aside.
    """
    shape, amplitude, reach_px = _shape_of(kind, rng)
    low, high = RIM_PX + reach_px, PATCH_PX - 1 - RIM_PX - reach_px
    row, column = rng.uniform(low, high, size=2)
    drawn = shape(*turned_grid(row, column, float(rng.uniform(0, 360)))).astype(np.float32) * np.float32(amplitude)
    return np.asarray(cv2.GaussianBlur(drawn, (0, 0), sigma_px, borderType=cv2.BORDER_CONSTANT), np.float32)


def turned_grid(row: float, column: float, angle_deg: float) -> tuple[Patch, Patch]:
    """Coordinates along and across a shape turned by an angle about (row, column), of every pixel of a patch, px."""
    rows, columns = np.mgrid[0:PATCH_PX, 0:PATCH_PX].astype(np.float32)
    y, x = rows - np.float32(row), columns - np.float32(column)
    cosine, sine = np.float32(np.cos(np.deg2rad(angle_deg))), np.float32(np.sin(np.deg2rad(angle_deg)))
    return x * cosine + y * sine, y * cosine - x * sine


def disc(along: Patch, across: Patch, diameter_px: float) -> Mask:
    """The pixels within a circle."""
    return np.asarray(np.hypot(along, across) <= diameter_px / 2)


def ring(along: Patch, across: Patch, spread_deg: float = 360.0) -> Mask:
    """Outer diameter 36 px, inner 18 px; of it an arc of `spread_deg`."""
    radius_px = np.hypot(along, across)
    within = np.abs(np.rad2deg(np.arctan2(across, along))) <= spread_deg / 2
    return np.asarray((radius_px <= 18) & (radius_px >= 9) & within)


def dogbone(along: Patch, across: Patch) -> Mask:
    """About 8 x 30 px: two discs of 8 px, and a shaft half as wide between them."""
    ends = disc(along - 11, across, 8) | disc(along + 11, across, 8)
    return np.asarray(ends | bar(along, across, 22, 4))


def bar(along: Patch, across: Patch, length_px: float, width_px: float) -> Mask:
    """A rectangle."""
    return np.asarray((np.abs(along) <= length_px / 2) & (np.abs(across) <= width_px / 2))


def raster(along: Patch, across: Patch) -> Mask:
    """50 x 50 px: 3 x 3 discs of 14 px, 18 px apart, like the holes of a machine part."""
    # The paper says of its raster only that parts of it resemble circular indications.
    nearest_along, nearest_across = (18 * np.clip(np.rint(axis / 18), -1, 1) for axis in (along, across))
    return disc(along - nearest_along, across - nearest_across, 14)


def _shape_of(kind: Anomaly, rng: np.random.Generator) -> tuple[Callable[[Patch, Patch], Mask], float, float]:
    """Shape of one kind over turned coordinates, its amplitude, and its reach from the middle, px."""
    if kind == "circular-hollow-inclusion":
        return ring, 0.2, 18
    if kind == "dogbone":
        return dogbone, 0.2, 15
    if kind == "elongated":
        return partial(bar, length_px=25, width_px=5), 0.2, 13
    if kind == "partial-circle":
        return partial(ring, spread_deg=float(rng.uniform(10, 180))), 0.1, 18
    if kind == "raster":
        return raster, 0.2, 36
    diameter_px = float(rng.uniform(20, 60))
    return partial(disc, diameter_px=diameter_px), -0.1, diameter_px / 2
