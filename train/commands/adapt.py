"""`edge-train adapt`: a trained classifier for another line, from normal scans of that line."""

from __future__ import annotations

import argparse

from edge.system.progress import Reporter
from train.commands.options import TRAINS, Verbs, add_cache, add_command, add_data, add_fields, add_out, feature_cache
from train.dataset import read_labels
from train.recipe import Adaptation


def add_to(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    verb = add_command(
        verbs,
        "adapt",
        "adapt a trained classifier to another line, by normal scans of that line alone",
        adapt,
        description="Takes bounds, what is normal at each place, threshold and the facts by which the line recognises"
        " its scans from the normal scans of NORMALS; abnormal ones there are left out. Weights and graph stay. Refuses"
        " scans and lots it has learnt from, and too few of them. Goes on after a kill. Train the gate on the same"
        " scans, then export both.",
        examples=(
            "edge-train adapt run normals --out adapted",
            "edge-train adapt run normals --out adapted --refused 0.05",
        ),
        exits=TRAINS,
    )
    add_data(verb, "run", "folder with classifier.pt, of the recipe `sheet` or `best`; it stays as it is")
    add_data(verb, "normals", "normal scans of the line, a folder like DATA: labels.csv, or LOT/normal folders")
    add_out(verb, "folder for the adapted classifier.pt", "ADAPTED")
    add_fields(verb, Adaptation())
    add_cache(verb)


def adapt(options: argparse.Namespace, reporter: Reporter) -> int:
    """Adapt the classifier of a run; says what was found and prints the path of the checkpoint."""
    from train.checkpoint import CLASSIFIER_FILE
    from train.classifier.adapt import adapt_run, sentences

    wish = Adaptation(refused=options.refused, amp=options.amp, device=options.device)
    cache = feature_cache(options, reporter)
    checkpoint = adapt_run(options.run, read_labels(options.normals), wish, cache, options.out, reporter)
    for line in sentences(checkpoint):
        reporter.say(line)
    print(options.out / CLASSIFIER_FILE)
    return 0
