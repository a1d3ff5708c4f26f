"""What a film shows beside the weld: wires of image quality indicators, lead letters, pencil; found, not drawn by hand.

All are known objects and no indications. Masks are bool (h, w), true where something is to be ignored.
"""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

_WIRE_MOST_DEG: Final = 8
_WIRE_PX = 7
_BESIDE_PX = 9
_WIRE_BLOCKS = 6
_WIRE_LEAST = 4.0
"""Deviations of the columns' medians, in all but two of the blocks of rows: a wire crosses the weld."""
_LETTER_PX = 81
_LETTER_LEAST = 20.0
_LETTER_HEIGHT_PX = 50
_MARGIN_PX = 8

Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


def markers(image: Grey) -> Mask:
    """Wires and letters of a film."""
    return wires(image) | letters(image)


def wires(image: Grey) -> Mask:
    """Bright thin straight lines across the weld, up to 8 degrees off the vertical (DIN wires, EN 462).

    The image less its background is sheared until a wire lies in one column; the columns' medians, block of rows by
    block of rows, then leave of everything shorter nothing.
    """
    grey = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.0)
    # Brighter than both sides: beside a crack one side is dark, and the mean of both would make a wire of the other.
    beside = cv2.blur(grey, (_BESIDE_PX, 1), borderType=cv2.BORDER_REFLECT_101)
    away = _WIRE_PX // 2 + _BESIDE_PX // 2 + 2
    wide = np.pad(beside, ((0, 0), (away, away)), mode="edge")
    flat = cv2.blur(grey, (3, 1)) - np.maximum(wide[:, : -2 * away], wide[:, 2 * away :])
    height, width = flat.shape
    rows = np.arange(height)[:, None]
    best = np.zeros(width, np.float32)
    lean = np.zeros(width, np.float32)
    for angle in np.arange(-_WIRE_MOST_DEG, _WIRE_MOST_DEG + 0.1, 0.5):
        slope = math.tan(math.radians(float(angle)))
        shift = np.rint((rows - height / 2) * slope).astype(int)
        columns = np.clip(np.arange(width)[None, :] + shift, 0, width - 1)
        sheared = np.take_along_axis(flat, columns, axis=1)
        blocks = np.stack([np.median(block, axis=0) for block in np.array_split(sheared, _WIRE_BLOCKS)])
        blocks -= np.median(blocks, axis=1, keepdims=True)
        size = 1.4826 * np.median(np.abs(blocks), axis=1, keepdims=True) + 0.05
        score = np.sort(blocks / size, axis=0)[_WIRE_BLOCKS // 2 - 1]  # what all but two of six blocks exceed
        better = score > best
        best[better], lean[better] = score[better], slope
    peaks = np.flatnonzero((best > _WIRE_LEAST) & (best == cv2.dilate(best[None, :], np.ones((1, 25), np.uint8))[0]))
    mask = np.zeros((height, width), np.uint8)
    for column in peaks.tolist():
        ends = [(round(column + (row - height / 2) * float(lean[column])), row) for row in (0, height - 1)]
        cv2.line(mask, ends[0], ends[1], 1, 2 * _WIRE_PX + 1)
    return mask > 0


def letters(image: Grey) -> Mask:
    """Lead letters and numbers, bright, and pencil, dark: strokes narrower than 81 px, of one size, with hard edges."""
    smooth = cv2.GaussianBlur(image, (0, 0), 2.0)
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_LETTER_PX, _LETTER_PX))
    mask = np.zeros(image.shape, np.uint8)
    for operation in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT):
        strokes = (cv2.morphologyEx(smooth, operation, element) > _LETTER_LEAST).astype(np.uint8)
        count, labels, boxes, _ = cv2.connectedComponentsWithStats(strokes, connectivity=8)
        for label in range(1, count):
            _, _, _, high, area = boxes[label].tolist()
            if high >= _LETTER_HEIGHT_PX and area >= _LETTER_HEIGHT_PX * 8:
                mask[labels == label] = 1
    reach = 2 * _MARGIN_PX + 1
    return cv2.dilate(mask, np.ones((reach, reach), np.uint8)) > 0
