"""Starting weights of the backbone: none, torchvision's ImageNet weights, or a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor, nn

from train.errors import TrainError
from train.files import DAMAGE, load_torch

NONE = "none"
IMAGENET = "imagenet"
_HINT: Final = "give a state dict of torchvision's resnet34 with its 1000-wide fc"


def random_warning(recipe: Mapping[str, object]) -> str | None:
    """What to say of a network that stays frozen at random weights, by the recipe's fields; None of any other."""
    if recipe.get("weights") != NONE or recipe.get("start") or recipe.get("fine_tune") == "all":
        return None
    return (
        "warning: the frozen network has random weights (--weights none): it takes far more abnormal scans for normal"
        " ones than with weights that have learnt (docs/results/weights.md); carry torchvision's file in, or make"
        " weights by edge-train pretrain, see docs/train.md"
    )


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
                hint=_HINT,
            )
    floats = {key: value.float() for key, value in state.items()}
    if wild := [key for key, value in floats.items() if not value.isfinite().all()]:
        raise TrainError(
            f"the weights {weights} hold numbers that are not finite in {len(wild)} tensors, such as {min(wild)}",
            hint="copy the file again; a training that diverged leaves such weights",
        )
    backbone.load_state_dict(floats, strict=False)
    return IMAGENET if weights == IMAGENET else Path(weights).name


def _imagenet() -> dict[str, Tensor]:
    from torchvision.models import ResNet34_Weights  # as in train/networks.py

    try:
        state: dict[str, Tensor] = dict(ResNet34_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        name = os.path.basename(ResNet34_Weights.IMAGENET1K_V1.url)  # noqa: PTH119 - a URL, not a path
        raise TrainError(
            f"torchvision's ImageNet weights are neither in {torch.hub.get_dir()}/checkpoints nor to be had: {error}",
            hint=f"copy {name} there, give a file with --weights FILE, or make one: edge-train pretrain",
        ) from error
    return state


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix not in _READERS:
        raise TrainError(
            f"the weights {path} have the unknown format {path.suffix!r}",
            hint="give .pth, .safetensors or .npz; or `none`, or `imagenet`",
        )
    try:
        state = _READERS[path.suffix](path)
    except (OSError, *DAMAGE) as error:
        raise TrainError(
            f"the weights {path} cannot be read: {error!r}", hint="check the path; the file may be cut short"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TrainError(f"the weights {path} hold no tensors by name", hint=_HINT)
    return state


def _read_npz(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError  # an optional format: most files are .pth
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


_READERS: Final[dict[str, Callable[[Path], Any]]] = {
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".pth": load_torch,
    ".pt": load_torch,
}
