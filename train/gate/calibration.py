"""From a trained autoencoder to a gate: what is usual at every place of a scan, and the thresholds.

Both thresholds are set on whole scans of lots the networks have not seen, for a chosen share of ordinary scans sent
to review (`image_fpr`); the paper's rate is per patch. In the `placed` form half of that share goes to the windows,
half to the two layouts, whose limits come from cross-fitting over all lots: it costs nothing to fit, and few lots
held back say little about the next one. The filter's limits are found likewise; it has as much as a layout, beyond that
share, but of normal scans alone: where the gate accepts anomalies, it would learn to accept all it can see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge.images.method import Method
from train.errors import DataError
from train.gate.filter import FilterStage, window_maps
from train.gate.layout import Layout, Sight, cell_side_px, fit_layout, folds_of, grid, scores_without_own_lot
from train.gate.network import Gate
from train.metrics import joint_thresholds
from train.networks import GateAutoencoder
from train.recipe import GateRecipe

MOST_PLACED: Final = 300
"""Scans from which is learnt what is usual where; more move it by less than their lots differ."""
_LEAST_USUAL = 0.25
"""Least usual residual of a place, in means over all places: one that was always quiet may still show that much."""
_SHARE_OF_LAYOUTS = 0.5
_BATCH = {"cpu": 1, "cuda": 16}

Progress = Callable[[int, int], None]
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class GateThresholds:
    """Above either, a scan is out of distribution; both in units of the image in [0, 1]."""

    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class Examples:
    """Scans as the gate sees them, uint8 (n, 1, h, w), with their lots; `ordinary` (n,) marks those it accepts."""

    images: npt.NDArray[np.uint8]
    lots: Sequence[str]
    ordinary: npt.NDArray[np.bool_]
    normal: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A gate with its thresholds, and which of the scans it was calibrated among it would send to review, bool (n,)."""

    gate: Gate
    thresholds: GateThresholds
    flagged: npt.NDArray[np.bool_]


def calibrated(
    autoencoder: GateAutoencoder,
    training: Examples,
    validation: Examples,
    recipe: GateRecipe,
    counter: Callable[[str], Progress],
) -> Calibrated:
    """The gate of an autoencoder trained on `training`. Raises DataError for too few ordinary scans."""
    if recipe.scores == "paper":
        gate = Gate(autoencoder, recipe.reduction)
        means, stds = score(gate, validation.images, counter("validation"))
        usual = validation.ordinary
        thresholds = calibrate(means[usual], stds[usual], recipe.image_fpr, recipe.margin)
        return Calibrated(gate, thresholds, (means > thresholds.mean) | (stds > thresholds.std))
    weights = place_weights(Gate(autoencoder, recipe.reduction), training, counter("places"))
    gate = Gate(autoencoder, recipe.reduction, *weights)
    means, stds = score(gate, validation.images, counter("validation"))
    usual = validation.ordinary
    of_windows = recipe.image_fpr * (1 - _SHARE_OF_LAYOUTS)
    thresholds = calibrate(means[usual], stds[usual], of_windows, recipe.margin)

    cell_px = cell_side_px(recipe.size)
    learns = np.concatenate([training.ordinary, validation.ordinary])
    lots = [*training.lots, *validation.lots]
    flagged = (means > thresholds.mean) | (stds > thresholds.std)
    device = _device(autoencoder)
    layouts: dict[Sight, Layout] = {}
    joins: tuple[tuple[Sight, float], ...] = (("greys", thresholds.mean), ("textures", thresholds.std))
    for sight, threshold in joins:
        grids = torch.cat([grids_of(part.images, cell_px, sight, device) for part in (training, validation)])
        layout, apart = calibrated_layout(grids, lots, learns, recipe)
        flagged |= (apart > 1)[len(training.lots) :]
        layout.limits /= threshold
        layouts[sight] = layout
    stage = None
    if recipe.filter:
        learnt = np.flatnonzero(training.normal).tolist()  # abnormal training scans are neither learnt from nor counted
        images = training.images[learnt], validation.images
        maps = torch.cat([filter_maps(gate, part, counter("filter")) for part in images if len(part)], dim=1)
        lots = [*(training.lots[number] for number in learnt), *validation.lots]
        normal = np.concatenate([np.ones(len(learnt), np.bool_), validation.normal])
        stage, beyond = calibrated_filter(maps, lots, normal, recipe.image_fpr, recipe.margin, gate.map_cell_px)
        flagged |= beyond[len(learnt) :]
        stage.limits /= torch.tensor([thresholds.mean, thresholds.std])
    gate = Gate(autoencoder, recipe.reduction, *weights, layouts["greys"], layouts["textures"], cell_px, stage)
    return Calibrated(gate.to(device), thresholds, flagged)


def calibrated_layout(
    grids: Tensor, lots: Sequence[str], learns: npt.NDArray[np.bool_], recipe: GateRecipe
) -> tuple[Layout, npt.NDArray[np.float64]]:
    """The layout of grids (n, cells) with its limits, and the greater of T and Q of every scan over its limit (n,).

    `learns` (n,) marks the scans that are ordinary. A scan counts with what a layout says that has not seen its lot,
    or with what the final one says, where that is more: few scans lie further out where they were learnt from.
    """
    learnt = [lot for lot, yes in zip(lots, learns, strict=True) if yes]
    layout = fit_layout(grids[torch.from_numpy(learns).to(grids.device)], learnt)
    apart = scores_without_own_lot(grids, lots, learns)
    within = [distances.double().cpu().numpy() for distances in layout.distances(grids)]
    unusual, unexplained = np.maximum(apart.unusual, within[0]), np.maximum(apart.unexplained, within[1])
    share = recipe.image_fpr * _SHARE_OF_LAYOUTS / 2
    limits = calibrate(unusual[learns], unexplained[learns], share, recipe.margin)
    layout.limits.copy_(torch.tensor([limits.mean, limits.std]))
    return layout, np.maximum(unusual / limits.mean, unexplained / limits.std)


def calibrated_filter(
    maps: Tensor, lots: Sequence[str], normal: npt.NDArray[np.bool_], image_fpr: float, margin: float, cell_px: int
) -> tuple[FilterStage, npt.NDArray[np.bool_]]:
    """The filter with its limits, by maps (2, n, map_height, map_width), and which scans exceed them, bool (n,).

    A normal scan counts with what weights say that have not seen its lot, or with what the final ones say, where
    that is more. Limits, as of the layouts: ranks of normal scans, times the margin.
    """
    is_normal = torch.from_numpy(normal)
    weights = weights_of(maps[:, is_normal])
    scores = _weighed(maps, weights)
    fold = torch.from_numpy(folds_of(lots))
    for number in range(int(fold.max()) + 1):
        others, own = (fold != number) & is_normal, fold == number
        if others.any():
            apart = _weighed(maps[:, own], weights_of(maps[:, others]))
            scores[:, own] = torch.maximum(scores[:, own], apart)
    means, stds = scores.double().numpy()
    limits = calibrate(means[normal], stds[normal], image_fpr * _SHARE_OF_LAYOUTS / 2, margin)
    stage = FilterStage(weights[0], weights[1], cell_px)
    stage.limits.copy_(torch.tensor([limits.mean, limits.std]))
    return stage, (means > limits.mean) | (stds > limits.std)


@torch.no_grad()
def filter_maps(gate: Gate, images: npt.NDArray[np.uint8], progress: Progress) -> Tensor:
    """What the filter sees at every place of images (n, 1, h, w): (2, n, map_height, map_width), on the CPU."""

    def see(part: Tensor) -> Tensor:
        return torch.stack(window_maps(gate.reduced(part), gate.map_cell_px)).cpu()

    return torch.cat(list(_passes(images, gate, see, progress)), dim=1)


def _weighed(maps: Tensor, weights: Tensor) -> Tensor:
    """Greatest weighed values (2, n) of maps (2, n, map_height, map_width)."""
    return (maps * weights[:, None]).amax(dim=(2, 3))


@torch.no_grad()
def place_weights(gate: Gate, training: Examples, progress: Progress) -> tuple[Tensor, Tensor]:
    """Weights of |mean| and deviation by place, from what ordinary scans show there; two maps with a mean of 1.

    What is usual at a cell counts for its neighbours too: the rim of a sheet lies up to a cell elsewhere.
    """
    chosen = np.flatnonzero(training.ordinary)
    if len(chosen) == 0:
        raise DataError("no ordinary scans to learn from what is usual where", hint="label more scans as normal")
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(MOST_PLACED, len(chosen))).astype(int)]
    seen = _passes(training.images[chosen], gate, lambda x: torch.stack(gate.windows(gate.residual(x))), progress)
    means, stds = weights_of(torch.cat(list(seen), dim=1))
    return means, stds


def weights_of(maps: Tensor) -> Tensor:
    """Weights (2, map_height, map_width) of places by maps (2, n, map_height, map_width) of ordinary scans.

    Medians: where ordinary scans are allowed anomalies, these are no part of what is usual.
    """
    usual = F.max_pool2d(maps.median(dim=1).values, 3, stride=1, padding=1)
    weights = 1 / (usual + _LEAST_USUAL * usual.mean(dim=(1, 2), keepdim=True))
    return weights / weights.mean(dim=(1, 2), keepdim=True)


@torch.inference_mode()
def score(
    gate: Gate, images: npt.NDArray[np.uint8], progress: Progress | None = None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Both scores of whole images (n, 1, h, w) uint8: two (n,)."""
    found = [(scores.mean, scores.std) for scores in _passes(images, gate, gate, progress)]
    means, stds = (torch.cat(column).double().cpu().numpy() for column in zip(*found, strict=True))
    return means, stds


@torch.inference_mode()
def scores_apart(gate: Gate, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Both scores of whole images (n, 1, h, w) uint8 by the network, (n, 2), and by the filter; 0 without one."""
    network, filtered = [], []
    for by_network, by_filter in _passes(images, gate, gate.apart, None):
        network.append(torch.stack(by_network[:2], dim=1))
        filtered.append(torch.zeros_like(network[-1]) if by_filter is None else torch.stack(by_filter[:2], dim=1))
    return torch.cat(network).double().cpu().numpy(), torch.cat(filtered).double().cpu().numpy()


def gate_images(images: npt.NDArray[np.uint8], method: Method) -> npt.NDArray[np.uint8]:
    """What the gate sees of converted scans (n, channels, h, w): the one channel, or `global` of `mixed`."""
    return images[:, method.gate_channel : method.gate_channel + 1]


def grids_of(images: npt.NDArray[np.uint8], cell_px: int, sight: Sight, device: torch.device) -> Tensor:
    """Grids (n, cells) of images (n, 1, h, w) uint8."""
    parts = [images[start : start + 64] for start in range(0, len(images), 64)]
    return torch.cat([grid(torch.from_numpy(part).to(device).float() / 255.0, cell_px, sight) for part in parts])


def calibrate(
    means: npt.NDArray[np.float64], stds: npt.NDArray[np.float64], image_fpr: float, margin: float = 1.0
) -> GateThresholds:
    """Thresholds that together flag at most `image_fpr` of these ordinary scans, sharing the rate evenly.

    Both are set at the same rank; the rank moves up until the scans flagged by either are few enough. `margin`
    multiplies both: a calibration on few scans says little about the rarest. Raises DataError for too few scans.
    """
    if len(means) == 0:
        raise DataError("no ordinary scans to set the gate's thresholds on", hint="label more validation scans")
    mean, std = joint_thresholds(np.stack([means, stds], axis=1), math.floor(image_fpr * len(means)))
    return GateThresholds(float(mean) * margin, float(std) * margin)


def _passes(
    images: npt.NDArray[np.uint8], gate: Gate, see: Callable[[Tensor], _Found], progress: Progress | None
) -> Iterator[_Found]:
    """What `see` makes of images (n, 1, h, w) uint8, a few at a time, on the device of the gate."""
    device = _device(gate.eval())
    batch = _BATCH.get(device.type, 1)
    for start in range(0, len(images), batch):
        part = torch.from_numpy(images[start : start + batch]).to(device)
        # In full float32, as the line's engines do: a GPU would round the inputs of convolutions to ten bits.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            found = see(part.float() / 255.0)
        yield found
        if progress is not None:
            progress(min(start + batch, len(images)), len(images))


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
