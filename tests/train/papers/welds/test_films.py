"""Tables of films whose flaws are listed."""

import re

import numpy as np
import pytest

from train.papers.welds.cells import Flaw
from train.papers.welds.curves import Candidate
from train.papers.welds.films import CELL_SET, MIRRORED_SET, Film, film_tables

RNG = np.random.default_rng(0)
ROWS = {"dark": Candidate("dark", (0,))}


def accepted(count: int = 500) -> np.ndarray:
    return RNG.normal(size=(count, 1)).astype(np.float32)


def film(name: str, flaws: tuple[Flaw, ...], level: float) -> Film:
    """Flawed cells at `level`, all others far below every accepted patch."""
    cells = np.full((20, 1), -5, np.float32)
    for flaw in flaws:
        cells[[cell - 1 for cell in flaw.cells]] = level
    return Film(name, flaws, {"accepted": accepted(50) - 5, CELL_SET: cells, MIRRORED_SET: cells[::-1]})


@pytest.fixture(scope="module")
def lines() -> list[str]:
    masked = {name: {"accepted": accepted()} for name in "ab"}
    films = [
        film("one", (Flaw("2011", 2, 1.0), Flaw("402", 5, 15.0)), 9.0),
        film("two", (Flaw("2011", 4, 1.0),), -4.0),
        film("clean", (), 0.0),
    ]
    return film_tables(films, masked, ROWS)


def test_the_zero_point_is_checked_film_by_film(lines: list[str]) -> None:
    assert "| one | 3 | 13 | 1.00 | 0.41 |" in lines
    assert "| clean | 0 | 20 | - | - |" in lines


def test_cells_are_counted_by_type(lines: list[str]) -> None:
    assert "| 2011 | gas pore | 2 | 2 | 1 |" in lines
    assert "| 402 | lack of penetration | 1 | 2 | 2 |" in lines


def test_refused_clean_metal_stands_beside_what_is_found(lines: list[str]) -> None:
    row = next(line for line in lines if line.startswith("| dark |"))
    none = r"\| 0\.0 \(0 to [1-9]\d?, 3 films\) "
    assert re.search(rf"{none}{none}\| 75\.0", row), row
    assert lines[-1].endswith("| 0 |")


def test_an_area_that_is_whole_on_few_films_is_not_certain_of_others(lines: list[str]) -> None:
    row = next(line for line in lines if line.startswith("| dark |"))
    assert re.search(r"\b1\.000 \(0\.\d\d to 1\.00, 2 films\)", row), row
