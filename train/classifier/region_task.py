"""Finding the anomalies, beside judging the scan: a second task that only the training of the classifier knows.

A label says that something is wrong with two million pixels, not where; averaged over all cells a small anomaly hardly
moves the network, and from scratch it is long in finding out. Where regions are known, one more 1x1 convolution on the
last feature map predicts, cell by cell, whether there is a mild and whether there is a severe anomaly. It is dropped
after the training: the trained network is the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.classifier.regions import MILD, SEVERE, Regions
from train.networks import ElectrodeClassifier

WEIGHT = 3.0
"""Weight of the mean cross-entropy per cell: it starts at about the size of the label's own loss."""
POSITIVE_WEIGHT = 3.0
"""Most cells hold no anomaly."""


class RegionTask:
    """The convolution, and the regions of every training scan."""

    def __init__(self, model: ElectrodeClassifier, regions: Regions) -> None:
        """`regions` uint8 (n, h, w), see `train.classifier.regions`."""
        grey = torch.from_numpy(regions)
        self._targets = torch.stack([grey == MILD, grey == SEVERE], dim=1).float()
        self.layer = nn.Conv2d(512, 2, 1).to(model.backbone.conv1.weight.device)
        weight, bias = self.layer.parameters()
        nn.init.zeros_(weight)
        nn.init.constant_(bias, -2.0)
        self._features = torch.zeros(0)
        model.backbone.layer4.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._features = output

    def loss(self, indices: Tensor, flips: tuple[Tensor, Tensor]) -> Tensor:
        """Weighted cross-entropy of the batch just seen: scans `indices` (n,), flipped as the images were."""
        predicted = self.layer(self._features.float())
        targets = F.adaptive_max_pool2d(self._targets[indices].to(predicted.device), predicted.shape[-2:])
        targets = flip(targets, flips)
        positive = torch.tensor(POSITIVE_WEIGHT, device=predicted.device)
        return WEIGHT * F.binary_cross_entropy_with_logits(predicted, targets, pos_weight=positive)


def flip(x: Tensor, flips: tuple[Tensor, Tensor]) -> Tensor:
    """Images (n, c, h, w) mirrored left-right and upside down where the two bool tensors (n,) say so."""
    for axis, chosen in zip((-1, -2), flips, strict=True):
        x = torch.where(chosen.view(-1, 1, 1, 1), x.flip(axis), x)
    return x
