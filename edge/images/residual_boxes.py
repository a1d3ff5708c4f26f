"""Where on the scan the gate saw something it does not know."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge.records import Box, Size

WORST_WINDOWS = 5
"""Boxes named in a verdict: enough to send a person to the place, few enough to read."""


@dataclass(frozen=True, slots=True)
class MapGeometry:
    """Cell (i, j) of the residual map covers network-input pixels from offset + cell * (i, j)."""

    cell_px: int
    offset_px: int


def worst_windows(
    residual_map: npt.NDArray[np.float32], geometry: MapGeometry, input_size: Size, scan_size: Size, threshold: float
) -> tuple[Box, ...]:
    """Cells above the gate's threshold, worst first, as boxes on the original scan.

    `residual_map`: float32 (map_height, map_width), largest |window mean| of the residual per cell.
    """
    flat = np.nan_to_num(residual_map.ravel(), nan=np.inf)
    above = np.flatnonzero(flat > threshold)  # few or none of thousands: only these are sorted
    worst = above[np.argsort(-flat[above], kind="stable")[:WORST_WINDOWS]]
    scale_y = scan_size.height_px / input_size.height_px
    scale_x = scan_size.width_px / input_size.width_px
    boxes = []
    for index in worst:
        row, column = divmod(int(index), residual_map.shape[1])
        y_px, height_px = _side(geometry, row, scale_y, scan_size.height_px)
        x_px, width_px = _side(geometry, column, scale_x, scan_size.width_px)
        boxes.append(Box(x_px=x_px, y_px=y_px, width_px=width_px, height_px=height_px))
    return tuple(boxes)


def _side(geometry: MapGeometry, cell: int, scale: float, scan_px: int) -> tuple[int, int]:
    """First pixel and pixel count of a row or column of cells on the scan, and within it: cells may begin before it."""
    first_px = round((geometry.offset_px + cell * geometry.cell_px) * scale)
    last_px = min(first_px + round(geometry.cell_px * scale), scan_px)
    return max(first_px, 0), last_px - max(first_px, 0)
