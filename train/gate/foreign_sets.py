"""Images that are no scans, to test a gate with: drawn from nothing, or a folder of photographs and radiographs.

Nothing here is ever learnt from: the training's own foreign content is made by `train.gate.perturb`, in other ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from edge.errors import ScanError
from edge.scans.scan import Limits, read_scan
from edge.system.names import is_scan_name
from train.errors import DataError
from train.files import files_below, is_picture_name, read_picture
from train.runner import map_in_order
from train.simulator.electrode import MEAN_SIZE_PX
from train.simulator.fields import Counts
from train.simulator.foreign import FOREIGN_KINDS, HIGH_COUNTS, LOW_COUNTS, foreign_scan


@dataclass(frozen=True, slots=True)
class ForeignImage:
    """One image as counts uint16 (H, W), of a kind."""

    name: str
    kind: str
    counts: Counts


def draw_foreign(per_kind: int, seed: int, jobs: int) -> Iterator[ForeignImage]:
    """`per_kind` images of every kind of `train.simulator.foreign`, the same for any number of processes."""
    orders = [(kind, number) for kind in FOREIGN_KINDS for number in range(per_kind)]
    return map_in_order(partial(_draw, seed), orders, jobs)


def of_folder(folder: Path) -> Iterator[ForeignImage]:
    """The images of a folder and those below; the kind is the folder's name.

    Images of 16 bit are taken as they are. Those of 8 bit become scans of the usual size and of 1700 to 2800 counts, so
    that neither format nor range gives them away.

    Raises DataError for a folder without images and for one it cannot read.
    """
    paths = [path for path in files_below(folder) if is_picture_name(path.name)]
    if not paths:
        raise DataError(f"no images in {folder}", hint="give a folder of 16-bit TIFFs, or of JPEG, PNG or BMP images")
    for path in paths:
        counts = _tiff(path) if is_scan_name(path.name) else _picture(path)
        yield ForeignImage(path.relative_to(folder).as_posix(), folder.name, counts)


def _tiff(path: Path) -> Counts:
    try:
        return read_scan(path.resolve(), file=path.name, limits=Limits(expected_zero_px=None)).counts
    except ScanError as error:
        raise DataError(f"{path}: {error.message}", hint=f"{error.hint}; or take it out of the folder") from error


def _picture(path: Path) -> Counts:
    grey = read_picture(path, cv2.IMREAD_ANYDEPTH)
    if grey is None:
        raise DataError(f"{path} is not an image", hint="take it out of the folder")
    if grey.dtype == np.uint16:
        return np.asarray(grey, np.uint16)
    height, width = MEAN_SIZE_PX
    laid = cv2.resize(grey, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    return np.round(LOW_COUNTS + laid * np.float32((HIGH_COUNTS - LOW_COUNTS) / 255)).astype(np.uint16)


def _draw(seed: int, order: tuple[str, int]) -> ForeignImage:
    kind, number = order
    return ForeignImage(f"{kind}_{number:03}", kind, foreign_scan(kind, seed, number))
