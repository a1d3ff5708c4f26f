"""`edge-train ablation`: from the paper's recipe to the best one, step by step."""

from __future__ import annotations

import argparse

from edge.system.progress import Reporter
from train.commands.options import TRAINS, Verbs, add_command, add_experiment, backbone_and_cache, surveyed
from train.dataset import read_labels
from train.errors import TrainError


def add_to(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    verb = add_command(
        verbs,
        "ablation",
        "go from the paper's recipe to the best one, one row per step",
        ablation,
        description="What each change of the recipe gives, by the cross-validation of crossval. Goes on after a kill.",
        examples=("edge-train ablation scans --out ablation", "edge-train ablation scans --out ablation --rows 1 13"),
        exits=TRAINS,
    )
    add_experiment(verb, recipe="")
    verb.add_argument(
        "--rows",
        type=int,
        nargs="+",
        metavar="N",
        help="only these rows, counted from 1; 15 and 16 train the backbone too, 17 and 18 want several labellers"
        " (default: all but 15 and 16)",
    )


def ablation(options: argparse.Namespace, reporter: Reporter) -> int:
    """From the paper's recipe to the best one, step by step; prints the table."""
    from train.papers.ablation import ablate, steps, usual_steps

    all_steps = steps(options.seed)
    unknown = [number for number in options.rows or () if not 1 <= number <= len(all_steps)]
    if unknown:
        raise TrainError(f"there is no row {unknown[0]}", hint=f"rows are 1 to {len(all_steps)}")
    rows = read_labels(options.data)
    backbone, cache = backbone_and_cache(options, reporter)
    with surveyed(options, rows, reporter) as (survey, where):
        chosen = [all_steps[number - 1] for number in options.rows or usual_steps(survey.rows)]
        print(ablate(survey, backbone, cache, where, options.out, reporter, chosen), end="")
    return 0
