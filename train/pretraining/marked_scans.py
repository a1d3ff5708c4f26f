"""Simulated scans that know where each anomaly lies, of which kind and how severe it is: what a backbone is taught by.

Nothing is written: scans are drawn again from their seed whenever they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

from edge.images.conversion import LEVELS, Bounds, Histogram, histogram, pooled_bounds
from edge.records import Counts, Size
from train.runner import Runner
from train.second_simulator.simulate import simulate_scan as second_scan
from train.simulator.simulate import KINDS
from train.simulator.simulate import simulate_scan as first_scan

Simulator = Literal["first", "second"]
Mark = tuple[str, float, npt.NDArray[np.bool_]]
"""Kind, severity in 0..1 and place, bool of the scan's shape, of one anomaly."""

CELL_PX: Final = 8
"""Side of a cell: a pixel of ResNet's layer 2."""
ABNORMAL_SHARE: Final = 0.45
"""Share of abnormal scans that chance aims at: half of the scans show what there is to learn."""
_COVERED: Final = 0.25
"""Share of a pixel of the network's input from which an anomaly counts there."""
_COUNTS: Final = (1000, 5000)
"""Between these lies all that either simulator's detector gives, but for hot and dead pixels."""
_FULL_HEIGHT_PX: Final = 2000
_FINER: Final = 4
"""Times finer than the network sees are scans drawn: noise and edges are shrunk with them, as on the line."""


@dataclass(frozen=True, slots=True)
class MarkedScans:
    """n scans at the network's size, still in counts, and what covers each cell of them."""

    counts: npt.NDArray[np.uint16]
    """(n, height_px, width_px), between the counts of hot and of dead pixels."""
    severities: npt.NDArray[np.uint8]
    """(n, kinds, rows, columns): of what covers a cell of CELL_PX, by kind, 255 the greatest; 0 where nothing does."""
    bounds: npt.NDArray[np.float32]
    """(n, 2): pooled bounds of all scans of the same simulator, counts."""


@dataclass(frozen=True, slots=True)
class _LotTask:
    simulator: Simulator
    seed: int
    lot: int
    scans: int
    size: Size


def draw_marked_scans(
    simulators: Sequence[Simulator],
    lots: int,
    scans_per_lot: int,
    seed: int,
    size: Size,
    runner: Runner,
    progress: Callable[[int, int], None],
) -> MarkedScans:
    """`lots` x `scans_per_lot` scans of each simulator, lot by lot; the same arguments give the same scans."""
    tasks = [
        _LotTask(simulator, seed, lot, scans_per_lot, size) for simulator in simulators for lot in range(1, lots + 1)
    ]
    n, cells = len(tasks) * scans_per_lot, cells_of((), size)
    # Filled in place: lots that are joined in the end need the memory twice.
    counts, severities = np.empty((n, size.height_px, size.width_px), np.uint16), np.empty((n, *cells.shape), np.uint8)
    merged = {simulator: np.zeros(LEVELS, np.int64) for simulator in simulators}
    for done, (number, (of_lot, severities_of_lot, hist)) in enumerate(runner.map(_draw_lot, tasks), start=1):
        at = slice(number * scans_per_lot, (number + 1) * scans_per_lot)
        counts[at], severities[at] = of_lot, severities_of_lot
        merged[tasks[number].simulator] += hist
        progress(done * scans_per_lot, n)
    bounds = {simulator: pooled_bounds(hist) for simulator, hist in merged.items()}
    return MarkedScans(
        counts=counts,
        severities=severities,
        bounds=np.repeat([_pair(bounds[task.simulator]) for task in tasks], scans_per_lot, axis=0).astype(np.float32),
    )


def cells_of(marks: Iterable[Mark], size: Size) -> npt.NDArray[np.uint8]:
    """Severities (kinds, rows, columns) of a scan that the network sees at `size`; rows and columns rounded up.

    A cell is covered where an anomaly covers a quarter of one of its pixels; of one so thin that it covers no pixel so
    far, the cell that it covers most is.
    """
    rows, columns = -(-size.height_px // CELL_PX), -(-size.width_px // CELL_PX)
    severities = np.zeros((len(KINDS), rows, columns), np.uint8)
    for kind, severity, mask in marks:
        seen = np.zeros((rows * CELL_PX, columns * CELL_PX), np.float32)
        seen[: size.height_px, : size.width_px] = cv2.resize(
            mask.astype(np.float32), (size.width_px, size.height_px), interpolation=cv2.INTER_AREA
        )
        covered = seen.reshape(rows, CELL_PX, columns, CELL_PX).max(axis=(1, 3))
        if covered.max() > 0:
            of_kind = severities[KINDS.index(kind)]
            is_covered = covered >= min(_COVERED, covered.max())
            of_kind[is_covered] = np.maximum(of_kind[is_covered], round(255 * severity))
    return severities


def _draw_lot(task: _LotTask) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8], Histogram]:
    size, counts, severities, hist = task.size, [], [], np.zeros(LEVELS, np.int64)
    scale = min(1.0, _FINER * size.height_px / _FULL_HEIGHT_PX)
    for index in range(1, task.scans + 1):
        scan, marks = _draw(task, index, scale)
        hist += histogram(scan)
        counts.append(cv2.resize(np.clip(scan, *_COUNTS), (size.width_px, size.height_px)))
        severities.append(cells_of(marks, size))
    return np.stack(counts), np.stack(severities), hist


def _draw(task: _LotTask, index: int, scale: float) -> tuple[Counts, list[Mark]]:
    place = task.seed, task.lot, index
    if task.simulator == "first":
        first = first_scan(*place, abnormal_fraction=ABNORMAL_SHARE, scale=scale)
        painted = zip(first.anomalies, first.masks, strict=True)
        return first.counts, [(anomaly.kind, anomaly.severity, mask) for anomaly, mask in painted]
    second = second_scan(*place, abnormal_share=ABNORMAL_SHARE, scale=scale)
    return second.counts, [(anomaly.kind, anomaly.severity, anomaly.mask) for anomaly in second.anomalies]


def _pair(bounds: Bounds) -> tuple[int, int]:
    return bounds.lo_counts, bounds.hi_counts
