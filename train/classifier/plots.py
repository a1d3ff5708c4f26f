"""Plots of a cross-validation, each as PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from edge.validation.statistics import roc
from train.classifier.tables import Column
from train.plots import STYLES, save

_THIRDS = (("v", 0.18), ("s", 0.28), ("^", 0.38))
"""Markers of the thirds of severity, and how far below their kind they lie, so that equal shares do not hide."""


def roc_plot(columns: Sequence[Column], path: Path) -> None:
    """ROC of every conversion over all lots, and where its thresholds stand. Writes PATH.png and PATH.svg."""
    figure = Figure(figsize=(5.6, 5.2), layout="constrained")
    axes = figure.subplots()
    for column, (colour, dashes) in zip(columns, STYLES, strict=False):
        curve = roc(column.scores, column.labels)
        if curve is None:
            continue
        axes.plot(curve.fpr, curve.tpr, color=colour, linestyle=dashes, label=column.method)
        counts = column.overall
        axes.plot(1 - counts.specificity.share, counts.sensitivity.share, "o", color=colour, markersize=6)
    axes.plot([0, 1], [0, 1], color="#cccccc", linewidth=1, zorder=0)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="normal scans called abnormal")
    axes.set(ylabel="abnormal scans found", title="ROC over all held-out lots; dots: the folds' own thresholds")
    axes.title.set_fontsize(10)
    axes.grid(color="#eeeeee")
    if axes.get_lines()[1:]:  # of one class there is no curve
        axes.legend(loc="lower right", frameon=False)
    save(figure, path)


def kinds_plot(kinds: dict[str, dict[str, Any]], title: str, path: Path) -> None:
    """Recall of every kind with its 95 % interval, the thirds of severity beside it. Writes PATH.png and PATH.svg."""
    figure = Figure(figsize=(6.4, 1.1 + 0.42 * max(len(kinds), 1)), layout="constrained")
    axes = figure.subplots()
    for place, kind in enumerate(sorted(kinds, reverse=True)):
        entry = kinds[kind]
        low, high = entry["interval"]
        axes.plot([low, high], [place, place], color="#1f4e79", linewidth=2, zorder=1)
        axes.plot(entry["share"], place, "o", color="#1f4e79", markersize=7, zorder=2)
        for third, (marker, below) in zip(entry.get("by_severity", ()), _THIRDS, strict=False):
            if third["share"] is not None:
                axes.plot(third["share"], place - below, marker, color="#b3541e", markersize=5, alpha=0.8, zorder=2)
    axes.set_yticks(range(len(kinds)), [f"{k} (n = {kinds[k]['total']})" for k in sorted(kinds, reverse=True)])
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(kinds) - 0.4), xlabel="abnormal scans found, 95 % interval")
    axes.set_title(f"{title}\nbelow each, by severity: least ▼, middle ■, greatest ▲", fontsize=9)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    save(figure, path)
