"""Naming the anomalies, beside the label: a second task that only the training of the classifier knows.

A label says that something is wrong, not what: with few scans a network from scratch is long in finding out. Where
`labels.csv` names kinds, one more layer on the 1000-wide features predicts which are severe (those of abnormal scans)
and which are mild (those of normal scans; of abnormal ones they are not listed, and do not count). The layer is dropped
after the training: the trained network is the same.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.dataset import LoadedScans
from train.errors import DataError

WEIGHT = 0.2
"""Of the summed cross-entropy per scan: about the size of the label's own loss."""


class KindsTask:
    """The layer, and what it has to answer for each training scan."""

    def __init__(self, training: LoadedScans) -> None:
        """Raises DataError where no scan names a kind."""
        names = sorted({kind for row in training.rows for kind in row.kinds})
        if not names:
            raise DataError(
                "no scan names the kinds of its anomalies",
                hint="fill the column `kinds` of labels.csv, or train without --learn-kinds",
            )
        scans = len(training.rows)
        targets, known = np.zeros((2, scans, 2, len(names)), np.float32)
        known[:, 0] = 1.0
        for number, row in enumerate(training.rows):
            targets[number, 1 - row.label, [names.index(kind) for kind in row.kinds]] = 1.0
            known[number, 1] = 1.0 - row.label
        self._targets = torch.from_numpy(targets.reshape(scans, -1))
        self._known = torch.from_numpy(known.reshape(scans, -1))
        self.layer = nn.Linear(1000, 2 * len(names))
        nn.init.constant_(self.layer.bias, -2.0)  # most kinds are absent from most scans

    def loss(self, features: Tensor, indices: np.ndarray) -> Tensor:
        """Weighted binary cross-entropy per scan, of features (n, 1000) of the training scans `indices` (n,)."""
        total = F.binary_cross_entropy_with_logits(
            self.layer(features), self._targets[indices], weight=self._known[indices], reduction="sum"
        )
        return WEIGHT * total / len(indices)
