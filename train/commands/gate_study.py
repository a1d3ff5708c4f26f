"""`edge-train gate-study`: the gate at several resolutions."""

from __future__ import annotations

import argparse

from edge.system.command import add_file
from edge.system.progress import Reporter
from train.bounds import read_bounds
from train.commands.gate_report import add_foreign, foreign_images
from train.commands.options import TRAINS, Verbs, add_command, add_data, add_fields, command_line, recipe_of
from train.dataset import read_labels
from train.recipe import GateRecipe

TURNED = GateRecipe(rotate=False)
"""A quarter of a full-size scan has no room for a patch at any angle."""


def add_to(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    verb = add_command(
        verbs,
        "gate-study",
        "train the gate at full, half and quarter resolution: detection beside time",
        gate_study,
        description="A training and a report for each. Because of it the gate looks at half the resolution from"
        " 2000x1000 up.",
        examples=("edge-train gate-study scans other-scans --out study --device cuda",),
        exits=TRAINS,
    )
    add_data(verb, about="labelled scans to learn from")
    add_data(verb, "test", "labelled scans of other lots")
    add_file(verb, "--bounds", about="bounds.json (default: found in the training lots)")
    verb.add_argument(
        "--reductions",
        type=int,
        nargs="+",
        choices=(1, 2, 4),
        default=(1, 2, 4),
        metavar="R",
        help="of 1, 2 and 4, those to try (default: all)",
    )
    add_fields(verb, TURNED, only=("size", "steps", "settle_steps", "batch", "lr", "amp", "device", "seed"))
    add_foreign(verb)


def gate_study(options: argparse.Namespace, reporter: Reporter) -> int:
    """Train and report at several resolutions; prints the path of the table."""
    from train.papers.gate_study import study

    study(
        options.data,
        read_labels(options.test),
        foreign_images(options),
        options.out,
        recipe_of(GateRecipe, options, method=TURNED.method, rotate=TURNED.rotate),
        options.reductions,
        reporter,
        bounds=None if options.bounds is None else read_bounds(options.bounds),
        jobs=options.jobs,
        command=command_line(),
    )
    print(options.out / "gate_study.md")
    return 0
