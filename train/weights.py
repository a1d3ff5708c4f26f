"""Starting weights of the backbone: none, torchvision's ImageNet weights, or a file."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor, nn

from train.errors import TrainError

NONE = "none"
IMAGENET = "imagenet"


def load_weights(backbone: nn.Module, weights: str) -> str:
    """Fill a torchvision `resnet34` from `weights`: `none`, `imagenet`, or a path; returns what to record.

    A file is a torchvision state dict as `.pth`/`.pt` (read with `weights_only`), `.safetensors` or `.npz`, with the
    1000-wide `fc` in it. Raises TrainError where it cannot be had or does not fit.
    """
    if weights == NONE:
        return NONE
    state = _imagenet() if weights == IMAGENET else _read(Path(weights))
    expected = backbone.state_dict()
    # Older files have no batch counters; nothing here reads them.
    missing = {key for key in expected if key not in state and not key.endswith("num_batches_tracked")}
    unknown = set(state) - set(expected)
    wrong = {key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape}
    for keys, problem in ((missing, "lack"), (unknown, "have unknown"), (wrong, "have another shape for")):
        if keys:
            raise TrainError(
                f"the weights {weights} {problem} {len(keys)} tensors, such as {min(keys)}",
                hint="give a state dict of torchvision's resnet34 with its 1000-wide fc",
            )
    backbone.load_state_dict({key: value.float() for key, value in state.items()}, strict=False)
    return IMAGENET if weights == IMAGENET else Path(weights).name


def _imagenet() -> dict[str, Tensor]:
    from torchvision.models import ResNet34_Weights  # as in train/networks.py

    try:
        state: dict[str, Tensor] = dict(ResNet34_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        name = os.path.basename(ResNet34_Weights.IMAGENET1K_V1.url)  # noqa: PTH119 - a URL, not a path
        raise TrainError(
            f"torchvision's ImageNet weights are neither in {torch.hub.get_dir()}/checkpoints nor to be had: {error}",
            hint=f"copy {name} there, give a file with --weights FILE, or start with --weights none --fine-tune all",
        ) from error
    return state


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                return {key: torch.from_numpy(stored[key]) for key in stored.files}
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # an optional format: most files are .pth

            return load_file(path)
        if path.suffix in (".pth", ".pt"):
            state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
            return state
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise TrainError(
            f"the weights {path} cannot be read: {error!r}", hint="check the path; the file may be cut short"
        ) from error
    raise TrainError(
        f"the weights {path} have the unknown format {path.suffix!r}",
        hint="give .pth, .safetensors or .npz; or `none`, or `imagenet`",
    )
