"""The layout's distances, against plain numpy, and what they tell apart."""

import numpy as np
import pytest
import torch

from edge.records import Size
from train.gate.layout import Layout, cell_side_px, components_for, fit_layout, grid, scores_without_own_lot


def _grids(scans: int, seed: int = 0) -> torch.Tensor:
    """Scans that vary in two ways, and a little in every cell: (scans, 30)."""
    rng = np.random.default_rng(seed)
    ways = np.random.default_rng(99).normal(size=(2, 30))
    return torch.from_numpy(0.5 + rng.normal(size=(scans, 2)) @ ways * 0.05 + rng.normal(0, 0.004, (scans, 30))).float()


def _lots(scans: int) -> list[str]:
    return [f"B{number // 10:02}" for number in range(scans)]


def test_a_grid_is_the_mean_and_the_log_deviation_of_every_cell() -> None:
    images = np.random.default_rng(0).random((2, 1, 12, 20)).astype(np.float32)
    cells = images.reshape(2, 3, 4, 5, 4).transpose(0, 1, 3, 2, 4).reshape(2, 15, 16)
    x = torch.from_numpy(images)
    np.testing.assert_allclose(grid(x, 4, "greys").numpy(), cells.mean(axis=2), rtol=1e-5)
    np.testing.assert_allclose(grid(x, 4, "textures").numpy(), np.log(cells.std(axis=2)), rtol=1e-4)


def test_an_even_cell_has_the_texture_of_rounding_not_minus_infinity() -> None:
    assert grid(torch.full((1, 1, 8, 8), 0.5), 4, "textures").exp().numpy() == pytest.approx(0.0032, rel=0.02)


def test_cells_that_do_not_fit_repeat_the_border() -> None:
    x = torch.zeros(1, 1, 5, 4)
    x[0, 0, 4] = 1
    assert grid(x, 4, "greys").tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("cells", [30, 80])
def test_the_distances_are_those_of_principal_components(cells: int) -> None:
    """With more scans than cells, and with fewer."""
    noise = torch.from_numpy(np.random.default_rng(3).normal(0.5, 0.004, (60, 50))).float()
    values = torch.cat([_grids(60), noise], dim=1)[:, :cells]
    layout = fit_layout(values, _lots(60))
    off = (values.numpy() - layout.centre.numpy()) / layout.spread.numpy()
    _, singular, axes = np.linalg.svd(off, full_matrices=False)
    kept = len(layout.axes)
    assert kept == components_for(6, 60) == 3
    along = off @ axes[:kept].T
    unusual = np.sqrt(np.mean((along / (singular[:kept] / np.sqrt(60))) ** 2, axis=1))
    rest = (off - along @ axes[:kept]) / layout.rest_spread.numpy()
    found = layout.distances(values)
    np.testing.assert_allclose(found[0].numpy(), unusual, rtol=2e-3)
    np.testing.assert_allclose(found[1].numpy(), np.sqrt(np.mean(rest**2, axis=1)), rtol=2e-3)
    assert np.mean(unusual**2) == pytest.approx(1.0, abs=1e-3)


def test_what_varies_too_far_is_unusual_and_what_varies_otherwise_unexplained() -> None:
    values = _grids(120)
    layout = fit_layout(values, _lots(120))
    new = _grids(20, seed=5)
    far = new[0] + 8 * (values[0] - values.mean(dim=0))
    other = new[0] + 0.1 * torch.from_numpy(np.random.default_rng(7).normal(size=30)).float()
    known = [float(distances.max()) for distances in layout.distances(new)]
    (far_unusual, _), (far_unexplained, other_unexplained) = layout.distances(torch.stack([far, other]))
    assert far_unusual > 2 * known[0]
    assert other_unexplained > 2 * known[1]
    assert other_unexplained > far_unexplained
    layout.limits.copy_(torch.tensor(known))
    assert (layout(torch.stack([far, other])) > 2).all()
    assert (layout(new) <= 1).all()


def test_a_lot_is_scored_by_a_layout_that_has_not_seen_it() -> None:
    """One lot unlike all others: with it the layout would know it."""
    values, lots = _grids(60), _lots(60)
    values[50:] += 0.3 * torch.linspace(-1, 1, 30)
    apart = scores_without_own_lot(values, lots, np.ones(60, np.bool_))
    within = fit_layout(values, lots).distances(values)
    of_new_kind = np.maximum(apart.unusual, apart.unexplained)
    assert of_new_kind[50:].min() > 2 * torch.maximum(*within)[50:].max()
    assert of_new_kind[50:].min() > 2 * of_new_kind[:50].max()


def test_scans_that_are_not_to_be_learnt_from_change_nothing() -> None:
    values, lots = _grids(40), _lots(40)
    learns = np.arange(40) % 2 == 0
    before = scores_without_own_lot(values, lots, learns)
    values[1::2] += 5
    after = scores_without_own_lot(values, lots, learns)
    np.testing.assert_array_equal(before.unusual[learns], after.unusual[learns])
    assert (after.unusual[~learns] > before.unusual[~learns]).all()


def test_few_lots_carry_few_components() -> None:
    assert [components_for(lots, 400) for lots in (2, 6, 12, 100)] == [1, 3, 6, 12]
    assert components_for(12, 3) == 2


def test_cells_keep_their_number_at_every_size() -> None:
    for size in (Size(2000, 1000), Size(1000, 500), Size(500, 250)):
        assert grid(torch.zeros(1, 1, *size), cell_side_px(size), "greys").shape == (1, 1250)


def test_an_empty_layout_can_be_loaded() -> None:
    layout = fit_layout(_grids(60), _lots(60))
    copy = Layout(30, 3)
    copy.load_state_dict(layout.state_dict())
    torch.testing.assert_close(copy(_grids(5, 1)), layout(_grids(5, 1)))
