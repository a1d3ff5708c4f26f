"""What is made of tiles: against the sheet's own median, and how much of a layer stands out."""

import numpy as np
import torch

from train.classifier.pooling import CHANNELS, LAYER_CHANNELS, TILE_SHAPE, TILES, Pooled
from train.classifier.selection import Selection, _median


def pooled(seed: int, scans: int) -> Pooled:
    rng = np.random.default_rng(seed)
    tiles = torch.from_numpy(rng.gamma(2.0, 1.0, (scans, *TILE_SHAPE)).astype(np.float32))
    return Pooled(torch.zeros(scans, 3, CHANNELS), tiles)


def fitted(seed: int = 1, scans: int = 40) -> Selection:
    selection = Selection("deviations", standardise=False)
    selection.fit(pooled(seed, scans), torch.ones(scans, dtype=torch.bool))
    return selection


def test_the_median_by_sorting_network_is_that_of_a_graph() -> None:
    tiles = pooled(2, 3).tiles
    expected = torch.from_numpy(np.median(tiles.numpy(), axis=2, keepdims=True))
    torch.testing.assert_close(_median(tiles), expected, rtol=0, atol=1e-6)


def test_deviations_are_mean_squares_of_what_stands_out_of_the_greatest_tiles_by_layer() -> None:
    selection, scan = fitted(), pooled(3, 1)
    out = ((scan.tiles - selection.tile_centre) / selection.tile_scale)[0].numpy()
    out -= np.median(out, axis=1, keepdims=True)
    out /= np.maximum(1.4826 * np.median(np.abs(out), axis=1, keepdims=True), 1.0)
    expected = []
    for statistic in out:
        for layer in np.split(statistic, np.cumsum(list(LAYER_CHANNELS.values()))[:-1], axis=1):
            ordered = np.sort((np.clip(layer, -20, 20) ** 2).mean(axis=1))[::-1]
            expected += [np.log(ordered[:count].mean()) for count in (1, 3, 8, TILES)]
    np.testing.assert_allclose(selection(scan)[0].numpy(), expected, rtol=1e-3, atol=1e-3)


def test_which_channels_of_a_layer_stand_out_and_where_is_no_matter_to_deviations() -> None:
    selection, scan = fitted(), pooled(4, 1)
    found = []
    for tile, channel in ((3, 5), (17, 90)):
        tiles = scan.tiles.clone()
        tiles[0, 0] = selection.tile_centre[0]
        tiles[0, 0, tile, channel : channel + 20] += 9 * selection.tile_scale[0, tile, channel : channel + 20]
        found.append(selection(Pooled(scan.whole, tiles)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)
    assert (found[0] - selection(scan)).abs().max() > 0.5


def test_the_shares_of_the_tiles_add_up_and_name_the_one_that_stands_out() -> None:
    selection, scan = fitted(), pooled(5, 2)
    scan.tiles[1, :, 11] += 30
    shares = selection.shares_of(scan)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(2, selection.width))
    assert (shares[1].argmax(dim=0) == 11).all()
