"""Nearest neighbours on a frozen network's features: what a weld shows that accepted metal of other welds does not.

After PatchCore (Roth et al. 2022), with its two layers and their 3 x 3 means, but cells drawn evenly in place of its
greedy choice. Plan: docs/experiments/welds-baselines.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from train.classifier.features import starting_network, weights_sha256
from train.classifier.pooling import feature_maps
from train.networks import ElectrodeClassifier, fold_batch_norms
from train.papers.welds.bank import local_contrast
from train.papers.welds.folds import Fold
from train.papers.welds.images import Weld

INPUTS: Final = ("grey", "local contrast")
CELL_PX: Final = 8
_CELLS_A_WELD: Final = 2500
_CLEAR_PX: Final = 16
"""A cell as near to a mask as this shows some of the defect."""
_STREAM: Final = 0xBA2C
_ROWS_AT_ONCE: Final = 4096

Cells = npt.NDArray[np.float16]
"""Features (n, 384) of cells."""


@dataclass(frozen=True, slots=True)
class Bank:
    """Cells of accepted metal of the masked welds, and which of them a weld is compared with."""

    weights: str
    cells: dict[str, dict[str, Cells]]
    """By input, by weld."""
    allowed: tuple[frozenset[str], ...]
    """Welds whose cells a column of scores may see: those outside each fold's test set, and at last all."""

    @property
    def columns(self) -> int:
        """Columns of scores: by input, then by `allowed`."""
        return len(INPUTS) * len(self.allowed)

    def column(self, input_name: str, fold: int) -> int:
        """The column of an input, seeing what fold number `fold` may see; -1 sees all."""
        return INPUTS.index(input_name) * len(self.allowed) + fold % len(self.allowed)

    def digest(self) -> str:
        """SHA-256 over the cells and who sees them."""
        digest = hashlib.sha256(repr([sorted(names) for names in self.allowed]).encode())
        for name in INPUTS:
            for weld, cells in sorted(self.cells[name].items()):
                digest.update(f"{name}/{weld}".encode() + cells.tobytes())
        return digest.hexdigest()

    def maps(self, weld: Weld) -> list[npt.NDArray[np.float32]]:
        """Distances float32 (h // 2, w // 2) of a weld's cells to the nearest of other welds, a map a column."""
        found = []
        for name in INPUTS:
            features = _features(weld.image, name, self.weights)
            flat = features.flatten(1).T.contiguous()
            for allowed in self.allowed:
                known = [cells for of_weld, cells in self.cells[name].items() if of_weld in allowed - {weld.name}]
                nearest = _nearest(flat, torch.from_numpy(np.concatenate(known)).float())
                found.append(_half_scale(nearest.view(features.shape[1:]).numpy(), weld.image.shape))
        return found


def fill_bank(welds: Sequence[Weld], folds: Sequence[Fold], weights: str, seed: int) -> Bank:
    """Cells of masked welds; `weights` as `train.weights.load_weights` takes them. Raises TrainError."""
    cells: dict[str, dict[str, Cells]] = {name: {} for name in INPUTS}
    for number, weld in enumerate(welds):
        clear = _clear_cells(weld)
        rng = np.random.default_rng((seed, _STREAM, number))
        chosen = rng.choice(clear, min(_CELLS_A_WELD, len(clear)), replace=False)
        for name in INPUTS:
            flat = _features(weld.image, name, weights).flatten(1)
            cells[name][weld.name] = flat[:, torch.from_numpy(chosen)].T.half().numpy()
    allowed = [frozenset((*fold.training, *fold.validation)) for fold in folds]
    return Bank(weights, cells, (*allowed, frozenset(weld.name for weld in welds)))


def frozen_digest(weights: str) -> str:
    """SHA-256 of the network's weights. Raises TrainError."""
    return weights_sha256(starting_network(weights, 1, 0))


@lru_cache(maxsize=1)
def _network(weights: str) -> ElectrodeClassifier:
    network = starting_network(weights, 1, 0)
    fold_batch_norms(network.backbone)
    moved: ElectrodeClassifier = network.to(memory_format=torch.channels_last)
    return moved


@torch.inference_mode()
def _features(image: npt.NDArray[np.uint8], name: str, weights: str) -> Tensor:
    """Features float32 (384, rows, columns) of cells whose middles are 8 px apart, the first at pixel (0, 0)."""
    grey = torch.from_numpy(image)[None, None].float()
    if name == "local contrast":
        grey = 255 * local_contrast(grey / 255)
    network = _network(weights)
    maps = feature_maps(network.backbone, network.normalise(grey).contiguous(memory_format=torch.channels_last))
    first, second = (F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False) for x in maps[:2])
    wide = F.interpolate(second, size=first.shape[-2:], mode="bilinear")
    return torch.cat([first, wide], dim=1)[0]


@torch.inference_mode()
def _nearest(new: Tensor, known: Tensor) -> Tensor:
    """Distance (n,) of each of new (n, c) to the nearest of known (m, c)."""
    starts = [*range(0, len(new), _ROWS_AT_ONCE), len(new)]
    return torch.cat([torch.cdist(new[start:end], known).amin(dim=1) for start, end in pairwise(starts)])


def _clear_cells(weld: Weld) -> npt.NDArray[np.int64]:
    """Flat numbers of cells that no mask comes near."""
    assert weld.mask is not None
    side = 2 * _CLEAR_PX + 1
    near = cv2.dilate(weld.mask.astype(np.uint8), np.ones((side, side), np.uint8))
    return np.flatnonzero(near[::CELL_PX, ::CELL_PX].ravel() == 0)


def _half_scale(cells: npt.NDArray[np.float32], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The cell nearest to each pixel of the image at half the scale (h // 2, w // 2)."""
    rows, columns = (
        np.minimum((2 * np.arange(side // 2) + CELL_PX // 2) // CELL_PX, count - 1)
        for side, count in zip(shape, cells.shape, strict=True)
    )
    return cells[np.ix_(rows, columns)]
