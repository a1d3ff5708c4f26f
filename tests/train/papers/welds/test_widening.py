"""A network with idle channels learns what it would without them."""

import pytest
import torch

from train.networks import GateAutoencoder, PatchClassifier
from train.papers.welds.widening import narrow_into, widened

torch.set_num_threads(1)


@pytest.mark.parametrize("network", [GateAutoencoder, PatchClassifier])
def test_a_widened_network_learns_the_same(network: type[torch.nn.Module]) -> None:
    torch.manual_seed(0)
    narrow = network().eval()  # without dropout, whose random numbers depend on the channels
    wide = widened(narrow, 8)
    widths = [layer.out_channels for layer in wide.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert all(width == 1 or width % 8 == 0 for width in widths)
    side = 192 if network is PatchClassifier else 56
    batches = torch.rand(3, 1, 1, side, side, dtype=torch.float64)
    for model in (narrow.double(), wide.double()):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for batch in batches:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
    taken = network().double()
    narrow_into(taken, wide)
    for name, values in narrow.state_dict().items():
        torch.testing.assert_close(taken.state_dict()[name], values, atol=1e-9, rtol=0)
