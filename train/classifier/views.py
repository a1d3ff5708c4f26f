"""Views: the ways a scan is shown to the frozen backbone, few enough to compute every one of them once.

View 0 is the scan as it is. Views 0 to 3 are the flip states of the paper's augmentation (J 2.4): 1 mirrored left to
right, 2 upside down, 3 both. The views after them are those of Elgendi et al. 2021: flips together with a small
rotation, shear and shift, drawn once per scan from its own hash.
"""

from __future__ import annotations

import cv2
import numpy as np

from edge.records import Image

FLIPS = 4
WARPED = 4
"""Further views of a scan, one per flip state."""
ROTATION_DEG = 5.0
SHEAR_DEG = 3.0
SHIFT = 0.03
"""Greatest shift, as a share of the side."""


def view_of_flips(is_mirrored: np.ndarray, is_upside_down: np.ndarray) -> np.ndarray:
    """Views int64 (n,) of two bool arrays (n,)."""
    return is_mirrored.astype(np.int64) + 2 * is_upside_down.astype(np.int64)


def view(image: Image, number: int, scan_sha256: str) -> Image:
    """One view of a converted scan uint8 (channels, height_px, width_px); C-contiguous."""
    if number >= FLIPS:
        image = _warped(image, np.random.default_rng([int(scan_sha256[:16], 16), number]))
    axes = [axis for axis, bit in ((2, 1), (1, 2)) if number & bit]
    return np.ascontiguousarray(np.flip(image, tuple(axes)))


def _warped(image: Image, rng: np.random.Generator) -> Image:
    """A turn, a shear and a shift about the centre; what comes into the picture repeats its edge."""
    height, width = image.shape[1:]
    turn, shear = np.deg2rad(rng.uniform(-1, 1, 2) * (ROTATION_DEG, SHEAR_DEG))
    shift = rng.uniform(-SHIFT, SHIFT, 2) * (width, height)
    cos, sin = np.cos(turn), np.sin(turn)
    linear = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, np.tan(shear)], [0, 1]])
    centre = np.array([width, height]) / 2
    matrix = np.column_stack([linear, centre - linear @ centre + shift])
    warped = [cv2.warpAffine(c, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE) for c in image]
    return np.stack(warped).astype(np.uint8)
