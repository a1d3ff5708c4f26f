"""The network of a checkpoint, whatever recipe it was trained by."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from train.checkpoint import Checkpoint
from train.experiment import Features
from train.networks import ElectrodeClassifier, PooledClassifier
from train.selection import Selection

Classifier = ElectrodeClassifier | PooledClassifier


def classifier_of(checkpoint: Checkpoint) -> Classifier:
    """The trained classifier, in eval mode."""
    recipe = checkpoint.recipe
    if recipe.get("form") != "pooled":
        network: Classifier = ElectrodeClassifier(checkpoint.channels)
    else:
        selection = Selection(cast(Features, recipe["features"]), standardise=bool(recipe["standardise"]))
        network = PooledClassifier(checkpoint.channels, selection, _layers_like(checkpoint.state_dict))
    network.load_state_dict(checkpoint.state_dict)
    return network.eval()


def _layers_like(state: dict[str, Tensor]) -> nn.Sequential:
    """Fully connected layers of the shapes found under `head.0`, `head.2` and so on, with ReLU between them."""
    shapes = [state[name].shape for name in sorted(state, key=_place) if _place(name) >= 0 and name.endswith("weight")]
    layers: list[nn.Module] = []
    for width_out, width_in in shapes:
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _place(name: str) -> int:
    part = name.split(".")
    return int(part[1]) if part[0] == "head" else -1
