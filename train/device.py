"""Where networks are trained: this machine's CPU, or its NVIDIA GPU."""

from __future__ import annotations

import torch

from train.errors import TrainError


def open_device(name: str) -> torch.device:
    """`cpu`, `cuda` or `cuda:1`. Raises TrainError where torch knows no such device or cannot use it."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a build without CUDA
        reason = str(error).splitlines()[0]
        raise TrainError(
            f"torch cannot compute on {name!r}: {reason}", hint="give cpu, or cuda where nvidia-smi lists a GPU"
        ) from error
    return device
