"""A recipe applied to all lots of a folder: the checkpoint that goes to the line.

What the cross-validation said of the recipe is what to expect of it; here nothing is held out but for the threshold,
which a recipe with a calibrated one still finds on lots held out in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from torch import nn

from edge.system.names import display_name
from edge.system.progress import Reporter
from edge.validation.lots import share_over_lots
from edge.validation.statistics import confusion
from train.checkpoint import CLASSIFIER_FILE, Checkpoint, Value, save_checkpoint, scans_seen
from train.classifier import left_out
from train.classifier.crossval import samples_of
from train.classifier.experiment import ExperimentRecipe, recipe_values
from train.classifier.feature_cache import FeatureCache
from train.classifier.features import Backbone, Conversion, compute_features, frozen_network
from train.classifier.heads import starting_layers
from train.classifier.learner import Learnt, Samples, learn, learn_normal, learnt_from
from train.classifier.left_out import figures, refuse_few
from train.classifier.lots import accuracy_interval, most_wrong
from train.classifier.models import Classifier, PooledClassifier
from train.classifier.selection import Selection
from train.dataset import Row, scan_facts
from train.errors import DataError
from train.report import span_over, worst_of
from train.runner import Runner
from train.survey import Survey

ONE_LOT: Final = (
    "warning: all {count} scans are of lot {lot}. One lot does not show how lots differ: none can be left out, so the"
    " threshold is 0.5 and no figure says what to expect; good scans of other lots may be called abnormal, or go to"
    " review for their exposure. Learn from 2 lots or more, and judge another: `edge-worker replay --labels`"
)
_AS_IT_IS = (0,)
"""The view that is no mirror image."""


def learn_all(
    survey: Survey,
    recipe: ExperimentRecipe,
    backbone: Backbone,
    cache: FeatureCache,
    runner: Runner,
    out: Path,
    reporter: Reporter,
) -> Checkpoint:
    """Learn from all scans of the labels that the recipe learns from, and write `out/classifier.pt`.

    Raises DataError, DivergedError, TrainError.
    """
    refuse_labels(survey.distinct, recipe)  # once more: scans that cannot be read, and copies, are out by now
    is_normal_alone = recipe.learns_from == (0,)
    survey.refuse_copies()
    known = survey.labelled(recipe.learns_from)
    _refuse_single(survey.labelled((0,)))
    if len(known.lots) == 1:
        reporter.say(ONE_LOT.format(lot=known.lots[0], count=len(known.rows)))
    conversion = Conversion.of(recipe.method, known.bounds_without((), recipe.bounds_mode))

    def samples(of: Survey, views: tuple[int, ...]) -> Samples:
        numbers = range(len(of.rows))
        wanted = {conversion: dict.fromkeys(numbers, views)}
        sha256s = [scan.sha256 for scan in of.scans]
        show = reporter.counter("backbone passes")
        table = compute_features(wanted, of.rows, sha256s, backbone, cache, runner, show)[conversion]
        return samples_of(table, of.rows, numbers, views)

    training = samples(known, recipe.views)
    if is_normal_alone:
        training = learnt_from(training, recipe)
        came = learn_normal(training, recipe)
        learnt = came.learnt
        metrics = figures(came.p_left_out, learnt.threshold, training.lots)
        if len(known.rows) < len(survey.rows):
            metrics |= _figures_of_abnormal(learnt, samples(survey.labelled((1,)), _AS_IT_IS))
    else:
        start = starting_layers(backbone.weights, recipe.seed) if recipe.head == "paper" else {}
        learnt = learn(training, recipe, start)
        metrics = _figures(learnt, training)
    network = network_of(learnt, recipe, backbone)
    is_pooled = isinstance(network, PooledClassifier)
    checkpoint = Checkpoint(
        kind="classifier",
        state_dict=network.state_dict(),
        method=recipe.method,
        bounds=conversion.bounds,
        size=backbone.size,
        seed=recipe.seed,
        data_digest=known.digest,
        **scans_seen(
            known.rows, scan_facts(known.rows, conversion.bounds, progress=reporter.counter("scans measured"))
        ),
        thresholds={"threshold": learnt.threshold},
        recipe={
            **recipe_values(recipe),
            "weights": Path(backbone.weights).name,
            "weights_sha256": backbone.sha256,
            "form": "pooled" if is_pooled else "paper",
            "standardise": isinstance(learnt.selection, Selection) and learnt.selection.standardise,
        },
        metrics=metrics,
    )
    save_checkpoint(out / CLASSIFIER_FILE, checkpoint)
    return checkpoint


def refuse_labels(rows: Sequence[Row], recipe: ExperimentRecipe) -> None:
    """Raise DataError, TrainError where the recipe cannot learn from scans of these labels and lots."""
    agreed = [row for row in rows if not (recipe.undecided == "drop" and row.is_disputed)]
    if recipe.learns_from == (0,):
        refuse_few([row for row in agreed if row.label == 0], recipe.refused)
    elif len({row.label for row in agreed}) < 2:
        raise DataError(
            "all scans that are learnt from have the same label",
            hint="label scans of both classes; of normal ones alone learns --recipe neighbours",
        )


def _refuse_single(normal: Survey) -> None:
    """Raise DataError where all normal scans show the same: against such a one any other scan stands out."""
    if len({scan.pixels_sha256 for scan in normal.scans}) == 1:
        raise DataError(
            f"all normal scans, {len(normal.rows)}, are {display_name(normal.rows[0].file)} or copies of it: they do"
            " not show how normal scans differ",
            hint="give scans of different electrodes; `edge-train doctor DATA` names copies",
        )


def sentences(checkpoint: Checkpoint) -> list[str]:
    """What came of it, for a person."""
    found, threshold = checkpoint.metrics, checkpoint.thresholds["threshold"]
    if "left_out_scans" not in found:
        return [f"threshold {threshold:.4f}; what to expect of it, `crossval` says"]
    lines = left_out.sentences(found, threshold)
    if "abnormal_scans" in found:
        lines.append(
            f"of {found['abnormal_scans']} abnormal scans, from which nothing was learnt, {found['abnormal_found']} are"
            f" above it ({found['abnormal_found_over_lots']})"
        )
    return lines


def network_of(learnt: Learnt, recipe: ExperimentRecipe, backbone: Backbone) -> Classifier:
    """The whole network on images: the paper's form where its layers fit, else the pooled one."""
    if recipe.head == "paper" and recipe.features == "mean" and recipe.classes == 2:
        network = frozen_network(backbone, recipe.method.channels)
        first, *rest = learnt.layers
        network.backbone.fc = first
        network.head = nn.Sequential(*rest)
        return network
    return pooled_network(learnt, recipe.method.channels, backbone)


def pooled_network(learnt: Learnt, channels: int, backbone: Backbone) -> PooledClassifier:
    """The frozen backbone with what was learnt behind it, for images of so many channels; in eval mode."""
    network = frozen_network(backbone, channels)
    pooled = PooledClassifier(channels, learnt.selection, learnt.layers)
    state = {name: value for name, value in network.backbone.state_dict().items() if not name.startswith("fc.")}
    pooled.backbone.load_state_dict(state)
    return pooled.eval()


def _figures_of_abnormal(learnt: Learnt, abnormal: Samples) -> dict[str, Value]:
    """What is found of abnormal scans that took no part; normal scans of their lots did."""
    is_found, lot_of = learnt.predict(abnormal) >= learnt.threshold, np.array(abnormal.lots)
    lots = np.unique(lot_of)
    over = share_over_lots(
        [int(is_found[lot_of == lot].sum()) for lot in lots], [int((lot_of == lot).sum()) for lot in lots]
    )
    return {
        "abnormal_scans": len(lot_of),
        "abnormal_found": int(is_found.sum()),
        "abnormal_found_over_lots": span_over(None if over is None else (over.low, over.high), len(lots), "lot"),
    }


def _figures(learnt: Learnt, samples: Samples) -> dict[str, Value]:
    p, lots = learnt.predict(samples), np.array(samples.lots)
    decided = confusion(p, samples.labels, learnt.threshold)
    by_lot = {
        str(lot): confusion(p[lots == lot], samples.labels[lots == lot], learnt.threshold) for lot in np.unique(lots)
    }
    low, high = accuracy_interval(list(by_lot.values()))
    return {
        "training_scans": len(samples.labels),
        "training_bundles": len(set(samples.lots)),
        "training_balanced_accuracy": decided.balanced_accuracy,
        "training_balanced_accuracy_lots_low": low,
        "training_balanced_accuracy_lots_high": high,
        "training_worst_lot": worst_of(most_wrong(by_lot)),
    }
