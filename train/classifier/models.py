"""The network of a checkpoint, whatever recipe it was trained by; the form of those that go beyond the paper."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from train.checkpoint import Checkpoint, fitting
from train.classifier.experiment import Features
from train.classifier.neighbours import Neighbours
from train.classifier.pooling import feature_maps, pool
from train.classifier.selection import Selection
from train.networks import ElectrodeClassifier, normalise


class PooledClassifier(nn.Module):
    """The frozen backbone, statistics of its feature maps instead of their mean, and layers on these.

    `selection` as it was fitted; there are no layers behind `Neighbours`. With 3 classes the third is `undecided`.
    """

    def __init__(self, channels: int, selection: Selection | Neighbours, layers: nn.Sequential) -> None:
        from torchvision.models import resnet34  # as in train/networks.py

        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"a converted scan has 1 or 3 channels, not {channels}")
        self.channels = channels
        self.backbone = resnet34(weights=None)
        self.backbone.fc = nn.Identity()
        self.selection = selection
        self.head = layers

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of normalised images (n, 3, height, width) float."""
        logits: Tensor = self.head(self.selection(pool(feature_maps(self.backbone, x))))
        return logits

    def normalise(self, images: Tensor) -> Tensor:
        """As `ElectrodeClassifier.normalise`."""
        return normalise(images, self.channels)


Classifier = ElectrodeClassifier | PooledClassifier


@fitting
def classifier_of(checkpoint: Checkpoint) -> Classifier:
    """The trained classifier, in eval mode. Raises CheckpointError where the checkpoint holds none."""
    recipe = checkpoint.recipe
    if recipe.get("form") != "pooled":
        network: Classifier = ElectrodeClassifier(checkpoint.channels)
    else:
        selection = _selection_like(checkpoint)
        network = PooledClassifier(checkpoint.channels, selection, _layers_like(checkpoint.state_dict))
    network.load_state_dict(checkpoint.state_dict)
    return network.eval()


def _selection_like(checkpoint: Checkpoint) -> Selection | Neighbours:
    recipe = checkpoint.recipe
    if recipe["head"] == "neighbours":
        return Neighbours(checkpoint.state_dict["selection.known"].shape[1])
    return Selection(cast(Features, recipe["features"]), standardise=bool(recipe["standardise"]))


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
