"""Where networks are trained: this machine's CPU, or its NVIDIA GPU."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from train.errors import TrainError
from train.recipe import Amp

BF16_FLAGS: Final = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of processors, of Intel and AMD and of Arm, that multiply bfloat16 by instructions."""
BF16_EMULATED_FACTOR: Final = 7
"""Times longer than float32 that a training pass takes in bfloat16 on an AVX2 processor: 1.01 against 0.14 s."""
_CPUINFO: Final = Path("/proc/cpuinfo")


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
    return _cpu_entry("model name") or platform.processor() or platform.machine()


def has_bf16(name: str) -> bool:
    """Whether the device has instructions for bfloat16, so that it is faster than float32."""
    if torch.device(name).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return not BF16_FLAGS.isdisjoint((_cpu_entry("flags") or _cpu_entry("Features")).split())


def choose_arithmetic(amp: Amp, device: str, say: Callable[[str], None]) -> Amp:
    """`bf16` or `off`, as wanted or as fits the device; says which. Raises TrainError for a device it cannot use."""
    open_device(device)
    fast = has_bf16(device)
    if amp == "bf16" and not fast:
        factor = f"about {BF16_EMULATED_FACTOR} times slower than float32, as measured with AVX2"
        say(f"warning: {device_name(device)} has no bfloat16 instructions: --amp bf16 is {factor}; see --amp auto")
    chosen: Amp = amp if amp != "auto" else "bf16" if fast else "off"
    say(f"computing in {'bfloat16' if chosen == 'bf16' else 'float32'} on {device_name(device)}")
    return chosen


def _cpu_entry(key: str) -> str:
    """The first entry of this name in /proc/cpuinfo; empty where there is none, or no such file."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")
