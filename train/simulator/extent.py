"""How large a painted anomaly is, from what it changed on the sheet."""

from dataclasses import dataclass

import cv2
import numpy as np

from train.simulator.fields import Field

MM_PER_PX = 0.085
"""Pitch of the simulated detector at full format, projected onto the sheet."""

EDGE_SHARE = 0.25
"""An anomaly ends where the change of thickness falls below this share of its greatest."""


@dataclass(frozen=True)
class Extent:
    """Length of the largest patch, along its longest side, and area of all patches, in pixels of the scan."""

    length_px: float
    area_px: int


def extent(before: Field, after: Field) -> Extent:
    """Extent of what differs between two states of a sheet, float32 (H, W); 0 where nothing does."""
    change = np.abs(after - before)
    greatest = float(change.max())
    if greatest <= 0:
        return Extent(0.0, 0)
    mask = (change > EDGE_SHARE * greatest).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    largest = max(contours, key=lambda contour: max(cv2.minAreaRect(contour)[1]))
    return Extent(max(cv2.minAreaRect(largest)[1]) + 1.0, int(mask.sum()))
