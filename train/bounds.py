"""Grey-level bounds of a folder of training scans (J 2.3.1), as a small JSON file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from edge.images.conversion import LEVELS, Bounds, global_bounds, pooled_bounds, scan_bounds
from edge.images.method import Method
from train.dataset import Progress, Row, data_digest, scan_histograms
from train.errors import DataError

Mode = Literal["per_scan", "pooled"]
MODES: tuple[Mode, ...] = ("per_scan", "pooled")


@dataclass(frozen=True)
class BoundsReport:
    """Bounds and where they come from."""

    bounds: Bounds
    mode: Mode
    scans: int
    lots: tuple[str, ...]
    data_digest: str
    lowest: str
    """File whose own lower bound is lowest: with `per_scan` it alone decides."""
    highest: str


def find_bounds(
    rows: Sequence[Row], mode: Mode, *, jobs: int | None = None, progress: Progress | None = None
) -> BoundsReport:
    """Bounds of these scans: the extremes of the scans' own (`per_scan`, the paper's) or of all pixels (`pooled`).

    Raises DataError for a file that cannot be read.
    """
    merged = np.zeros(LEVELS, np.int64)
    own: list[Bounds] = []
    sha256s: list[str] = []
    for _, sha256, hist in scan_histograms(rows, jobs=jobs, progress=progress):
        merged += hist
        own.append(scan_bounds(hist))
        sha256s.append(sha256)
    return BoundsReport(
        bounds=global_bounds(own) if mode == "per_scan" else pooled_bounds(merged),
        mode=mode,
        scans=len(rows),
        lots=tuple(sorted({row.lot for row in rows})),
        data_digest=data_digest(rows, sha256s),
        lowest=rows[min(range(len(rows)), key=lambda i: own[i].lo_counts)].file,
        highest=rows[max(range(len(rows)), key=lambda i: own[i].hi_counts)].file,
    )


def bounds_needed(method: Method, rows: Sequence[Row], mode: Mode, counter: Callable[[str], Progress]) -> Bounds | None:
    """Bounds of these scans, or None where the conversion takes none. Raises DataError."""
    return find_bounds(rows, mode, progress=counter("bounds")).bounds if method.needs_bounds else None


def bounds_json(report: BoundsReport) -> str:
    """The report as JSON text, sorted keys, ending in a newline."""
    content = {
        "lo_counts": report.bounds.lo_counts,
        "hi_counts": report.bounds.hi_counts,
        "mode": report.mode,
        "scans": report.scans,
        "bundles": list(report.lots),
        "data_digest": report.data_digest,
        "lowest": report.lowest,
        "highest": report.highest,
    }
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def read_bounds(path: Path) -> Bounds:
    """Bounds from a file that `edge-train bounds --out` wrote. Raises DataError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Bounds(int(content["lo_counts"]), int(content["hi_counts"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} holds no bounds: {error!r}", hint="write it with `edge-train bounds DATA --out bounds.json`"
        ) from error
