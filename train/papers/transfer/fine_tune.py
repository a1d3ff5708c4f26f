"""Training of a whole network on one class against the rest, images in memory, on a CPU or a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edge.system.progress import Reporter
from train.classifier.models import PooledClassifier
from train.losses import finite, weighted_loss
from train.networks import p_abnormal_of

_WARM_SHARE = 0.1
"""Share of the steps over which the learning rate rises."""
_MAX_GRADIENT_NORM = 5.0
_EVALUATION_BATCH = 256


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a whole network is trained: AdamW, a linear rise of the rate, then half a cosine down to nothing.

    The network starts where its two outputs already suit its features, so few epochs at a small rate do.
    """

    epochs: int = 4
    batch: int = 128
    lr: float = 3e-4
    weight_decay: float = 1e-2


def fine_tune(
    network: PooledClassifier,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    names: Sequence[str],
    tuning: Tuning,
    *,
    mirrors: tuple[int, ...],
    device: str,
    amp: bool,
    seed: int,
    reporter: Reporter,
) -> None:
    """Train all of `network`, in place, on images uint8 (n, channels, height, width) of classes (n,), 1 anomalous.

    Both classes weigh the same. Each image is mirrored along each axis of `mirrors` half of the time. Leaves the
    network on `device`, in eval mode. Raises DivergedError, with step and images, once the loss is no finite number.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            # It keeps the statistics that the two outputs were fitted with. Those of batches throw that start away, and
            # a few hundred steps do not make up for it.
            layer.eval()
    held, classes = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
    counts = np.bincount(labels, minlength=2)
    class_weights = torch.from_numpy(len(labels) / (2 * counts)).float().to(device)
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": tuning.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=tuning.lr, fused=True)
    steps_per_epoch = max(1, len(labels) // tuning.batch)
    steps = tuning.epochs * steps_per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, steps))
    show = reporter.counter("steps")
    for step in range(steps):
        if step % steps_per_epoch == 0:
            order = torch.from_numpy(rng.permutation(len(labels)))
        # Whole batches only: the gradient of a small last one would be noise.
        chosen = order[step % steps_per_epoch * tuning.batch :][: tuning.batch].to(device)
        x = _mirrored(held[chosen], mirrors, rng)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=amp):
            logits = network(network.normalise(x).contiguous(memory_format=torch.channels_last))
        loss = weighted_loss(logits.float(), classes[chosen], class_weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), _MAX_GRADIENT_NORM, foreach=True)
        finite(loss, step, (names[i] for i in chosen.tolist()))
        optimizer.step()
        schedule.step()
        show(step + 1, steps)
    network.eval()


@torch.inference_mode()
def predict(
    network: PooledClassifier, images: npt.NDArray[np.uint8], device: str, *, amp: bool
) -> npt.NDArray[np.float64]:
    """p(anomalous) float64 (n,) of images uint8 (n, channels, height, width) by a network on `device`."""
    scores = []
    for start in range(0, len(images), _EVALUATION_BATCH):
        batch = torch.from_numpy(np.ascontiguousarray(images[start : start + _EVALUATION_BATCH])).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=amp):
            logits = network(network.normalise(batch).contiguous(memory_format=torch.channels_last))
        scores.append(p_abnormal_of(logits.double()).cpu().numpy())
    return np.concatenate(scores)


def _mirrored(x: Tensor, axes: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """Images (n, channels, height, width), each mirrored along each of the axes or not."""
    for axis in axes:
        is_mirrored = torch.from_numpy(rng.random(len(x)) < 0.5).to(x.device).view(-1, 1, 1, 1)
        x = torch.where(is_mirrored, x.flip(axis), x)
    return x


def _share(step: int, steps: int) -> float:
    """Share of the greatest learning rate at a step counted from 0."""
    warm = max(1, round(_WARM_SHARE * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
