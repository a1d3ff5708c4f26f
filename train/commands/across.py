"""`edge-train across`: learn on one set of scans, judge another, both ways."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from edge.system.progress import Reporter
from train.commands.options import (
    TRAINS,
    Verbs,
    add_command,
    add_data,
    add_experiment,
    add_fields,
    backbone_and_cache,
    command_line,
    survey_of,
    surveyed,
)
from train.dataset import read_labels
from train.errors import TrainError
from train.recipe import Adaptation

RECIPES = ("best", "sheet", "neighbours", "paper")


def add_to(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    verb = add_command(
        verbs,
        "across",
        "learn on one set of scans, judge another, both ways",
        across,
        description="What a recipe learnt about electrodes, and what about its set: within each of two sets one lot is"
        " left out after the other, across them the whole other set is judged, and once more by what was adapted to it"
        " by normal scans of its other lots, as `adapt` does. Goes on after a kill.",
        examples=("edge-train across plant-one plant-two --out table",),
        exits=TRAINS,
    )
    add_experiment(verb, recipe="")
    add_data(verb, "other", "the second set, a folder like DATA")
    verb.add_argument(
        "--recipes",
        nargs="+",
        default=RECIPES,
        metavar="RECIPE",
        help="names or TOML files, a row a recipe and pair of sets; all are set against the first, paired over lots"
        f" (default: {' '.join(RECIPES)})",
    )
    add_fields(verb, Adaptation(), only=("refused",), decided={"refused": "0.15, or a recipe's own"})


def across(options: argparse.Namespace, reporter: Reporter) -> int:
    """Judge each set by the other and by itself; prints the table. Raises TrainError for a set given twice."""
    from train.classifier.experiment import read_recipe
    from train.classifier.left_out import refuse_no_share
    from train.papers.across_sets import Means, across_sets

    if options.data.resolve() == options.other.resolve():
        raise TrainError(f"{options.data} is given twice", hint="name two sets; within one, `crossval` leaves lots out")
    names = [Path(name).stem for name in options.recipes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TrainError(
            f"several recipes are called {', '.join(twice)}", hint="rename the files: rows are named after them"
        )
    recipes = {Path(name).stem: replace(read_recipe(name), seed=options.seed) for name in options.recipes}
    refused = Adaptation().refused
    if options.refused is not None:
        refuse_no_share(options.refused)
        refused = options.refused
        recipes = {name: replace(recipe, refused=refused) for name, recipe in recipes.items()}
    rows, others = read_labels(options.data), read_labels(options.other)
    backbone, cache = backbone_and_cache(options, reporter)
    names = [folder.resolve().name for folder in (options.data, options.other)]
    if names[0] == names[1]:
        names = [str(options.data), str(options.other)]
    with surveyed(options, rows, reporter) as (first, where):
        second = survey_of(others, options, where, reporter)
        means = Means(backbone, cache, where, reporter, refused)
        sets = dict(zip(names, (first, second), strict=True))
        print(across_sets(sets, recipes, means, options.out, command_line()), end="")
    return 0
