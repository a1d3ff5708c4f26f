"""Writes lots of simulated scans and their labels.

Every scan has random numbers of its own, made from (seed, lot, scan): the same seed gives the same bytes, however many
processes write and however many scans a lot has. Labels follow from severity; severity has no gap around the boundary.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile

from train.errors import DataError
from train.files import write_whole
from train.runner import map_in_order
from train.second_simulator.anomalies import KINDS, MM_PER_PIXEL, Anomaly, add_anomaly
from train.second_simulator.detector import Session, draw_session, expose
from train.second_simulator.sheet import Look, draw_look, draw_sheet

BOUNDARY = 0.425
"""Severity above which an electrode is abnormal. Ours: the paper leaves it to an expert's eye."""
ABNORMAL_SHARE = 0.2129
"""Share of abnormal scans in the paper's data set: 152 of 714."""
COLUMNS = ("file", "bundle", "label", "kinds", "severity", "severities", "size_px", "size_mm", "area_px", "area_mm2")
"""Columns of labels.csv. `severity` is the greatest of the scan; `kinds` and the columns behind `severity` have one
value for each anomaly, joined by `;`. `size` is a length (see `Anomaly.length`)."""
_MOST_ANOMALIES = 4


@dataclass(frozen=True, slots=True)
class Lot:
    """What was coated together and scanned in one session; the column `bundle` (the paper's word) holds its name."""

    name: str
    look: Look
    session: Session
    proneness: tuple[float, ...]
    """Probability of each kind of `KINDS` when a sheet of this lot has an anomaly."""


@dataclass(frozen=True, slots=True)
class Scan:
    """One simulated scan with the truth about it."""

    file: str
    lot: str
    counts: npt.NDArray[np.uint16]
    is_abnormal: bool
    anomalies: tuple[Anomaly, ...]


def simulate_lots(
    out: Path,
    lots: int,
    scans_per_lot: int,
    *,
    scale: float = 1.0,
    seed: int = 0,
    abnormal_share: float = ABNORMAL_SHARE,
    boundary: float = BOUNDARY,
    labeller_noise: float = 0.0,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `lots` x `scans_per_lot` scans and, last, labels.csv into an empty or new folder; returns its path.

    `abnormal_share` (above 0, below 1) is what chance aims at. `labeller_noise` is the deviation of the severity as the
    person who labels sees it; `severity` in labels.csv stays the true one. Raises DataError where a value is out of
    range or the folder holds something, OSError where it cannot be written.
    """
    _check(out, seed, lots, scans_per_lot, scale, abnormal_share, boundary, labeller_noise, jobs)
    out.mkdir(parents=True, exist_ok=True)
    write = partial(
        _write_scan,
        out,
        seed=seed,
        scale=scale,
        abnormal_share=abnormal_share,
        boundary=boundary,
        labeller_noise=labeller_noise,
    )
    places = [(lot, scan) for lot in range(1, lots + 1) for scan in range(1, scans_per_lot + 1)]
    rows = _counted(map_in_order(write, places, jobs), len(places), progress)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    labels = out / "labels.csv"
    with write_whole(labels) as stream:
        stream.write(text.getvalue().encode())
    return labels


def simulate_scan(
    seed: int,
    lot: int,
    scan: int,
    *,
    scale: float = 1.0,
    abnormal_share: float = ABNORMAL_SHARE,
    boundary: float = BOUNDARY,
    labeller_noise: float = 0.0,
) -> Scan:
    """Scan number `scan` of lot number `lot`, both from 1, with its anomalies."""
    coated = draw_lot(seed, lot)
    rng = np.random.default_rng([seed, lot, scan])
    sheet = draw_sheet(coated.look, scale, rng)
    anomalies = []
    for severity in draw_severities(rng, abnormal_share, boundary):
        kind = str(rng.choice(list(KINDS), p=coated.proneness))
        if anomaly := add_anomaly(sheet, kind, severity, rng):
            anomalies.append(anomaly)
    seen = max((anomaly.severity for anomaly in anomalies), default=0.0) + rng.normal(0, labeller_noise)
    counts = expose(sheet.substrate, sheet.coat, coated.session, scale, rng)
    return Scan(f"{coated.name}_{scan:04}.tif", coated.name, counts, bool(seen > boundary), tuple(anomalies))


def draw_lot(seed: int, lot: int) -> Lot:
    """Lot number `lot`, from 1."""
    rng = np.random.default_rng([seed, lot, 0])
    return Lot(f"B{lot:02}", draw_look(rng), draw_session(rng), tuple(rng.dirichlet(np.full(len(KINDS), 3.0))))


def draw_severities(rng: np.random.Generator, abnormal_share: float, boundary: float) -> list[float]:
    """Severities of a scan's anomalies, the greatest first.

    The greatest has the density of u ** power, u uniform: smooth over (0, 1), with `abnormal_share` above the boundary.
    """
    power = math.log(boundary) / math.log(1 - abnormal_share)
    greatest = float(rng.random() ** power)
    further = min(rng.poisson(0.8), _MOST_ANOMALIES - 1)
    return [greatest, *(float(greatest * share) for share in rng.random(further))]


def _write_scan(
    out: Path,
    place: tuple[int, int],
    *,
    seed: int,
    scale: float,
    abnormal_share: float,
    boundary: float,
    labeller_noise: float,
) -> tuple[str, ...]:
    """Write one scan; returns its row of labels.csv."""
    scan = simulate_scan(
        seed,
        *place,
        scale=scale,
        abnormal_share=abnormal_share,
        boundary=boundary,
        labeller_noise=labeller_noise,
    )
    with write_whole(out / scan.file) as stream:
        tifffile.imwrite(stream, scan.counts, photometric="minisblack", metadata=None, software=False)
    pitch = MM_PER_PIXEL / scale
    anomalies = scan.anomalies
    return (
        scan.file,
        scan.lot,
        "abnormal" if scan.is_abnormal else "normal",
        "|".join(one.kind for one in anomalies),
        f"{max((one.severity for one in anomalies), default=0.0):.4f}",
        "|".join(f"{one.severity:.4f}" for one in anomalies),
        "|".join(f"{one.length:.0f}" for one in anomalies),
        "|".join(f"{one.length * pitch:.2f}" for one in anomalies),
        "|".join(str(one.area) for one in anomalies),
        "|".join(f"{one.area * pitch**2:.2f}" for one in anomalies),
    )


def _counted(
    rows: Iterable[tuple[str, ...]], total: int, progress: Callable[[int, int], None] | None
) -> list[tuple[str, ...]]:
    done = []
    for row in rows:
        done.append(row)
        if progress:
            progress(len(done), total)
    return done


def _check(
    out: Path,
    seed: int,
    lots: int,
    scans_per_lot: int,
    scale: float,
    abnormal_share: float,
    boundary: float,
    labeller_noise: float,
    jobs: int,
) -> None:
    for name, value, holds, expected in (
        ("seed", seed, seed >= 0, "0 or more"),
        ("lots", lots, 1 <= lots <= 99, "1 to 99"),
        ("scans per lot", scans_per_lot, 1 <= scans_per_lot <= 9999, "1 to 9999"),
        ("scale", scale, 0.02 <= scale <= 1, "0.02 to 1"),
        ("abnormal share", abnormal_share, 0 < abnormal_share < 1, "above 0 and below 1"),
        ("boundary", boundary, 0 < boundary < 1, "above 0 and below 1"),
        ("labeller noise", labeller_noise, 0 <= labeller_noise <= 1, "0 to 1"),
        ("jobs", jobs, jobs >= 1, "1 or more"),
    ):
        if not holds:
            raise DataError(f"simulate: {name} is {value}, expected {expected}", hint="give a value in this range")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"simulate: {out} is not an empty folder", hint="name a new folder, or empty this one")
