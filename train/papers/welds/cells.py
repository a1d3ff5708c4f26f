"""BAM's truth of the round robin's films: flaw type and length by centimetre of the weld (`real-values.xls`).

A film shows 20 cells of 1 cm from the zero point on, at 40.3 um a pixel. A flaw is listed by the cell it begins in;
where in that cell, the list does not say. Films have an RRT number, which `W0003_readme.txt` gives for each image.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
import xlrd

from train.errors import DataError
from train.papers.welds.images import Weld
from train.papers.welds.markers import letters, wires

CELLS: Final = 20
CELL_PX: Final = 10 / 0.0403
TRUTH_FILE: Final = "real-values.xls"
README_FILE: Final = "W0003_readme.txt"

ISO_6520: Final = {
    "1011": "longitudinal crack",
    "1021": "transverse crack",
    "1051": "crater crack",
    "2011": "gas pore",
    "2013": "clustered porosity",
    "2014": "linear porosity",
    "2015": "elongated cavity",
    "2016": "worm-hole",
    "3011": "slag inclusion",
    "3012": "slag inclusion",
    "3013": "slag inclusion",
    "3041": "tungsten inclusion",
    "4011": "lack of fusion",
    "4012": "lack of fusion",
    "4013": "lack of root fusion",
    "402": "lack of penetration",
    "5011": "undercut",
    "5012": "undercut",
    "5013": "shrinkage groove",
    "504": "excess penetration",
    "515": "root concavity",
}
_READING_MARGIN_PX: Final = 40
_PLATE_PX: Final = 150
_BEAD_SHARE: Final = 0.25
_OUTER_SHARE: Final = 0.12
_BEAD_REACH_SHARE: Final = 0.2

Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Flaw:
    """One line of the list: ISO 6520 type without remarks, the cell (1 to 20) it begins in, its length."""

    iso: str
    cell: int
    length_mm: float

    @property
    def cells(self) -> range:
        """The cells it reaches into, if it begins where its first cell does."""
        return range(self.cell, min(CELLS, self.cell + max(1, math.ceil(self.length_mm / 10)) - 1) + 1)


def read_truth(folder: Path) -> dict[str, tuple[Flaw, ...]]:
    """Flaws by image name, none for a film listed as without indication; films not listed are absent.

    Raises DataError for a missing or another file, and for a line that is no flaw.
    """
    names = _image_names(folder / README_FILE)
    path = folder / TRUTH_FILE
    try:
        sheet = xlrd.open_workbook(path).sheet_by_index(0)
    except (OSError, xlrd.XLRDError) as error:
        raise DataError(f"{path} cannot be read: {error}", hint="it is BAM's Excel file, beside the images") from error
    found: dict[str, list[Flaw]] = {}
    for row in range(2, sheet.nrows):
        number, _, cell, iso, length, *_ = sheet.row_values(row)
        name = names.get(_text(number))
        if name is None:
            continue
        flaws = found.setdefault(name, [])
        if not str(iso).strip():
            continue  # "No indication"
        try:
            flaws.append(Flaw(_text(iso).rstrip("*"), int(cell), float(length)))
        except ValueError as error:
            raise DataError(
                f"{path}, line {row + 1}: {error}", hint="expected cell, ISO type and length in mm"
            ) from error
    return {name: tuple(flaws) for name, flaws in found.items()}


def clean_cells(flaws: Sequence[Flaw]) -> list[int]:
    """Cells without a flaw, whose neighbours have none either."""
    flawed = {cell for flaw in flaws for cell in flaw.cells}
    return [cell for cell in range(1, CELLS + 1) if not flawed & {cell - 1, cell, cell + 1}]


def flawed_cells(flaws: Sequence[Flaw]) -> dict[int, tuple[str, ...]]:
    """ISO types by cell; cells without a flaw are absent."""
    cells: dict[int, set[str]] = {}
    for flaw in flaws:
        for cell in flaw.cells:
            cells.setdefault(cell, set()).add(flaw.iso)
    return {cell: tuple(sorted(types)) for cell, types in sorted(cells.items())}


def cell_columns(cell: int, width: int, *, cell_px: float = CELL_PX, mirrored: bool = False) -> slice:
    """Columns of a cell; the zero point is the left rim of the film, mirrored the right one."""
    left = round((cell - 1) * cell_px)
    right = min(width, round(cell * cell_px))
    return slice(width - right, width - left) if mirrored else slice(left, right)


def weld_band(image: Grey) -> Mask:
    """The bead and 40 px on both sides of it, cell by cell: the truth is of the weld, not of the plate (h, w).

    The bead is what rises over the line between the plate on both sides, by a quarter of its height at least.
    """
    height, width = image.shape
    shown = letters(image)
    grey = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 4.0)
    rises = []
    for cell in range(1, CELLS + 1):
        columns = cell_columns(cell, width)
        if columns.stop - columns.start < 2:
            break
        block = np.where(shown[:, columns], np.nan, grey[:, columns])
        known = np.isfinite(block).sum(axis=1) > block.shape[1] // 4
        profile = np.interp(np.arange(height), np.flatnonzero(known), np.nanmedian(block[known], axis=1))
        outer = max(8, round(_OUTER_SHARE * height))
        rises.append(profile - np.linspace(profile[:outer].mean(), profile[-outer:].mean(), height))
    # A letter that was not found may outshine the bead of one cell: the bead is near where most cells have it.
    middle = float(np.median([np.argmax(rise) for rise in rises]))
    near = np.abs(np.arange(height) - middle) <= _BEAD_REACH_SHARE * height
    tops, bottoms = [], []
    for rise in rises:
        peak = int(np.argmax(np.where(near, rise, -np.inf)))
        low = rise < _BEAD_SHARE * rise[peak]
        above, below = np.flatnonzero(low[:peak]), np.flatnonzero(low[peak:])
        tops.append(int(above[-1]) if above.size else 0)
        bottoms.append(peak + int(below[0]) if below.size else height)
    band = np.zeros((height, width), np.bool_)
    for cell in range(1, len(tops) + 1):
        about = slice(max(0, cell - 3), cell + 2)
        top = int(np.median(tops[about])) - _READING_MARGIN_PX
        bottom = int(np.median(bottoms[about])) + _READING_MARGIN_PX
        band[max(0, top) : bottom, cell_columns(cell, width)] = True
    return band


def readable(image: Grey) -> Mask:
    """Where a film is read: the weld's band without wires, and without letters that lie beside the bead."""
    band = weld_band(image)
    core = cv2.erode(band.astype(np.uint8), np.ones((2 * _READING_MARGIN_PX + 1, 1), np.uint8)) > 0
    rim = np.zeros_like(band)
    rim[:, :_READING_MARGIN_PX] = rim[:, -_READING_MARGIN_PX:] = True  # where the film ends
    rows = np.flatnonzero(band.any(axis=1))
    across = slice(int(rows[0]), int(rows[-1]) + 1)  # a wire crosses the weld, and seldom the whole film
    band[across] &= ~wires(image[across])
    return np.asarray(band & ~(letters(image) & ~core) & ~rim)


def cell_places(where: Mask, cell_px: float, *, mirrored: bool = False) -> list[npt.NDArray[np.int32]]:
    """Flat indices of the pixels of each of the 20 cells where a film is read."""
    places = []
    for cell in range(1, CELLS + 1):
        only = np.zeros_like(where)
        columns = cell_columns(cell, where.shape[1], cell_px=cell_px, mirrored=mirrored)
        only[:, columns] = where[:, columns]
        places.append(np.flatnonzero(only).astype(np.int32))
    return places


def clean_weld(name: str, image: Grey, flaws: Sequence[Flaw]) -> Weld:
    """The weld and the plate near it, masked wherever a film is not known to be clean.

    Masked are cells that are not clean, letters, and the rim of the film; rows beyond 150 px of the weld are cut off.
    """
    band = weld_band(image)
    rows = np.flatnonzero(band.any(axis=1))
    cut = slice(max(0, int(rows[0]) - _PLATE_PX), int(rows[-1]) + _PLATE_PX)
    known = np.zeros(image.shape, np.bool_)
    for cell in clean_cells(flaws):
        known[:, cell_columns(cell, image.shape[1])] = True
    known &= ~(letters(image) & ~band)
    known[:, :_READING_MARGIN_PX] = known[:, -_READING_MARGIN_PX:] = False
    return Weld(name, image[cut], ~known[cut])


def _image_names(path: Path) -> dict[str, str]:
    """Image name by RRT number."""
    try:
        text = path.read_text(encoding="latin-1")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}", hint="it names each image's film") from error
    return {film: name for name, film in re.findall(r"^(\w+)\.png is RRT-0*(\w+?)R\.tif", text, re.MULTILINE)}


def _text(value: object) -> str:
    """A cell of the sheet as text; Excel has numbers as floats."""
    return str(int(value)) if isinstance(value, float) else str(value).strip()
