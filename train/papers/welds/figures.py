"""Figures of the weld benchmark after those of Lindgren and Zach 2022 (5 to 13), each as PNG and SVG.

Pictures show the first fold and the first run, and patches at fixed places in the order of their scores: none is picked
by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch as LegendPatch

from edge.validation.statistics import roc
from train.networks import GATE_OFFSET_PX, WINDOW_PX, GateAutoencoder, residual_statistics
from train.papers.welds.benchmark import Benchmark
from train.papers.welds.evaluation import ACCEPTED, Detector, excesses, thresholds_of
from train.papers.welds.fold_cache import mapped
from train.papers.welds.images import read_welds
from train.papers.welds.plan import Request
from train.papers.welds.scores import as_images, residual_of
from train.papers.welds.tables import REAL_SETS
from train.papers.welds.task import Task, load_network, load_scores
from train.plots import STYLES, save

Map = npt.NDArray[np.float32]

_EXAMPLE_SETS: Final = (
    ("figure-05-defects-high", "defects-high"),
    ("figure-06-defects-mid", "defects-mid"),
    ("figure-07-partial-circle", "partial-circle"),
    ("figure-08-raster", "raster"),
)
_EXAMPLE_RANKS: Final = (0.25, 0.5, 0.75)
"""Places of the patches shown, in the order of the greater of their two scores over its threshold."""
_WINDOW_COLORS: Final = ("#ffffff", "#f0a030", "#3c9a3c", "#1f3f9e")
_WINDOWS: Final = ListedColormap(_WINDOW_COLORS)
_WINDOW_NAMES: Final = ("ordinary", "mean", "deviation", "both")
_FIGURES = "figures"
_CURVES = 9
"""Detectors in the ROC figure, the recipe's first."""


def draw_figures(request: Request, benchmark: Benchmark) -> list[Path]:
    """Draw what the recipe's networks allow into `request.out/figures`; returns the paths without suffix."""
    folder = request.out / _FIGURES
    drawn = [folder / "figure-10-roc"]
    roc_figure(request, benchmark, drawn[0])
    for variant, histogram, examples in (
        (request.recipe.shown, "figure-09-histograms", _EXAMPLE_SETS),
        ("both", "figure-12-second-use-case", (("figure-13-second-use-case-raster", "raster"),)),
    ):
        task = next((task for task in benchmark.tasks if task.variant.name == variant and task.run == 1), None)
        if task is None:
            continue
        view = View(request, task)
        histogram_figure(view, folder / histogram)
        drawn.append(folder / histogram)
        for name, test_set in examples:
            if view.count(test_set):
                examples_figure(view, test_set, folder / name)
                drawn.append(folder / name)
        if variant == request.recipe.shown:
            weld = next(weld for weld in read_welds(request.welds) if weld.name in benchmark.folds[0]["test"])
            weld_figure(view, weld.image, weld.name, folder / "figure-11-whole-weld")
            drawn.append(folder / "figure-11-whole-weld")
    return drawn


class View:
    """A finished autoencoder with its scores and thresholds, for pictures."""

    def __init__(self, request: Request, task: Task) -> None:
        self.task = task
        self.detector = Detector(task.variant.name, task.variant.name)
        self.scores = load_scores(task)
        mean, std = thresholds_of(self.detector, self.scores)
        self.thresholds = (float(mean), float(std))
        self._device = torch.device(request.device)
        model = load_network(task, self._device)
        assert isinstance(model, GateAutoencoder)
        self._model = model

    def count(self, test_set: str) -> int:
        """Patches in the set."""
        return len(self.scores.get(test_set, ()))

    def ranked(self, test_set: str) -> list[int]:
        """Numbers of the patches at the places that are shown."""
        order = np.argsort(excesses(self.detector, self.scores)[test_set])
        return list(dict.fromkeys(int(order[int(rank * (len(order) - 1))]) for rank in _EXAMPLE_RANKS))

    @torch.inference_mode()
    def maps(self, image: npt.NDArray[Any]) -> tuple[Map, Map, Map]:
        """Residual (h', w') and its window means and deviations (h' - 8, w' - 8) of one image (h, w)."""
        images = as_images(image[None], self._device)
        residual = residual_of([self._model], images, self.task.variant)
        mean, std = residual_statistics(residual)
        first, second, third = (part[0, 0].float().cpu().numpy() for part in (residual, mean, std))
        return first, second, third

    def classes(self, mean: Map, std: Map) -> npt.NDArray[np.uint8]:
        """Class of every window: 0 ordinary, 1 its mean is anomalous, 2 its deviation, 3 both."""
        return (np.abs(mean) > self.thresholds[0]).astype(np.uint8) + 2 * (std > self.thresholds[1]).astype(np.uint8)


def roc_figure(request: Request, benchmark: Benchmark, path: Path) -> None:
    """Share found over share of accepted patches refused, of real defects by contrast; all folds, first run."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3, sharey=True), REAL_SETS, strict=True):
        for number, detector in enumerate([d for d in request.recipe.detectors if not d.ensemble][:_CURVES]):
            folds = [
                excesses(detector, load_scores(task))
                for task in benchmark.tasks
                if task.run == 1 and task.variant.name == detector.variant
            ]
            accepted, defects = (np.concatenate([fold[part] for fold in folds]) for part in (ACCEPTED, name))
            curve = roc(np.concatenate([accepted, defects]), np.repeat([0, 1], [len(accepted), len(defects)]))
            if curve is None:
                continue
            colour, dashes = STYLES[number % len(STYLES)]
            style: dict[str, Any] = {"color": colour, "linestyle": dashes, "label": detector.name}
            if number >= len(STYLES):  # here and there: a curve has a point for every patch
                style |= {"marker": "o", "markersize": 3.5, "markevery": 0.07}
            axes.step(curve.fpr, curve.tpr, where="post", **style)
        axes.axvline(0.001, color="#999999", linewidth=1)
        axes.set_xscale("symlog", linthresh=0.001)
        axes.set(xlim=(0, 1), ylim=(-0.01, 1.01), xlabel="accepted patches refused")
        axes.set_title(name.replace("-", ", "), fontsize=10)
        axes.grid(color="#eeeeee")
    figure.axes[0].set_ylabel("defective patches found")
    lines, names = next(
        (found for found in (axes.get_legend_handles_labels() for axes in figure.axes) if found[0]), ([], [])
    )
    figure.legend(lines, names, loc="outside lower center", ncols=3, frameon=False, fontsize=7)
    save(figure, path)


def histogram_figure(view: View, path: Path) -> None:
    """Greatest |mean| and deviation of accepted test patches and of high-contrast defects, and the two together."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    sets = [(name, view.detector.read(view.scores[name])) for name in (ACCEPTED, "defects-high", "raster")]
    sets = [(name, found) for name, found in sets if len(found)]
    labels = ("greatest |window mean|", "greatest window deviation")
    for place, label in enumerate(labels):
        top = max(float(found[:, place].max()) for _, found in sets)
        for (name, found), (colour, dashes) in zip(sets, STYLES, strict=False):
            style: dict[str, Any] = {"histtype": "step", "color": colour, "linestyle": dashes, "label": name}
            axes[place].hist(found[:, place], bins=60, range=(0, top), density=True, **style)
        axes[place].axvline(view.thresholds[place], color="#999999", linewidth=1)
        axes[place].set(xlabel=label, ylabel="density")
    for (name, found), (colour, _), marker in zip(sets, STYLES, ("o", "x", "^"), strict=False):
        axes[2].scatter(
            found[:, 0], found[:, 1], s=8, color=colour, marker=marker, alpha=0.5, label=name, linewidths=0.8
        )
    axes[2].axvline(view.thresholds[0], color="#999999", linewidth=1)
    axes[2].axhline(view.thresholds[1], color="#999999", linewidth=1)
    axes[2].set(xlabel=labels[0], ylabel=labels[1])
    axes[2].legend(frameon=False, fontsize=8)
    save(figure, path)


def examples_figure(view: View, test_set: str, path: Path) -> None:
    """Patches down; across: input, residual, window means, window deviations, anomalous windows."""
    patches = mapped(view.task.fold_folder, [f"test-{test_set}"], view.task.data)[f"test-{test_set}"]
    numbers = view.ranked(test_set)
    figure = Figure(figsize=(11, 2.4 * len(numbers)), layout="constrained")
    for row, number in zip(figure.subplots(len(numbers), 5, squeeze=False), numbers, strict=True):
        image = np.asarray(patches[number], np.float32)
        residual, mean, std = view.maps(image)
        top = float(np.abs(residual).max())
        row[0].imshow(image, cmap="gray", vmin=0, vmax=1)
        row[1].imshow(residual, cmap="gray", vmin=-top, vmax=top)
        row[2].imshow(mean, cmap="gray", vmin=-float(np.abs(mean).max()), vmax=float(np.abs(mean).max()))
        row[3].imshow(std, cmap="gray", vmin=0)
        row[4].imshow(view.classes(mean, std), cmap=_WINDOWS, vmin=0, vmax=3, interpolation="nearest")
        row[1].set_title(f"residual, ±{top:.3f}", fontsize=8)
        row[2].set_title(f"mean, {float(np.abs(mean).max()):.4f} of {view.thresholds[0]:.4f}", fontsize=8)
        row[3].set_title(f"deviation, {float(std.max()):.4f} of {view.thresholds[1]:.4f}", fontsize=8)
        row[0].set_title(f"{test_set} {number}", fontsize=8)
        row[4].set_title("windows", fontsize=8)
        _bare(row)
    _legend(figure)
    save(figure, path)


def weld_figure(view: View, weld: npt.NDArray[np.uint8], name: str, path: Path) -> None:
    """A whole weld in one pass: input, residual, anomalous windows, all at the same place in the picture."""
    residual, mean, std = view.maps(weld)
    height, width = weld.shape
    figure = Figure(figsize=(11, 0.8 + 3 * 10.5 * height / width), layout="constrained")
    axes = figure.subplots(3, 1)
    top = 4 * float(residual.std())
    axes[0].imshow(weld, cmap="gray", vmin=0, vmax=255)
    windows_px = GATE_OFFSET_PX + WINDOW_PX // 2
    panels: tuple[tuple[npt.NDArray[Any], int, dict[str, Any]], ...] = (
        (residual, GATE_OFFSET_PX, {"cmap": "gray", "vmin": -top, "vmax": top}),
        (view.classes(mean, std), windows_px, {"cmap": _WINDOWS, "vmin": 0, "vmax": 3}),
    )
    for place, (shown, before, options) in enumerate(panels, 1):
        extent = (before - 0.5, before + shown.shape[1] - 0.5, before + shown.shape[0] - 0.5, before - 0.5)
        axes[place].imshow(shown, extent=extent, interpolation="nearest", **options)
        axes[place].set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    for ax, title in zip(axes, (name, f"residual, ±{top:.3f}", "windows above a threshold"), strict=True):
        ax.set_title(title, fontsize=8)
    _bare(axes)
    _legend(figure)
    save(figure, path)


def _bare(row: Sequence[Axes]) -> None:
    for axes in row:
        axes.set_xticks([])
        axes.set_yticks([])


def _legend(figure: Figure) -> None:
    patches = [
        LegendPatch(facecolor=_WINDOW_COLORS[place], edgecolor="#555555", label=_WINDOW_NAMES[place])
        for place in (1, 2, 3)
    ]
    figure.legend(handles=patches, loc="outside lower right", ncols=3, frameon=False, fontsize=8)
