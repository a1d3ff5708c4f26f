"""What is kept of the classifier's reason map: its levels, its strongest place, and whether it adds up at all."""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from edge.contract.messages import BoxPx
from edge.errors import EvidenceError
from edge.evidence.record import ReasonScale
from edge.images.residual_boxes import MapGeometry
from edge.records import Size

MIDDLE: Final = 128
"""Grey level of a place that says what the threshold says."""
MAX_DIFFERENCE: Final = 0.02
"""How far the p that a map's mean stands for may be from the p that was decided by; int8 and float16 round."""
PLACE_SHARE: Final = 0.5
"""Cells around the strongest one belong to its place while they have this share of its strength."""

ReasonMap = npt.NDArray[np.float32]


def reason_levels(
    reason_map: ReasonMap,
    geometry: MapGeometry,
    image_size: Size,
    scan_size: Size,
    p_abnormal: float,
    threshold: float,
) -> tuple[npt.NDArray[np.uint8], ReasonScale]:
    """Grey levels (map_height, map_width) and how to read them.

    `reason_map`: float32 (map_height, map_width), see `EngineOutput`. Raises EvidenceError where its mean is not the
    answer: such a map explains nothing.
    """
    said = 1 / (1 + math.exp(-max(min(float(reason_map.mean()), 50.0), -50.0)))
    if not abs(said - p_abnormal) <= MAX_DIFFERENCE:  # written so that NaN fails
        raise EvidenceError(
            f"the classifier's map adds up to p {said:.3g}, the answer was {p_abnormal:.3g}",
            hint="the engine computes the map wrongly; the verdict itself is not touched by it",
        )
    beyond = reason_map - np.float32(log_odds(threshold))
    per_level = max(float(np.abs(beyond).max()), 1e-6) / (MIDDLE - 1)
    cells = _place(beyond)
    total = float(beyond.clip(0).sum())
    scale = ReasonScale(
        per_level=per_level,
        cell_px=geometry.cell_px,
        offset_px=geometry.offset_px,
        image_height_px=image_size.height_px,
        image_width_px=image_size.width_px,
        box_px=None if cells is None else _box(cells, geometry, image_size, scan_size),
        share=None if cells is None else min(float(beyond[cells].sum()) / total, 1.0),
    )
    return np.rint(beyond / per_level + MIDDLE).astype(np.uint8), scale


def log_odds(p: float) -> float:
    """log(p / (1 - p)), finite for every p from 0 to 1."""
    p = min(max(p, 1e-6), 1 - 1e-6)
    return math.log(p / (1 - p))


def _place(beyond: ReasonMap) -> npt.NDArray[np.bool_] | None:
    """The cells around the strongest one; None where no cell says more than the threshold."""
    peak = float(beyond.max())
    if peak <= 0:
        return None
    strong = (beyond >= PLACE_SHARE * peak).astype(np.uint8)
    _, labels = cv2.connectedComponents(strong, connectivity=4)
    return np.asarray(labels == labels.flat[int(beyond.argmax())])


def _box(cells: npt.NDArray[np.bool_], geometry: MapGeometry, image: Size, scan: Size) -> BoxPx:
    """Smallest box around cells, in pixels of the original scan and within it."""
    sides = []
    for axis, image_px, scan_px in ((0, image.height_px, scan.height_px), (1, image.width_px, scan.width_px)):
        numbers = np.flatnonzero(cells.any(axis=1 - axis))
        ends = (int(numbers[0]), int(numbers[-1]) + 1)
        first, last = ((geometry.offset_px + geometry.cell_px * end) * scan_px / image_px for end in ends)
        start = min(max(round(first), 0), scan_px - 1)
        sides.append((start, max(min(round(last), scan_px) - start, 1)))
    (y_px, height_px), (x_px, width_px) = sides
    return BoxPx(x_px=x_px, y_px=y_px, width_px=width_px, height_px=height_px)
