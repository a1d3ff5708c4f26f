"""The patches of a fold on the device that trains on them: a batch is drawn, turned and perturbed there.

Arrays are moved once, as stored (uint8, float16). After that a batch costs a few tensor operations, none of which waits
for the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from train.gate.filter import CELL_PX, background
from train.papers.welds.variants import Variant

Arrays = Mapping[str, npt.NDArray[Any]]
"""Arrays of a fold by name (`train.papers.welds.fold_cache`): `accepted`, `defective`, `perturbation-KIND`."""

_GAIN = 0.3
_OFFSET = 0.1
_NOISE_AT_WHITE = 0.02
_GRAIN_PX = (0.5, 1.5)
_GRAIN_REACH_PX = 5
_LOCAL_PX = 65
_LOCAL_FLOOR = 0.03
_LEVEL_PX = 129
"""Wider than all but the longest defects, narrower than a weld bead: what is left of one is its slope's change."""
_NOISE_WINDOW_PX = 49
_NOISE_FLOOR = 0.5 / 255
"""Half a grey level: what 8 bits cannot resolve is no anomaly, however quiet the image."""


@dataclass(frozen=True, slots=True)
class Bank:
    """What one network learns from."""

    accepted: Tensor
    """uint8 (n, 1, 192, 192)."""
    defective: Tensor | None
    """uint8 (d, 1, 192, 192): whole defective patches, where they are asked for."""
    perturbations: tuple[Tensor, ...]
    """W * delta, float16 (k, 1, 192, 192), in units of the image in [0, 1]: one tensor per kind."""


def open_bank(arrays: Arrays, kinds: Sequence[str], *, defective: bool, device: torch.device) -> Bank:
    """Move the arrays of these kinds of perturbation to the device."""
    return Bank(
        accepted=on_device(arrays["accepted"], device),
        defective=on_device(arrays["defective"], device) if defective else None,
        perturbations=tuple(on_device(arrays[f"perturbation-{kind}"], device) for kind in kinds),
    )


def on_device(patches: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Patches (n, h, w) of any type as a tensor (n, 1, h, w) of that type."""
    return torch.from_numpy(np.array(patches)[:, None]).to(device)  # a copy: the stored arrays are read-only


def draw(patches: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random ones of patches (n, 1, side, side), each in one of its eight poses; float32, uint8 becomes [0, 1]."""
    indices = torch.randint(len(patches), (count,), generator=generator, device=patches.device)
    chosen = patches[indices]
    chosen = chosen.float() / 255.0 if chosen.dtype == torch.uint8 else chosen.float()
    return posed(chosen, torch.randint(8, (count,), generator=generator, device=patches.device))


def posed(patches: Tensor, poses: Tensor) -> Tensor:
    """Each of patches (n, 1, side, side) in its pose (n,) of 0-7: the right angles and flips of a square.

    Bit 0 flips left and right, bit 1 up and down, bit 2 exchanges rows and columns; together they are all eight.
    """
    bits = [(poses >> bit & 1).bool().view(-1, 1, 1, 1) for bit in range(3)]
    patches = torch.where(bits[0], patches.flip(3), patches)
    patches = torch.where(bits[1], patches.flip(2), patches)
    return torch.where(bits[2], patches.transpose(2, 3), patches)


def perturbed(clean: Tensor, bank: Bank, generator: torch.Generator, *, both_signs: bool) -> Tensor:
    """clean + W * delta, in [0, 1] as every 8-bit image is; the bank's kinds each perturb an equal part of the batch.

    With `both_signs` half of the deltas, by chance, are turned dark.
    """
    parts = [len(part) for part in clean.tensor_split(len(bank.perturbations))]
    kinds = zip(bank.perturbations, parts, strict=True)
    delta = torch.cat([draw(deltas, count, generator) for deltas, count in kinds])
    if both_signs:
        delta = delta * (2 * torch.randint(2, (len(clean), 1, 1, 1), generator=generator, device=clean.device) - 1)
    return (clean + delta).clamp(0.0, 1.0)


def relit(patches: Tensor, generator: torch.Generator) -> Tensor:
    """Patches (n, 1, h, w) under other exposures: contrast changed by up to 30 %, grey level by up to 0.1.

    Welds never seen differ in both, and seven welds cannot show how.
    """
    device = patches.device
    gain = 1 + _GAIN * (2 * torch.rand((len(patches), 1, 1, 1), generator=generator, device=device) - 1)
    offset = _OFFSET * (2 * torch.rand((len(patches), 1, 1, 1), generator=generator, device=device) - 1)
    middle = patches.mean(dim=(2, 3), keepdim=True)
    return ((patches - middle) * gain + middle + offset).clamp(0.0, 1.0)


def noisy(patches: Tensor, generator: torch.Generator, *, correlated: bool = False) -> Tensor:
    """Patches (n, 1, h, w) with quantum noise: its variance grows with the signal, up to 0.02 squared at white.

    Each patch has an amount of its own, from none; `correlated` gives it a grain of its own too.
    """
    device = patches.device
    amount = _NOISE_AT_WHITE * torch.rand((len(patches), 1, 1, 1), generator=generator, device=device)
    if correlated:
        noise = grainy(patches.shape, generator)
    else:
        noise = torch.randn(patches.shape, generator=generator, device=device)
    return (patches + amount * patches.clamp_min(0.0).sqrt() * noise).clamp(0.0, 1.0)


def grainy(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Normal noise of this shape (n, 1, h, w), deviation 1, blurred: a Gaussian of 0.5 to 1.5 px, drawn for each patch.

    It is drawn wider than the patch by the reach of the blur, so that it is as loud at the rim as elsewhere.
    """
    count, _, height, width = shape
    low, high = _GRAIN_PX
    sigma_px = low + (high - low) * torch.rand((count, 1), generator=generator, device=generator.device)
    taps = torch.arange(-_GRAIN_REACH_PX, _GRAIN_REACH_PX + 1, device=generator.device)
    blur = torch.exp(-((taps / sigma_px) ** 2) / 2)
    blur = blur / blur.square().sum(dim=1, keepdim=True).sqrt()  # what is independent keeps its deviation
    wide = (1, count, height + 2 * _GRAIN_REACH_PX, width + 2 * _GRAIN_REACH_PX)
    noise = torch.randn(wide, generator=generator, device=generator.device)
    noise = F.conv2d(noise, blur[:, None, :, None], groups=count)  # every patch a channel with a blur of its own
    return F.conv2d(noise, blur[:, None, None, :], groups=count).transpose(0, 1)


def local_contrast(patches: Tensor) -> Tensor:
    """Patches (n, 1, h, w) without their local mean, over their local deviation; about 0.5, mostly in [0, 1].

    The deviation has a floor, or noise on a flat background would become the loudest thing in the image.
    """
    edge = _LOCAL_PX // 2
    wide = F.pad(patches, (edge, edge, edge, edge), mode="reflect")
    mean = box_mean(wide, _LOCAL_PX)
    deviation = (box_mean(wide * wide, _LOCAL_PX) - mean * mean).clamp_min(0.0).sqrt()
    return 0.5 + 0.25 * (patches - mean) / (deviation + _LOCAL_FLOOR)


def normalised(seen: Tensor, wanted: Tensor, variant: Variant) -> tuple[Tensor, Tensor]:
    """What the network sees (n, 1, h, w), and what it is to answer, (n, 1, h, w), as the variant normalises them.

    Levels are those of what is seen in both, which is all that is known when a patch is judged.
    """
    if variant.local:
        return local_contrast(seen), local_contrast(wanted)
    if variant.levelled:
        level = surroundings(seen, _LEVEL_PX) - 0.5
        return seen - level, wanted - level
    return seen, wanted


def short_median(images: Tensor) -> Tensor:
    """Background of images (n, 1, h, w), sides multiples of 4: median of 7 cells of 4 px along rows, then columns."""
    return background(images, CELL_PX)


def over_noise(images: Tensor) -> Tensor:
    """Images (n, 1, h, w), sides multiples of 4, less their short median, in units of their noise."""
    return (images - short_median(images)) / noise_about(images)


def noise_about(images: Tensor) -> Tensor:
    """Deviation of the noise about every pixel of images (n, 1, h, w), of the same shape.

    From the mean size of second differences in both directions, over a window of 49 px: slopes and straight edges have
    none (Immerkaer 1996). Film noise is correlated over a few pixels, which lowers this figure everywhere alike.
    """
    kernel = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]], device=images.device)
    differences = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), kernel[None, None]).abs()
    edge = _NOISE_WINDOW_PX // 2
    size = box_mean(F.pad(differences, (edge, edge, edge, edge), mode="reflect"), _NOISE_WINDOW_PX)
    return size * (math.sqrt(math.pi / 2) / 6) + _NOISE_FLOOR


def detrended(images: Tensor, side_px: int) -> Tensor:
    """Images (n, 1, h, w) less their mean over the square of `side_px` about each pixel; mirrored at the border."""
    return images - surroundings(images, side_px)


def surroundings(images: Tensor, side_px: int) -> Tensor:
    """Mean of images (n, 1, h, w) over the square of `side_px` about each pixel; mirrored at the border."""
    edge = side_px // 2
    return box_mean(F.pad(images, (edge, edge, edge, edge), mode="reflect"), side_px)


def box_mean(images: Tensor, side_px: int) -> Tensor:
    """Means over every window of images (n, 1, h, w), stride 1; columns, then rows, so that wide ones are cheap.

    The images are pooled as if they were the channels of one, which a CPU does six times as fast.
    """
    as_channels = images.transpose(0, 1).contiguous(memory_format=torch.channels_last)
    columns = F.avg_pool2d(as_channels, (side_px, 1), stride=1)
    return F.avg_pool2d(columns, (1, side_px), stride=1).transpose(0, 1)
