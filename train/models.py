"""The network of a checkpoint, whatever recipe it was trained by."""

from __future__ import annotations

from torch import nn

from train.checkpoint import Checkpoint
from train.networks import ElectrodeClassifier, PooledClassifier
from train.selection import Selection

Classifier = ElectrodeClassifier | PooledClassifier


def classifier_of(checkpoint: Checkpoint) -> Classifier:
    """The trained classifier, in eval mode."""
    recipe = checkpoint.recipe
    if recipe.get("form") != "pooled":
        network: Classifier = ElectrodeClassifier(checkpoint.channels)
    else:
        selection = Selection(str(recipe["features"]), standardise=bool(recipe["standardise"]))
        weight = checkpoint.state_dict["head.0.weight"]
        classes, width = weight.shape
        network = PooledClassifier(checkpoint.channels, selection, nn.Sequential(nn.Linear(width, classes)))
    network.load_state_dict(checkpoint.state_dict)
    return network.eval()
