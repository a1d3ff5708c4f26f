"""Training of the electrode classifier (Jensen, Moeslund, Andreasen 2022, section 2.4).

The defaults of `ClassifierRecipe` are the paper's: everything frozen up to the 1000-wide layer, a rate of 0.001 that
decays every 10 epochs, 50 epochs, flips; the paper names no optimizer, here it is Adam. Beyond it: other starting
weights, more layers, smaller sizes first, one-cycle rates, balanced drawing, bfloat16. Validation is by whole lots,
which also choose the epoch and the decision threshold.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge.images.conversion import Bounds
from edge.records import Size
from edge.system.progress import Reporter
from edge.validation.statistics import auroc, confusion
from train.bounds import Mode, bounds_needed
from train.checkpoint import (
    CLASSIFIER_FILE,
    TRAINING_REPORT,
    Checkpoint,
    Value,
    load_checkpoint,
    save_checkpoint,
    scans_seen,
)
from train.classifier.lots import accuracy_interval, auroc_interval, most_wrong
from train.classifier.models import classifier_of
from train.classifier.region_task import RegionTask, flip
from train.classifier.regions import read_regions
from train.dataset import LABELS, LoadedScans, load_split, read_labels, split_by_lot
from train.device import choose_arithmetic, open_device
from train.errors import TrainError
from train.files import write_text
from train.losses import classifier_loss, finite
from train.metrics import best_threshold
from train.networks import ElectrodeClassifier
from train.recipe import ClassifierRecipe, FineTune, Stage, flat
from train.report import worst_of
from train.resume import FILE as RESUME_FILE
from train.resume import EpochEnd, Resume, digest_of
from train.weights import NONE, load_weights, random_warning

_WARM_SHARE = 0.05
"""Share of a one-cycle run over which the rate rises."""
_EVALUATION_BATCH = 8


@dataclass(frozen=True, slots=True)
class EpochFigures:
    """What one epoch came to."""

    epoch: int
    size: str
    lr: float
    loss: float
    validation_loss: float
    validation_balanced_accuracy: float
    """At the best threshold of this epoch."""
    validation_auroc: float
    seconds: float

    def line(self) -> str:
        return (
            f"epoch {self.epoch} {self.size} lr {self.lr:.2g} loss {self.loss:.4f} validation loss"
            f" {self.validation_loss:.4f} balanced accuracy {self.validation_balanced_accuracy:.4f}"
            f" AUROC {self.validation_auroc:.4f} ({self.seconds:.0f} s)"
        )


def train_classifier(
    data: Path,
    out: Path,
    recipe: ClassifierRecipe,
    reporter: Reporter,
    *,
    bounds: Bounds | None = None,
    bounds_mode: Mode = "per_scan",
) -> Checkpoint:
    """Train on a folder of labelled scans; writes `out/classifier.pt` and `out/metrics.json`.

    Without `bounds` they come from the training lots. Raises DataError, TrainError, DivergedError.
    """
    stages = recipe.stages()
    if recipe.recalibrate_scans and not learns_statistics(recipe):
        raise TrainError(
            f"batch norm statistics of {recipe.weights} weights, fine-tuned {recipe.fine_tune}, are frozen: there is"
            " nothing to take anew",
            hint="--recalibrate-scans is for --weights none --fine-tune all",
        )
    if (warning := random_warning(flat(recipe))) is not None:
        reporter.say(warning)
    torch.manual_seed(recipe.seed)
    # Before the scans are read: a missing GPU, and missing weights, fail at once.
    recipe = replace(recipe, amp=choose_arithmetic(recipe.amp, recipe.device, reporter.say))
    model = build_classifier(recipe)
    training_rows, validation_rows = split_by_lot(read_labels(data), recipe.validation_share, recipe.seed)
    if bounds is None:
        bounds = bounds_needed(recipe.method, training_rows, bounds_mode, reporter.counter)
    if bounds is not None:
        reporter.say(f"bounds {bounds.lo_counts}..{bounds.hi_counts} counts")
    scans = load_split(training_rows, validation_rows, recipe.method, bounds, recipe.size, reporter.counter)
    training, validation = scans.training, scans.held_out
    reporter.say(f"training on {_describe(training)}; validating on {_describe(validation)}")
    digest = scans.digest
    key = {"recipe": flat(recipe), "bounds": str(bounds), "data": digest, "order": scans.order}
    if recipe.learn_regions:
        key["regions"] = digest_of(read_regions(training.rows))
    resume = Resume(out / RESUME_FILE, json.dumps(key))
    history, state = fit(model, training, validation, recipe, stages, reporter, resume)
    model.load_state_dict(state)
    if recipe.recalibrate_scans:
        recalibrate_batch_norm(model, training, recipe)
        state = model.state_dict()
    p_abnormal = predict(model, validation.images, recipe.size)
    checkpoint = Checkpoint(
        kind="classifier",
        state_dict=_on_cpu(state),
        method=recipe.method,
        bounds=bounds,
        size=recipe.size,
        seed=recipe.seed,
        data_digest=digest,
        **scans_seen(scans.rows, scans.facts),
        thresholds={"threshold": best_threshold(p_abnormal, validation.labels)},
        recipe={**flat(recipe), "bounds_mode": bounds_mode},
        metrics=_figures(p_abnormal, training, validation),
    )
    save_checkpoint(out / CLASSIFIER_FILE, checkpoint)
    report = {
        "recipe": checkpoint.recipe,
        "metrics": checkpoint.metrics,
        "thresholds": checkpoint.thresholds,
        "epochs": [asdict(figures) for figures in history],
        "validation_bundles": sorted({row.lot for row in validation.rows}),
    }
    write_text(out / TRAINING_REPORT, json.dumps(report, indent=2) + "\n")
    resume.done()
    return checkpoint


def build_classifier(recipe: ClassifierRecipe) -> ElectrodeClassifier:
    """The network at its starting weights, with what the recipe freezes frozen."""
    model = ElectrodeClassifier(recipe.method.channels)
    if recipe.start:
        before = classifier_of(load_checkpoint(Path(recipe.start), "classifier"))
        if not isinstance(before, ElectrodeClassifier):
            raise TrainError(
                f"{recipe.start} is of fit-features: its layers read other features than fine-tune's",
                hint="give a classifier.pt of fine-tune or of fit-features --recipe paper, or start with --weights",
            )
        model.load_state_dict(before.state_dict())
        freeze(model, recipe.fine_tune)
        return model
    load_weights(model.backbone, recipe.weights)
    for layer in model.head:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    if recipe.weights == NONE:
        nn.init.kaiming_normal_(model.backbone.fc.weight, nonlinearity="relu")
        for name, layer in model.backbone.named_modules():
            if name.endswith("bn2"):
                nn.init.zeros_(layer.weight)  # every block starts as the identity: He et al. 2019, "Bag of tricks"
    freeze(model, recipe.fine_tune)
    return model


def freeze(model: ElectrodeClassifier, fine_tune: FineTune) -> None:
    """Leave gradients on for the last layers only (`head`: fc and after; `layer4`: that too; `all`)."""
    for name, parameter in model.backbone.named_parameters():
        trained = fine_tune == "all" or name.startswith("fc.")
        parameter.requires_grad = trained or (fine_tune == "layer4" and name.startswith("layer4."))


def learns_statistics(recipe: ClassifierRecipe) -> bool:
    """Whether the training changes the backbone's batch norm statistics; a pretrained one keeps its own."""
    return recipe.fine_tune == "all" and recipe.weights == NONE


def training_mode(model: ElectrodeClassifier, recipe: ClassifierRecipe) -> None:
    """Train mode, except that a pretrained backbone keeps its batch norm statistics, frozen or not.

    Scans resemble each other far more than ImageNet's images do. By the statistics of a batch of them, the last layer's
    inputs all rise, its outputs fall below 0, and the ReLU behind it passes nothing on.
    """
    model.train()
    if not learns_statistics(recipe):
        model.backbone.eval()


def fit(
    model: ElectrodeClassifier,
    training: LoadedScans,
    validation: LoadedScans,
    recipe: ClassifierRecipe,
    stages: list[Stage],
    reporter: Reporter,
    resume: Resume | None = None,
) -> tuple[list[EpochFigures], dict[str, Tensor]]:
    """Run all epochs; returns their figures and the state of the full-size epoch with the least validation loss.

    With `resume` it goes on after the last epoch that was done, to the same end. Raises DivergedError, with step and
    files, as soon as the loss is not a finite number.
    """
    torch.set_flush_denormal(True)  # vanishing gradients would otherwise cost a CPU ten times the time
    rng = np.random.default_rng(recipe.seed)
    device = open_device(recipe.device)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = _optimizer(recipe, trained)
    steps_per_epoch = math.ceil(len(training.rows) / recipe.batch)
    # A one-cycle run is measured in pixels, so that the short stage at full size still has a rate to learn with.
    total_px = sum(_area(stage.size) * stage.epochs for stage in stages)
    seen_px = 0.0
    regions = RegionTask(model, read_regions(training.rows)) if recipe.learn_regions else None
    if regions is not None:
        optimizer.add_param_group({"params": list(regions.layer.parameters())})
    history: list[EpochFigures] = []
    best_loss, best_state = math.inf, copy.deepcopy(model.state_dict())
    step = epoch = 0
    modules = [model] if regions is None else [model, regions.layer]
    if resume is not None and (before := resume.load(modules, optimizer, rng, reporter.say)) is not None:
        epoch, step, seen_px = before.epoch, before.step, before.seen_px
        best_loss, best_state = before.best_loss, before.best_state
        history = [EpochFigures(**figures) for figures in before.history]
    for stage in [each for each in stages for _ in range(each.epochs)][epoch:]:
        start_s, losses = time.monotonic(), []
        training_mode(model, recipe)
        count = reporter.counter(f"epoch {epoch + 1} at {stage.size.height_px}x{stage.size.width_px}")
        for indices in batches(training.labels, recipe, rng):
            seen_px += _area(stage.size) / steps_per_epoch
            lr = learning_rate(recipe, epoch, seen_px / total_px)
            loss = _batch_loss(model, training, indices, stage.size, recipe, rng, regions)
            losses.append(finite(loss, step, (training.rows[i].file for i in indices)))
            _descend(optimizer, loss, lr, trained)
            step += 1
            count(len(losses), steps_per_epoch)
        epoch += 1
        p_abnormal = predict(model, validation.images, stage.size, recipe.amp == "bf16")
        figures = _epoch_figures(epoch, stage.size, lr, losses, p_abnormal, validation, start_s)
        history.append(figures)
        reporter.say(figures.line())
        if stage is stages[-1] and figures.validation_loss < best_loss:
            best_loss, best_state = figures.validation_loss, copy.deepcopy(model.state_dict())
        if resume is not None:
            figures_so_far = [asdict(figures) for figures in history]
            at = EpochEnd(epoch, step, seen_px, figures_so_far, best_loss, best_state)
            resume.save(at, modules, optimizer, rng)
    return history, best_state


def _batch_loss(
    model: ElectrodeClassifier,
    training: LoadedScans,
    indices: np.ndarray,
    size: Size,
    recipe: ClassifierRecipe,
    rng: np.random.Generator,
    regions: RegionTask | None,
) -> Tensor:
    """Loss of some scans of the training, flipped, shrunk to `size` and changed a little at random."""
    device = next(model.parameters()).device
    images = torch.from_numpy(training.images[indices]).to(device)
    labels = torch.from_numpy(training.labels[indices]).to(device)
    flips = draw_flips(len(indices), recipe.flip_p, rng, device)
    x = flip(augment(model.normalise(images), size, recipe.jitter, rng), flips)
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.amp == "bf16"):
        logits = model(x.contiguous(memory_format=torch.channels_last))
    loss = classifier_loss(logits.float(), labels, recipe.label_smoothing)
    return loss if regions is None else loss + regions.loss(torch.from_numpy(indices), flips)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor, lr: float, trained: list[nn.Parameter]) -> None:
    """One step down the gradient of a batch."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(trained, 5.0)
    optimizer.step()


def _on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in state.items()}


def recalibrate_batch_norm(model: ElectrodeClassifier, training: LoadedScans, recipe: ClassifierRecipe) -> None:
    """Take the batch norm statistics anew, as plain means over training scans at full size.

    Those kept while training follow the last few batches, and a few batches of large, much alike scans say little.
    """
    device = torch.device(recipe.device)
    rng = np.random.default_rng(recipe.seed)
    drawn = rng.permutation(len(training.rows))[: recipe.recalibrate_scans]

    def images_of(numbers: np.ndarray) -> Tensor:
        return model.normalise(torch.from_numpy(training.images[numbers]).to(device))

    take_statistics(model, drawn, images_of, recipe.batch, recipe.amp == "bf16")


@torch.no_grad()
def take_statistics(
    network: nn.Module, drawn: np.ndarray, images_of: Callable[[np.ndarray], Tensor], batch: int, is_bf16: bool
) -> None:
    """Batch norm statistics of a network as plain means over the scans `drawn` (n,); leaves it in eval mode.

    `images_of`: normalised images (n, 3, h, w) of some of these numbers, on the network's device.
    """
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    network.eval()
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative
        layer.train()
    # Whole batches only: a small last one would count as much as the others.
    for start in range(0, max(1, len(drawn) - batch + 1), batch):
        x = images_of(drawn[start : start + batch])
        with torch.autocast(x.device.type, torch.bfloat16, enabled=is_bf16):
            network(x.contiguous(memory_format=torch.channels_last))
    for layer in norms:
        layer.momentum = 0.1
    network.eval()


def batches(labels: np.ndarray, recipe: ClassifierRecipe, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Indices of one epoch in batches: every scan once, or with `balanced` both classes equally often."""
    if recipe.balanced:
        half = len(labels) / 2
        drawn = [_cycle(np.flatnonzero(labels == label), round(half), rng) for label in range(len(LABELS))]
        order = rng.permutation(np.concatenate(drawn))[: len(labels)]
    else:
        order = rng.permutation(len(labels))
    for start in range(0, len(order), recipe.batch):
        yield order[start : start + recipe.batch]


def draw_flips(n: int, p: float, rng: np.random.Generator, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Which of n images are mirrored left-right and which upside down: two bool tensors (n,)."""
    across, down = (torch.from_numpy(rng.random(n) < p).to(device) for _ in range(2))
    return across, down


def augment(x: Tensor, size: Size, jitter: float, rng: np.random.Generator) -> Tensor:
    """Shrink normalised images float (n, 3, height, width) to a size; change brightness and contrast a little."""
    if x.shape[-2:] != tuple(size):
        x = F.interpolate(x, tuple(size), mode="area")
    if jitter:
        n = len(x)
        gain, shift = (rng.uniform(-jitter, jitter, (n, 1, 1, 1)).astype(np.float32) for _ in range(2))
        x = x * (1 + torch.from_numpy(gain).to(x.device)) + 2 * torch.from_numpy(shift).to(x.device)
    return x


def learning_rate(recipe: ClassifierRecipe, epoch: int, done: float) -> float:
    """`step`: lr x factor per `step_epochs` epochs. `one-cycle`: linear rise, then half a cosine down to 1 %.

    `done` is the share of the training's pixels seen, 0 to 1; `epoch` counts from 0.
    """
    if recipe.schedule == "step":
        return recipe.lr * recipe.step_factor ** (epoch // recipe.step_epochs)
    if done < _WARM_SHARE:
        return recipe.lr * done / _WARM_SHARE
    return recipe.lr * (0.01 + 0.99 * (1 + math.cos(math.pi * (done - _WARM_SHARE) / (1 - _WARM_SHARE))) / 2)


@torch.inference_mode()
def predict(model: ElectrodeClassifier, images: np.ndarray, size: Size, bf16: bool = False) -> np.ndarray:
    """p(abnormal) float64 (n,) of uint8 images (n, channels, height, width) at a size."""
    model.eval()
    device, scores = next(model.parameters()).device, []
    for start in range(0, len(images), _EVALUATION_BATCH):
        x = model.normalise(torch.from_numpy(images[start : start + _EVALUATION_BATCH]).to(device))
        if x.shape[-2:] != tuple(size):
            x = F.interpolate(x, tuple(size), mode="area")
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(x.contiguous(memory_format=torch.channels_last))
        scores.append(logits.double().softmax(dim=1)[:, 1].cpu().numpy())
    return np.concatenate(scores)


def _cycle(indices: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of the indices in random order, each used up before any comes again."""
    rounds = [rng.permutation(indices) for _ in range(math.ceil(count / len(indices)))]
    return np.concatenate(rounds)[:count]


def _optimizer(recipe: ClassifierRecipe, trained: list[nn.Parameter]) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        return torch.optim.Adam(trained, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=recipe.weight_decay)


def _epoch_figures(
    epoch: int, size: Size, lr: float, losses: list[float], p: np.ndarray, validation: LoadedScans, start_s: float
) -> EpochFigures:
    labels = validation.labels
    right = np.clip(np.where(labels == 1, p, 1 - p), 1e-7, 1.0)
    return EpochFigures(
        epoch=epoch,
        size=f"{size.height_px}x{size.width_px}",
        lr=lr,
        loss=float(np.mean(losses)),
        validation_loss=float(-np.log(right).mean()),
        validation_balanced_accuracy=confusion(p, labels, best_threshold(p, labels)).balanced_accuracy,
        validation_auroc=auroc(p, labels),
        seconds=time.monotonic() - start_s,
    )


def _figures(p: np.ndarray, training: LoadedScans, validation: LoadedScans) -> dict[str, Value]:
    labels = validation.labels
    threshold, lots = best_threshold(p, labels), np.array([row.lot for row in validation.rows])
    decided = confusion(p, labels, threshold)
    by_lot = {str(lot): confusion(p[lots == lot], labels[lots == lot], threshold) for lot in np.unique(lots)}
    low, high = accuracy_interval(list(by_lot.values()))
    area_low, area_high = auroc_interval(p.astype(np.float64), labels, lots.tolist())
    return {
        "training_scans": len(training.rows),
        "training_bundles": len({row.lot for row in training.rows}),
        "validation_scans": len(validation.rows),
        "validation_bundles": len({row.lot for row in validation.rows}),
        "validation_tp": decided.tp,
        "validation_fp": decided.fp,
        "validation_tn": decided.tn,
        "validation_fn": decided.fn,
        "selection_balanced_accuracy": decided.balanced_accuracy,  # at the threshold chosen on these very scans
        "selection_balanced_accuracy_lots_low": low,
        "selection_balanced_accuracy_lots_high": high,
        "selection_worst_lot": worst_of(most_wrong(by_lot)),
        "validation_auroc": auroc(p, labels),
        "validation_auroc_lots_low": area_low,
        "validation_auroc_lots_high": area_high,
    }


def _describe(scans: LoadedScans) -> str:
    abnormal = int(scans.labels.sum())
    lots = len({row.lot for row in scans.rows})
    return f"{len(scans.rows)} scans of {lots} lots, {abnormal} abnormal"


def _area(size: Size) -> int:
    return size.height_px * size.width_px
