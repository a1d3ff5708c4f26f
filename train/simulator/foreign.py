"""Images that are no electrodes, or not a scan of one whole electrode, for a gate that must refuse them.

All are uint16 with counts in 1700-2800, about an electrode's size and with the detector's noise, so that nothing but
content betrays them. What is drawn from nothing is in `foreign_drawn`; here are the electrodes gone wrong.
"""

from collections.abc import Callable

import cv2
import numpy as np

from edge.errors import EdgeError
from train.simulator.electrode import HEIGHT_RANGE_PX, WIDTH_RANGE_PX
from train.simulator.fields import Counts, Field, generator
from train.simulator.foreign_drawn import Frame, correlated_noise, noisy, other_part, scene, weld, white_noise
from train.simulator.simulate import SCALE_RANGE, render_scan

__all__ = ["FOREIGN_KINDS", "foreign_scan"]

LOW_COUNTS, HIGH_COUNTS = 1700, 2800
_STREAM = 31
_LOTS = 12  # the electrodes are of lots 1..12 of the same seed: sheets the gate knows, seen as it must not be


def foreign_scan(kind: str, seed: int, index: int, scale: float = 1.0) -> Counts:
    """One image of a foreign kind (of `FOREIGN_KINDS`), the same for the same arguments.

    uint16 (H, W), 2053-2115 x 1119-1219 px times `scale`, counts in 1700-2800. Raises EdgeError for an unknown kind,
    a negative number or a scale outside 0.05..1.
    """
    if kind not in _MAKERS:
        raise EdgeError(f"unknown foreign kind {kind!r}", hint=f"use one of: {', '.join(FOREIGN_KINDS)}")
    if min(seed, index) < 0 or not SCALE_RANGE[0] <= scale <= SCALE_RANGE[1]:
        raise EdgeError(
            f"seed {seed}, index {index}, scale {scale} name no image",
            hint=f"numbers from 0 up and a scale from {SCALE_RANGE[0]} to {SCALE_RANGE[1]}",
        )
    rng = generator(_STREAM, seed, index, FOREIGN_KINDS.index(kind))
    height, width = (int(rng.integers(low, high + 1)) for low, high in (HEIGHT_RANGE_PX, WIDTH_RANGE_PX))
    counts = _MAKERS[kind](Frame(rng, (round(height * scale), round(width * scale)), seed, scale))
    return np.clip(np.round(counts), LOW_COUNTS, HIGH_COUNTS).astype(np.uint16)


def half_rotated(frame: Frame) -> Field:
    """Half an electrode, lying 10 to 80 degrees askew in air."""
    rng, (height, width) = frame.rng, frame.shape
    sheet = _electrode(frame)
    rows, columns = sheet.shape[0] // 2, sheet.shape[1] // 2
    half = (sheet[:rows], sheet[rows:], sheet[:, :columns], sheet[:, columns:])[int(rng.integers(0, 4))]
    centre = (half.shape[1] / 2, half.shape[0] / 2)
    pose = cv2.getRotationMatrix2D(centre, float(rng.uniform(10, 80) * rng.choice([-1.0, 1.0])), 1.0)
    aside = rng.uniform(-0.08, 0.08, size=2)
    move = np.array([width * (0.5 + aside[0]) - centre[0], height * (0.5 + aside[1]) - centre[1]])
    pose[:, 2] = pose[:, 2] + move
    laid = np.asarray(cv2.warpAffine(np.ascontiguousarray(half), pose, (width, height), borderValue=(0.0,)))
    air = noisy(rng, np.full(frame.shape, _air_counts(sheet), dtype=np.float32))
    return np.where(laid > 0.9 * sheet.min(), laid, air).astype(np.float32)


def inverted(frame: Frame) -> Field:
    """An electrode in negative, as from a wrong photometric setting: dark air, bright coating."""
    return np.float32(LOW_COUNTS + HIGH_COUNTS) - _electrode(frame)


def half_empty(frame: Frame) -> Field:
    """The sheet came late or askew by half its size: air where part of it should be."""
    rng, sheet = frame.rng, _electrode(frame)
    axis = int(rng.integers(0, 2))
    moved = int(rng.uniform(0.35, 0.65) * sheet.shape[axis]) * (1 if rng.uniform() < 0.5 else -1)
    shifted = np.roll(sheet, moved, axis=axis)
    gone = slice(0, moved) if moved > 0 else slice(moved, None)
    empty = shifted[gone] if axis == 0 else shifted[:, gone]
    empty[:] = noisy(rng, np.full(empty.shape, _air_counts(sheet), dtype=np.float32))
    return shifted


def double_exposure(frame: Frame) -> Field:
    """Two sheets in one exposure, the second shifted and turned."""
    rng = frame.rng
    first, second = _electrode(frame), _electrode(frame)
    size = np.array([first.shape[1], first.shape[0]])
    angle = float(rng.uniform(3, 14) * rng.choice([-1.0, 1.0]))
    pose = cv2.getRotationMatrix2D((second.shape[1] / 2, second.shape[0] / 2), angle, 1.0)
    pose[:, 2] = pose[:, 2] + rng.uniform(0.05, 0.16, size=2) * rng.choice([-1.0, 1.0], size=2) * size
    extent = (first.shape[1], first.shape[0])
    turned = np.asarray(cv2.warpAffine(second, pose, extent, borderValue=(_air_counts(second),)))
    share = np.float32(rng.uniform(0.4, 0.6))
    return (share * first + (np.float32(1) - share) * turned).astype(np.float32)


def dead_rows(frame: Frame) -> Field:
    """A detector that lost rows: bands that read nothing, full, or their neighbour again and again."""
    rng, sheet = frame.rng, _electrode(frame)
    height = sheet.shape[0]
    for _ in range(int(rng.integers(3, 10))):
        first, deep = int(rng.uniform(0, height)), max(2, int(rng.uniform(15, 90) * frame.scale))
        fault = int(rng.integers(0, 3))
        sheet[first : first + deep] = (LOW_COUNTS, HIGH_COUNTS, sheet[first].copy())[fault]
    sheet[rng.integers(0, height, size=int(rng.integers(10, 60)))] = LOW_COUNTS
    return sheet


def _electrode(frame: Frame) -> Field:
    """A good sheet without its hot pixels, float32 (H, W) counts; not quite the frame's shape."""
    # Indices beyond any lot's: the gate has not been trained on these very sheets.
    lot, index = int(frame.rng.integers(1, _LOTS + 1)), int(frame.rng.integers(10_000, 20_000))
    counts = render_scan(frame.seed, lot, index, scale=frame.scale)
    return np.minimum(counts, HIGH_COUNTS).astype(np.float32)


def _air_counts(sheet: Field) -> float:
    return float(np.percentile(sheet[:3], 80))


_MAKERS: dict[str, Callable[[Frame], Field]] = {
    "scene": scene,
    "weld": weld,
    "white-noise": white_noise,
    "correlated-noise": correlated_noise,
    "half-rotated": half_rotated,
    "inverted": inverted,
    "half-empty": half_empty,
    "double-exposure": double_exposure,
    "dead-rows": dead_rows,
    "other-part": other_part,
}
FOREIGN_KINDS: tuple[str, ...] = tuple(_MAKERS)
