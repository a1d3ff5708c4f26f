"""Training of the layers behind the frozen backbone, on features instead of images.

`train_layers` repeats `train.classifier.training.fit` step by step: the same order of scans, the same flips, the same
optimiser from the same seed. So its losses are those of the uncached training, up to the rounding of the backbone's
arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from train.classifier.experiment import ExperimentRecipe
from train.classifier.training import build_classifier
from train.classifier.views import FLIPS, view_of_flips
from train.errors import DivergedError
from train.losses import finite, weighted_loss
from train.recipe import ClassifierRecipe

Start = dict[str, npt.NDArray[np.float32]]
"""First values of the paper's layers, by parameter name."""

MAX_GRADIENT_NORM = 5.0
"""As in `train.classifier.training`."""
MLP_WIDTH, MLP_BATCH, MLP_LR = 256, 256, 1e-3
MLP_LEAST_STEPS = 400
"""However few the scans are."""
FEATURE_DROPOUT, HIDDEN_DROPOUT = 0.5, 0.3
LOGISTIC_STEPS = 100
"""At most; the loss no longer moves in its fourth digit long before."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Features of training scans in all their views."""

    features: npt.NDArray[np.float32]
    """float32 (scans, views, features)."""
    labels: npt.NDArray[np.int64]
    """Classes (scans,)."""
    files: tuple[str, ...]
    """For messages."""


def starting_layers(weights: str, seed: int) -> dict[str, npt.NDArray[np.float32]]:
    """The trained layers of the paper as `train.classifier.training` starts them for these weights and this seed.

    The first is the backbone's own last layer. Raises TrainError.
    """
    torch.manual_seed(seed)
    model = build_classifier(ClassifierRecipe(weights=weights, seed=seed))
    stack = nn.Sequential(model.backbone.fc, *model.head)
    return {name: tensor.numpy() for name, tensor in stack.state_dict().items()}


def paper_layers(width: int, recipe: ExperimentRecipe, start: Start) -> nn.Sequential:
    """1000, 512, 256 and the classes, fully connected, behind `width` features.

    They start as `starting_layers` says where that fits, which it does in the paper's recipe; a first layer for other
    features and a last one for other classes start afresh.
    """
    torch.manual_seed(recipe.seed)
    layers = [nn.Linear(width, 1000), nn.ReLU(), nn.Linear(1000, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU()]
    stack = nn.Sequential(*layers, nn.Linear(256, recipe.classes))
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if parameter.shape == start[name].shape:
                parameter.copy_(torch.from_numpy(start[name]))
            elif parameter.ndim == 2:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            else:
                nn.init.zeros_(parameter)
    return stack


def train_layers(layers: nn.Module, data: TrainingSet, recipe: ExperimentRecipe) -> list[float]:
    """Train layers from features float (n, d) to logits, in place; returns the mean loss of every epoch.

    Raises DivergedError, with step and files, as soon as the loss is not a finite number.
    """
    rng = np.random.default_rng(recipe.seed)
    features, labels = torch.from_numpy(data.features), torch.from_numpy(data.labels)
    class_weights = recipe.class_weights(data.labels)
    parameters = list(layers.parameters())
    # Fused: one pass over memory per step instead of a dozen, which is where the time goes.
    optimizer = torch.optim.Adam(parameters, lr=recipe.lr, fused=True)
    n = len(labels)
    warped = data.features.shape[1] > FLIPS
    history: list[float] = []
    step = 0
    for epoch in range(recipe.epochs):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * recipe.step_factor ** (epoch // recipe.step_epochs)
        order = rng.permutation(n)
        losses = []
        for start in range(0, n, recipe.batch):
            indices = order[start : start + recipe.batch]
            mirrored, upside_down = (rng.random(len(indices)) < recipe.flip_p for _ in range(2))
            views = view_of_flips(mirrored, upside_down)
            if warped:
                views = views + FLIPS * (rng.random(len(indices)) < 0.5)
            logits = layers(features[torch.from_numpy(indices), torch.from_numpy(views)])
            loss = weighted_loss(logits, labels[torch.from_numpy(indices)], class_weights)
            losses.append(finite(loss, step, (data.files[i] for i in indices)))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
            optimizer.step()
            step += 1
        history.append(float(np.mean(losses)))
    return history


def fit_logistic(data: TrainingSet, recipe: ExperimentRecipe) -> tuple[nn.Sequential, list[float]]:
    """One layer from standardised features to logits by penalised cross-entropy over all views; the loss at its end.

    The problem is convex: no rate, no epochs, no seed. Raises DivergedError.
    """
    n, views, width = data.features.shape
    x = torch.from_numpy(data.features).flatten(0, 1)
    labels = torch.from_numpy(data.labels)
    class_weights = recipe.class_weights(data.labels)
    repeated = labels.repeat_interleave(views)
    layer = nn.Linear(width, recipe.classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=LOGISTIC_STEPS, line_search_fn="strong_wolfe")

    def penalised() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = weighted_loss(layer(x), repeated, class_weights) + recipe.penalty / 2 * layer.weight.square().sum()
        loss.backward()
        return loss.detach()

    optimizer.step(penalised)
    final = penalised().item()
    if not math.isfinite(final):
        bad = ", ".join(data.files[i] for i in range(n) if not np.isfinite(data.features[i]).all()) or "no single scan"
        raise DivergedError(f"the loss is {final}; features are not finite in: {bad}", hint="look at these scans")
    return nn.Sequential(layer), [final]


def fit_mlp(data: TrainingSet, recipe: ExperimentRecipe) -> tuple[nn.Sequential, list[float]]:
    """Two layers with dropout from standardised features to logits, over all views; the mean loss of every epoch.

    AdamW under a one-cycle rate; `recipe.penalty` is the weight decay. Raises DivergedError.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    features, labels = torch.from_numpy(data.features), torch.from_numpy(data.labels)
    class_weights = recipe.class_weights(data.labels)
    n, views, width = data.features.shape
    layers = nn.Sequential(nn.Linear(width, MLP_WIDTH), nn.ReLU(), nn.Linear(MLP_WIDTH, recipe.classes))
    optimizer = torch.optim.AdamW(layers.parameters(), lr=MLP_LR, weight_decay=recipe.penalty, fused=True)
    steps_per_epoch = math.ceil(n / MLP_BATCH)
    epochs = max(recipe.epochs, math.ceil(MLP_LEAST_STEPS / steps_per_epoch))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, MLP_LR, total_steps=epochs * steps_per_epoch)
    history: list[float] = []
    for epoch in range(epochs):
        order = rng.permutation(n)
        losses = []
        for start in range(0, n, MLP_BATCH):
            indices = order[start : start + MLP_BATCH]
            seen = torch.from_numpy(rng.integers(views, size=len(indices)))
            # Dropout is a part of the training alone: the layers that leave here are those of any other head.
            x = F.dropout(features[torch.from_numpy(indices), seen], FEATURE_DROPOUT)
            hidden = F.dropout(layers[1](layers[0](x)), HIDDEN_DROPOUT)
            loss = weighted_loss(layers[2](hidden), labels[torch.from_numpy(indices)], class_weights)
            step = epoch * steps_per_epoch + start // MLP_BATCH
            losses.append(finite(loss, step, (data.files[i] for i in indices)))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        history.append(float(np.mean(losses)))
    return layers, history
