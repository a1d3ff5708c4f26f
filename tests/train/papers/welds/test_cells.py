"""The list of flaws by centimetre, and where its cells lie on a film."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from train.errors import DataError
from train.papers.welds.cells import (
    CELL_PX,
    Flaw,
    cell_columns,
    cell_places,
    clean_cells,
    clean_weld,
    flawed_cells,
    read_truth,
    readable,
    weld_band,
)

WIDTH, HEIGHT = round(20 * CELL_PX), 700


def film() -> npt.NDArray[np.uint8]:
    """A bright bead about row 300, and letters far from it."""
    across = np.exp(-(((np.arange(HEIGHT) - 300) / 60) ** 2))
    image = 50 + 120 * across[:, None] + np.random.default_rng(0).normal(0, 1, (HEIGHT, WIDTH))
    grey = np.asarray(image.clip(0, 255).round(), np.uint8)
    cv2.putText(grey, "SLV 35", (400, 640), cv2.FONT_HERSHEY_SIMPLEX, 4.0, 230, 14)
    return grey


@pytest.mark.parametrize(("length_mm", "cells"), [(0.3, [19]), (10.0, [19]), (10.1, [19, 20]), (200.0, [19, 20])])
def test_a_flaw_reaches_as_far_as_its_length_and_never_beyond_the_film(length_mm: float, cells: list[int]) -> None:
    assert list(Flaw("2011", 19, length_mm).cells) == cells


def test_a_cell_beside_a_flaw_is_neither_flawed_nor_clean() -> None:
    flaws = [Flaw("2011", 3, 1.0), Flaw("402", 3, 15.0)]
    assert flawed_cells(flaws) == {3: ("2011", "402"), 4: ("402",)}
    assert clean_cells(flaws) == [1, *range(6, 21)]


def test_a_film_without_flaws_is_clean_from_end_to_end() -> None:
    assert clean_cells([]) == list(range(1, 21))


def test_a_mirrored_film_begins_at_its_right_rim() -> None:
    assert cell_columns(1, WIDTH) == slice(0, 248)
    assert cell_columns(1, WIDTH, mirrored=True) == slice(WIDTH - 248, WIDTH)


def test_the_band_holds_the_bead_and_not_the_letters() -> None:
    image = film()
    band = weld_band(image)
    assert band[250:350, 100:-100].all()
    assert not band[520:].any()
    assert not readable(image)[:, :40].any()


def test_the_places_of_cells_are_apart_and_lie_where_the_film_is_read() -> None:
    where = np.zeros((10, WIDTH // 2), np.bool_)
    where[4:6, 30:] = True
    places = cell_places(where, CELL_PX / 2)
    together = np.concatenate(places)
    assert len(places) == 20
    assert len(np.unique(together)) == len(together) == where.sum()


def test_what_is_not_known_to_be_clean_is_masked() -> None:
    weld = clean_weld("film", film(), [Flaw("2011", 10, 1.0)])
    assert weld.mask is not None
    assert weld.image.shape[0] < HEIGHT
    assert weld.mask[:, cell_columns(10, WIDTH)].all()
    assert weld.mask[:, cell_columns(11, WIDTH)].all()
    assert not weld.mask[100:-100, cell_columns(13, WIDTH)].any()


@pytest.mark.parametrize("content", [None, b"no workbook"])
def test_a_missing_or_foreign_list_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "W0003_readme.txt").write_text("W0003_0001.png is RRT-09R.tif\n")
    if content is not None:
        (tmp_path / "real-values.xls").write_bytes(content)
    with pytest.raises(DataError, match=r"real-values\.xls"):
        read_truth(tmp_path)
