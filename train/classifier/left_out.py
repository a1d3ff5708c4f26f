"""A threshold set by normal scans alone: a share of them, each judged without its own lot, lies above it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from edge.validation.lots import share_over_lots, worst_lot
from train.checkpoint import Value
from train.dataset import Row
from train.errors import DataError, TrainError
from train.report import span_over, worst_of

LEAST_LOTS: Final = 2
"""One can be left out; fewer lots find less, they do not refuse more (docs/experiments/classifier-adapted.md)."""


def refuse_no_share(refused: float) -> None:
    """Raise TrainError for a share of normal scans that is none."""
    if not 0.0 < refused < 1.0:
        raise TrainError(f"--refused {refused:g} is no share", hint="give one between 0 and 1, such as 0.05")


def refuse_few(normal: Sequence[Row], refused: float) -> None:
    """Raise TrainError for a share that is none, DataError where so few scans or lots cannot carry it."""
    refuse_no_share(refused)
    needed = math.ceil(1 / refused - 1e-9)
    lots = len({row.lot for row in normal})
    if len(normal) < needed or lots < LEAST_LOTS:
        raise DataError(
            f"there are {len(normal)} normal scans of {lots} lots, at least {needed} of {LEAST_LOTS} lots are needed",
            hint="scan more lots; fewer scans carry a greater --refused, and copies of one count once",
        )


def figures(p_left_out: npt.NDArray[np.float64], threshold: float, lots: Sequence[str]) -> dict[str, Value]:
    """What the threshold does to the scans (n,) it was set on, each judged without its own lot."""
    is_above, lot_of = p_left_out >= threshold, np.array(lots)
    names = np.unique(lot_of).tolist()
    above, scans = [int(is_above[lot_of == lot].sum()) for lot in names], [int((lot_of == lot).sum()) for lot in names]
    over_lots = share_over_lots(above, scans)
    return {
        "left_out_scans": len(lots),
        "left_out_lots": len(names),
        "left_out_above": sum(above),
        "left_out_above_over_lots": span_over(
            None if over_lots is None else (over_lots.low, over_lots.high), len(names), "lot"
        ),
        "left_out_worst_lot": worst_of(worst_lot(names, above, scans)),
    }


def sentences(found: Mapping[str, Value], threshold: float) -> list[str]:
    """What `figures` found, for a person."""
    return [
        f"threshold {threshold:.4f}: above it are {found['left_out_above']} of {found['left_out_scans']} normal scans,"
        f" each judged without its own lot ({found['left_out_above_over_lots']}; worst lot"
        f" {found['left_out_worst_lot']})",
        "what it finds of abnormal scans of this line only labelled ones can tell: `edge-worker replay --labels`",
    ]
