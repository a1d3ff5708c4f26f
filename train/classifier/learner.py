"""From features of labelled scans to something that judges: the layers of a recipe, its threshold, its network.

Whatever is chosen here (standardisation, threshold) is chosen on the training scans it is given, lot by lot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from train.classifier.experiment import ExperimentRecipe
from train.classifier.heads import Start, TrainingSet, fit_logistic, fit_mlp, paper_layers, train_layers
from train.classifier.neighbours import Neighbours, fit_neighbours
from train.classifier.pooling import Pooled
from train.classifier.selection import Selection
from train.metrics import best_threshold
from train.networks import p_abnormal_of

UNDECIDED = 2
"""Class of scans on which labellers disagree, in recipes that have it."""
INNER_FOLDS = 4
"""Parts that the training lots are held out in, to choose a threshold without the test lot."""
HALF = 0.5


@dataclass(frozen=True)
class Samples:
    """Scans as their features: `whole` float32 (scans, views, 3, channels), `tiles` float16 (scans, views, t, c)."""

    whole: npt.NDArray[np.float32]
    tiles: npt.NDArray[np.float16]
    labels: npt.NDArray[np.int64]
    """0 normal, 1 abnormal: of disputed scans what the majority said."""
    disputed: npt.NDArray[np.bool_]
    """On which labellers disagreed."""
    lots: tuple[str, ...]
    files: tuple[str, ...]

    def take(self, numbers: npt.NDArray[np.int64]) -> Samples:
        """Some of the scans."""
        return Samples(
            self.whole[numbers],
            self.tiles[numbers],
            self.labels[numbers],
            self.disputed[numbers],
            tuple(self.lots[i] for i in numbers),
            tuple(self.files[i] for i in numbers),
        )


@dataclass(frozen=True)
class Learnt:
    """Layers behind the backbone, in the order they are applied, and the threshold that belongs to them."""

    selection: Selection | Neighbours
    layers: nn.Sequential
    threshold: float
    epoch_losses: tuple[float, ...]

    def predict(self, samples: Samples) -> npt.NDArray[np.float64]:
        """p(abnormal) float64 (scans,) of view 0."""
        with torch.inference_mode():
            logits = self.layers(self.selection(_pooled(samples, slice(0, 1))))
        return p_abnormal_of(logits.double()).numpy()


def learn(samples: Samples, recipe: ExperimentRecipe, start: Start) -> Learnt:
    """Train by any recipe; the classes it `learns_from` must be there. Raises DivergedError."""
    samples = learnt_from(samples, recipe)
    if recipe.head == "neighbours":
        return learn_normal(samples.take(np.flatnonzero(samples.labels == 0)), recipe).learnt
    learnt = _layers(samples, recipe, start)
    if recipe.threshold == "half":
        return learnt
    return replace(learnt, threshold=calibrated_threshold(samples, recipe, start))


def learnt_from(samples: Samples, recipe: ExperimentRecipe) -> Samples:
    """The scans that the recipe learns from: all of these, or those on which labellers agree."""
    return samples.take(np.flatnonzero(~samples.disputed)) if recipe.undecided == "drop" else samples


@dataclass(frozen=True)
class LearntNormal:
    """What came of normal scans alone."""

    learnt: Learnt
    p_left_out: npt.NDArray[np.float64]
    """p(abnormal) (scans,) of each of them, by what the other lots show."""


def learn_normal(normal: Samples, recipe: ExperimentRecipe) -> LearntNormal:
    """Fit the nearest neighbours to normal scans, as they lie."""
    fitted = fit_neighbours(normal.tiles[:, 0], normal.lots, recipe.refused)
    return LearntNormal(Learnt(fitted.neighbours, nn.Sequential(), HALF, ()), fitted.p_left_out)


def calibrated_threshold(samples: Samples, recipe: ExperimentRecipe, start: Start) -> float:
    """Threshold of greatest balanced accuracy over training lots that were held out in turn.

    0.5 where no part of the lots can be held out without losing a class.
    """
    scores, labels = [], []
    for held in inner_parts(samples):
        rest = np.setdiff1d(np.arange(len(samples.labels)), held)
        if len({*samples.labels[rest].tolist()}) < 2:
            continue
        scores.append(_layers(samples.take(rest), recipe, start).predict(samples.take(held)))
        labels.append(samples.labels[held])
    if not scores or len(np.unique(np.concatenate(labels))) < 2:
        return HALF
    return best_threshold(np.concatenate(scores), np.concatenate(labels))


def inner_parts(samples: Samples) -> list[npt.NDArray[np.int64]]:
    """Numbers of the scans of a few groups of whole lots, one group per part; none with fewer than 2 lots."""
    lots = sorted(set(samples.lots))
    if len(lots) < 2:
        return []
    of_scan = np.array([lots.index(lot) for lot in samples.lots])
    return [np.flatnonzero(of_scan % INNER_FOLDS == part) for part in range(min(INNER_FOLDS, len(lots)))]


def _layers(samples: Samples, recipe: ExperimentRecipe, start: Start) -> Learnt:
    selection = Selection(recipe.features, standardise=recipe.head != "paper" or recipe.features != "mean")
    pooled = _pooled(samples, slice(None))
    is_normal = torch.from_numpy(np.repeat(samples.labels == 0, samples.whole.shape[1]))
    with torch.inference_mode():
        features = selection.fit(pooled, is_normal).view(*samples.whole.shape[:2], -1).numpy()
    labels = samples.labels.copy()
    if recipe.undecided == "class":
        labels[samples.disputed] = UNDECIDED
    data = TrainingSet(np.ascontiguousarray(features), labels, samples.files)
    if recipe.head == "paper":
        layers = paper_layers(selection.width, recipe, start)
        losses = train_layers(layers, data, recipe)
        return Learnt(selection, layers, HALF, tuple(losses))
    layers, losses = fit_mlp(data, recipe) if recipe.head == "mlp" else fit_logistic(data, recipe)
    return Learnt(selection, layers, HALF, tuple(losses))


def _pooled(samples: Samples, views: slice) -> Pooled:
    whole, tiles = samples.whole[:, views], samples.tiles[:, views]
    return Pooled(
        torch.from_numpy(np.ascontiguousarray(whole)).flatten(0, 1),
        torch.from_numpy(np.ascontiguousarray(tiles)).flatten(0, 1),
    )
