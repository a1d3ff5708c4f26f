"""One fold that trains layers of the backbone too: on images, without the cache. For machines with time or a GPU."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from edge.images.conversion import Bounds
from edge.images.method import Method
from edge.system.progress import Reporter
from train.classifier.experiment import ExperimentRecipe
from train.classifier.features import Backbone
from train.classifier.folds import FoldResult
from train.classifier.learner import HALF
from train.classifier.training import build_classifier, fit, predict
from train.dataset import LABELS, LoadedScans, Row, load_scans
from train.recipe import ClassifierRecipe


@dataclass(frozen=True)
class ImageFoldTask:
    """Everything such a fold needs; every worker must see the scans."""

    method: Method
    lot: str
    """Held out."""
    bounds: Bounds | None
    recipe: ExperimentRecipe
    backbone: Backbone
    training: tuple[Row, ...]
    test: tuple[Row, ...]
    experiment: str
    threads: int


def run_image_fold(task: ImageFoldTask) -> FoldResult:
    """Fine-tune and judge, at the network of the last epoch: nothing is chosen. Raises DivergedError, DataError."""
    torch.set_num_threads(task.threads)
    started = time.perf_counter()
    ours = task.recipe
    recipe = ClassifierRecipe(
        method=task.method,
        size=task.backbone.size,
        weights=task.backbone.weights,
        fine_tune=ours.fine_tune,
        epochs=ours.epochs,
        batch=ours.batch,
        lr=ours.lr,
        step_epochs=ours.step_epochs,
        step_factor=ours.step_factor,
        flip_p=ours.flip_p,
        balanced=ours.loss == "balanced",
        amp="bf16" if task.backbone.amp else "off",
        device=task.backbone.device,
        seed=ours.seed,
    )
    size = task.backbone.size
    test = load_scans(task.test, task.method, task.bounds, size, jobs=task.threads)
    labels = {row.label for row in task.training}
    if len(labels) < 2:
        p_abnormal, losses = np.full(len(test.rows), float(1 in labels)), []
    else:
        training = load_scans(task.training, task.method, task.bounds, size, jobs=task.threads)
        torch.manual_seed(recipe.seed)
        model = build_classifier(recipe)
        history, _ = fit(model, training, _one_of_each(training), recipe, recipe.stages(), Reporter())
        p_abnormal, losses = predict(model, test.images, size), [figures.loss for figures in history]
    return FoldResult(
        experiment=task.experiment,
        method=str(task.method),
        lot=task.lot,
        bounds_counts=None if task.bounds is None else (task.bounds.lo_counts, task.bounds.hi_counts),
        threshold=HALF,
        files=tuple(row.file for row in test.rows),
        labels=tuple(row.label for row in test.rows),
        p_abnormal=tuple(float(p) for p in p_abnormal),
        epoch_losses=tuple(losses),
        one_class=LABELS[min(labels)] if len(labels) < 2 else None,
        seconds=time.perf_counter() - started,
    )


def _one_of_each(scans: LoadedScans) -> LoadedScans:
    """One scan of each class: `fit` wants something to report on, and the held-out lot must not be it."""
    chosen = [int((scans.labels == label).argmax()) for label in (0, 1)]
    return LoadedScans(
        tuple(scans.rows[i] for i in chosen), scans.images[chosen], tuple(scans.facts[i] for i in chosen)
    )
