"""A recipe applied to all lots of a folder: the checkpoint that goes to the line.

What the cross-validation said of the recipe is what to expect of it; here nothing is held out but for the threshold,
which a recipe with a calibrated one still finds on lots held out in turn.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from edge.system.progress import Reporter
from edge.validation.statistics import confusion
from train.checkpoint import CLASSIFIER_FILE, Checkpoint, save_checkpoint, scans_seen
from train.classifier.crossval import samples_of
from train.classifier.experiment import ExperimentRecipe, recipe_values
from train.classifier.feature_cache import FeatureCache
from train.classifier.features import Backbone, Conversion, compute_features, frozen_network
from train.classifier.heads import starting_layers
from train.classifier.learner import Learnt, Samples, learn
from train.classifier.lots import accuracy_interval, most_wrong
from train.classifier.models import Classifier, PooledClassifier
from train.dataset import scan_facts
from train.errors import DataError, TrainError
from train.report import worst_of
from train.runner import Runner
from train.survey import Survey


def learn_all(
    survey: Survey,
    recipe: ExperimentRecipe,
    backbone: Backbone,
    cache: FeatureCache,
    runner: Runner,
    out: Path,
    reporter: Reporter,
) -> Checkpoint:
    """Learn from all scans and write `out/classifier.pt`. Raises DataError, DivergedError, TrainError."""
    if recipe.head == "neighbours":
        raise TrainError("neighbours leave no network for the line", hint="fit `best`; compare with them in `crossval`")
    if len({row.label for row in survey.rows}) < 2:
        raise DataError("all scans have the same label", hint="label scans of both classes")
    bounds = survey.bounds_without((), recipe.bounds_mode)
    conversion = Conversion.of(recipe.method, bounds)
    numbers = range(len(survey.rows))
    wanted = {conversion: dict.fromkeys(numbers, recipe.views)}
    sha256s = [scan.sha256 for scan in survey.scans]
    show = reporter.counter("backbone passes")
    table = compute_features(wanted, survey.rows, sha256s, backbone, cache, runner, show)[conversion]
    samples = samples_of(table, survey.rows, numbers, recipe.views)
    start = starting_layers(backbone.weights, recipe.seed) if recipe.head == "paper" else {}
    learnt = learn(samples, recipe, start)
    network = network_of(learnt, recipe, backbone)
    is_pooled = isinstance(network, PooledClassifier)
    checkpoint = Checkpoint(
        kind="classifier",
        state_dict=network.state_dict(),
        method=recipe.method,
        bounds=conversion.bounds,
        size=backbone.size,
        seed=recipe.seed,
        data_digest=survey.digest,
        **scans_seen(
            survey.rows, scan_facts(survey.rows, conversion.bounds, progress=reporter.counter("scans measured"))
        ),
        thresholds={"threshold": learnt.threshold},
        recipe={
            **recipe_values(recipe),
            "weights": Path(backbone.weights).name,
            "weights_sha256": backbone.sha256,
            "form": "pooled" if is_pooled else "paper",
            "standardise": learnt.selection.standardise,
        },
        metrics=_figures(learnt, samples),
    )
    save_checkpoint(out / CLASSIFIER_FILE, checkpoint)
    return checkpoint


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


def _figures(learnt: Learnt, samples: Samples) -> dict[str, str | int | float | bool | None]:
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
