"""Losses of the gate (L 3.1), and the loss of the classifier.

The paper's terms have very different sizes: L_ok and L_per sum the squared error over 24,336 pixels, L_kern takes one
9x9 mean, L_reg sums 1,764 latent values. Summed as printed, the first two are everything. Here every term is brought
to a mean per pixel: L_ok and L_per are divided by the number of pixels compared, L_reg by the number of latent
values, and L_kern, already a mean over a window, stays. The factor 0.01 of L_reg is the paper's. So it weighs 14 times
what it does beside L_ok as printed: the gate for electrodes leaves it at that, the weld benchmark, which repeats the
paper, takes `LATENT_AS_PRINTED`. The two terms of the
perturbed patch can be weighed together (`per_weight`, 1 by default): where whole patches are replaced their clean
content cannot be known, and at full weight such patches would drown the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from train.errors import DivergedError
from train.networks import WINDOW_PX

LATENT_WEIGHT = 0.01
LATENT_AS_PRINTED = 42**2 / 156**2
"""As `latent_weight`: L_reg beside L_ok as the paper prints them for its patches, both sums over the same 24,336."""


@dataclass(frozen=True, slots=True)
class GateLoss:
    """The five terms, each a scalar tensor, already scaled."""

    ok: Tensor
    per: Tensor
    kern_ok: Tensor
    kern_per: Tensor
    reg: Tensor

    def total(self, per_weight: float = 1.0, latent_weight: float = 1.0, kernel_weight: float = 1.0) -> Tensor:
        """L = L_ok + k L_kern,ok + per_weight (L_per + k L_kern,per) + latent_weight L_reg, k the kernel_weight."""
        clean = self.ok + kernel_weight * self.kern_ok
        defective = self.per + kernel_weight * self.kern_per
        return clean + per_weight * defective + latent_weight * self.reg


def squared_error(residual: Tensor) -> Tensor:
    """Batch mean of the squared error per pixel of residuals (n, 1, h, w)."""
    return residual.square().mean()


HUBER_DELTA = 0.02
"""About the noise of a digitised film."""


def huber_error(residual: Tensor) -> Tensor:
    """As `squared_error` up to HUBER_DELTA, beyond it growing only as the error itself: outliers weigh less."""
    return 2 * F.huber_loss(residual, torch.zeros_like(residual), delta=HUBER_DELTA)


def kernel_error(residual: Tensor) -> Tensor:
    """Batch mean of the greatest squared box mean over WINDOW_PX of residuals (n, 1, h, w)."""
    return F.avg_pool2d(residual, WINDOW_PX, stride=1).square().amax(dim=(1, 2, 3)).mean()


def latent_error(z: Tensor) -> Tensor:
    """0.01 times the mean absolute latent value (n, 1, z, z')."""
    return LATENT_WEIGHT * z.abs().mean()


def gate_loss(residual_ok: Tensor, residual_per: Tensor, z: Tensor) -> GateLoss:
    """The gate's loss from x - D(E(x)), x - D(E(x + W * delta)) and the latent of the clean patch."""
    return GateLoss(
        ok=squared_error(residual_ok),
        per=squared_error(residual_per),
        kern_ok=kernel_error(residual_ok),
        kern_per=kernel_error(residual_per),
        reg=latent_error(z),
    )


def classifier_loss(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy of logits (n, 2) against classes (n,)."""
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def weighted_loss(logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """Cross-entropy of logits (n, classes) in which a scan weighs what its class weighs; the mean is over scans.

    With weights this is the real-world-weight cross-entropy of Ho and Wookey 2020 for a softmax: what a missed abnormal
    scan and a false alarm cost stands before the logarithm.
    """
    if class_weights is None:
        return F.cross_entropy(logits, labels)
    return (F.cross_entropy(logits, labels, reduction="none") * class_weights[labels]).mean()


def patch_loss(logits: Tensor, is_defective: Tensor) -> Tensor:
    """Binary cross-entropy (L 3.2) of the patch classifier's logits (n,) against truth (n,), 0 or 1, float."""
    return F.binary_cross_entropy_with_logits(logits, is_defective)


def finite(loss: Tensor, step: int, files: Iterable[str]) -> float:
    """The loss of a batch as a number. Raises DivergedError, with step and the batch's files, where it is none."""
    value = loss.item()
    if not math.isfinite(value):
        raise DivergedError(
            f"the loss is {value} at step {step}, on {', '.join(files)}",
            hint="lower the learning rate; if it names the same files again, look at them",
        )
    return value
