"""`edge-train transfer`: a pretrained network on one class against the rest (Minhas, Zelek 2019)."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path

from edge.images.method import Method
from edge.records import Size
from edge.system.command import add_file, count, finite
from edge.system.progress import Reporter
from train.commands.options import TORCH, TRAINS, Verbs, add_command, add_fields, add_out
from train.recipe import ClassifierRecipe, parse_size


def add_to(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    verb = add_command(
        verbs,
        "transfer",
        "try a pretrained network on one class against the rest, with baselines",
        transfer,
        description="The network-based transfer detector, and one-class detectors beside it, for each class in turn.",
        examples=(
            "edge-train transfer mnist.npz --out result",
            "edge-train transfer cifar-10 --out result --fine-tune all --normal cat --device cuda",
        ),
        exits=TRAINS,
        needs=(*TORCH, "sklearn"),
    )
    add_file(
        verb,
        "data",
        metavar="DATASET",
        about="mnist.npz, a zip or folder of CLASS/ or train/CLASS/ and test/CLASS/, or a folder of labelled scans",
    )
    add_out(verb, "folder for the results")
    verb.add_argument(
        "--fine-tune",
        choices=("head", "all"),
        default="head",
        help="train the last layer, or the network (default: head)",
    )
    verb.add_argument("--normal", metavar="CLASS", help="take only this class as normal (default: each in turn)")
    verb.add_argument("--size", default="96", metavar="N|HxW", help="of the network's input, px (default: 96)")
    verb.add_argument(
        "--per-class", type=int, metavar="N", help="at most so many training images of each class (default: all)"
    )
    verb.add_argument(
        "--test-share",
        type=float,
        default=0.3,
        metavar="X",
        help="share drawn for the test where the set is not split (default: 0.3)",
    )
    add_fields(verb, ClassifierRecipe(), only=("method", "weights", "amp", "device", "seed"))
    verb.add_argument("--epochs", type=count, default=4, metavar="N", help="passes of --fine-tune all (default: 4)")
    verb.add_argument(
        "--batch", type=count, default=128, metavar="N", help="images per step of --fine-tune all (default: 128)"
    )
    verb.add_argument(
        "--lr",
        type=finite,
        default=3e-4,
        metavar="X",
        help="greatest learning rate of --fine-tune all (default: 0.0003)",
    )


def transfer(options: argparse.Namespace, reporter: Reporter) -> int:
    """One class against the rest, for every class; prints the table."""
    from train.classifier.features import open_backbone
    from train.device import choose_arithmetic
    from train.papers.transfer.detector import TransferRecipe, normal_classes, run_transfer
    from train.papers.transfer.fine_tune import Tuning
    from train.papers.transfer.image_sets import Choice, open_image_set
    from train.papers.transfer.results import Run, write_run

    started = time.perf_counter()
    options.amp = choose_arithmetic(options.amp, options.device, reporter.say)  # the report says what it was
    choice = Choice(
        side_or_size(options.size),
        per_class=options.per_class,
        test_share=options.test_share,
        method=Method(options.method),
        seed=options.seed,
    )
    recipe = TransferRecipe(
        choice=choice,
        weights=options.weights,
        fine_tune=options.fine_tune,
        normal=options.normal,
        device=options.device,
        amp=options.amp == "bf16",
        tuning=Tuning(options.epochs, options.batch, options.lr),
    )
    backbone = open_backbone(recipe.weights, choice.size, seed=choice.seed, amp=recipe.amp, device=recipe.device)
    images = open_image_set(options.data, choice, reporter)
    normal_classes(images, recipe.normal)  # a name that is not there shall not cost the features first
    results = run_transfer(images, recipe, backbone, reporter)
    run = Run(images, recipe, backbone, results, time.perf_counter() - started, command(options))
    print(write_run(options.out, run), end="")
    return 0


def side_or_size(text: str) -> Size:
    """`96` -> a square, `500x250` -> height 500, width 250 px. Raises TrainError."""
    return parse_size(f"{text}x{text}" if text.isdecimal() else text)


def command(options: argparse.Namespace) -> str:
    """The command line that repeats the run, names of files without their folders."""
    words = ["edge-train", "transfer", options.data.name, "--out", options.out.name]
    names = ("weights", "fine_tune", "size", "seed", "device", "amp", "per_class", "normal", "method", "test_share")
    for name in (*names, *(("epochs", "batch", "lr") if options.fine_tune == "all" else ())):
        value = getattr(options, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", Path(value).name if name == "weights" else str(value)]
    return shlex.join(words)
