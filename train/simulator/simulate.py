"""Simulated electrode scans: the stand-in for the data set that was never published.

`simulate_scan` makes one scan, `write_lots` a directory of 16-bit TIFFs with `labels.csv`. Everything follows from
whole numbers (seed, lot, index): the same numbers give the same bytes on the same machine and library versions,
however many processes draw them.

It is for demos and tests. It is not evidence about real electrodes; figures that used it say so.
"""

import codecs
import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile

from edge.errors import EdgeError
from edge.system.files import write_whole
from edge.system.names import is_scan_name
from train.files import files_below
from train.runner import map_in_order
from train.simulator.defects import PAINTERS
from train.simulator.electrode import blank_sheet, expose
from train.simulator.extent import MM_PER_PX, Extent, Mask, changed, extent
from train.simulator.fields import Counts, generator
from train.simulator.severity import ABNORMAL_FROM, GREY_ZONE

__all__ = [
    "ABNORMAL_FRACTION",
    "ABNORMAL_FROM",
    "GREY_ZONE",
    "KINDS",
    "LABELS_NAME",
    "Anomaly",
    "SimulatedScan",
    "lot_name",
    "render_scan",
    "scan_name",
    "simulate_scan",
    "write_lots",
]

KINDS: tuple[str, ...] = tuple(PAINTERS)
ABNORMAL_FRACTION = 152 / 714  # the paper's collection
LABELS_NAME = "labels.csv"
LABEL_COLUMNS = ("file", "bundle", "label", "kinds", "severity", "size_px", "size_mm", "area_px", "area_mm2")
SCALE_RANGE = (0.05, 1.0)  # under 0.05 a sheet is 100 px high and its anomalies are less than a pixel

Label = Literal["normal", "abnormal"]

_STREAM_CHOICE, _STREAM_PAINT, _STREAM_ORDER = 1, 2, 3
_EMPTY_HINT = "choose an empty directory: scans and their labels belong together"


@dataclass(frozen=True)
class Anomaly:
    """One anomaly to paint: its kind (of `KINDS`) and its severity in 0..1."""

    kind: str
    severity: float


@dataclass(frozen=True)
class SimulatedScan:
    """One simulated scan and its truth.

    `counts` is uint16 (H, W). `kinds` are those that decide the label, worst first: the severe ones of an abnormal
    scan, the mild ones of a normal scan. `severity` is the greatest severity drawn, 0 if none. `anomalies` is
    everything that was painted, the mild company of severe ones included; `masks`, bool (H, W), where each of them
    lies. `extents` are those of `kinds`.
    """

    counts: Counts
    lot: str
    label: Label
    kinds: tuple[str, ...]
    severity: float
    anomalies: tuple[Anomaly, ...]
    masks: tuple[Mask, ...]
    extents: tuple[Extent, ...]


def lot_name(lot: int) -> str:
    """`B03` for lot 3."""
    return f"B{lot:02d}"


def scan_name(lot: int, index: int) -> str:
    """`B03_0017.tif` for scan 17 of lot 3."""
    return f"{lot_name(lot)}_{index:04d}.tif"


def render_scan(seed: int, lot: int, index: int, anomalies: Sequence[Anomaly] = (), *, scale: float = 1.0) -> Counts:
    """The scan of one sheet with exactly these anomalies: uint16 (H, W) counts, most of them in 1700-2800.

    The sheet, its pose and its noise depend on (seed, lot, index) alone, so scans that differ only in
    `anomalies` can be subtracted. Raises EdgeError for an unknown kind, a severity outside 0..1, a negative number
    or a scale outside 0.05..1.
    """
    counts, _ = _render(seed, lot, index, anomalies, scale)
    return counts


def _render(seed: int, lot: int, index: int, anomalies: Sequence[Anomaly], scale: float) -> tuple[Counts, list[Mask]]:
    """The scan, and where each anomaly lies."""
    _check(seed, lot, index, scale)
    canvas = blank_sheet(seed, lot, index, scale)
    masks = []
    for place, anomaly in enumerate(anomalies):
        if anomaly.kind not in PAINTERS or not 0.0 <= anomaly.severity <= 1.0:
            raise EdgeError(
                f"cannot paint {anomaly.kind!r} with severity {anomaly.severity}",
                hint=f"severity is 0 to 1, kinds are: {', '.join(KINDS)}",
            )
        rng = generator(_STREAM_PAINT, seed, lot, index, place, KINDS.index(anomaly.kind))
        before = canvas.thickness.copy()
        PAINTERS[anomaly.kind](canvas, anomaly.severity, rng)
        masks.append(changed(before, canvas.thickness))
    return expose(canvas, seed, lot, index), masks


def simulate_scan(
    seed: int,
    lot: int,
    index: int,
    *,
    abnormal: bool | None = None,
    abnormal_fraction: float = ABNORMAL_FRACTION,
    kinds: Sequence[str] | None = None,
    grey_zone: bool = True,
    scale: float = 1.0,
) -> SimulatedScan:
    """One scan with anomalies by chance, the same for the same arguments.

    A normal scan carries 0-3 mild anomalies (severity below `ABNORMAL_FROM`), an abnormal one 1-2 severe ones (that
    and over) and perhaps mild ones. `abnormal` fixes the label; None leaves it to chance with `abnormal_fraction`.
    `kinds` replaces the choice of kinds: each is painted once, severe or mild as the label asks, and nothing else.
    Without `grey_zone` no severity of `GREY_ZONE` is drawn; kinds, places and noise stay those of the same numbers.
    `counts` is uint16 (H, W): 2053-2115 x 1119-1219 px times `scale`. Raises EdgeError as `render_scan` does, for
    a fraction outside 0..1 and for an abnormal scan with no kinds.
    """
    _check(seed, lot, index, scale)
    _check_fraction(abnormal_fraction)
    rng = generator(_STREAM_CHOICE, seed, lot, index)
    chance = float(rng.uniform())
    severe_wanted = chance < abnormal_fraction if abnormal is None else abnormal
    if severe_wanted and kinds is not None and not kinds:
        raise EdgeError(
            "an abnormal scan was asked for with no kinds", hint="name at least one kind, or leave kinds out"
        )
    anomalies = _choose(rng, severe_wanted, kinds, grey_zone)
    counts, masks = _render(seed, lot, index, anomalies, scale)
    painted = list(zip(anomalies, masks, strict=True))
    deciding = [pair for pair in painted if pair[0].severity >= ABNORMAL_FROM] or painted
    deciding.sort(key=lambda pair: -pair[0].severity)
    worst_first = [anomaly for anomaly, _ in deciding]
    return SimulatedScan(
        counts=counts,
        lot=lot_name(lot),
        label="abnormal" if severe_wanted else "normal",
        kinds=tuple(anomaly.kind for anomaly in worst_first),
        severity=worst_first[0].severity if worst_first else 0.0,
        anomalies=tuple(anomalies),
        masks=tuple(masks),
        extents=tuple(extent(mask) for _, mask in deciding),
    )


def write_lots(
    out: Path,
    *,
    seed: int,
    lots: int,
    scans_per_lot: int,
    abnormal_fraction: float = ABNORMAL_FRACTION,
    first_lot: int = 1,
    grey_zone: bool = True,
    scale: float = 1.0,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the scans of some lots and `labels.csv` into `out`, and return the path of the labels.

    Uncompressed 16-bit TIFFs named like `B03_0017.tif`, and columns file, bundle, label, kinds (joined by `|`),
    severity (3 decimals), then length and area of each of the kinds, in px and mm. The abnormal scans are spread
    evenly over the lots and their number over all of them is exact. `progress(done, total)` is called after every scan.
    The labels are written last: a folder that has them is complete. The same scans may be there already; raises
    EdgeError for a directory that holds other scans or labels, which stay, and for senseless numbers.
    """
    _check(seed, first_lot, 0, scale)
    _check_fraction(abnormal_fraction)
    if lots < 1 or scans_per_lot < 1 or jobs < 1:
        raise EdgeError(
            f"{lots} lots x {scans_per_lot} scans by {jobs} jobs cannot be written",
            hint="lots, scans per lot and jobs are 1 or more",
        )
    orders = list(_orders(out, seed, lots, scans_per_lot, abnormal_fraction, first_lot, grey_zone, scale))
    out.mkdir(parents=True, exist_ok=True)
    labels = out / LABELS_NAME
    _refuse_others(out, orders, labels)
    labels.unlink(missing_ok=True)
    rows: list[tuple[str, ...]] = []
    for row in map_in_order(_write_one, orders, jobs):
        rows.append(row)
        if progress is not None:
            progress(len(rows), len(orders))
    with write_whole(labels, durable=False) as stream:
        writer = csv.writer(codecs.getwriter("utf-8")(stream), lineterminator="\n")
        writer.writerow(LABEL_COLUMNS)
        writer.writerows(rows)
    return labels


@dataclass(frozen=True)
class _Order:
    """One scan to write; small and picklable, so that any process can fill it."""

    path: Path
    seed: int
    lot: int
    index: int
    abnormal: bool
    grey_zone: bool
    scale: float


def _orders(
    out: Path,
    seed: int,
    lots: int,
    per_lot: int,
    fraction: float,
    first_lot: int,
    grey_zone: bool,
    scale: float,
) -> Iterator[_Order]:
    """The scans of all lots in file order; the running total of abnormal ones is rounded, so none is lost."""
    for ordinal in range(lots):
        lot = first_lot + ordinal
        before, after = (round((ordinal + step) * per_lot * fraction) for step in (0, 1))
        shuffled = generator(_STREAM_ORDER, seed, lot).permutation(per_lot)
        abnormal = {int(position) for position in shuffled[: after - before]}
        for position in range(per_lot):
            index = position + 1
            path = out / scan_name(lot, index)
            yield _Order(path, seed, lot, index, position in abnormal, grey_zone, scale)


def _refuse_others(out: Path, orders: Sequence[_Order], labels: Path) -> None:
    """Raise EdgeError where the directory holds scans or labels of somebody else: nothing of theirs is replaced."""
    ours = {order.path for order in orders}
    strangers = [path for path in files_below(out) if is_scan_name(path.name) and path not in ours]
    if strangers:
        raise EdgeError(
            f"{out} already holds {len(strangers)} other scans, such as {min(strangers).relative_to(out)}",
            hint=_EMPTY_HINT,
        )
    if labels.exists():
        with labels.open("rb") as stream:
            if stream.readline().rstrip() != ",".join(LABEL_COLUMNS).encode():
                raise EdgeError(f"{labels} holds labels that no simulation wrote", hint=_EMPTY_HINT)
    if first := next((order for order in orders if order.path.exists()), None):
        _write_one(first)  # before the labels go


def _write_one(order: _Order) -> tuple[str, ...]:
    """Simulate one scan and write it, or find it there; returns its row of labels.csv.

    Raises EdgeError where another file has its name.
    """
    scan = simulate_scan(
        order.seed,
        order.lot,
        order.index,
        abnormal=order.abnormal,
        grey_zone=order.grey_zone,
        scale=order.scale,
    )
    # No metadata, software or date: nothing in the file but the scan, so equal scans are equal files.
    written = io.BytesIO()
    tifffile.imwrite(written, scan.counts, photometric="minisblack", metadata=None, software=False)
    if not order.path.exists():
        with write_whole(order.path, durable=False) as stream:
            stream.write(written.getbuffer())
    elif order.path.read_bytes() != written.getbuffer():
        raise EdgeError(f"{order.path} is another scan of this name", hint=_EMPTY_HINT)
    pitch = MM_PER_PX / order.scale
    sizes = [
        (f"{each.length_px:.0f}", f"{each.length_px * pitch:.2f}", str(each.area_px), f"{each.area_px * pitch**2:.2f}")
        for each in scan.extents
    ]
    columns = ("|".join(column) for column in zip(*sizes, strict=True)) if sizes else ("",) * 4
    return (order.path.name, scan.lot, scan.label, "|".join(scan.kinds), f"{scan.severity:.3f}", *columns)


def _choose(
    rng: np.random.Generator, severe_wanted: bool, kinds: Sequence[str] | None, grey_zone: bool
) -> list[Anomaly]:
    """Kinds and severities of one scan; severe ones are painted last, over the mild ones."""
    mild_to, severe_from = (ABNORMAL_FROM, ABNORMAL_FROM) if grey_zone else GREY_ZONE

    def mild(kind: str) -> Anomaly:
        return Anomaly(kind, float(rng.uniform(0.0, mild_to)))

    def severe(kind: str) -> Anomaly:
        return Anomaly(kind, float(rng.uniform(severe_from, 1.0)))

    if kinds is not None:
        return [severe(kind) if severe_wanted else mild(kind) for kind in kinds]
    order = [KINDS[int(position)] for position in rng.permutation(len(KINDS))]
    severe_number = int(rng.choice([1, 1, 2])) if severe_wanted else 0
    mild_number = int(rng.integers(0, 4))
    chosen = [mild(kind) for kind in order[severe_number : severe_number + mild_number]]
    return chosen + [severe(kind) for kind in order[:severe_number]]


def _check(seed: int, lot: int, index: int, scale: float) -> None:
    if min(seed, lot, index) < 0:
        raise EdgeError(
            f"seed {seed}, lot {lot}, index {index}: a negative number names no scan",
            hint="use whole numbers from 0 up",
        )
    if not SCALE_RANGE[0] <= scale <= SCALE_RANGE[1]:
        raise EdgeError(f"scale {scale} is outside {SCALE_RANGE[0]} to {SCALE_RANGE[1]}", hint="use 1 for full format")


def _check_fraction(fraction: float) -> None:
    if not 0.0 <= fraction <= 1.0:
        raise EdgeError(
            f"an abnormal fraction of {fraction} is not a share of the scans", hint="use a number from 0 to 1"
        )
