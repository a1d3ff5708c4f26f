"""The same network with more channels that do nothing: GPUs compute on channels by the eight.

An added filter has zero weights, and what reads it has zero weights for it: its gradients and those of its readers are
zero, so it stays as it is through any training. The wide network learns exactly what the narrow one would.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

_Network = TypeVar("_Network", bound=nn.Module)


def widened(model: _Network, multiple: int) -> _Network:
    """A copy in which every convolution has channels in multiples of this; single channels stay single."""
    wide = copy.deepcopy(model)
    for parent in list(wide.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                setattr(parent, name, _wide_layer(layer, multiple))
    return wide


@torch.no_grad()
def narrow_into(model: nn.Module, wide: nn.Module) -> None:
    """Take what a widened copy has learnt back into the network it was made of."""
    learnt = wide.state_dict()
    for name, values in model.state_dict().items():
        values.copy_(learnt[name][tuple(slice(extent) for extent in values.shape)])


@torch.no_grad()
def _wide_layer(layer: nn.Conv2d | nn.ConvTranspose2d, multiple: int) -> nn.Conv2d | nn.ConvTranspose2d:
    channels_in, channels_out = (
        count if count == 1 else -(-count // multiple) * multiple for count in (layer.in_channels, layer.out_channels)
    )
    shape: tuple[int, int] = layer.kernel_size  # type: ignore[assignment]
    if isinstance(layer, nn.ConvTranspose2d):
        wide: nn.Conv2d | nn.ConvTranspose2d = nn.ConvTranspose2d(
            channels_in,
            channels_out,
            shape,
            stride=layer.stride,  # type: ignore[arg-type]
            padding=layer.padding,  # type: ignore[arg-type]
            output_padding=layer.output_padding,  # type: ignore[arg-type]
        )
    else:
        wide = nn.Conv2d(channels_in, channels_out, shape, stride=layer.stride, padding=layer.padding)  # type: ignore[arg-type]
    for parameter, values in ((wide.weight, layer.weight), (wide.bias, layer.bias)):
        assert parameter is not None and values is not None
        parameter.zero_()
        parameter[tuple(slice(extent) for extent in values.shape)] = values
    return wide
