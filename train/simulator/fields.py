"""Random fields and soft shapes: the brushes with which the simulator paints.

Everything here is numpy and OpenCV on float32, made so that a full-format field costs a few milliseconds: what
is smooth is drawn on a coarse grid and enlarged, what is small is drawn in its own window.
"""

from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]  # (N, 2) positions (x, y) in px
Counts = npt.NDArray[np.uint16]

_SUBPIXEL_BITS = 4  # OpenCV's fixed-point fraction for anti-aliased polygons: 1/16 px


def generator(*path: int) -> np.random.Generator:
    """An independent random stream for a path of non-negative integers, the same for ever for the same path."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(path)))


def white(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    """Standard normal noise, float32 (H, W)."""
    return rng.standard_normal(shape, dtype=np.float32)


def smooth(image: Field, sigma_y: float, sigma_x: float) -> Field:
    """Gaussian blur of a float32 (H, W) image; a sigma (px) under 0.15 leaves that axis alone."""
    if max(sigma_y, sigma_x) < 0.15:
        return image
    blurred = cv2.GaussianBlur(
        image, (0, 0), sigmaX=max(sigma_x, 0.15), sigmaY=max(sigma_y, 0.15), borderType=cv2.BORDER_REFLECT
    )
    return np.asarray(blurred, dtype=np.float32)


def enlarge(image: Field, shape: tuple[int, int]) -> Field:
    """Bicubic enlargement of a float32 image to (H, W)."""
    return np.asarray(cv2.resize(image, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def correlated(rng: np.random.Generator, shape: tuple[int, int], length_y: float, length_x: float) -> Field:
    """Gaussian-correlated noise, float32 (H, W), mean about 0 and standard deviation 1; lengths (sigma) in px.

    Long correlations are drawn on a grid of a little under one length and enlarged, which is what keeps a
    full-format field cheap.
    """
    step_y, step_x = max(1.0, length_y / 1.5), max(1.0, length_x / 1.5)
    coarse = (int(np.ceil(shape[0] / step_y)) + 4, int(np.ceil(shape[1] / step_x)) + 4)
    grid = smooth(white(rng, coarse), length_y / step_y, length_x / step_x)
    grid /= max(float(grid.std()), 1e-6)
    return enlarge(grid[2:-2, 2:-2], shape)


def profile(rng: np.random.Generator, size: int, length: float) -> Field:
    """Correlated noise along one axis: float32 (size,), standard deviation about 1, length (sigma) in px."""
    row: Field = correlated(rng, (4, size), 0.0, max(length, 0.5))[1]
    return row


def octaves(rng: np.random.Generator, shape: tuple[int, int], longest: float, shortest: float) -> Field:
    """1/f-like noise: octaves of correlated noise, each half as strong as the one twice as long; sd about 1."""
    total = np.zeros(shape, dtype=np.float32)
    length, weight, power = longest, 1.0, 0.0
    while length >= shortest:
        total += np.float32(weight) * correlated(rng, shape, length, length)
        power += weight * weight
        length, weight = length / 2, weight * 0.6
    return total / np.float32(np.sqrt(max(power, 1e-6)))


def outline(rng: np.random.Generator, radius: float, roughness: float, elongation: float = 1.0) -> Field:
    """An irregular closed outline about the origin: float32 (64, 2) points (x, y) in px, mean radius `radius`."""
    angle = np.linspace(0.0, 2 * np.pi, 64, endpoint=False)
    reach = np.ones_like(angle)
    for harmonic in range(2, 8):
        size, phase = rng.normal() * roughness / harmonic, rng.uniform(0, 2 * np.pi)
        reach += size * np.cos(harmonic * angle + phase)
    reach = radius * np.clip(reach, 0.3, 2.0)
    x, y = reach * np.cos(angle) * np.sqrt(elongation), reach * np.sin(angle) / np.sqrt(elongation)
    turn = rng.uniform(0, np.pi)
    turned = (x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn))
    return np.stack(turned, axis=1).astype(np.float32)


def polygon(
    shape: tuple[int, int], outlines: Iterable[Field], softness: float = 0.0
) -> tuple[tuple[slice, slice], Field] | None:
    """Coverage of filled polygons, in the smallest window that holds them.

    `outlines` are float32 (N, 2) points (x, y) in px of an image of `shape` (H, W); `softness` (px) blurs the rim.
    Returns the window (row slice, column slice) and its coverage, float32 in 0..1, or None if all lie outside.
    """
    rings = [np.asarray(ring, dtype=np.float32) for ring in outlines]
    points = np.concatenate(rings)
    pad = int(np.ceil(3 * softness)) + 2
    left, top = (max(0, int(v) - pad) for v in points.min(axis=0))
    right = min(shape[1], int(points[:, 0].max()) + pad + 1)
    bottom = min(shape[0], int(points[:, 1].max()) + pad + 1)
    if right <= left or bottom <= top:
        return None
    mask = np.zeros((bottom - top, right - left), dtype=np.uint8)
    origin = np.array([left, top], dtype=np.float32)
    for ring in rings:
        fixed = np.round((ring - origin) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(mask, [fixed], color=(255,), lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)
    cover = smooth(mask.astype(np.float32) / np.float32(255), softness, softness)
    return (slice(top, bottom), slice(left, right)), cover


def ribbon(path: Field, half_width: Field) -> Field:
    """The outline of a stroke: `path` float32 (N, 2) px, `half_width` float32 (N,) px -> float32 (2N, 2)."""
    along = np.gradient(path, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-6)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) * half_width[:, None]
    return np.concatenate([path + across, (path - across)[::-1]]).astype(np.float32)
