"""`edge-train transfer`: its options and what it prints."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import time
from pathlib import Path

from edge.images.conversion import Method
from edge.records import Size
from edge.system.progress import Reporter
from train.errors import TrainError
from train.recipe import AMP_HELP, AMPS, parse_size

DEFAULT_SIZE = "96"


def transfer(options: argparse.Namespace, reporter: Reporter) -> int:
    """One class against the rest, for every class; prints the table."""
    if importlib.util.find_spec("sklearn") is None:
        raise TrainError("`edge-train transfer` needs scikit-learn", hint="pip install electrode-line[train]")
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


VERBS = {"transfer": transfer}


def add_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of `transfer`."""
    verb = verbs.add_parser("transfer", help="a pretrained network on one class against the rest, with baselines")
    verb.add_argument(
        "data",
        type=Path,
        metavar="DATASET",
        help="mnist.npz, a zip or folder of CLASS/ or train/CLASS/ and test/CLASS/, or a folder of labelled scans",
    )
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    verb.add_argument("--weights", default="imagenet", help="none, imagenet, or a .pth/.safetensors/.npz")
    verb.add_argument(
        "--fine-tune", choices=("head", "all"), default="head", help="the last layer, or the network (default: head)"
    )
    verb.add_argument("--normal", metavar="CLASS", help="take only this class as normal (default: each in turn)")
    verb.add_argument(
        "--size", default=DEFAULT_SIZE, metavar="N|HxW", help="of the network's input, px (default %(default)s)"
    )
    verb.add_argument("--per-class", type=int, metavar="N", help="at most so many training images of each class")
    verb.add_argument(
        "--test-share", type=float, default=0.3, help="drawn for the test where the set is not split (default 0.3)"
    )
    verb.add_argument(
        *("--conversion", "--method"),
        dest="method",
        choices=[str(m) for m in Method],
        default=str(Method.GLOBAL),
        help="how 16 bit become 8 (default %(default)s)",
    )
    verb.add_argument("--seed", type=int, default=0, help="of the split and of all that is drawn (default %(default)s)")
    verb.add_argument("--device", default="cpu", help="cpu or cuda (default %(default)s)")
    verb.add_argument(
        "--amp",
        choices=AMPS,
        default="auto",
        help=AMP_HELP,
    )
    verb.add_argument("--epochs", type=int, default=4, help="of --fine-tune all (default %(default)s)")
    verb.add_argument("--batch", type=int, default=128, help="images per step (default %(default)s)")
    verb.add_argument("--lr", type=float, default=3e-4, help="greatest learning rate (default %(default)s)")
