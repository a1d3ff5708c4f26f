"""Scores of patches: the extremes of the residual's windows (L 3.1), or the patch classifier's logit (L 3.2).

A patch is anomalous where any of its statistics exceeds its threshold. Thresholds are set on accepted patches of welds
that are neither trained on nor tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.networks import WINDOW_PX, GateAutoencoder, PatchClassifier, centre_crop
from train.papers.welds.bank import box_mean, detrended, noise_about, normalised, on_device, over_noise
from train.papers.welds.variants import Variant

WINDOWS_PX: Final = (5, WINDOW_PX, 17, 33)
"""The paper's windows of 9 px; wider ones, for a long faint defect has many pixels, over which noise averages out; and
narrower ones, for thin defects, which fill a wide window with what is none."""
STATISTICS: Final = (
    *(
        f"{prefix}{kind}{side}"
        for prefix in ("", "relative-", "detrended-", "detrended-relative-", "input-")
        for side in WINDOWS_PX
        for kind in ("mean", "std", "bright", "dark")
    ),
    *(f"median-{kind}{WINDOWS_PX[0]}" for kind in ("bright", "dark")),
)
"""Columns of an autoencoder's scores. `bright` and `dark` are the two signs of the mean: with a threshold of its own
each, the scratches of a film (bright) do not hide its pores (dark). `relative` ones are of the residual over the noise
about each pixel, `detrended` ones of the residual less its mean over the surroundings: a weld never seen is reproduced
a little too dark or too bright as a whole, which is no defect. `input` ones need no network: they are of the image
itself, less its mean over narrower surroundings. Nor do `median` ones: of the image less its short median, over its
noise."""
SURROUNDINGS_PX = 65
_INPUT_SURROUNDINGS_PX = 33
"""Narrower than a weld bead, whose own shape is in the image and not in the residual."""

Scores = npt.NDArray[np.float32]


@torch.inference_mode()
def autoencoder_scores(
    models: Sequence[GateAutoencoder],
    patches: npt.NDArray[Any],
    *,
    variant: Variant,
    device: torch.device,
    bf16: bool = False,
    batch: int = 64,
) -> Scores:
    """The extremes of each patch's residual over all windows: float32 (n, len(STATISTICS)).

    `patches` are uint8, or float in [0, 1], (n, 192, 192). Of several models the mean residual counts. With `bf16` the
    networks compute as they did in a training in bfloat16; the statistics are float32.
    """
    found = [torch.empty((0, len(STATISTICS)), device=device)]
    for start in range(0, len(patches), batch):
        images = as_images(patches[start : start + batch], device)
        residual = residual_of(models, images, variant, bf16=bf16)
        found.append(torch.cat([extremes(residual, centre_crop(images)), median_extremes(images)], dim=1))
    return torch.cat(found).cpu().numpy()


@torch.inference_mode()
def classifier_scores(
    models: Sequence[PatchClassifier],
    patches: npt.NDArray[Any],
    *,
    device: torch.device,
    bf16: bool = False,
    batch: int = 64,
) -> Scores:
    """Logit of `defective`, of several models the mean: float32 (n, 1); `patches` and `bf16` as above."""
    found = [torch.empty((0, 1), device=device)]
    for start in range(0, len(patches), batch):
        images = as_images(patches[start : start + batch], device)
        found.append(mean_answer(models, images, bf16=bf16)[:, None])
    return torch.cat(found).cpu().numpy()


def as_images(patches: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Stored patches (n, h, w), uint8 or float, as network input float32 (n, 1, h, w) in [0, 1]."""
    images = on_device(patches, device)
    return images.float() / 255.0 if images.dtype == torch.uint8 else images.float()


def residual_of(models: Sequence[GateAutoencoder], images: Tensor, variant: Variant, *, bf16: bool = False) -> Tensor:
    """Centre of the images (n, 1, h, w), normalised as for the models, less its reconstruction: the models' mean."""
    seen, _ = normalised(images, images, variant)
    return centre_crop(seen) - mean_answer(models, seen, bf16=bf16)


def mean_answer(models: Sequence[torch.nn.Module], images: Tensor, *, bf16: bool) -> Tensor:
    """Mean of what the models answer to images (n, 1, h, w), float32."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        # Channels last: two to three times as fast on a CPU.
        answers = [model.to(memory_format=torch.channels_last)(images) for model in models]
    return torch.stack(answers).float().mean(dim=0)


def extremes(residual: Tensor, images: Tensor) -> Tensor:
    """The statistics of residuals (n, 1, h, w) of images of the same shape: (n, 80), all but the last."""
    noise = noise_about(images)
    flat = detrended(residual, SURROUNDINGS_PX)
    columns = []
    for image in (residual, residual / noise, flat, flat / noise, detrended(images, _INPUT_SURROUNDINGS_PX)):
        for side in WINDOWS_PX:
            mean = box_mean(image, side)
            variance = box_mean(image * image, side) - mean * mean
            bright, dark = mean.amax(dim=(1, 2, 3)), (-mean).amax(dim=(1, 2, 3))
            columns += [torch.maximum(bright, dark), variance.amax(dim=(1, 2, 3)).clamp_min(0.0).sqrt(), bright, dark]
    return torch.stack(columns, dim=1)


def median_extremes(images: Tensor) -> Tensor:
    """The last statistics, those of no network, of images (n, 1, h, w), sides multiples of 4: (n, 2)."""
    mean = box_mean(centre_crop(over_noise(images)), WINDOWS_PX[0])
    return torch.stack([mean.amax(dim=(1, 2, 3)), (-mean).amax(dim=(1, 2, 3))], dim=1)
