"""The reason map adds up to the answer, and points to the place that the answer comes from."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from edge.images.residual_boxes import MapGeometry
from edge.records import Size
from export.graphs import ClassifierGraph
from export.reason import explain, reason_geometry
from tests.export.networks import lively_classifier
from train.classifier.experiment import Features
from train.classifier.models import Classifier, PooledClassifier
from train.classifier.neighbours import Neighbours
from train.classifier.pooling import GRID, TILES, feature_maps, pool
from train.classifier.selection import Selection
from train.networks import ElectrodeClassifier

SIZE = Size(200, 136)
"""Here the tiles of the three layers do not end at the same pixels."""
SPOT_PX = 24
PLACES = [(60, 40), (130, 105), (170, 60), (40, 100)]


def noise(count: int, seed: int) -> Tensor:
    """Grey levels of a sheet with its grain: uint8 (count, 1, height_px, width_px)."""
    grain = np.random.default_rng(seed).normal(110, 6, (count, 1, *SIZE))
    return torch.from_numpy(grain.clip(0, 255).astype(np.uint8))


def with_spot(image: Tensor, y_px: int, x_px: int) -> Tensor:
    """A copy of one image with a bright square in the middle of which lies (y_px, x_px)."""
    planted, half = image.clone(), SPOT_PX // 2
    planted[..., y_px - half : y_px + half, x_px - half : x_px + half] = 230
    return planted


def means(network: Classifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        return feature_maps(network.backbone, network.normalise(images))[-1].mean(dim=(2, 3))


@pytest.fixture(scope="module")
def spots_are_abnormal() -> ElectrodeClassifier:
    """The paper's form, its layers trained to call a spot abnormal wherever it lies.

    Untrained blocks smear a spot over all of so small an image: here they add little to what they get.
    """
    network = lively_classifier()
    for block in network.backbone.modules():
        if isinstance(block, BasicBlock):
            nn.init.constant_(block.bn2.weight, 0.1)
            nn.init.zeros_(block.bn2.bias)
    places = np.random.default_rng(2).integers(SPOT_PX, np.array(SIZE) - SPOT_PX, (12, 2)).tolist()
    planted = torch.cat([with_spot(image[None], y, x) for image, (y, x) in zip(noise(12, 3), places, strict=True)])
    features, labels = means(network, torch.cat([noise(12, 1), planted])), torch.arange(24) // 12
    layers = nn.Sequential(network.backbone.fc, *network.head)
    with torch.no_grad():  # untrained features hardly differ: the first layer gets them standardised
        deviations, centres = torch.std_mean(features, dim=0)
        layers[0].weight.div_(deviations + 1e-6)
        layers[0].bias.sub_(layers[0].weight @ centres)
    optimizer = torch.optim.Adam(layers.parameters(), lr=1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(layers(features), labels)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    return network.requires_grad_(False)


@cache
def on_tiles(features: Features) -> PooledClassifier:
    """Calls abnormal whatever stands out of its tile, by any channel."""
    torch.manual_seed(5)
    selection = Selection(features, standardise=True)
    network = PooledClassifier(1, selection, nn.Sequential(nn.Linear(selection.width, 2))).eval()
    state = lively_classifier().backbone.state_dict()
    network.backbone.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})
    network.requires_grad_(False)
    network.head[0].weight.copy_(torch.tensor([[0.0], [0.01]]).expand(-1, selection.width))
    maps = feature_maps(network.backbone, network.normalise(noise(6, 4)))
    selection.fit(pool(maps), torch.ones(6, dtype=torch.bool))
    return network


def reason_of(network: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        return explain(network, network.normalise(images))


def peak(cells: Tensor, geometry: MapGeometry) -> tuple[int, int, int, int]:
    """Top, left, bottom and right in px of the cells that are as strong as the strongest."""
    rows, columns = (axis.tolist() for axis in torch.nonzero(cells > cells.max() - 1e-3, as_tuple=True))
    ends = [min(rows), min(columns), max(rows) + 1, max(columns) + 1]
    return tuple(geometry.offset_px + geometry.cell_px * end for end in ends)  # type: ignore[return-value]


@pytest.mark.parametrize("form", ["paper", "tiles", "sheet"])
def test_the_mean_over_the_map_is_the_answer(form: str, spots_are_abnormal: ElectrodeClassifier) -> None:
    network: Classifier = spots_are_abnormal if form == "paper" else on_tiles(form)  # type: ignore[arg-type]
    images = torch.cat([noise(2, 6), with_spot(noise(1, 7), 100, 70)])
    p, maps = reason_of(network, images)
    with torch.inference_mode():
        logits = network(network.normalise(images))
    margins = logits[:, 1] - logits[:, 0]
    assert len({round(margin, 3) for margin in margins.tolist()}) == 3
    torch.testing.assert_close(p, torch.sigmoid(margins), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(maps.mean(dim=(1, 2)), margins, rtol=1e-3, atol=1e-3)


def test_the_map_of_the_papers_form_is_its_own_slope_at_every_cell(spots_are_abnormal: ElectrodeClassifier) -> None:
    """By automatic differentiation: what a cell adds is its features times how the margin moves with them."""
    network = spots_are_abnormal
    image = with_spot(noise(1, 8), 90, 50)
    deep = feature_maps(network.backbone, network.normalise(image))[-1].clone().requires_grad_()
    logits = network.head(network.backbone.fc(deep.mean(dim=(2, 3))))
    margin = logits[0, 1] - logits[0, 0]
    (slopes,) = torch.autograd.grad(margin, deep)
    expected = margin + deep.shape[2] * deep.shape[3] * (slopes * (deep - deep.mean(dim=(2, 3), keepdim=True))).sum(1)
    _, maps = reason_of(network, image)
    torch.testing.assert_close(maps, expected.detach(), rtol=1e-3, atol=1e-3)


def test_a_spot_makes_the_map_of_the_papers_form_peak_at_it(spots_are_abnormal: ElectrodeClassifier) -> None:
    geometry = reason_geometry(spots_are_abnormal)
    assert geometry is not None
    p, maps = reason_of(spots_are_abnormal, torch.cat([with_spot(noise(1, 9), *place) for place in PLACES]))
    assert p.min() > 0.5
    reach_px = SPOT_PX // 2 + geometry.cell_px  # the spot, and the cell beside the one it lies in
    for cells, (y_px, x_px) in zip(maps, PLACES, strict=True):
        top, left, bottom, right = peak(cells, geometry)
        assert abs((top + bottom) / 2 - y_px) <= reach_px
        assert abs((left + right) / 2 - x_px) <= reach_px


@pytest.mark.parametrize("features", ["tiles", "sheet"])
def test_a_spot_makes_the_map_of_tiles_peak_in_its_tile(features: Features) -> None:
    network = on_tiles(features)
    geometry = reason_geometry(network)
    assert geometry is not None
    _, maps = reason_of(network, torch.cat([with_spot(noise(1, 10), *place) for place in PLACES]))
    for cells, (y_px, x_px) in zip(maps, PLACES, strict=True):
        top, left, bottom, right = peak(cells, geometry)
        assert top - geometry.cell_px <= y_px <= bottom + geometry.cell_px
        assert left - geometry.cell_px <= x_px <= right + geometry.cell_px


@pytest.mark.parametrize("tile", [0, 6, 26, 27])
def test_every_tile_that_sees_anything_can_stand_out_in_the_map_of_neighbours(
    tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last layer's map leaves the lowest tiles empty; those of earlier layers lie over the lower rim."""
    network = PooledClassifier(1, Neighbours(1), nn.Sequential()).eval()
    margins = torch.full((1, TILES), -5.0).index_fill(1, torch.tensor([tile]), 5.0)
    monkeypatch.setattr(Neighbours, "margins", lambda *_: margins)
    with torch.inference_mode():
        p, cells = explain(network, network.normalise(noise(1, 12)))
    assert p.item() == pytest.approx(torch.sigmoid(torch.tensor(5.0)).item())
    assert cells.mean().item() == pytest.approx(5.0, abs=1e-4)
    assert cells.max() - cells.min() == pytest.approx(10.0, abs=1e-4)
    row, column = divmod(tile, GRID[1])
    middle_px = ((row + 0.5) * 32, (column + 0.5) * 40)  # of layer 2: 4 x 5 of its 25 x 17 cells
    y, x = (min(int(px), side - 1) // 32 for px, side in zip(middle_px, SIZE, strict=True))
    assert cells[0, y, x] == cells.max()


def test_a_form_without_a_map_says_so_and_still_answers() -> None:
    three = copy.deepcopy(on_tiles("tiles"))
    three.head = nn.Sequential(nn.Linear(three.selection.width, 3))
    selection = Selection("mean+max", standardise=True)
    wholes = PooledClassifier(1, selection, nn.Sequential(nn.Linear(selection.width, 2))).eval()
    for network in (three, wholes):
        assert reason_geometry(network) is None
        with torch.inference_mode():
            assert [tuple(output.shape) for output in ClassifierGraph(network)(noise(1, 11))] == [(1,)]
