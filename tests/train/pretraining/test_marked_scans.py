"""Marked scans: cells hold what covers them, and the same seed draws the same scans, however many processes draw."""

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest

import train.pretraining.marked_scans
from edge.images.conversion import LEVELS
from edge.records import Size
from train.pretraining.marked_scans import CELL_PX, cells_of, draw_marked_scans
from train.runner import Here, Processes
from train.simulator.simulate import KINDS

SIZE = Size(64, 36)


def mask(rows: slice, columns: slice) -> npt.NDArray[np.bool_]:
    """Where something lies in a scan twice as fine as the network sees it."""
    marked = np.zeros((128, 72), np.bool_)
    marked[rows, columns] = True
    return marked


def test_a_cell_holds_the_greatest_severity_of_what_covers_it_by_kind() -> None:
    marks = [
        ("bubbles", 0.4, mask(slice(0, 32), slice(0, 16))),
        ("bubbles", 1.0, mask(slice(16, 32), slice(0, 16))),
        ("lines", 0.2, mask(slice(112, 128), slice(64, 72))),
    ]
    cells = cells_of(marks, SIZE)
    assert cells.shape == (len(KINDS), 8, 5)  # the last cells reach over the edge
    bubbles, lines = cells[KINDS.index("bubbles")], cells[KINDS.index("lines")]
    assert bubbles[0, 0] == 102 and bubbles[1, 0] == 255 and np.count_nonzero(bubbles) == 2
    assert lines[7, 4] == 51 and np.count_nonzero(lines) == 1
    assert np.count_nonzero(cells) == 3


def test_what_covers_no_quarter_of_a_pixel_marks_the_cell_that_it_covers_most() -> None:
    fine = np.zeros((640, 360), np.bool_)
    fine[100, 200], fine[300, 100:102] = True, True  # of pixels of 100 each
    (kind,) = (cells for cells in cells_of([("scratches", 0.5, fine)], SIZE) if cells.any())
    assert np.argwhere(kind).tolist() == [[300 // 10 // CELL_PX, 100 // 10 // CELL_PX]]


def test_scans_lie_in_memory_once(monkeypatch: pytest.MonkeyPatch) -> None:
    size = Size(256, 256)
    lot = np.zeros((4, *size), np.uint16), np.zeros((4, len(KINDS), 32, 32), np.uint8), np.ones(LEVELS, np.int64)
    monkeypatch.setattr(train.pretraining.marked_scans, "_draw_lot", lambda _: tuple(part.copy() for part in lot))
    tracemalloc.start()
    try:
        scans = draw_marked_scans(("first",), 40, 4, 0, size, Here(), lambda *_: None)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 1.5 * (scans.counts.nbytes + scans.severities.nbytes)


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_same_arguments_draw_the_same_scans_of_both_simulators(jobs: int) -> None:
    def drawn(run: Here | Processes) -> list[npt.NDArray[np.generic]]:
        scans = draw_marked_scans(("first", "second"), 2, 2, 5, SIZE, run, lambda *_: None)
        return [scans.counts, scans.severities, scans.bounds]

    counts, severities, bounds = here = drawn(Here())
    assert counts.shape == (8, *SIZE) and severities.shape == (8, len(KINDS), 8, 5) and bounds.shape == (8, 2)
    assert len(np.unique(counts.reshape(8, -1), axis=0)) == 8
    assert len(np.unique(bounds[:4], axis=0)) == len(np.unique(bounds[4:], axis=0)) == 1
    assert severities[:4].any() and severities[4:].any()
    if jobs > 1:
        with Processes(jobs) as processes:
            there = drawn(processes)
        for mine, theirs in zip(here, there, strict=True):
            np.testing.assert_array_equal(mine, theirs)
