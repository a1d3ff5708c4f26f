"""The networks of the papers, to the letter: the electrode classifier, the gate, and the classifier beside the gate.

Electrode classifier: Jensen, Moeslund, Andreasen 2022, section 2.4. Gate: Lindgren, Zach 2022, section 3.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:  # torchvision takes seconds to import: who needs no classifier does without
    from torchvision.models import ResNet

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)

GATE_OFFSET_PX: Final = 18
"""Row and column of the gate's input that row and column 0 of its reconstruction answer to.

192 in and 156 out leave a border of 18 on each side. The encoder's strides fix the place from the top left,
so the offset is 18 for every size; where the size is not a multiple of 4 the border at the bottom or right
is up to 3 pixels wider.
"""
WINDOW_PX: Final = 9
"""Side of the windows over which the gate takes its residual statistics, stride 1."""
FIRST_WINDOW_PX: Final = GATE_OFFSET_PX + WINDOW_PX // 2
"""Row and column of the gate's input in which the first of these windows is centred."""


class ElectrodeClassifier(nn.Module):
    """ResNet-34 with its 1000-wide layer kept, then fully connected 512, 256 and 2 (J 2.4).

    `channels` is what a converted scan has: 1 (`naive`, `global`, `local`), repeated three times for the
    backbone, or 3 (`mixed`).
    """

    def __init__(self, channels: int = 3) -> None:
        from torchvision.models import resnet34

        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"a converted scan has 1 or 3 channels, not {channels}")
        self.channels = channels
        self.backbone = resnet34(weights=None)
        self.head = nn.Sequential(
            nn.ReLU(),
            nn.Linear(1000, 512),
            nn.ReLU(),
            nn.Linear(512, 256),
            nn.ReLU(),
            nn.Linear(256, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 2), normal then abnormal, of normalised images (n, 3, height, width) float."""
        logits: Tensor = self.head(self.backbone(x))
        return logits

    def normalise(self, images: Tensor) -> Tensor:
        """Converted scans uint8 (n, channels, height, width) -> network input float32 (n, 3, height, width)."""
        return normalise(images, self.channels)


def normalise(images: Tensor, channels: int) -> Tensor:
    """Converted scans uint8 (n, channels, height, width) -> network input float32 (n, 3, height, width)."""
    if images.shape[1] != channels:
        raise ValueError(f"expected {channels} channels, got {images.shape[1]}")
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(1, 3, 1, 1)
    return (images.float() / 255.0 - mean) / std


def fold_batch_norms(backbone: ResNet) -> None:
    """Move the batch norms of a frozen ResNet of basic blocks into the convolutions before them, in place.

    A block whose last batch norm multiplies by 0 and adds 0 (training left it at its zero start) hands on what it
    gets, which a ReLU left nowhere negative; it is left out.
    """
    from torchvision.models.resnet import BasicBlock

    backbone.conv1, backbone.bn1 = fuse_conv_bn_eval(backbone.conv1, backbone.bn1), nn.Identity()
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        for name, block in list(stage.named_children()):
            if not isinstance(block, BasicBlock):
                continue
            block.conv1, block.bn1 = fuse_conv_bn_eval(block.conv1, block.bn1), nn.Identity()
            block.conv2, block.bn2 = fuse_conv_bn_eval(block.conv2, block.bn2), nn.Identity()
            if block.downsample is not None:
                conv, norm = block.downsample
                block.downsample = nn.Sequential(fuse_conv_bn_eval(conv, norm))
            elif not (block.conv2.weight.any() or block.conv2.bias.any()):
                setattr(stage, name, nn.Identity())


def p_abnormal_of(logits: Tensor) -> Tensor:
    """p(abnormal) (n,) of logits (n, 2), or (n, 3): a scan that people do not agree on counts for half."""
    p = torch.softmax(logits, dim=1)
    return p[:, 1] if logits.shape[1] == 2 else p[:, 1] + p[:, 2] / 2


class GateAutoencoder(nn.Module):
    """The autoencoder of L 3.1: 41,186 parameters, 192 -> 42x42 latent -> 156, fully convolutional."""

    DROPOUT = 0.12

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 18, 3),
            nn.ReLU(),
            nn.Dropout(self.DROPOUT),
            nn.Conv2d(18, 18, 3),
            nn.ReLU(),
            nn.Conv2d(18, 18, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(18, 24, 3),
            nn.ReLU(),
            nn.Dropout(self.DROPOUT),
            nn.Conv2d(24, 24, 3),
            nn.ReLU(),
            nn.Conv2d(24, 24, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(24, 1, 3),
            nn.Hardtanh(0.0, 1.0),  # a ReLU bounded to [0, 1]
        )
        self.decoder = nn.Sequential(
            nn.Dropout(self.DROPOUT),
            nn.ConvTranspose2d(1, 24, 3, stride=2, padding=1, output_padding=1),  # 'same': twice the size
            nn.ReLU(),
            nn.Conv2d(24, 24, 3),
            nn.ReLU(),
            nn.Conv2d(24, 24, 3),
            nn.ReLU(),
            nn.Dropout(self.DROPOUT),
            nn.ConvTranspose2d(24, 18, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(),
            nn.Conv2d(18, 18, 3),
            nn.ReLU(),
            nn.Conv2d(18, 18, 3),
            nn.ReLU(),
            nn.Conv2d(18, 1, 3, padding=1),
        )
        latent = self.encoder[-2]
        for layer in (*self.encoder, *self.decoder):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                weight, bias = layer.parameters()
                # Glorot's, not He's: with the latter the one-channel latent ends on a flat side of its bounded ReLU
                # within a few steps, and stays there.
                nn.init.xavier_uniform_(weight)
                nn.init.constant_(bias, 0.5 if layer is latent else 0.0)  # the middle of the latent's range

    def encode(self, x: Tensor) -> Tensor:
        """Latent (n, 1, z, z') in [0, 1] of images (n, 1, height, width) in [0, 1]."""
        z: Tensor = self.encoder(x)
        return z

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction (n, 1, h', w') of the centre of images (n, 1, height, width) in [0, 1]."""
        reconstruction: Tensor = self.decoder(self.encoder(x))
        return reconstruction


class PatchClassifier(nn.Module):
    """The gate's comparison, learnt with labels (L 3.2): 223,221 parameters, patches of 192 px to one logit."""

    FILTERS = (24, 30, 34, 40)

    DROPOUT = 0.1

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for filters in self.FILTERS:
            for _ in range(2):
                layers += [nn.Dropout(self.DROPOUT), nn.Conv2d(channels, filters, 3), nn.ReLU()]
                channels = filters
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(8 * 8 * channels, 60),
            nn.ReLU(),
            nn.Linear(60, 50),
            nn.ReLU(),
            nn.Linear(50, 1),
        )
        for layer in (*self.features, *self.head):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                # He's: with torch's usual weights ten layers of ReLU leave nothing of a patch, and hundreds of steps
                # teach nothing.
                weight, bias = layer.parameters()
                nn.init.kaiming_uniform_(weight, nonlinearity="relu")
                nn.init.zeros_(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logit of `defective` (n,) of patches (n, 1, 192, 192) in [0, 1]; the paper's sigmoid is in the loss."""
        logits: Tensor = self.head(self.features(x)).flatten()
        return logits


def gate_output_px(side_px: int) -> int:
    """Side of the gate's reconstruction for an input side; below 41 there is none."""
    for _ in range(2):
        side_px = (side_px - 4 - 3) // 2 + 1
    return 4 * (side_px - 2) - 12


def gate_offset(side_px: int) -> tuple[int, int]:
    """First pixel and pixel count of an input side that the reconstruction answers to (both in pixels)."""
    return GATE_OFFSET_PX, gate_output_px(side_px)


def centre_crop(x: Tensor) -> Tensor:
    """The part of gate inputs (n, c, height, width) that the reconstruction (n, 1, h', w') answers to."""
    top, height = gate_offset(x.shape[-2])
    left, width = gate_offset(x.shape[-1])
    return x[..., top : top + height, left : left + width]


def residual_statistics(residual: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each window of WINDOW_PX (k), stride 1: two maps (n, 1, h - k + 1, w - k + 1)."""
    mean = _window_mean(residual)
    square = _window_mean(residual * residual)
    return mean, (square - mean * mean).clamp_min(0.0).sqrt()


def _window_mean(values: Tensor) -> Tensor:
    """Along rows, then along columns: 18 additions a pixel where a square window takes 81."""
    rows = F.avg_pool2d(values, (1, WINDOW_PX), stride=1)
    return F.avg_pool2d(rows, (WINDOW_PX, 1), stride=1)
