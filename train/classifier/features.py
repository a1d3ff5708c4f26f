"""The frozen part of the classifier, run once per scan, view and conversion for all folds that share bounds.

The paper runs ResNet-34 over every training scan of every fold in every epoch. All of it up to its last layer is
frozen, so a scan has only as many features as it has views (`train.classifier.views`): they are computed once and kept
(`train.classifier.feature_cache`). The training that follows sees the same numbers in the same order; `tests/train`
compares its losses with those of the uncached training.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edge.images.conversion import Bounds, prepare
from edge.images.method import Method
from edge.records import Size
from train.classifier.feature_cache import FeatureCache, FeatureKey, Features
from train.classifier.models import Classifier
from train.classifier.pooling import STATISTICS, feature_maps, pool
from train.classifier.training import build_classifier
from train.classifier.views import view
from train.dataset import Row, read_frame
from train.device import open_device
from train.errors import DataError
from train.networks import ElectrodeClassifier, fold_batch_norms
from train.recipe import ClassifierRecipe
from train.runner import Runner

CHUNK_SCANS = 8
"""Scans of one task: few enough that a lost worker costs little, enough to keep reading ahead of the network."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """The frozen network and how it is run."""

    weights: str
    """`imagenet`, `none` or a file, as `train.weights` takes it."""
    sha256: str
    """Digest of the weights themselves, whatever file they came from."""
    size: Size
    amp: bool
    """bfloat16 where that is fast; features then differ from float32 in the third digit."""
    device: str
    seed: int
    """Seed of the initial weights, where `weights` is `none`."""

    @property
    def arithmetic(self) -> str:
        return f"{'bfloat16' if self.amp else 'float32'} on {torch.device(self.device).type}"


@dataclass(frozen=True, slots=True)
class Conversion:
    """One way to grey levels; `bounds` is None where the method uses none, so that all folds share it."""

    method: Method
    bounds: Bounds | None

    @classmethod
    def of(cls, method: Method, bounds: Bounds) -> Conversion:
        """The conversion of a fold whose training scans have these bounds."""
        return cls(method, bounds if method.needs_bounds else None)

    def __str__(self) -> str:
        if self.bounds is None:
            return str(self.method)
        return f"{self.method} {self.bounds.lo_counts}..{self.bounds.hi_counts}"


@dataclass(frozen=True, slots=True)
class PassTask:
    """Some scans, the views wanted of each, and everything a worker needs to compute them."""

    rows: tuple[Row, ...]
    sha256s: tuple[str, ...]
    views: tuple[tuple[int, ...], ...]
    conversion: Conversion
    backbone: Backbone
    threads: int
    network: Classifier | None
    """That of `backbone`, where it is no file that a worker opens."""


def open_backbone(weights: str, size: Size, *, seed: int, amp: bool, device: str) -> Backbone:
    """Read the weights once, to name them by their content. Raises TrainError."""
    open_device(device)
    return Backbone(weights, weights_sha256(starting_network(weights, 1, seed)), size, amp, device, seed)


def weights_sha256(network: Classifier) -> str:
    """Digest of a network's backbone, whatever file it came from and whatever was learnt behind it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.backbone.state_dict().items()):
        if not name.startswith("fc."):
            digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def compute_features(
    wanted: Mapping[Conversion, Mapping[int, Sequence[int]]],
    rows: Sequence[Row],
    sha256s: Sequence[str],
    backbone: Backbone,
    cache: FeatureCache,
    runner: Runner,
    progress: Callable[[int, int], None],
    network: Classifier | None = None,
) -> dict[Conversion, FeatureTable]:
    """Features of every wanted (conversion, scan number, view), from the cache or by a backbone pass.

    `network` is the one that `backbone` names, where that is no file that workers open.
    Raises DataError where a scan has changed since its hash was taken.
    """
    opened = None if network is None else _on_device(network, backbone.device)
    tables = {conversion: FeatureTable({}) for conversion in wanted}
    missing: list[tuple[Conversion, int, tuple[int, ...]]] = []
    done = 0
    total = sum(len(views) for scans in wanted.values() for views in scans.values())
    for conversion, scans in wanted.items():
        for number, views in scans.items():
            absent = []
            for shown in views:
                found = cache.get(_key(sha256s[number], conversion, shown, backbone))
                if found is None:
                    absent.append(shown)
                else:
                    tables[conversion].entries[number, shown] = found
                    done += 1
            if absent:
                missing.append((conversion, number, tuple(absent)))
    progress(done, total)
    tasks = list(_tasks(missing, rows, sha256s, backbone, runner.threads_each, opened))
    for index, results in runner.map(run_passes, [task for task, _ in tasks]):
        task, numbers = tasks[index]
        for number, sha256, features in zip(numbers, task.sha256s, results, strict=True):
            for shown, of_view in features.items():
                cache.put(_key(sha256, task.conversion, shown, backbone), of_view)
                tables[task.conversion].entries[number, shown] = of_view
                done += 1
        progress(done, total)
    cache.finish()
    return tables


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """All features of one conversion, by scan number and view."""

    entries: dict[tuple[int, int], Features]

    def wholes(self, numbers: Sequence[int], views: Sequence[int]) -> npt.NDArray[np.float32]:
        """Whole-image statistics float32 (scans, views, 3, channels)."""
        return np.stack([np.stack([self.entries[number, shown].whole for shown in views]) for number in numbers])

    def tiles(self, numbers: Sequence[int], views: Sequence[int]) -> npt.NDArray[np.float16]:
        """Maxima and means of tiles float16 (scans, views, 2, tiles, channels)."""
        return np.stack([np.stack([self.entries[number, shown].tiles for shown in views]) for number in numbers])


def run_passes(task: PassTask) -> list[dict[int, Features]]:
    """Features of each scan of a task, by view. Runs here, in another process or on another machine."""
    backbone = task.backbone
    torch.set_num_threads(task.threads)
    network = task.network or _network_on(backbone, task.conversion.method.channels)
    # Reading and converting go on in threads while the network computes.
    with ThreadPoolExecutor(2) as pool_of_readers:
        inputs = (task.rows, task.sha256s, task.views)
        batches = pool_of_readers.map(partial(_images, conversion=task.conversion, size=backbone.size), *inputs)
        results = [infer_features(network, torch.from_numpy(images), backbone) for images in batches]
    return [dict(zip(views, features, strict=True)) for views, features in zip(task.views, results, strict=True)]


def infer_features(network: Classifier, images: Tensor, backbone: Backbone) -> list[Features]:
    """Features of converted scans uint8 (n, channels, height, width)."""
    device = torch.device(backbone.device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=backbone.amp):
        x = network.normalise(images.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
        pooled = pool(feature_maps(network.backbone, x))
    wholes, tiles = pooled.whole.cpu().numpy(), pooled.tiles.half().cpu().numpy()
    return [Features(whole, tile) for whole, tile in zip(wholes, tiles, strict=True)]


def _images(row: Row, sha256: str, views: tuple[int, ...], conversion: Conversion, size: Size) -> npt.NDArray[np.uint8]:
    """The wanted views of a scan: uint8 (views, channels, height_px, width_px)."""
    frame = read_frame(row)
    if frame.scan.sha256 != sha256:
        raise DataError(
            f"{row.file} has changed while the command ran: SHA-256 {frame.scan.sha256[:12]}, before {sha256[:12]}",
            hint="start again once nothing writes to the folder; what is cached stays",
        )
    image = prepare(frame.counts, conversion.method, conversion.bounds, size)
    return np.stack([view(image, shown, sha256) for shown in views])


def frozen_network(backbone: Backbone, channels: int) -> ElectrodeClassifier:
    """The network at its starting weights, on the CPU, the caller's own."""
    return starting_network(backbone.weights, channels, backbone.seed)


def _tasks(
    missing: Iterable[tuple[Conversion, int, tuple[int, ...]]],
    rows: Sequence[Row],
    sha256s: Sequence[str],
    backbone: Backbone,
    threads: int,
    network: Classifier | None,
) -> Iterator[tuple[PassTask, tuple[int, ...]]]:
    by_conversion: dict[Conversion, list[tuple[int, tuple[int, ...]]]] = {}
    for conversion, number, views in missing:
        by_conversion.setdefault(conversion, []).append((number, views))
    for conversion, scans in by_conversion.items():
        for start in range(0, len(scans), CHUNK_SCANS):
            numbers = tuple(number for number, _ in scans[start : start + CHUNK_SCANS])
            wanted = tuple(views for _, views in scans[start : start + CHUNK_SCANS])
            chosen = tuple(rows[number] for number in numbers)
            hashes = tuple(sha256s[number] for number in numbers)
            yield PassTask(chosen, hashes, wanted, conversion, backbone, threads, network), numbers


def _key(sha256: str, conversion: Conversion, shown: int, backbone: Backbone) -> FeatureKey:
    size = f"{backbone.size.height_px}x{backbone.size.width_px}"
    return FeatureKey(sha256, str(conversion), size, shown, backbone.sha256, STATISTICS, backbone.arithmetic)


def starting_network(weights: str, channels: int, seed: int) -> ElectrodeClassifier:
    """The classifier as `train.classifier.training` would start it, so that random weights are the same ones too."""
    torch.manual_seed(seed)
    method = Method.MIXED if channels == 3 else Method.GLOBAL
    network = build_classifier(ClassifierRecipe(method=method, weights=weights, seed=seed))
    return network.eval().requires_grad_(False)


@lru_cache(maxsize=2)
def _network_on(backbone: Backbone, channels: int) -> Classifier:
    return _on_device(starting_network(backbone.weights, channels, backbone.seed), backbone.device)


def _on_device(network: Classifier, device: str) -> Classifier:
    """A copy of the network that computes features in fewer steps."""
    copied = copy.deepcopy(network)
    fold_batch_norms(copied.backbone)
    moved: Classifier = copied.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved
