"""`edge-train fit-features`: fit a classifier to features of a frozen network, on all lots."""

from __future__ import annotations

import argparse
from dataclasses import replace

from edge.system.progress import Reporter
from train.commands.options import TRAINS, Verbs, add_command, add_experiment, add_fields, backbone_and_cache, surveyed
from train.dataset import read_labels
from train.errors import TrainError
from train.recipe import Adaptation


def add_to(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    verb = add_command(
        verbs,
        "fit-features",
        "fit a classifier to features of a frozen network, on all lots",
        fit_features,
        description="Minutes on a CPU once the features are in the cache. What to expect of it, crossval says."
        " `neighbours` learns from normal scans alone, for a line that has no abnormal ones yet; abnormal scans in DATA"
        " are judged and counted, nothing is learnt from them.",
        examples=(
            "edge-train fit-features scans --out run",
            "edge-train fit-features normals --out run --recipe neighbours --refused 0.05",
            "edge-train fit-features scans --out run --recipe my.toml",
        ),
        exits=TRAINS,
        aliases=("learn",),
    )
    add_experiment(verb, recipe="best")
    add_fields(verb, Adaptation(), only=("refused",), decided={"refused": "the recipe's; neighbours have 0.15"})


def fit_features(options: argparse.Namespace, reporter: Reporter) -> int:
    """Apply a recipe to all lots; prints the path of the checkpoint."""
    from train.checkpoint import CLASSIFIER_FILE
    from train.classifier.experiment import read_recipe
    from train.classifier.fit_all import learn_all, refuse_labels, sentences

    recipe = replace(read_recipe(options.recipe), seed=options.seed)
    if options.refused is not None:
        if recipe.head != "neighbours":
            raise TrainError(
                f"--refused {options.refused:g} is for normal scans alone, {options.recipe} learns from both labels",
                hint="add --recipe neighbours, or leave --refused out",
            )
        recipe = replace(recipe, refused=options.refused)
    rows = read_labels(options.data)
    refuse_labels(rows, recipe)
    backbone, cache = backbone_and_cache(options, reporter)
    with surveyed(options, rows, reporter) as (survey, where):
        checkpoint = learn_all(survey, recipe, backbone, cache, where, options.out, reporter)
    for line in sentences(checkpoint):
        reporter.say(line)
    print(options.out / CLASSIFIER_FILE)
    return 0
