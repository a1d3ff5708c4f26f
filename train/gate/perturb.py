"""Perturbations of patches for the gate's training: what it must not learn to reproduce.

`sni` is the paper's synthetic natural-image indications (L 3.1), grown over grey photographs; `shapes` the same regions
over textures drawn from nothing, so that no photographs are needed; `foreign` replaces part or all of a patch by
something that is no electrode, or an electrode lying askew. Patches are float32 (side, side) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from train.errors import DataError
from train.files import files_below, is_picture_name, read_picture

Patch = npt.NDArray[np.float32]
Grey = npt.NDArray[np.uint8]
Perturbation = Literal["sni", "shapes", "foreign", "none"]
Answer = Literal["clean", "black"]

PATCH_PX = 192
LORENTZIAN_REACH_PX = 7


def read_photos(folder: Path, at_most: int = 400) -> list[Patch]:
    """Grey photographs in [0, 1], each at least a patch on every side. Raises DataError where there are none."""
    paths = [path for path in files_below(folder) if is_picture_name(path.name)]
    photos: list[Patch] = []
    for path in paths:
        image = read_picture(path, cv2.IMREAD_GRAYSCALE)
        if image is not None and min(image.shape) >= PATCH_PX:
            photos.append(image.astype(np.float32) / np.float32(255))
        if len(photos) == at_most:
            break
    if not photos:
        raise DataError(
            f"no photographs of {PATCH_PX} px and more on each side in {folder}",
            hint="give another folder; `edge-train gate` can do without: --perturbation shapes",
        )
    return photos


def draw_perturbation(
    kind: Perturbation, rng: np.random.Generator, donors: Sequence[Grey] = (), photos: Sequence[Patch] = ()
) -> tuple[Patch, npt.NDArray[np.bool_]]:
    """W * delta, to be added to a patch, and W where the patch is to be black before: true for `foreign` alone.

    `donors` are whole ordinary scans uint8 (h, w), for `foreign`; `photos` are for `sni`. What to answer it with is
    the clean patch (L 3.1), or with `black` foreign content is answered with black instead, far from everything: what a
    replaced part looked like cannot be known, and an ordinary grey hides foreign content of it.
    """
    if kind == "foreign":
        return replaced_by_foreign(rng, donors)
    texture = photo_texture(rng, photos) if kind == "sni" else leaves(rng, PATCH_PX)
    return indications(rng, texture), np.zeros(texture.shape, np.bool_)


def photo_texture(rng: np.random.Generator, photos: Sequence[Patch]) -> Patch:
    """A random patch of a random photograph."""
    photo = photos[int(rng.integers(len(photos)))]
    top, left = (int(rng.integers(0, side - PATCH_PX + 1)) for side in photo.shape)
    return photo[top : top + PATCH_PX, left : left + PATCH_PX]


def indications(rng: np.random.Generator, texture: Patch) -> Patch:
    """W * delta of L 3.1: 1-4 regions of 10-8000 px grown over a texture, amplitude 0.05-0.2, smoothed.

    Regions are bright or dark by chance: the paper's are bright, but electrodes fail both ways.
    """
    total = np.zeros(texture.shape, np.float32)
    for _ in range(int(rng.integers(1, 5))):
        region = walked_region(rng, texture.shape[0], int(rng.uniform(10, 8000)), float(rng.uniform(1, 40)))
        values = np.where(region, texture - texture[region].min(), np.float32(0))
        peak = float(values.max())
        values = values / np.float32(peak) if peak > 0 else region.astype(np.float32)
        total += values * np.float32(rng.uniform(0.05, 0.2) * rng.choice([-1.0, 1.0]))
    if rng.random() < 0.5:
        blurred = cv2.GaussianBlur(total, (0, 0), float(rng.uniform(2, 9)))
    else:
        blurred = cv2.filter2D(total, -1, lorentzian(float(rng.uniform(0.15, 0.4))), borderType=cv2.BORDER_CONSTANT)
    return np.asarray(blurred, np.float32)


def walked_region(rng: np.random.Generator, side_px: int, size_px: int, elongation: float) -> npt.NDArray[np.bool_]:
    """Bool (side, side): the first `size_px` different pixels that a walk visits from a random seed on (L 3.1).

    Every step is -1, 0 or 1 px in both dimensions, but in one of them, drawn once, 0 with probability e / (e + 2).
    The walk is reflected at the border. All steps are drawn at once, and the walk is cut where the last pixel is new.
    """
    across = int(rng.integers(2))
    place = rng.integers(0, side_px, size=2)
    # When each pixel was first visited; steps come in blocks, since how many are needed is chance.
    first = np.full(side_px * side_px, np.iinfo(np.int64).max)
    block, taken = 4 * size_px + 64, 1
    first[place[0] * side_px + place[1]] = 0
    while (visited := int((first < taken).sum())) < size_px:
        moves = rng.integers(-1, 2, size=(2, block), dtype=np.int8)
        moves[across, rng.random(block, dtype=np.float32) < elongation / (elongation + 2)] = 0
        path = place[:, None] + np.cumsum(moves, axis=1, dtype=np.int64)
        period = 2 * side_px
        path %= period
        path = np.minimum(path, period - 1 - path)
        flat = path[0] * side_px + path[1]
        times = np.arange(taken, taken + block)
        # Of repeated places the last assignment stays: backwards, that is the first visit.
        earlier = np.full_like(first, np.iinfo(np.int64).max)
        earlier[flat[::-1]] = times[::-1]
        np.minimum(first, earlier, out=first)
        place, taken = path[:, -1], taken + block
        block = max(block, (size_px - visited) * 4)
    last = np.partition(first, size_px - 1)[size_px - 1]
    return np.asarray((first <= last).reshape(side_px, side_px))


def lorentzian(half_width_px: float) -> Patch:
    """A normalised Lorentzian kernel, 1 / (1 + (r / half width)^2), float32."""
    across = np.arange(-LORENTZIAN_REACH_PX, LORENTZIAN_REACH_PX + 1, dtype=np.float32)
    kernel = 1.0 / (1.0 + (across[:, None] ** 2 + across[None, :] ** 2) / np.float32(half_width_px**2))
    return np.asarray(kernel / kernel.sum(), np.float32)


def leaves(rng: np.random.Generator, side: int) -> Patch:
    """A texture with the statistics of photographs: overlapping discs, boxes and slants of many sizes and greys."""
    image = np.full((side, side), rng.random(), np.float32)
    smallest = float(rng.uniform(3, 30))
    for _ in range(int(rng.integers(15, 120))):
        radius = min(side, smallest / float(rng.random()) ** 0.5)
        where = rng.uniform(-0.2 * side, 1.2 * side, size=2)
        if rng.random() < 0.5:
            axes = (max(1, int(radius)), max(1, int(radius * rng.uniform(0.2, 1))))
            centre = (int(where[0]), int(where[1]))
            cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, float(rng.random()), -1)
        else:
            corners = where + rng.uniform(-radius, radius, size=(int(rng.integers(3, 6)), 2))
            cv2.fillConvexPoly(image, cv2.convexHull(corners.astype(np.int32)), float(rng.random()))
    if rng.random() < 0.7:
        image += np.float32(rng.uniform(0.05, 0.4)) * clouds(rng, side)
    return np.clip(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 5))), 0, 1)


def clouds(rng: np.random.Generator, side: int) -> Patch:
    """Correlated noise of one random length, about unit deviation."""
    cells = max(2, int(side / float(np.exp(rng.uniform(0, np.log(60))))))
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.float32)


def replaced_by_foreign(rng: np.random.Generator, donors: Sequence[Grey]) -> tuple[Patch, npt.NDArray[np.bool_]]:
    """Something foreign for part of a patch or all of it, 0 elsewhere; and W, true where it is."""
    foreign = foreign_patch(rng, PATCH_PX, donors)
    if rng.random() < 0.6:
        return foreign, np.ones(foreign.shape, np.bool_)
    if rng.random() < 0.5:
        mask = half_plane(rng, PATCH_PX, float(rng.uniform(0, 360)))
    else:
        mask = cv2.GaussianBlur(clouds(rng, PATCH_PX), (0, 0), 6) > 0.2
    return np.where(mask, foreign, np.float32(0)), mask


def foreign_patch(rng: np.random.Generator, side: int, donors: Sequence[Grey]) -> Patch:
    """A patch of no ordinary scan, float32 (side, side) in [0, 1]; donors are ordinary scans uint8 (h, w)."""
    kind = int(rng.integers(0, 13))
    if kind <= 1:
        return leaves(rng, side)
    if kind >= 10:  # nothing there: mostly air, of which an ordinary scan shows a narrow rim only
        level = rng.uniform(0.9, 1.0) if kind > 10 else rng.uniform(0.0, 1.0)
        return np.clip(rng.normal(level, rng.uniform(0.003, 0.03), (side, side)), 0, 1).astype(np.float32)
    if kind == 2:
        level, spread = rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.4)
        return np.asarray(np.clip(np.float32(level) + np.float32(spread) * clouds(rng, side), 0, 1), np.float32)
    if kind == 3:
        noise = rng.standard_normal((side, side), dtype=np.float32) * np.float32(rng.uniform(0.04, 0.35))
        sigma = float(rng.uniform(0, 1.5))
        noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), sigma)) if sigma > 0.4 else noise
        return np.asarray(np.clip(noise + np.float32(rng.uniform(0.2, 0.8)), 0, 1), np.float32)
    donor = donors[int(rng.integers(len(donors)))]
    if kind == 4:
        return 1 - oblique(donor, side, 0.0, rng)
    if kind == 5:
        second = donors[int(rng.integers(len(donors)))]
        share = np.float32(rng.uniform(0.35, 0.65))
        return share * oblique(donor, side, 0.0, rng) + (1 - share) * oblique(
            second, side, float(rng.uniform(-15, 15)), rng
        )
    angle_deg = float(rng.uniform(10, 80) * rng.choice([-1.0, 1.0]))
    patch = oblique(donor, side, angle_deg, rng)
    if rng.random() < 0.5:  # a piece of an electrode: beyond its cut, air
        air = np.float32(np.median(donor[:4]) / 255)
        cut_off = half_plane(rng, side, 90.0 * float(rng.integers(0, 4)) - angle_deg)
        patch = np.where(cut_off, air + rng.normal(0, 0.01, patch.shape), patch).astype(np.float32)
    return patch


def oblique(image: Grey, side: int, angle_deg: float, rng: np.random.Generator) -> Patch:
    """A turned square of a scan uint8 (h, w), mostly at its borders, where a turn shows; float32 in [0, 1]."""
    place = rng.uniform(0, 1, size=2)
    if rng.random() < 0.8:
        place[int(rng.integers(2))] = rng.choice([0.0, 1.0]) + rng.uniform(-0.08, 0.08)
    return rotate(image, (float(place[0]) * image.shape[0], float(place[1]) * image.shape[1]), angle_deg, side)


def rotate(image: Grey, middle: tuple[float, float], angle_deg: float, side: int) -> Patch:
    """The square of `side` px around (row, column) `middle` of uint8 (h, w), turned; float32 in [0, 1].

    Beyond the image its border pixels are repeated.
    """
    pose = cv2.getRotationMatrix2D((middle[1], middle[0]), angle_deg, 1.0)
    pose[:, 2] += np.array([side / 2 - middle[1], side / 2 - middle[0]])
    laid = cv2.warpAffine(image, pose, (side, side), borderMode=cv2.BORDER_REPLICATE)
    return laid.astype(np.float32) / np.float32(255)


def half_plane(rng: np.random.Generator, side: int, angle_deg: float) -> npt.NDArray[np.bool_]:
    """The pixels on one side of a straight line near the middle; the angle is that of its normal."""
    rows, columns = np.mgrid[0:side, 0:side] - side / 2
    angle = np.deg2rad(angle_deg)
    return np.asarray(columns * np.cos(angle) + rows * np.sin(angle) > rng.uniform(-0.3, 0.3) * side)
