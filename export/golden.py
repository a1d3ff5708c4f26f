"""The two small scans a model carries, so that every engine can prove itself before it judges."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import tifffile

from edge.engines import Engine
from edge.engines.golden import score_one
from edge.errors import ScanError
from edge.images.conversion import Bounds, prepare
from edge.images.method import Method
from edge.records import Counts, Image, Scores
from edge.scans.scan import Limits, read_scan
from edge.system.names import is_scan_name
from export.errors import ExportError
from train.dataset import LABELS, LABELS_NAME, read_labels
from train.files import entries_of, folders_of

GOLDEN_SIDE_PX: Final = 320
"""Longest side of a golden scan: about 100 kB of 16-bit Deflate; it is resized to the network's input anyway."""
CANDIDATES: Final = 6
"""Scans tried per label."""


@dataclass(frozen=True, slots=True)
class GoldenScan:
    """A golden scan as it goes into the model."""

    name: str
    """File name, such as `normal.tif`."""
    tiff: bytes
    image: Image
    scores: Scores


def choose_golden(
    folder: Path,
    engine: Engine,
    *,
    method: Method,
    bounds: Bounds | None,
    threshold: float,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[GoldenScan, GoldenScan]:
    """One normal scan and one abnormal, shrunk and scored by `engine`.

    Of those the classifier judges right the least sure: a probability of 0.99999 would hide what an engine does
    wrong. Where it judges none right, the best of them. Labels come from the folder's labels.csv or its sub-folders;
    without any, the two sides of the threshold are the labels. Where all scans are normal, as on a plant's first day,
    both are: they prove the arithmetic, which knows no labels. Raises ExportError for fewer than two scans, none that
    is normal, or a scan that cannot be read.
    """
    candidates = _candidates(folder)
    scored: list[tuple[int | None, GoldenScan]] = []
    for path, label in candidates:
        scored.append((label, _golden_scan(path, engine, method, bounds)))
        if progress is not None:
            progress(len(scored), len(candidates))
    of_normal = [golden for label, golden in scored if label != 1]
    normal = _doubtful(of_normal, lambda golden: threshold - golden.scores.p_abnormal)
    others = [(label, golden) for label, golden in scored if golden is not normal]
    if all(label == 0 for label, _ in others):
        other = _doubtful([golden for _, golden in others], lambda golden: threshold - golden.scores.p_abnormal)
        return replace(normal, name=f"{LABELS[0]}.tif"), replace(other, name=f"{LABELS[0]}-2.tif")
    of_abnormal = [golden for label, golden in others if label != 0]
    abnormal = _doubtful(of_abnormal, lambda golden: golden.scores.p_abnormal - threshold)
    return replace(normal, name=f"{LABELS[0]}.tif"), replace(abnormal, name=f"{LABELS[1]}.tif")


def shrink(counts: Counts) -> Counts:
    """Area mean down to GOLDEN_SIDE_PX on the longest side; smaller scans stay as they are."""
    factor = GOLDEN_SIDE_PX / max(counts.shape)
    if factor >= 1.0:
        return counts
    height_px, width_px = (max(1, round(side * factor)) for side in counts.shape)
    small: Counts = cv2.resize(counts, (width_px, height_px), interpolation=cv2.INTER_AREA).astype(np.uint16)
    return small


def tiff_bytes(counts: Counts) -> bytes:
    """A TIFF of the kind the line reads, Deflate with predictor, without the time or the name of a program."""
    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        counts,
        photometric="minisblack",
        compression="zlib",
        predictor=True,
        metadata=None,
        software=False,
    )
    return stream.getvalue()


def _candidates(folder: Path) -> list[tuple[Path, int | None]]:
    """Scans to try, with their labels where something says so."""
    candidates: list[tuple[Path, int | None]] = []
    if (folder / LABELS_NAME).is_file() or any((lot / LABELS[0]).is_dir() for lot in folders_of(folder)):
        rows = read_labels(folder)
        for label in range(len(LABELS)):
            candidates += [(row.path, label) for row in rows if row.label == label][:CANDIDATES]
        if not any(label == 0 for _, label in candidates) or len(candidates) < 2:
            raise ExportError(
                f"{folder} holds {sum(row.label == 0 for row in rows)} normal scans of {len(rows)}",
                hint="golden scans are two, of each label one, or both normal",
            )
        return candidates
    found = [path for path in entries_of(folder) if is_scan_name(path.name)]
    if len(found) < 2:
        raise ExportError(
            f"{folder} holds {len(found)} TIFF files, golden scans are two",
            hint="give a folder of scans, with labels.csv or without",
        )
    return [(path, None) for path in found[: 2 * CANDIDATES]]


def _golden_scan(path: Path, engine: Engine, method: Method, bounds: Bounds | None) -> GoldenScan:
    try:
        counts = shrink(read_scan(path.resolve(), file=path.name, limits=Limits(expected_zero_px=None)).counts)
    except ScanError as error:
        raise ExportError(f"golden scan {path} cannot be read: {error.message}", hint=error.hint) from error
    image = prepare(counts, method, bounds, engine.spec.size)
    return GoldenScan(path.name, tiff_bytes(counts), image, score_one(engine, image))


def _doubtful(scans: list[GoldenScan], margin: Callable[[GoldenScan], float]) -> GoldenScan:
    """The scan with the smallest positive margin, else the one with the largest."""
    right = [scan for scan in scans if margin(scan) > 0]
    return min(right, key=margin) if right else max(scans, key=margin)
