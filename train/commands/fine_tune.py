"""`edge-train fine-tune`: train the classifier image by image."""

from __future__ import annotations

import argparse
from typing import Any

from edge.system.progress import Reporter
from train.bounds import read_bounds
from train.commands.options import TRAINS, Verbs, add_bounds, add_command, add_data, add_fields, add_out, recipe_of
from train.recipe import ClassifierRecipe


def add_to(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    verb = add_command(
        verbs,
        "fine-tune",
        "train the classifier image by image",
        fine_tune,
        description="Without options it is the paper's recipe (Jensen et al. 2022). A killed training goes on where"
        " its last epoch ended. On a machine without a GPU, fit-features is faster.",
        examples=(
            "edge-train fine-tune scans --out run",
            "edge-train fine-tune scans --out run --size 500x250 --weights none --fine-tune all --device cuda",
        ),
        exits=TRAINS,
        aliases=("classifier",),
    )
    add_data(verb)
    add_out(verb, "folder for classifier.pt and what is known of it", "RUN")
    add_fields(verb, ClassifierRecipe())
    add_bounds(verb)


def fine_tune(options: argparse.Namespace, reporter: Reporter) -> int:
    """Train the classifier; prints the path of the checkpoint."""
    from train.checkpoint import CLASSIFIER_FILE
    from train.classifier.training import train_classifier
    from train.report import span_over

    checkpoint = train_classifier(
        options.data,
        options.out,
        recipe_of(ClassifierRecipe, options),
        reporter,
        bounds=None if options.bounds is None else read_bounds(options.bounds),
        bounds_mode=options.bounds_mode,
    )
    found: dict[str, Any] = dict(checkpoint.metrics)
    accuracy, area = (
        span_over([found[f"{name}_lots_{end}"] for end in ("low", "high")], found["validation_bundles"], "lot")
        for name in ("selection_balanced_accuracy", "validation_auroc")
    )
    reporter.say(
        f"threshold {checkpoint.thresholds['threshold']:.4f}; on the scans that chose it and the epoch, so better than"
        f" on others: balanced accuracy {found['selection_balanced_accuracy']:.4f} (95 % over lots, in %: {accuracy};"
        f" worst lot {found['selection_worst_lot']}), AUROC {found['validation_auroc']:.4f} ({area}); `crossval` says"
        " what to expect"
    )
    print(options.out / CLASSIFIER_FILE)
    return 0
