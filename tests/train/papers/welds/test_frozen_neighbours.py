"""Nearest neighbours on the features of a network with random weights, on drawn welds."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from train.errors import TrainError
from train.papers.welds.folds import Fold
from train.papers.welds.frozen_neighbours import CELL_PX, INPUTS, Bank, fill_bank, frozen_digest
from train.papers.welds.images import Weld

SHAPE = (112, 208)
PORE = (slice(64, 80), slice(160, 176))
STRIPES = (slice(24, 64), slice(48, 96))
FOLDS = (Fold("fold 1", ("b",), ("c",), ("a",)), Fold("fold 2", ("a",), ("c",), ("b",)))


def weld(name: str, *, stripes: bool = False) -> Weld:
    """Noise with a dark pore that is masked and, if wished, a texture that is not."""
    image = np.random.default_rng(ord(name)).normal(120, 2, SHAPE)
    image[PORE] -= 40
    mask = np.zeros(SHAPE, np.bool_)
    mask[PORE] = True
    if stripes:
        image[STRIPES] += 60 * (np.arange(48) % 8 < 4)
    return Weld(name, image.clip(0, 255).astype(np.uint8), mask)


@pytest.fixture(scope="module")
def welds() -> list[Weld]:
    return [weld("a"), weld("b", stripes=True), weld("c")]


@pytest.fixture(scope="module")
def bank(welds: list[Weld]) -> Bank:
    return fill_bank(welds, FOLDS, "none", 0)


def farthest(values: npt.NDArray[np.float32]) -> tuple[int, int]:
    """Row and column, in px of the weld, of the greatest distance."""
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return 2 * int(row), 2 * int(column)


def is_near(place: tuple[int, int], region: tuple[slice, slice]) -> bool:
    return all(side.start - 2 * CELL_PX <= at < side.stop + 2 * CELL_PX for at, side in zip(place, region, strict=True))


@pytest.mark.parametrize("name", INPUTS)
def test_what_is_farthest_from_other_welds_is_what_they_have_not(bank: Bank, welds: list[Weld], name: str) -> None:
    values = bank.maps(welds[0])[bank.column(name, -1)]
    assert values.shape == (56, 104)
    assert is_near(farthest(values), PORE)


def test_a_weld_is_not_compared_with_its_own_cells(bank: Bank, welds: list[Weld]) -> None:
    striped = bank.maps(welds[1])[bank.column("grey", -1)]
    assert is_near(farthest(striped), STRIPES)


def test_cells_of_a_folds_test_welds_are_not_seen(bank: Bank) -> None:
    """Fold 1 may see the stripes of `b`, for a weld that has them too; fold 2, which tests `b`, may not."""
    maps = bank.maps(weld("d", stripes=True))
    seen, unseen = (maps[bank.column("grey", fold)][12:32, 24:48].max() for fold in (0, 1))
    assert seen < 0.8 * unseen


def test_no_cell_of_the_bank_shows_a_defect(bank: Bank, welds: list[Weld]) -> None:
    rows, columns = (-(-side // CELL_PX) for side in SHAPE)
    near = 7 * 7 - 5 * 5  # the pore covers 2 x 2 cells and touches a third, 16 px to each side another two
    for cells in bank.cells["grey"].values():
        assert cells.shape[1] == 384
        assert rows * columns - 7 * 7 <= len(cells) <= rows * columns - 7 * 7 + near


def test_the_digest_tells_cells_and_folds_apart(bank: Bank, welds: list[Weld]) -> None:
    assert fill_bank(welds, FOLDS, "none", 0).digest() == bank.digest()
    assert replace(bank, allowed=bank.allowed[1:]).digest() != bank.digest()
    assert fill_bank([weld("a"), weld("b"), weld("c")], FOLDS, "none", 0).digest() != bank.digest()


def test_weights_that_are_not_there_are_named() -> None:
    with pytest.raises(TrainError, match=r"no\.npz"):
        frozen_digest("no.npz")
