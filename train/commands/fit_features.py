"""`edge-train fit-features`: fit a classifier to features of a frozen network, on all lots."""

from __future__ import annotations

import argparse
from dataclasses import replace

from edge.system.progress import Reporter
from train.commands.options import TRAINS, Verbs, add_command, add_experiment, backbone_and_cache, surveyed


def add_to(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    verb = add_command(
        verbs,
        "fit-features",
        "fit a classifier to features of a frozen network, on all lots",
        fit_features,
        description="Minutes on a CPU once the features are in the cache. What to expect of it, crossval says.",
        examples=(
            "edge-train fit-features scans --out run",
            "edge-train fit-features scans --out run --recipe my.toml",
        ),
        exits=TRAINS,
        aliases=("learn",),
    )
    add_experiment(verb, recipe="best")


def fit_features(options: argparse.Namespace, reporter: Reporter) -> int:
    """Apply a recipe to all lots; prints the path of the checkpoint."""
    from train.checkpoint import CLASSIFIER_FILE
    from train.classifier.experiment import read_recipe
    from train.classifier.fit_all import learn_all

    recipe = replace(read_recipe(options.recipe), seed=options.seed)
    backbone, cache = backbone_and_cache(options, reporter)
    with surveyed(options, reporter) as (survey, where):
        checkpoint = learn_all(survey, recipe, backbone, cache, where, options.out, reporter)
    reporter.say(f"threshold {checkpoint.thresholds['threshold']:.4f}; what to expect of it, `crossval` says")
    print(options.out / CLASSIFIER_FILE)
    return 0
