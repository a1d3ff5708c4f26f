"""`edge-train VERB`: from scans to checkpoints, and how good they are.

Simulate, bounds, classifier and gate are here; the rooms of `FURTHER` hold the other verbs.
`simulate`, `bounds` and `patches` run on the base installation; torch is imported by the verbs that learn. Errors
become an exit code and two lines: what went wrong, what to try.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TypeVar, get_args, get_type_hints

from edge import __version__
from edge.errors import EdgeError
from edge.images.conversion import Bounds, Method
from edge.records import Size
from edge.system.progress import Reporter
from train.bounds import MODES, bounds_json, find_bounds, read_bounds
from train.classifier.regions import write_simulated_regions
from train.commands import crossval, gate_benchmark, gate_report, transfer
from train.dataset import read_labels
from train.errors import TrainError
from train.files import require_folder
from train.recipe import ClassifierRecipe, GateRecipe, Reduction, parse_size, usual_reduction
from train.second_simulator.simulate import simulate_lots
from train.simulator.simulate import ABNORMAL_FRACTION, write_lot

log = logging.getLogger(__name__)
EXIT_IO = 74
"""EX_IOERR of sysexits.h: a file cannot be read or written."""
_Recipe = TypeVar("_Recipe", ClassifierRecipe, GateRecipe)
Verb = Callable[[argparse.Namespace, Reporter], int]
FURTHER = (crossval, gate_benchmark, gate_report, transfer)
"""Rooms with more verbs, and their options."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        with Reporter() as reporter:
            if options.verb not in ("simulate", "bounds") and getattr(options, "out", None) is not None:
                require_folder(options.out)
            if options.verb == "simulate":
                return simulate(options, reporter)
            if options.verb == "bounds":
                return bounds(options, reporter)
            if options.verb == "patches":
                return gate_benchmark.patches(options, reporter)
            require_torch(options.verb)
            further: dict[str, Verb] = {name: verb for room in FURTHER for name, verb in room.VERBS.items()}
            if options.verb in further:
                return further[options.verb](options, reporter)
            if options.verb in ("fine-tune", "classifier"):
                return classifier(options, reporter)
            return gate(options, reporter)
    except EdgeError as error:
        print(f"edge-train: {error.message}\n  try: {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("edge-train: interrupted; nothing unfinished was left behind", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output left, as `| head` does; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        hint = "look at the folder, who may write there, and the space on its disk"
        print(f"edge-train: {error}\n  try: {hint}", file=sys.stderr)
        return EXIT_IO
    except Exception as error:
        log.critical("edge-train ended by a defect", exc_info=True)
        print(f"edge-train: {type(error).__name__}: {error}\n  try: report this with the log above", file=sys.stderr)
        return EdgeError.exit_code


def simulate(options: argparse.Namespace, reporter: Reporter) -> int:
    """Write simulated scans; prints the path of their labels. Raises TrainError for options the simulator has not."""
    if options.simulator == "second":
        return _simulate_second(options, reporter)
    labels = write_lot(
        options.out,
        seed=options.seed,
        bundles=options.bundles,
        scans_per_bundle=options.scans,
        abnormal_fraction=options.abnormal_fraction,
        first_bundle=options.first_bundle,
        scale=options.scale,
        jobs=options.jobs,
        progress=reporter.counter("scans"),
    )
    if options.regions:
        write_simulated_regions(options.out, read_labels(options.out), options.seed, reporter.counter("regions"))
    print(labels)
    return 0


def _simulate_second(options: argparse.Namespace, reporter: Reporter) -> int:
    if options.regions or options.first_bundle != 1:
        raise TrainError(
            "the second simulator writes no regions and counts its lots from 1",
            hint="leave out --regions and --first-bundle, or take --simulator first",
        )
    labels = simulate_lots(
        options.out,
        options.bundles,
        options.scans,
        scale=options.scale,
        seed=options.seed,
        abnormal_share=options.abnormal_fraction,
        jobs=options.jobs,
        progress=reporter.counter("scans"),
    )
    print(labels)
    return 0


def bounds(options: argparse.Namespace, reporter: Reporter) -> int:
    """Find the bounds of a folder; prints them as JSON or writes them."""
    text = bounds_json(
        find_bounds(read_labels(options.data), options.mode, jobs=options.jobs, progress=reporter.counter("scans"))
    )
    if options.out is None:
        print(text, end="")
    else:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    return 0


def classifier(options: argparse.Namespace, reporter: Reporter) -> int:
    """Train the classifier; prints the path of the checkpoint."""
    from train.checkpoint import CLASSIFIER_FILE
    from train.classifier.training import train_classifier

    recipe = _recipe(ClassifierRecipe, options, method=Method(options.method), size=parse_size(options.size))
    checkpoint = train_classifier(
        options.data,
        options.out,
        recipe,
        reporter,
        bounds=None if options.bounds is None else read_bounds(options.bounds),
        bounds_mode=options.bounds_mode,
    )
    reporter.say(
        f"threshold {checkpoint.thresholds['threshold']:.4f}; on the scans that chose it and the epoch, so better than"
        f" on others: balanced accuracy {checkpoint.metrics['selection_balanced_accuracy']:.4f},"
        f" AUROC {checkpoint.metrics['validation_auroc']:.4f}; `crossval` says what to expect"
    )
    print(options.out / CLASSIFIER_FILE)
    return 0


def gate(options: argparse.Namespace, reporter: Reporter) -> int:
    """Train the gate; prints the path of the checkpoint."""
    from train.gate.training import train_gate

    method, size, bounds_of_data = image_of_gate(options, reporter)
    recipe = _recipe(
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
        bounds=bounds_of_data,
        bounds_mode=options.bounds_mode,
        photos=options.photos,
        device=options.device,
        jobs=options.jobs,
    )
    print(options.out / "gate.pt")
    return 0


def image_of_gate(options: argparse.Namespace, reporter: Reporter) -> tuple[Method, Size, Bounds | None]:
    """Conversion, size and bounds: of the classifier it stands before (`--like`, or the one in RUN), else as said.

    Raises TrainError where both say something and differ: no bundle can be made of such a pair.
    """
    from train.checkpoint import CLASSIFIER_FILE, load_checkpoint

    method = None if options.method is None else Method(options.method)
    size = None if options.size is None else parse_size(options.size)
    bounds_said = None if options.bounds is None else read_bounds(options.bounds)
    beside = options.out / CLASSIFIER_FILE
    like = options.like or (beside if beside.is_file() else None)
    if like is None:
        usual = GateRecipe()
        return method or usual.method, size or usual.size, bounds_said
    classifier = load_checkpoint(like, "classifier")
    for name, said, its in (
        ("method", method, classifier.method),
        ("size", size, classifier.size),
        ("bounds", bounds_said, classifier.bounds),
    ):
        if said is not None and said != its:
            raise TrainError(
                f"--{name} says {_words(said)}, the classifier {like} was trained with {_words(its)}",
                hint=f"one scan is converted once for both: leave out --{name}, or give this gate another --out",
            )
    reporter.say(f"conversion, size and bounds as in {like}")
    return classifier.method, classifier.size, classifier.bounds


def _recipe(kind: type[_Recipe], options: argparse.Namespace, **decided: object) -> _Recipe:
    """The recipe whose every choice is the option of the same name, or is `decided`."""
    start = "" if options.start is None else str(options.start)
    values = {**vars(options), "start": start, **decided}
    return kind(**{field.name: values[field.name] for field in fields(kind)})


def require_torch(verb: str) -> None:
    """Raise TrainError where torch is not installed."""
    for module in ("torch", "torchvision"):
        if importlib.util.find_spec(module) is None:
            raise TrainError(
                f"`edge-train {verb}` needs {module}, which is not installed",
                hint="pip install electrode-line[train]",
            )


def parser() -> argparse.ArgumentParser:
    """The command line of `edge-train`."""
    top = argparse.ArgumentParser(prog="edge-train", description=__doc__.splitlines()[0] if __doc__ else None)
    top.add_argument("--version", action="version", version=f"edge-train {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    _simulate_options(verbs.add_parser("simulate", help="write simulated scans and their labels"))
    _bounds_options(verbs.add_parser("bounds", help="find the grey-level bounds of labelled scans"))
    _classifier_options(
        verbs.add_parser("fine-tune", aliases=["classifier"], help="train the classifier image by image")
    )
    _gate_options(verbs.add_parser("gate", help="train the gate that refuses what is no ordinary scan"))
    for room in FURTHER:
        room.add_verbs(verbs)
    return top


def _simulate_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--out", type=Path, required=True, help="an empty folder")
    verb.add_argument(
        "--simulator",
        choices=("first", "second"),
        default="first",
        help="two programs that share nothing; the second draws severities without a gap (default %(default)s)",
    )
    verb.add_argument("--bundles", type=int, default=12, help="coating mixtures (default %(default)s)")
    verb.add_argument("--scans", type=int, default=20, help="scans per bundle (default %(default)s)")
    verb.add_argument("--seed", type=int, default=0, help="the same one writes the same scans (default %(default)s)")
    verb.add_argument("--first-bundle", type=int, default=1, help="number of the first bundle")
    verb.add_argument("--scale", type=float, default=1.0, help="size relative to full format, 0.05 to 1")
    verb.add_argument(
        "--abnormal-fraction",
        type=float,
        default=ABNORMAL_FRACTION,
        help="share of abnormal scans (default: the paper's, %(default).3f)",
    )
    verb.add_argument("--jobs", type=int, default=1, help="processes")
    verb.add_argument("--regions", action="store_true", help="also write where the anomalies lie: regions/*.png")


def _bounds_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("data", type=Path, metavar="DATA", help="folder with labels.csv, or BUNDLE/LABEL folders")
    verb.add_argument("--mode", choices=MODES, default="per_scan", help="extremes of the scans, or of all pixels")
    verb.add_argument("--out", type=Path, help="JSON file (default: print)")
    verb.add_argument("--jobs", type=int, help="threads (default: one per core)")


def _classifier_options(verb: argparse.ArgumentParser) -> None:
    recipe = ClassifierRecipe()
    _data_options(verb, recipe)
    verb.set_defaults(method=str(recipe.method), size=_words(recipe.size))
    verb.add_argument(
        "--weights", default=recipe.weights, help="none, imagenet, or a .pth/.safetensors/.npz (default %(default)s)"
    )
    verb.add_argument("--start", type=Path, help="a classifier.pt to go on from, instead of --weights")
    _choice(verb, recipe, "fine_tune", "what is trained: the layers from fc on, layer4 too, or all")
    verb.add_argument(
        "--epochs", type=int, default=recipe.epochs, help="passes over the training scans (default %(default)s)"
    )
    verb.add_argument("--batch", type=int, default=recipe.batch, help="scans per step")
    _choice(verb, recipe, "optimizer", "the paper's is adam")
    verb.add_argument("--lr", type=float, default=recipe.lr, help="learning rate, of one-cycle the greatest")
    verb.add_argument(
        "--weight-decay", type=float, default=recipe.weight_decay, help="of the optimizer (default %(default)s)"
    )
    _choice(verb, recipe, "schedule", "of the learning rate; the paper's is step")
    verb.add_argument(
        "--step-epochs",
        type=int,
        default=recipe.step_epochs,
        help="between two steps of the rate (default %(default)s)",
    )
    verb.add_argument(
        "--step-factor", type=float, default=recipe.step_factor, help="of the rate at each step (default %(default)s)"
    )
    verb.add_argument("--flip-p", type=float, default=recipe.flip_p, help="of each of the two flips")
    verb.add_argument(
        "--label-smoothing", type=float, default=recipe.label_smoothing, help="share given to the other class"
    )
    verb.add_argument("--jitter", type=float, default=recipe.jitter, help="relative, of brightness and contrast")
    verb.add_argument("--balanced", action="store_true", help="draw both classes equally often")
    verb.add_argument("--learn-regions", action="store_true", help="also learn where anomalies lie, from regions/")
    verb.add_argument(
        "--size-schedule",
        default=recipe.size_schedule,
        metavar="HxW:EPOCHS,...",
        help="first epochs at smaller sizes; the rest of --epochs is at --size",
    )
    verb.add_argument(
        "--recalibrate-scans",
        type=int,
        default=recipe.recalibrate_scans,
        help="training scans over which batch norm statistics are taken anew at the end; with --weights none and"
        " --fine-tune all",
    )
    verb.add_argument("--device", default=recipe.device, help="cpu or cuda (default %(default)s)")


def _gate_options(verb: argparse.ArgumentParser) -> None:
    recipe = GateRecipe()
    _data_options(verb, recipe)
    verb.add_argument(
        "--like", type=Path, help="classifier.pt whose conversion, size and bounds to take (default: RUN's, if any)"
    )
    verb.add_argument("--start", type=Path, help="a gate.pt to go on from")
    _choice(verb, recipe, "patches", "patches of normal scans, or of all ordinary scans")
    _choice(verb, recipe, "perturbation", "what it must not reproduce", "sni with --photos, else shapes")
    verb.add_argument("--photos", type=Path, help="folder of grey photographs, for sni")
    verb.add_argument("--no-rotate", dest="rotate", action="store_false", help="patches lie as the scans do")
    _choice(verb, recipe, "foreign_answer", "what it is taught to answer to foreign content")
    _choice(verb, recipe, "calibrate_on", "whose validation scans set the thresholds")
    _choice(verb, recipe, "scores", "weighed by place and joined by the layout, or the plain extremes")
    verb.add_argument(
        "--reduction",
        type=int,
        choices=get_args(Reduction),
        help="how many times smaller the autoencoder sees the image (default: 2 from 2000x1000 up, else 1)",
    )
    verb.add_argument(
        "--image-fpr",
        type=float,
        default=recipe.image_fpr,
        help="greatest share of them above a threshold, half by windows, half by layouts, each rounded down: with"
        " fewer than 200 scans at 0.01 none is, and the greatest score is the threshold (default %(default)s)",
    )
    verb.add_argument(
        "--margin", type=float, default=recipe.margin, help="factor on all thresholds (default %(default)s)"
    )
    verb.add_argument("--steps", type=int, default=recipe.steps, help="batches of patches (default %(default)s)")
    verb.add_argument("--plain-steps", type=int, default=recipe.plain_steps, help="the first ones, unperturbed")
    verb.add_argument("--settle-steps", type=int, default=recipe.settle_steps, help="the last ones, without dropout")
    verb.add_argument("--per-weight", type=float, default=recipe.per_weight, help="of the perturbed patches' loss")
    verb.add_argument("--bank", type=int, default=recipe.bank, help="perturbations drawn beforehand")
    verb.add_argument("--batch", type=int, default=recipe.batch, help="patches per step")
    verb.add_argument("--lr", type=float, default=recipe.lr, help="greatest learning rate (default %(default)s)")
    verb.add_argument("--device", default="cpu", help="cpu or cuda (default %(default)s)")
    verb.add_argument("--jobs", type=int, default=1, help="processes that draw perturbations (default %(default)s)")


def _data_options(verb: argparse.ArgumentParser, recipe: ClassifierRecipe | GateRecipe) -> None:
    verb.add_argument("data", type=Path, metavar="DATA", help="folder with labels.csv, or BUNDLE/LABEL folders")
    verb.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder for what was learnt")
    verb.add_argument(
        *("--conversion", "--method"),
        dest="method",
        choices=[str(m) for m in Method],
        help=f"how 16 bit become 8 (default {recipe.method})",
    )
    verb.add_argument("--size", metavar="HxW", help=f"of the network's input, px (default {_words(recipe.size)})")
    verb.add_argument("--bounds", type=Path, help="bounds.json (default: found in the training bundles)")
    verb.add_argument(
        "--bounds-mode", choices=MODES, default="per_scan", help="of bounds that are found, as in `bounds --mode`"
    )
    verb.add_argument(
        "--validation-share", type=float, default=recipe.validation_share, help="of the bundles (default %(default)s)"
    )
    _choice(verb, recipe, "amp", "arithmetic: bfloat16 where the device has it (auto), never, or always")
    verb.add_argument(
        "--seed", type=int, default=recipe.seed, help="of the split and of all that is drawn (default %(default)s)"
    )


def _words(value: Method | Size | Bounds | None) -> str:
    if isinstance(value, Size):
        return f"{value.height_px}x{value.width_px}"
    if isinstance(value, Bounds):
        return f"{value.lo_counts}..{value.hi_counts} counts"
    return "none" if value is None else str(value)


def _choice(
    verb: argparse.ArgumentParser,
    recipe: ClassifierRecipe | GateRecipe,
    field: str,
    explanation: str,
    unasked: str | None = None,
) -> None:
    """An option whose choices are the literals of a recipe's field; `unasked`: what says the default, if not it."""
    choices = get_args(get_type_hints(type(recipe))[field])
    verb.add_argument(
        f"--{field.replace('_', '-')}",
        choices=choices,
        type=type(choices[0]),
        default=getattr(recipe, field) if unasked is None else None,
        help=f"{explanation} (default {unasked or '%(default)s'})",
    )


if __name__ == "__main__":
    sys.exit(main())
