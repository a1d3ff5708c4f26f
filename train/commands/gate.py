"""`edge-train gate`: train the gate that refuses what is no ordinary scan."""

from __future__ import annotations

import argparse

from edge.images.conversion import Bounds
from edge.images.method import Method
from edge.records import Size
from edge.system.command import add_file, add_folder
from edge.system.progress import Reporter
from train.bounds import read_bounds
from train.commands.options import (
    TRAINS,
    Verbs,
    add_bounds,
    add_command,
    add_data,
    add_fields,
    add_jobs,
    add_out,
    display,
    recipe_of,
)
from train.errors import TrainError
from train.recipe import GateRecipe, usual_reduction

_OF_CLASSIFIER = "the classifier's, else {}"


def add_to(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    verb = add_command(
        verbs,
        "gate",
        "train the gate that refuses what is no ordinary scan",
        gate,
        description="Beside a classifier.pt it takes that one's conversion, size and bounds: one scan is converted"
        " once for both. As it is it sends most abnormal electrodes to a person; the second example leaves ordinary"
        " anomalies to the classifier and refuses what is no electrode.",
        examples=(
            "edge-train gate scans --out run",
            "edge-train gate scans --out run --patches all --calibrate-on all --perturbation foreign",
        ),
        exits=TRAINS,
    )
    add_data(verb)
    add_out(verb, "folder for gate.pt and what is known of it", "RUN")
    add_file(verb, "--like", about="classifier.pt whose conversion, size and bounds to take (default: RUN's, if any)")
    recipe = GateRecipe()
    add_fields(
        verb,
        recipe,
        decided={
            "method": _OF_CLASSIFIER.format(recipe.method),
            "size": _OF_CLASSIFIER.format(display(recipe.size)),
            "perturbation": "sni with --photos, else shapes",
            "reduction": "2 from 2000x1000 up, else 1",
        },
    )
    add_bounds(verb)
    add_folder(verb, "--photos", about="folder of grey photographs, for --perturbation sni (default: none)")
    add_jobs(verb, "processes that draw perturbations")


def gate(options: argparse.Namespace, reporter: Reporter) -> int:
    """Train the gate; prints the path of the checkpoint."""
    from train.gate.training import train_gate

    method, size, bounds = image_of_gate(options, reporter)
    recipe = recipe_of(
        GateRecipe,
        options,
        method=method,
        size=size,
        perturbation=options.perturbation or ("sni" if options.photos is not None else "shapes"),
        reduction=options.reduction or usual_reduction(size),
    )
    train_gate(
        options.data,
        options.out,
        recipe,
        reporter,
        bounds=bounds,
        bounds_mode=options.bounds_mode,
        photos=options.photos,
        jobs=options.jobs,
    )
    print(options.out / "gate.pt")
    return 0


def image_of_gate(options: argparse.Namespace, reporter: Reporter) -> tuple[Method, Size, Bounds | None]:
    """Conversion, size and bounds: those of the classifier (`--like`, or the one in RUN), else those of the options.

    Raises TrainError where both are given and differ: no model can be made of such a pair.
    """
    from train.checkpoint import CLASSIFIER_FILE, load_checkpoint

    method = None if options.method is None else Method(options.method)
    bounds = None if options.bounds is None else read_bounds(options.bounds)
    beside = options.out / CLASSIFIER_FILE
    like = options.like or (beside if beside.is_file() else None)
    if like is None:
        usual = GateRecipe()
        return method or usual.method, options.size or usual.size, bounds
    classifier = load_checkpoint(like, "classifier")
    for name, asked, trained in (
        ("conversion", method, classifier.method),
        ("size", options.size, classifier.size),
        ("bounds", bounds, classifier.bounds),
    ):
        if asked is not None and asked != trained:
            raise TrainError(
                f"--{name} says {display(asked)}, the classifier {like} was trained with {display(trained)}",
                hint=f"one scan is converted once for both: leave out --{name}, or give this gate another --out",
            )
    reporter.say(f"conversion, size and bounds as in {like}")
    return classifier.method, classifier.size, classifier.bounds
