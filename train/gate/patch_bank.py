"""Patches for the gate's training, kept on the device that trains: nothing is drawn pixel by pixel while it learns.

All scans lie there as uint8; a batch of patches is one gather. Perturbations are drawn once by `train.gate.perturb`, in
processes, and every batch takes some of them, flipped and turned by right angles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.gate.perturb import PATCH_PX, Answer, Patch, Perturbation, draw_perturbation
from train.runner import map_in_order

MOST_DONORS: Final = 48
"""Scans that lend content to foreign patches; each process holds them all."""
_TURNED_PX = PATCH_PX / math.sqrt(2)
_CHUNK = 16


@dataclass(frozen=True, slots=True)
class Pairs:
    """Clean and perturbed patches and what to answer to these, float32 (n, 1, 192, 192), on the device."""

    clean: Tensor
    perturbed: Tensor
    answer: Tensor


@dataclass(frozen=True, slots=True)
class Perturbations:
    """Drawn ones, float16 (m, 192, 192), `added` to a patch of which, where it is given, only `kept` is left.

    `kept`: bool (m, 192, 192). `answer` as in `train.gate.perturb`.
    """

    added: Tensor
    kept: Tensor | None
    answer: Answer

    def on(self, clean: Tensor, rng: torch.Generator, way: int) -> Pairs:
        """Random ones upon patches (n, 1, 192, 192), all turned and flipped in one of 8 ways."""
        picks = torch.randint(len(self.added), (len(clean),), generator=rng, device=clean.device)

        def turned(values: Tensor) -> Tensor:
            chosen = torch.rot90(values[picks].unsqueeze(1), way % 4, (2, 3))
            return chosen.flip(3) if way % 8 >= 4 else chosen

        added = turned(self.added).float()
        if self.kept is None:
            return Pairs(clean, clean + added, clean)
        left = clean * turned(self.kept)
        return Pairs(clean, left + added, left if self.answer == "black" else clean)


class PatchBank:
    """The scans to cut patches from, uint8 (n, 1, h, w)."""

    def __init__(self, images: npt.NDArray[np.uint8], device: torch.device) -> None:
        self._images = torch.from_numpy(images[:, 0]).to(device)
        self._device = device

    def cut(self, picks: Tensor, rotate: bool, rng: torch.Generator) -> Tensor:
        """One random patch of each of the picked scans, flipped by chance: float32 (n, 1, 192, 192) in [0, 1].

        Straight patches touch the border of the scan as often as a place beyond it would be drawn, so that the border
        of the sheet is not rarer than its middle. Turned ones keep clear of it: there is nothing beyond.
        """
        count = len(picks)
        height, width = self._images.shape[1:]
        place = torch.rand(2, count, 1, 1, generator=rng, device=self._device)
        flips = torch.rand(2, count, 1, 1, generator=rng, device=self._device) < 0.5
        along = torch.arange(PATCH_PX, device=self._device)
        rows = torch.where(flips[0], PATCH_PX - 1 - along.view(1, -1, 1), along.view(1, -1, 1))
        columns = torch.where(flips[1], PATCH_PX - 1 - along.view(1, 1, -1), along.view(1, 1, -1))
        if not rotate:
            beyond = PATCH_PX // 4
            corner = [
                (place[axis] * (extent - PATCH_PX + 2 * beyond + 1)).floor().long() - beyond
                for axis, extent in enumerate((height, width))
            ]
            rows = rows + corner[0].clamp(0, height - PATCH_PX)
            columns = columns + corner[1].clamp(0, width - PATCH_PX)
            return self._greys(picks, rows, columns).unsqueeze(1) / 255.0
        angle = 2 * math.pi * torch.rand(count, 1, 1, generator=rng, device=self._device)
        down, across = rows - (PATCH_PX - 1) / 2, columns - (PATCH_PX - 1) / 2
        middle = [
            _TURNED_PX + place[axis] * (extent - 1 - 2 * _TURNED_PX) for axis, extent in enumerate((height, width))
        ]
        return self._between(
            picks,
            middle[0] + down * angle.cos() + across * angle.sin(),
            middle[1] - down * angle.sin() + across * angle.cos(),
        ).unsqueeze(1)

    def _greys(self, picks: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return self._images[picks.view(-1, 1, 1), rows, columns].float()

    def _between(self, picks: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Bilinear greys in [0, 1] (n, 192, 192) at places (n, 192, 192) inside the scans."""
        top, left = rows.floor().long(), columns.floor().long()
        down, across = rows - top, columns - left
        upper = torch.lerp(self._greys(picks, top, left), self._greys(picks, top, left + 1), across)
        lower = torch.lerp(self._greys(picks, top + 1, left), self._greys(picks, top + 1, left + 1), across)
        return torch.lerp(upper, lower, down) / 255.0


def draw_perturbations(
    kind: Perturbation,
    count: int,
    images: npt.NDArray[np.uint8],
    photos: Sequence[Patch],
    answer: Answer,
    seed: int,
    device: torch.device,
    *,
    jobs: int = 1,
    progress: Callable[[int, int], None],
) -> Perturbations | None:
    """`count` perturbations of a kind; None for `none`. The same for any number of processes.

    `images`: ordinary scans uint8 (n, 1, h, w), `photos`: for `sni`; see `train.gate.perturb`.
    """
    if kind == "none":
        return None
    rng = np.random.default_rng(seed)
    donors = [images[i, 0] for i in rng.permutation(len(images))[:MOST_DONORS]]
    added = np.empty((count, PATCH_PX, PATCH_PX), np.float16)
    kept = np.empty((count, PATCH_PX, PATCH_PX), np.bool_) if kind == "foreign" else None
    # The scans go along with every stretch, so that processes get few of them.
    chunk = _CHUNK if jobs == 1 else max(_CHUNK, math.ceil(count / (4 * jobs)))
    stretches = [(start, min(start + chunk, count)) for start in range(0, count, chunk)]
    draw = partial(_draw, _Materials(kind, donors, photos), seed)
    for (start, stop), (some, masks) in zip(stretches, map_in_order(draw, stretches, jobs), strict=True):
        added[start:stop] = some
        if kept is not None:
            kept[start:stop] = ~masks
        progress(stop, count)
    return Perturbations(
        torch.from_numpy(added).to(device), None if kept is None else torch.from_numpy(kept).to(device), answer
    )


@dataclass(frozen=True, slots=True)
class _Materials:
    """What perturbations are drawn from."""

    kind: Perturbation
    donors: Sequence[npt.NDArray[np.uint8]]
    photos: Sequence[Patch]


def _draw(
    materials: _Materials, seed: int, stretch: tuple[int, int]
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.bool_]]:
    """Perturbations number start to stop, and where they replace the patch."""
    pairs = [
        draw_perturbation(materials.kind, np.random.default_rng((seed, number)), materials.donors, materials.photos)
        for number in range(*stretch)
    ]
    return np.stack([added for added, _ in pairs]).astype(np.float16), np.stack([mask for _, mask in pairs])
