"""`edge-train doctor`: what is in a folder of labelled scans, and what may go wrong when it is learnt from.

It prints everything it finds instead of stopping at the first problem.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from edge.images.conversion import Histogram, percentile
from edge.system.names import display_name
from train.dataset import LABELS, Row
from train.plots import save
from train.survey import MOST_NAMED, Survey, lots_alike, odd_scans

OUTLIER_DEVIATIONS = 5.0
"""A lot whose median count lies this many robust deviations from the others' is named."""
FEW_ABNORMAL = 3


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Lines to print, and how many of them are problems."""

    lines: tuple[str, ...]
    problems: int


def diagnose(survey: Survey, unlisted: Sequence[str] = (), unlabelled: Sequence[str] = ()) -> Diagnosis:
    """Counts, sizes, bounds; then what is wrong.

    `unlisted`: scans in the folder that its labels do not list; `unlabelled`: those that they list without one.
    """
    problems = [
        *(f"unreadable: {problem}" for problem in survey.unreadable),
        *_duplicates(survey),
        *lots_alike(survey.lots),
        *_one_class(survey.rows),
        *_outliers({lot: survey.histogram_of(lot) for lot in survey.lots}),
        *odd_scans(survey),
        *_unlisted(unlisted),
    ]
    return Diagnosis((*_facts(survey, len(unlabelled)), *(problems or ["no problems found"])), len(problems))


def histogram_plot(survey: Survey, path: Path) -> None:
    """Pixels per count of every lot and the global bounds. Writes PATH.png and PATH.svg."""
    bounds = survey.bounds_without((), "per_scan")
    low, high = max(0, bounds.lo_counts - 500), min(65_535, bounds.hi_counts + 500)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    step = max(1, (high - low) // 300)
    for lot in survey.lots:
        hist = survey.histogram_of(lot)[low:high]
        binned = np.add.reduceat(hist, np.arange(0, hist.size, step)) / max(1, hist.sum())
        axes.plot(low + step * np.arange(binned.size), binned, linewidth=1, label=lot)
    for edge in (bounds.lo_counts, bounds.hi_counts):
        axes.axvline(edge, color="#555555", linestyle="--", linewidth=1)
    axes.set(xlabel="counts", ylabel="share of pixels", yscale="log")
    axes.set_title(f"Counts by lot; dashed: bounds {bounds.lo_counts} to {bounds.hi_counts}", fontsize=10)
    axes.legend(fontsize=7, ncols=2, frameon=False)
    save(figure, path)


def _facts(survey: Survey, unlabelled: int) -> list[str]:
    heights = [scan.height_px for scan in survey.scans]
    widths = [scan.width_px for scan in survey.scans]
    per_scan, pooled = (survey.bounds_without((), mode) for mode in ("per_scan", "pooled"))
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for row in survey.rows:
        counts[row.lot][row.label] += 1
    abnormal = sum(row.label for row in survey.rows)
    disputed = sum(row.is_disputed for row in survey.rows)
    return [
        f"{len(survey.rows)} scans, {abnormal} abnormal, {len(survey.lots)} lots"
        + (f"; labellers disagree on {disputed}" if disputed else ""),
        *(f"  {lot}: {counts[lot][0]} normal, {counts[lot][1]} abnormal" for lot in survey.lots),
        f"16 bit, one channel; height {min(heights)} to {max(heights)} px, width {min(widths)} to {max(widths)} px",
        f"bounds {per_scan.lo_counts} to {per_scan.hi_counts} counts per scan,"
        f" {pooled.lo_counts} to {pooled.hi_counts} pooled",
        *((f"{unlabelled} more scans are listed without a label",) if unlabelled else ()),
        *(() if abnormal else ("no abnormal scan: of the recipes `neighbours` alone can learn from these",)),
    ]


def _duplicates(survey: Survey) -> list[str]:
    """Scans of the same counts: across lots they leak from training to test, with two labels one is wrong."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row, scan in zip(survey.rows, survey.scans, strict=True):
        found[scan.pixels_sha256].append(row)
    lines = []
    for rows in found.values():
        if len(rows) < 2:
            continue
        files = ", ".join(display_name(row.file) for row in rows)
        if len({row.lot for row in rows}) > 1:
            lines.append(f"the same scan in several lots, a leak from training to test: {files}")
        else:
            lines.append(f"the same scan several times: {files}")
        if len({row.label for row in rows}) > 1:
            lines.append(f"the same scan with both labels: {files}")
    return lines


def _one_class(rows: Sequence[Row]) -> list[str]:
    labels: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        labels[row.lot].add(row.label)
    mixed = labels if any(row.label for row in rows) else {}  # normal scans alone have a recipe of their own
    lines = [
        f"lot {lot} is all {LABELS[min(found)]}: its balanced accuracy is one rate only"
        for lot, found in mixed.items()
        if len(found) == 1
    ]
    for lot in mixed:
        rest = {row.label for row in rows if row.lot != lot}
        if rest and len(rest) < 2:
            lines.append(f"without lot {lot} all scans are {LABELS[min(rest)]}: its fold cannot learn")
    if len(labels) == 1:
        lines.append(f"all scans are of lot {next(iter(labels))}: training keeps whole lots back, and needs two")
    abnormal = sum(row.label for row in rows)
    if 0 < abnormal < FEW_ABNORMAL:
        lines.append(f"only {abnormal} abnormal scans")
    return lines


def _unlisted(files: Sequence[str]) -> list[str]:
    if not files:
        return []
    named = ", ".join(map(display_name, files[:MOST_NAMED]))
    more = f" and {len(files) - MOST_NAMED} more" if len(files) > MOST_NAMED else ""
    return [f"{len(files)} scans have no label and are not learnt from: {named}{more}"]


def _outliers(histograms: dict[str, Histogram]) -> list[str]:
    """Lots whose median count lies far from the others': another exposure, detector or material."""
    if len(histograms) < 4:
        return []
    medians = {lot: percentile(hist, 50) for lot, hist in histograms.items() if hist.any()}
    middle = float(np.median(list(medians.values())))
    spread = 1.4826 * float(np.median([abs(value - middle) for value in medians.values()])) + 1.0
    return [
        f"lot {lot} stands apart: median {value} counts, the others' about {middle:.0f} with spread {spread:.0f}"
        for lot, value in medians.items()
        if abs(value - middle) > OUTLIER_DEVIATIONS * spread
    ]
