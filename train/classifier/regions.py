"""Where the anomalies of a scan lie, for a training that can use it: small grey images beside the labels.

`regions/STEM.png` in the data folder belongs to the scan `STEM.tif`: 8 bit, covering the scan at any size, 0 where
nothing is wrong, 128 on a mild anomaly, 255 on a severe one. For simulated lots they follow from rendering each scan
with and without its anomalies; for real ones somebody has to draw them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from train.dataset import Row
from train.errors import DataError
from train.files import read_picture
from train.simulator.severity import ABNORMAL_FROM
from train.simulator.simulate import render_scan, simulate_scan

REGIONS = "regions"
NONE, MILD, SEVERE = 0, 128, 255
SHAPE = (128, 64)
"""Height and width of the images written here, px."""

_SCALE = 0.25
_CHANGE_COUNTS = 25.0

Regions = npt.NDArray[np.uint8]


def simulated_regions(seed: int, lot: int, index: int, abnormal: bool, *, grey_zone: bool = True) -> Regions:
    """Regions uint8 `SHAPE` of one simulated scan: where its anomalies change the counts by more than 25."""
    anomalies = simulate_scan(seed, lot, index, abnormal=abnormal, grey_zone=grey_zone, scale=_SCALE).anomalies
    mild = [a for a in anomalies if a.severity < ABNORMAL_FROM]
    regions = np.zeros(SHAPE, np.uint8)
    # The mild ones are painted first. An anomaly's place in the list is part of its random stream, so that only the
    # beginning of the list can be rendered alone.
    before = render_scan(seed, lot, index, [], scale=_SCALE).astype(np.float32)
    for level, painted in ((MILD, mild), (SEVERE, list(anomalies))):
        after = render_scan(seed, lot, index, painted, scale=_SCALE).astype(np.float32)
        smooth = cv2.blur(np.minimum(np.abs(after - before), 500), (3, 3))
        changed = (smooth > _CHANGE_COUNTS).astype(np.float32)
        # Area means, then any: a thin scratch still counts where it covers a twentieth of a pixel here.
        regions[cv2.resize(changed, SHAPE[::-1], interpolation=cv2.INTER_AREA) > 0.05] = level
        before = after
    return regions


def write_simulated_regions(
    data: Path,
    rows: Sequence[Row],
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    grey_zone: bool = True,
) -> None:
    """Write the regions of a simulated lot; its files are named like `B03_0017.tif`. Raises DataError."""
    folder = data / REGIONS
    folder.mkdir(exist_ok=True)
    for done, row in enumerate(rows, 1):
        lot, _, index = row.path.stem.partition("_")
        if not (lot[1:].isdigit() and index.isdigit()):
            raise DataError(f"{row.file} is not named like a simulated scan", hint="expected names like B03_0017.tif")
        regions = simulated_regions(seed, int(lot[1:]), int(index), row.label == 1, grey_zone=grey_zone)
        cv2.imwrite(str(folder / f"{row.path.stem}.png"), regions)
        if progress is not None:
            progress(done, len(rows))


def read_regions(rows: Sequence[Row]) -> Regions:
    """Regions of labelled scans, uint8 (n, *SHAPE). Raises DataError for a scan without."""
    images = []
    for row in rows:
        path = row.path.parent / REGIONS / f"{row.path.stem}.png"
        image = read_picture(path, cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise DataError(
                f"{row.file}: no regions in {path}",
                hint="`edge-train simulate --regions` writes them; or train without --learn-regions",
            )
        images.append(cv2.resize(image, SHAPE[::-1], interpolation=cv2.INTER_NEAREST))
    return np.stack(images)
