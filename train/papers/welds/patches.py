"""Patches cut out of welds: shifted, turned by any angle, then by right angles and flipped (L 3.3).

A patch never reaches beyond its weld: the turned square lies inside the image, so that nothing is filled in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from train.errors import DataError
from train.gate.perturb import PATCH_PX
from train.papers.welds.images import Weld, read_welds
from train.papers.welds.regions import (
    CONTRASTS,
    Contrast,
    Region,
    additive_map,
    find_regions,
    label_regions,
    of_contrast,
)
from train.report import table

RIM_PX = 18
"""What the autoencoder does not reconstruct on each side of a patch: 192 px in, 156 px out."""

ACCEPTED_MARGIN_PX = 6
"""An accepted patch keeps this far from every masked pixel: masks are drawn tight, and X-ray images are blurred."""

DEFECT_LEAST_PX = 20
"""Least pixels of one defect within the reconstructed part of a defective patch, or the whole of a smaller defect."""

_ATTEMPTS = 300
"""Draws for one patch before its weld, or its contrast, is taken to have no place for it."""

Patches = npt.NDArray[np.uint8]
Image = npt.NDArray[np.integer | np.floating]


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a patch lies in its weld: middle (row, column), angle, then right angles and a flip."""

    row: float
    column: float
    angle_deg: float
    quarters: int
    flip: bool

    def cut(self, image: Image, interpolation: int = cv2.INTER_LINEAR) -> Image:
        """The patch (192, 192) of an image (h, w), same dtype; beyond the image 0, where a pose that fits never is."""
        # Only the square around the patch is turned: warpAffine is slow on, and limited in, large images.
        reach = int(np.ceil(PATCH_PX * 0.75)) + 1
        top, left = max(0, int(self.row) - reach), max(0, int(self.column) - reach)
        part = image[top : int(self.row) + reach + 1, left : int(self.column) + reach + 1]
        turn = cv2.getRotationMatrix2D((self.column - left, self.row - top), self.angle_deg, 1.0)
        middle = (PATCH_PX - 1) / 2
        turn[:, 2] += np.array([middle - (self.column - left), middle - (self.row - top)])
        patch: Image = cv2.warpAffine(
            part, turn, (PATCH_PX, PATCH_PX), flags=interpolation, borderMode=cv2.BORDER_CONSTANT
        )
        patch = np.rot90(patch, self.quarters)
        return np.ascontiguousarray(patch[:, ::-1] if self.flip else patch)


def half_extent_px(angle_deg: float) -> float:
    """From the middle of a turned patch to its outermost pixel along either axis, with room for interpolation."""
    angle = np.deg2rad(angle_deg)
    return float((PATCH_PX - 1) / 2 * (abs(np.cos(angle)) + abs(np.sin(angle)))) + 1


class AcceptedSampler:
    """Draws patches of one masked weld that keep clear of every defect."""

    def __init__(self, weld: Weld) -> None:
        assert weld.mask is not None
        reach = 2 * ACCEPTED_MARGIN_PX + 1
        element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
        self._image = weld.image
        self._near = cv2.dilate(weld.mask.astype(np.uint8), element)
        # No defect within the circle that every turned patch contains: most places fail here already.
        clear_px = cv2.distanceTransform(1 - self._near, cv2.DIST_L2, cv2.DIST_MASK_3)
        half = PATCH_PX // 2
        possible = clear_px > half - 2
        possible[:half], possible[-half:], possible[:, :half], possible[:, -half:] = False, False, False, False
        self._places = np.flatnonzero(possible)

    @property
    def length_px(self) -> int:
        """How many columns of the weld the middle of a patch may lie in."""
        return int(np.unique(self._places % self._image.shape[1]).size)

    def draw(self, rng: np.random.Generator) -> Patches | None:
        """One patch uint8 (192, 192); None where the weld has no place for it."""
        pose = self.pose(rng)
        return None if pose is None else np.asarray(pose.cut(self._image), np.uint8)

    def pose(self, rng: np.random.Generator) -> Pose | None:
        """Where the patch lies that `draw` would cut; None where the weld has no place for it."""
        height, width = self._image.shape
        for _ in range(_ATTEMPTS if self._places.size else 0):
            row, column = divmod(int(self._places[rng.integers(self._places.size)]), width)
            pose = _pose(rng, row, column)
            if _fits(pose, height, width) and not pose.cut(self._near, cv2.INTER_NEAREST).any():
                return pose
        return None


class DefectSampler:
    """Draws patches of one masked weld that show a defect, and what defects add to it."""

    def __init__(self, weld: Weld, regions: Sequence[Region]) -> None:
        """`regions` are the weld's own, as `find_regions` finds them."""
        assert weld.mask is not None
        self._image = weld.image
        self._delta = additive_map(weld)
        self._regions = {region.label: region for region in regions}
        self._labels = label_regions(weld.mask)[1].astype(np.float32)  # exact to 2^24, and warpAffine takes no int32

    def draw(
        self, rng: np.random.Generator, contrast: Contrast | None = None
    ) -> tuple[Patches, npt.NDArray[np.float32]] | None:
        """One defective patch uint8 and its W * delta float32 in [-1, 1], both (192, 192); None without a place."""
        pose = self.pose(rng, contrast)
        if pose is None:
            return None
        return np.asarray(pose.cut(self._image), np.uint8), np.asarray(pose.cut(self._delta), np.float32)

    def pose(self, rng: np.random.Generator, contrast: Contrast | None = None) -> Pose | None:
        """Where the patch lies that `draw` would cut; None without a place.

        The patch's class is that of the strongest defect of which it shows enough; every region is as likely as any
        other to be the one it was drawn around.
        """
        height, width = self._image.shape
        wanted = of_contrast(list(self._regions.values()), contrast)
        for _ in range(_ATTEMPTS if wanted else 0):
            region = wanted[int(rng.integers(len(wanted)))]
            top, left, high, wide = region.box
            within = np.argwhere(self._labels[top : top + high, left : left + wide] == region.label)
            row, column = within[int(rng.integers(len(within)))] + (top, left)
            reach = PATCH_PX / 2 - RIM_PX
            pose = _pose(rng, row + rng.uniform(-reach, reach), column + rng.uniform(-reach, reach))
            if not _fits(pose, height, width):
                continue
            shown = self._shown(np.asarray(pose.cut(self._labels, cv2.INTER_NEAREST)))
            if shown and (contrast is None or max(shown, key=lambda r: r.cnr).contrast == contrast):
                return pose
        return None

    def _shown(self, labels: Image) -> list[Region]:
        """Regions of which the reconstructed part of a patch shows enough."""
        central = labels[RIM_PX:-RIM_PX, RIM_PX:-RIM_PX]
        found, sizes = np.unique(central[central > 0], return_counts=True)
        regions = [(self._regions[int(label)], int(size)) for label, size in zip(found, sizes, strict=True)]
        # Turning loses some pixels of a small region: nine tenths of it is the whole.
        return [region for region, size in regions if size >= min(DEFECT_LEAST_PX, 0.9 * region.area_px)]


def clear_length_px(weld: Weld) -> int:
    """How many columns of a masked weld the middle of an accepted patch may lie in; 0 where it has no place for one."""
    sampler = AcceptedSampler(weld)
    return 0 if sampler.draw(np.random.default_rng(0)) is None else sampler.length_px


def other_welds(folder: Path, known: Sequence[Weld]) -> list[Weld]:
    """The masked welds of a folder like WELDS.

    Raises DataError where none has a place for an accepted patch, or one is the image of a known masked weld, whatever
    its name, mirrored or turned: what learnt from it, or has its thresholds of it, does not judge it.
    """
    welds = [weld for weld in read_welds(folder) if weld.mask is not None]
    if not any(map(clear_length_px, welds)):
        names = ", ".join(weld.name for weld in welds) or "welds with masks: there are none"
        raise DataError(
            f"{folder}: no place for a patch clear of all defects in {names}",
            hint="give a folder with images/NAME.png and masks/NAME.png, some with stretches free of defects",
        )
    learnt = {digest: weld.name for weld in known if weld.mask is not None for digest in _turned_digests(weld.image)}
    same = [(weld.name, learnt[one]) for weld in welds for one in _turned_digests(weld.image)[:1] if one in learnt]
    if same:
        raise DataError(
            f"{folder}: {len(same)} of {len(welds)} welds are among those that are learnt from or calibrated on:"
            f" {same[0][0]} is {same[0][1]}",
            hint="the folds test every weld of WELDS already: give other ones with --test-welds, or leave it out",
        )
    return welds


def names_alike(welds: Sequence[str], known: Collection[str]) -> list[str]:
    """A sentence for a table of other welds where known ones have the same names; their images are not the same."""
    alike = [name for name in welds if name in known]
    if not alike:
        return []
    return [
        f"Known welds have these names, too: {', '.join(alike)}. If they are the same welds, nothing here is of others."
    ]


def _turned_digests(image: npt.NDArray[np.uint8]) -> list[str]:
    """Digests of an image (h, w) as it lies, mirrored both ways, and turned by 180 degrees."""
    turned = (image, image[::-1], image[:, ::-1], image[::-1, ::-1])
    return [hashlib.sha256(str(one.shape).encode() + one.tobytes()).hexdigest() for one in turned]


def accepted_patches(weld: Weld, count: int, rng: np.random.Generator) -> Patches:
    """`count` accepted patches uint8 (n, 192, 192) of a masked weld; none where defects leave no room for one."""
    sampler = AcceptedSampler(weld)
    drawn: list[Patches] = []
    while len(drawn) < count and (patch := sampler.draw(rng)) is not None:
        drawn.append(patch)
    return np.stack(drawn) if drawn else np.zeros((0, PATCH_PX, PATCH_PX), np.uint8)


def defect_patches(
    weld: Weld, regions: Sequence[Region], count: int, rng: np.random.Generator, contrast: Contrast | None = None
) -> tuple[Patches, npt.NDArray[np.float16]]:
    """`count` defective patches uint8 and their W * delta float16, both (n, 192, 192); none without a place."""
    sampler = DefectSampler(weld, regions)
    drawn: list[tuple[Patches, npt.NDArray[np.float32]]] = []
    while len(drawn) < count and (pair := sampler.draw(rng, contrast)) is not None:
        drawn.append(pair)
    images = np.zeros((len(drawn), PATCH_PX, PATCH_PX), np.uint8)
    deltas = np.zeros((len(drawn), PATCH_PX, PATCH_PX), np.float16)
    for number, (image, delta) in enumerate(drawn):
        images[number], deltas[number] = image, delta
    return images, deltas


def shares(count: int, weights: Sequence[int]) -> list[int]:
    """`count` split in proportion to whole weights, the sum exact. All 0 where all weights are 0."""
    total = sum(weights)
    if total == 0:
        return [0] * len(weights)
    ends = np.floor(np.cumsum(weights) * count / total + 1e-9).astype(int)
    return [int(part) for part in np.diff(ends, prepend=0)]


def contrast_table(welds: Sequence[Weld]) -> str:
    """A Markdown table: regions of each contrast by weld, and their area."""
    rows: list[list[object]] = []
    totals = dict.fromkeys(CONTRASTS, 0)
    area_px = 0
    for weld in welds:
        if weld.mask is None:
            continue
        regions = find_regions(weld)
        counts = {contrast: len(of_contrast(regions, contrast)) for contrast in CONTRASTS}
        totals = {contrast: totals[contrast] + counts[contrast] for contrast in CONTRASTS}
        area_px += int(weld.mask.sum())
        height, width = weld.image.shape
        rows.append([weld.name, f"{height} x {width}", *counts.values(), int(weld.mask.sum())])
    if not area_px:
        raise DataError("no weld has a mask", hint="masks/NAME.png beside images/NAME.png, 255 where a defect is")
    rows.append(["all", "", *totals.values(), area_px])
    return "\n".join(table(["weld", "size, px", *CONTRASTS, "defect pixels"], rows)) + "\n"


def _pose(rng: np.random.Generator, row: float, column: float) -> Pose:
    return Pose(row, column, float(rng.uniform(0, 360)), int(rng.integers(4)), bool(rng.integers(2)))


def _fits(pose: Pose, height: int, width: int) -> bool:
    """Whether the turned patch lies inside the image."""
    reach = half_extent_px(pose.angle_deg)
    return reach <= pose.row <= height - 1 - reach and reach <= pose.column <= width - 1 - reach
