"""Where networks are trained: this machine's CPU, or its NVIDIA GPU."""

from __future__ import annotations

import platform
from pathlib import Path

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


def device_name(name: str) -> str:
    """The GPU, or this machine's processor, as its maker calls it."""
    if torch.device(name).type == "cuda":
        return torch.cuda.get_device_name(torch.device(name))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())
