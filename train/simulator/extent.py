"""How large a painted anomaly is, from what it changed on the sheet."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from train.simulator.fields import Field

Mask = npt.NDArray[np.bool_]

MM_PER_PX = 0.085
"""Pitch of the simulated detector at full format, projected onto the sheet."""

EDGE_SHARE = 0.25
"""An anomaly ends where the change of thickness falls below this share of its greatest."""


@dataclass(frozen=True)
class Extent:
    """Length of the largest patch, along its longest side, and area of all patches, in pixels of the scan."""

    length_px: float
    area_px: int


def changed(before: Field, after: Field) -> Mask:
    """Where two states of a sheet, float32 (H, W), differ, as far as an anomaly reaches; nowhere if they are equal."""
    change = np.abs(after - before)
    greatest = float(change.max())
    return change > EDGE_SHARE * greatest if greatest > 0 else np.zeros(change.shape, np.bool_)


def extent(mask: Mask) -> Extent:
    """Extent of a mask (H, W); 0 where it is empty."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return Extent(0.0, 0)
    largest = max(contours, key=lambda contour: max(cv2.minAreaRect(contour)[1]))
    return Extent(max(cv2.minAreaRect(largest)[1]) + 1.0, int(mask.sum()))
