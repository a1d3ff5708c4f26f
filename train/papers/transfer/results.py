"""What a transfer run leaves behind: transfer.md, .csv, .json, the ROC curves, and of scans the checkpoint."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from matplotlib.figure import Figure

from edge.validation.statistics import Interval, confusion, roc
from train.checkpoint import CLASSIFIER_FILE, Checkpoint, Value, save_checkpoint, scans_seen
from train.classifier.features import Backbone
from train.classifier.learner import HALF
from train.device import device_name
from train.files import clear_results, write_json, write_text
from train.papers.transfer.detector import DETECTOR, HEAD, START, ClassResult, TransferRecipe, views_of
from train.papers.transfer.image_sets import ImageSet
from train.plots import STYLES, save
from train.report import table

MAX_CURVES: Final = 20
"""Classes drawn, those of the least area first."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    images: ImageSet
    recipe: TransferRecipe
    backbone: Backbone
    results: Sequence[ClassResult]
    seconds: float
    command: str

    @property
    def detectors(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self.results[0].scores)

    def mean(self, detector: str) -> tuple[float, Interval]:
        """Mean area over the classes, and of their limits: as wide as if all classes erred together, for the test
        images are the same ones."""
        limits = [result.interval(detector) for result in self.results]
        low, high = (float(np.mean([limit[end] for limit in limits])) for end in (0, 1))
        return float(np.mean([result.auroc(detector) for result in self.results])), Interval(low, high)


def write_run(out: Path, run: Run) -> str:
    """Write all files into `out`; returns the table as Markdown.

    The checkpoint before the table, and after that of an earlier run is gone: none stands beside the other's.
    """
    clear_results(out, "transfer.*", "roc.*")
    if run.images.scans is not None:
        save_checkpoint(out / CLASSIFIER_FILE, checkpoint_of(run))
    table = table_markdown(run)
    for name, text in (("transfer.md", table), ("transfer.csv", table_csv(run))):
        write_text(out / name, text)
    write_json(out / "transfer.json", summary(run))
    _roc_plot(run, out / "roc")
    return table


def table_markdown(run: Run) -> str:
    """AUROC, classes down and detectors across, with everything needed to repeat it."""
    rows = []
    for result in run.results:
        anomalous = int(result.labels.sum())
        cells = [f"{result.auroc(name):.4f} ({_span(result.interval(name))})" for name in run.detectors]
        trained, tested = "{} + {}".format(*result.training), f"{len(result.labels) - anomalous} + {anomalous}"
        rows.append([result.name, trained, tested, *cells])
    if len(run.results) > 1:
        means = [run.mean(name) for name in run.detectors]
        cells = [f"**{area:.4f}** ({_span(limits)})" for area, limits in means]
        rows.append(["**mean**", "", "", *cells])
    heads = ["normal class", "trained on, normal + rest", "tested on", *run.detectors]
    return "\n".join([*table(heads, rows), "", *_notes(run)]) + "\n"


def _notes(run: Run) -> list[str]:
    images, recipe, size = run.images, run.recipe, run.backbone.size
    notes = [
        "Each class in turn is normal, all others together are anomalous. The last three columns learn from normal"
        " images alone, on the frozen features, unmirrored. In brackets 95 % intervals of the AUROC,"
        f" {'over lots' if images.scans is not None else 'over images'}.",
        "",
        f"- `{run.command}`",
        f"- data {images.name}, SHA-256 {images.digest[:16]}; {images.split}",
        f"- weights {Path(run.backbone.weights).name} ({run.backbone.sha256[:12]}), {size.height_px} x {size.width_px}"
        f" px, fine-tune {recipe.fine_tune}, {run.backbone.arithmetic}, seed {recipe.choice.seed}; {_views(images)}",
        f"- {machine(recipe.device)}; {run.seconds:.0f} s",
    ]
    if images.copies:
        notes.append(f"- {images.copies} test images are, byte for byte, also among the training images")
    if images.scans is None:
        notes.append("- no classifier.pt: these are 8-bit pictures, and the line reads 16-bit scans")
    return notes


def _views(images: ImageSet) -> str:
    seen = len(views_of(images.mirrors))
    judged = 1 if images.scans is not None else seen
    return f"learnt from {seen} mirrored views of an image, judged by {judged}" if seen > 1 else "images unmirrored"


def table_csv(run: Run) -> str:
    """One line per class and detector."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("normal_class", "detector", "auroc", "low", "high", "test_normal", "test_anomalous"))
    for result in run.results:
        anomalous = int(result.labels.sum())
        for name in run.detectors:
            figures = [f"{value:.6f}" for value in (result.auroc(name), *result.interval(name))]
            writer.writerow((result.name, name, *figures, len(result.labels) - anomalous, anomalous))
    for name in run.detectors:
        area, limits = run.mean(name)
        writer.writerow(("mean", name, *(f"{value:.6f}" for value in (area, *limits)), "", ""))
    return text.getvalue()


def summary(run: Run) -> dict[str, Any]:
    """Everything as one dictionary for JSON."""
    return {
        **recipe_values(run),
        "command": run.command,
        "data": run.images.name,
        "data_digest": run.images.digest,
        "split": run.images.split,
        "copies_in_test": run.images.copies,
        "machine": machine(run.recipe.device),
        "seconds": run.seconds,
        "mean": {name: _area(*run.mean(name)) for name in run.detectors},
        "classes": {
            result.name: {name: _area(result.auroc(name), result.interval(name)) for name in run.detectors}
            for result in run.results
        },
    }


def checkpoint_of(run: Run) -> Checkpoint:
    """The detector of an electrode set, as `edge-export model` takes it."""
    (result,), scans = run.results, run.images.scans
    if scans is None or result.network is None:
        raise ValueError("only scans make a checkpoint for the line")
    decided = confusion(result.scores[DETECTOR], result.labels, result.threshold)
    return Checkpoint(
        kind="classifier",
        state_dict=result.network.state_dict(),
        method=scans.method,
        bounds=scans.bounds,
        size=run.backbone.size,
        seed=run.recipe.choice.seed,
        data_digest=run.images.digest,
        **scans_seen(scans.training.rows + scans.test.rows, scans.training.facts + scans.test.facts),
        thresholds={"threshold": result.threshold},
        recipe=recipe_values(run),
        metrics={
            "training_scans": len(run.images.training.labels),
            "training_bundles": len(set(run.images.training.groups)),
            "test_scans": len(result.labels),
            "test_bundles": len(set(run.images.test.groups)),
            "test_auroc": result.auroc(DETECTOR),
            "test_balanced_accuracy": decided.balanced_accuracy,
            "threshold_is_calibrated": result.threshold != HALF,
        },
    )


def recipe_values(run: Run) -> dict[str, Value]:
    """Every choice of the run, flat; `form`, `features` and `standardise` say how to build the network again."""
    recipe, start = run.recipe, HEAD if run.recipe.fine_tune == "head" else START
    values: dict[str, Value] = {
        "trained_by": "transfer",
        "form": "pooled",
        "features": start.features,
        "head": start.head,
        "standardise": True,
        "penalty": start.penalty,
        "weights": Path(run.backbone.weights).name,
        "weights_sha256": run.backbone.sha256,
        "arithmetic": run.backbone.arithmetic,
        "fine_tune": recipe.fine_tune,
        "method": str(recipe.choice.method),
        "size": f"{run.backbone.size.height_px}x{run.backbone.size.width_px}",
        "per_class": recipe.choice.per_class,
        "test_share": recipe.choice.test_share,
        "seed": recipe.choice.seed,
    }
    return values | (asdict(recipe.tuning) if recipe.fine_tune == "all" else {})


def machine(device: str) -> str:
    """What computed, in words: the GPU, or the CPU and how many threads of it."""
    threads = "" if torch.device(device).type == "cuda" else f", {torch.get_num_threads()} threads"
    return f"{device_name(device)}{threads}, torch {torch.__version__}"


def _area(area: float, limits: Interval) -> dict[str, Any]:
    return {"auroc": None if math.isnan(area) else area, "interval": list(limits)}


def _span(limits: Interval) -> str:
    return f"{limits.low:.4f} to {limits.high:.4f}"


def _roc_plot(run: Run, path: Path) -> None:
    """A panel per normal class, a curve per detector. Writes PATH.png and PATH.svg."""
    least = sorted(run.results, key=lambda result: result.auroc(DETECTOR))[:MAX_CURVES]
    names = {result.name for result in least}
    shown = [result for result in run.results if result.name in names]
    columns = min(5, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(max(4.6, 2.5 * columns), 2.7 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, result in zip(panels, shown, strict=False):
        for name, (colour, dashes) in zip(run.detectors, STYLES, strict=False):
            curve = roc(result.scores[name], result.labels)
            if curve is not None:
                axes.plot(curve.fpr, curve.tpr, color=colour, linestyle=dashes, label=name, linewidth=1.3)
        axes.plot([0, 1], [0, 1], color="#cccccc", linewidth=1, zorder=0)
        axes.set_title(f"{result.name}: {result.auroc(DETECTOR):.4f}", fontsize=9)
        axes.grid(color="#eeeeee")
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    panels[0].set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    figure.supxlabel("normal images called anomalous", fontsize=9)
    figure.supylabel("anomalous images found", fontsize=9)
    figure.suptitle(f"{run.images.name}\none class normal, the rest anomalous; AUROC of {DETECTOR}", fontsize=10)
    panels[0].legend(loc="lower right", frameon=False, fontsize=7)
    save(figure, path)
