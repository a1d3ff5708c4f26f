"""The transfer detector (Minhas, Zelek 2019): an ImageNet network whose last layer is replaced by two outputs.

Each class in turn is the normal one and all others together are anomalous, as in the one-class literature that the
paper compares with; the score of an image is the softmax of the anomalous output. The supervised detector learns from
both sides. `head` leaves the network frozen: its features, the means and maxima of the last three stages, are computed
once and serve all classes, and two small layers end in the outputs. `all` is the paper's: the whole network is trained,
once per class, from the two outputs that suit its frozen features best (`train.papers.transfer.fine_tune`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edge.system.progress import Reporter
from edge.validation.statistics import Interval, auroc
from train.classifier.experiment import ExperimentRecipe
from train.classifier.features import Backbone, frozen_network
from train.classifier.fit_all import pooled_network
from train.classifier.learner import HALF, Samples, inner_parts, learn
from train.classifier.lots import auroc_interval as lots_interval
from train.classifier.models import PooledClassifier
from train.classifier.pooling import CHANNELS, feature_maps, pool
from train.errors import DataError
from train.metrics import auroc_interval, best_threshold
from train.networks import normalise
from train.papers.transfer.fine_tune import Tuning, fine_tune, predict
from train.papers.transfer.image_sets import Choice, ImageSet, Part
from train.papers.transfer.one_class import one_class_scores

DETECTOR: Final = "transfer"
"""Name of the supervised detector's column."""
HEAD: Final = ExperimentRecipe(features="layers", head="mlp", penalty=0.05, loss="balanced", epochs=12)
"""Chosen on a quarter of CIFAR-10's training images, held out: there, of cat and of airplane against the rest, one
regularised layer ranks 0.01 worse."""
START: Final = ExperimentRecipe(features="mean", head="logistic", penalty=0.1, loss="balanced")
"""First recipe of a network that is then trained whole: the paper's, two outputs on the means of the last stage."""
_BATCH = 64


@dataclass(frozen=True)
class TransferRecipe:
    """Every choice of a run."""

    choice: Choice
    weights: str = "imagenet"
    fine_tune: Literal["head", "all"] = "head"
    normal: str | None = None
    """The one class to take as normal; None takes each in turn, of scans the normal ones."""
    device: str = "cpu"
    amp: bool = False
    """bfloat16 in the network."""
    tuning: Tuning = field(default_factory=Tuning)
    """How the whole network is trained, where `fine_tune` is `all`."""


@dataclass(frozen=True)
class ClassResult:
    """One class taken as normal: what each detector said of the test images."""

    name: str
    training: tuple[int, int]
    """Normal and anomalous training images."""
    labels: npt.NDArray[np.int64]
    """Labels of the test images (n,): 1 anomalous."""
    groups: tuple[str, ...]
    """What the test images belong to: of scans their lot, of others themselves."""
    scores: dict[str, npt.NDArray[np.float64]]
    """By detector, `DETECTOR` first; higher is more anomalous."""
    threshold: float
    """Threshold of the transfer detector's probability: from training lots held out in turn, 0.5 without lots."""
    network: PooledClassifier | None
    """Only of scans: it goes to the line. Others would fill the memory, one per class."""
    seconds: float

    def auroc(self, detector: str) -> float:
        """On the test images."""
        return auroc(self.scores[detector], self.labels)

    def interval(self, detector: str) -> Interval:
        """95 % interval of `auroc`: over lots where the images have some, else over images."""
        if len(set(self.groups)) < len(self.groups):
            return lots_interval(self.scores[detector], self.labels, self.groups)
        anomalous = int(self.labels.sum())
        return auroc_interval(self.auroc(detector), anomalous, len(self.labels) - anomalous)


@dataclass(frozen=True)
class _Frozen:
    """Statistics of the frozen network's feature maps, float32 (n, views, 3, CHANNELS)."""

    training: npt.NDArray[np.float32]
    test: npt.NDArray[np.float32]


def run_transfer(images: ImageSet, recipe: TransferRecipe, backbone: Backbone, reporter: Reporter) -> list[ClassResult]:
    """Train and judge a detector for every class that is taken as normal. Raises DataError, DivergedError."""
    names = normal_classes(images, recipe.normal)
    views = views_of(images.mirrors)
    # The line looks at a scan once, so a detector of scans is judged by one look too.
    judged = views[:1] if images.scans is not None else views
    frozen = _Frozen(
        frozen_features(images.training.images, views, backbone, reporter.counter("features of training images")),
        frozen_features(images.test.images, judged, backbone, reporter.counter("features of test images")),
    )
    results = []
    show = reporter.counter("classes")
    for done, name in enumerate(names, 1):
        results.append(_one_against_rest(images, name, frozen, recipe, backbone, reporter))
        areas = ", ".join(f"{detector} {results[-1].auroc(detector):.4f}" for detector in results[-1].scores)
        reporter.say(f"{name} against the rest: AUROC {areas} ({results[-1].seconds:.1f} s)")
        show(done, len(names))
    return results


def normal_classes(images: ImageSet, wanted: str | None) -> tuple[str, ...]:
    """The classes to take as normal. Raises DataError where there is none of the name."""
    if wanted is None:
        # An electrode set names its normal class itself; anomalies of many kinds make no class to be normal.
        return images.classes if images.scans is None else images.classes[:1]
    if wanted not in images.classes:
        raise DataError(
            f"there is no class {wanted!r} in {images.name} to take as normal",
            hint=f"choose one of {', '.join(images.classes)}",
        )
    return (wanted,)


def views_of(mirrors: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The axes to mirror along for every view of an image that may be mirrored along `mirrors`; none first."""
    return [axes for count in range(len(mirrors) + 1) for axes in combinations(mirrors, count)]


def frozen_features(
    images: npt.NDArray[np.uint8],
    views: Sequence[tuple[int, ...]],
    backbone: Backbone,
    progress: Callable[[int, int], None],
) -> npt.NDArray[np.float32]:
    """Means, maxima and deviations of the feature maps of images uint8 (n, channels, height_px, width_px).

    Returns float32 (n, views, 3, CHANNELS).
    """
    channels = images.shape[1]
    device = torch.device(backbone.device)
    network: nn.Module = frozen_network(backbone, channels).backbone
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    features = np.empty((len(images), len(views), 3, CHANNELS), np.float32)
    for start in range(0, len(images), _BATCH):
        batch = torch.from_numpy(images[start : start + _BATCH]).to(device, non_blocking=True)
        for number, axes in enumerate(views):
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=backbone.amp):
                x = normalise(batch.flip(axes) if axes else batch, channels)
                pooled = pool(feature_maps(network, x.contiguous(memory_format=torch.channels_last)))
            features[start : start + _BATCH, number] = pooled.whole.float().cpu().numpy()
        progress(min(start + _BATCH, len(images)), len(images))
    return features


def _one_against_rest(
    images: ImageSet, name: str, frozen: _Frozen, recipe: TransferRecipe, backbone: Backbone, reporter: Reporter
) -> ClassResult:
    started = time.perf_counter()
    number = images.classes.index(name)
    is_anomalous, test_labels = ((part.labels != number).astype(np.int64) for part in (images.training, images.test))
    samples = _samples(frozen.training, is_anomalous, images.training)
    if recipe.fine_tune == "head":
        # Without lots there is nothing that could be held out honestly, nor a line that asks for a threshold.
        head = replace(HEAD, seed=recipe.choice.seed, threshold="half" if images.scans is None else "calibrated")
        learnt = learn(samples, head, {})
        network = pooled_network(learnt, images.training.images.shape[1], backbone) if images.scans else None
        threshold = learnt.threshold
        p_of_views = [
            learnt.predict(_samples(frozen.test[:, [view]], test_labels, images.test))
            for view in range(frozen.test.shape[1])
        ]
    else:
        tuned, threshold = _tuned(images, samples, recipe, backbone, reporter)
        p_of_views = [
            predict(tuned, np.flip(images.test.images, axes), recipe.device, amp=recipe.amp)
            for axes in views_of(images.mirrors)[: frozen.test.shape[1]]
        ]
        network = tuned if images.scans else None
    normal = frozen.training[is_anomalous == 0]
    baselines = one_class_scores(_flat(normal), _flat(frozen.test), recipe.choice.seed)
    return ClassResult(
        name=name,
        training=(len(normal), int(is_anomalous.sum())),
        labels=test_labels,
        groups=images.test.groups,
        scores={DETECTOR: np.mean(p_of_views, axis=0), **baselines},
        threshold=threshold,
        network=network,
        seconds=time.perf_counter() - started,
    )


def _tuned(
    images: ImageSet, samples: Samples, recipe: TransferRecipe, backbone: Backbone, reporter: Reporter
) -> tuple[PooledClassifier, float]:
    """The network trained whole, and its threshold: of scans on a part of the training lots that it has not seen."""
    part, everything = images.training, np.arange(len(samples.labels))
    held = _held_for_threshold(samples) if images.scans is not None else everything[:0]
    rest = np.setdiff1d(everything, held)
    learnt = learn(samples.take(rest), replace(START, seed=recipe.choice.seed), {})
    network = pooled_network(learnt, part.images.shape[1], backbone)
    names = [part.names[i] for i in rest]
    fine_tune(
        network,
        part.images[rest],
        samples.labels[rest],
        names,
        recipe.tuning,
        mirrors=images.mirrors,
        device=recipe.device,
        amp=recipe.amp,
        seed=recipe.choice.seed,
        reporter=reporter,
    )
    if not len(held):
        return network, HALF
    p_held = predict(network, part.images[held], recipe.device, amp=recipe.amp)
    return network, best_threshold(p_held, samples.labels[held])


def _held_for_threshold(samples: Samples) -> npt.NDArray[np.int64]:
    """A part of the training lots with both classes in it and left without it; none where there is no such part."""
    for held in inner_parts(samples):
        rest = np.setdiff1d(np.arange(len(samples.labels)), held)
        if all(len(np.unique(samples.labels[part])) == 2 for part in (held, rest)):
            return held
    return np.empty(0, np.int64)


def _samples(features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], part: Part) -> Samples:
    """As the learner takes them; of the tiles, which serve electrodes only, none."""
    tiles = np.empty((*features.shape[:2], 2, 0, CHANNELS), np.float16)
    return Samples(features, tiles, labels, np.zeros(len(labels), np.bool_), part.groups, part.names)


def _flat(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Means and maxima of the images as they are, float32 (n, 2 CHANNELS), not standardised."""
    return features[:, 0, :2].reshape(len(features), -1)
