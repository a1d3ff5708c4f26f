"""Plots of a gate's report, each as PNG and SVG. Colour never carries a meaning alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from train.gate.findings import Findings
from train.plots import save

_SETS = (("normal", "o", "#1f4e79"), ("abnormal", "^", "#b3541e"), ("foreign", "x", "#555555"))
_MOST = 100.0
"""Scores beyond it are drawn there."""


def scores_plot(findings: Findings, path: Path) -> None:
    """Both scores of every image over their thresholds, logarithmic; inside the square the gate lets pass."""
    figure = Figure(figsize=(6.0, 5.4), layout="constrained")
    axes = figure.subplots()
    for name, marker, colour in reversed(_SETS):
        seen = getattr(findings, name)
        mean, std = (np.clip([getattr(one, score) for one in seen], 1e-2, _MOST) for score in ("mean", "std"))
        axes.plot(mean, std, marker, color=colour, markersize=4, alpha=0.6, label=f"{name} (n = {len(seen)})")
    axes.plot([1e-2, 1, 1], [1, 1, 1e-2], color="black", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="first score over its threshold: |mean|, greys")
    axes.set(ylabel="second score over its threshold: deviation, textures")
    axes.set_title("Below and left of the lines the gate lets pass", fontsize=10)
    axes.grid(color="#eeeeee")
    axes.legend(loc="lower right", frameon=False)
    save(figure, path)


def kinds_plot(content: dict[str, Any], path: Path) -> None:
    """Share the gate refuses of every kind of anomaly and of foreign image, with 95 % intervals."""
    entries = [(name, entry["gate"], "#555555") for name, entry in content["foreign"]["kinds"].items()]
    entries += [(name, entry["severe"]["gate"], "#b3541e") for name, entry in content["abnormal"]["kinds"].items()]
    entries += [("normal scans", content["normal"]["gate"], "#1f4e79")]
    figure = Figure(figsize=(6.4, 0.9 + 0.28 * len(entries)), layout="constrained")
    axes = figure.subplots()
    for place, (_, rate, colour) in enumerate(reversed(entries)):
        axes.plot(rate["interval"], [place, place], color=colour, linewidth=2)
        if rate["share"] is not None:
            axes.plot(rate["share"], place, "o", color=colour, markersize=6)
    axes.set_yticks(range(len(entries)), [f"{name} (n = {rate['total']})" for name, rate, _ in reversed(entries)])
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(entries) - 0.4), xlabel="refused by the gate, 95 % interval")
    axes.set_title("Foreign images, abnormal scans by kind, normal scans", fontsize=10)
    axes.grid(axis="x", color="#eeeeee")
    save(figure, path)
