"""`edge-train crossval`, `ablation`, `learn`, `doctor`, `calibrate`: their options and what they print."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge.images.conversion import Method
from edge.system.progress import Reporter
from train.dataset import read_labels, unlisted_files
from train.errors import TrainError
from train.recipe import AMP_HELP, AMPS, parse_size
from train.runner import Here, Processes, RayCluster, Runner

if TYPE_CHECKING:  # both need torch
    from train.classifier.feature_cache import FeatureCache
    from train.classifier.features import Backbone

PAPER_METHODS = "naive,global,local,mixed"
CACHE_FOLDER = "cache"


def crossval(options: argparse.Namespace, reporter: Reporter) -> int:
    """Leave-one-bundle-out for every conversion; prints the table."""
    from train.classifier.crossval import cross_validate
    from train.classifier.experiment import read_recipe
    from train.classifier.results import write_results
    from train.survey import survey

    recipe = replace(read_recipe(options.recipe), seed=options.seed)
    methods = parse_methods(options.conversions, recipe.method)
    rows = read_labels(options.data)
    backbone, cache = backbone_and_cache(options, recipe.seed, reporter)
    with runner(options) as chosen:
        surveyed = survey(rows, chosen, reporter.counter("scans read"), skip_unreadable=options.skip_unreadable)
        for problem in surveyed.unreadable:
            reporter.say(f"left out: {problem}")
        results, timing = cross_validate(surveyed, methods, recipe, backbone, cache, chosen, options.out, reporter)
        reporter.say(f"backbone {timing.backbone_s:.1f} s, heads of {timing.folds} folds {timing.heads_s:.1f} s")
        beside = {}
        if options.beside is not None:
            other = replace(read_recipe(options.beside), seed=options.seed)
            name, folder = f"{Path(options.beside).stem}-{other.method}", options.out / "beside"
            reporter.say(f"beside it: {name}")
            theirs, _ = cross_validate(surveyed, [other.method], other, backbone, cache, chosen, folder, reporter)
            results += [replace(result, method=name) for result in theirs]
            beside = {name: other}
    print(write_results(options.out, results, surveyed, recipe, backbone, timing, beside), end="")
    return 0


def ablation(options: argparse.Namespace, reporter: Reporter) -> int:
    """From the paper's recipe to the best one, step by step; prints the table."""
    from train.papers.ablation import ablate, steps, usual_steps
    from train.survey import survey

    rows = read_labels(options.data)
    chosen = steps(options.seed)
    wanted = options.steps or usual_steps(rows)
    unknown = [number for number in wanted if not 1 <= number <= len(chosen)]
    if unknown:
        raise TrainError(f"there is no step {unknown[0]}", hint=f"steps are 1 to {len(chosen)}")
    chosen = [chosen[number - 1] for number in wanted]
    backbone, cache = backbone_and_cache(options, options.seed, reporter)
    with runner(options) as where:
        surveyed = survey(rows, where, reporter.counter("scans read"), skip_unreadable=options.skip_unreadable)
        print(ablate(surveyed, backbone, cache, where, options.out, reporter, chosen), end="")
    return 0


def learn(options: argparse.Namespace, reporter: Reporter) -> int:
    """Apply a recipe to all bundles; prints the path of the checkpoint."""
    from train.checkpoint import CLASSIFIER_FILE
    from train.classifier.experiment import read_recipe
    from train.classifier.fit_all import learn_all
    from train.survey import survey

    recipe = replace(read_recipe(options.recipe), seed=options.seed)
    rows = read_labels(options.data)
    backbone, cache = backbone_and_cache(options, recipe.seed, reporter)
    with runner(options) as where:
        surveyed = survey(rows, where, reporter.counter("scans read"), skip_unreadable=options.skip_unreadable)
        checkpoint = learn_all(surveyed, recipe, backbone, cache, where, options.out, reporter)
    reporter.say(f"threshold {checkpoint.thresholds['threshold']:.4f}; what to expect of it, `crossval` says")
    print(options.out / CLASSIFIER_FILE)
    return 0


def doctor(options: argparse.Namespace, reporter: Reporter) -> int:
    """Print what is in a folder; 1 if there are problems."""
    from train.doctor import diagnose, histogram_plot
    from train.survey import survey

    surveyed = survey(read_labels(options.data), Here(), reporter.counter("scans read"), skip_unreadable=True)
    found = diagnose(surveyed, unlisted_files(options.data))
    print("\n".join(found.lines))
    if options.plot is not None:
        histogram_plot(surveyed, options.plot)
    return int(found.problems > 0)


def calibrate(options: argparse.Namespace, reporter: Reporter) -> int:
    """Set threshold and review band of a run; prints what was found and the path of the full figures."""
    from train.classifier.calibrate import Wish, sentences
    from train.classifier.calibrate import calibrate as find

    wish = Wish(options.alpha, options.miss_cost, options.max_escape_rate)
    checked = [name for name in (options.check_bundles or "").split(",") if name]
    found = find(options.run, read_labels(options.data), checked, wish, reporter)
    print("\n".join(sentences(found)))
    print(options.run / "calibration.json")
    return 0


@contextmanager
def runner(options: argparse.Namespace) -> Iterator[Runner]:
    """Where the tasks run: `--ray`, `--jobs`, or here."""
    if options.ray is not None:
        with RayCluster(options.ray) as cluster:
            yield cluster
    elif options.jobs > 1:
        with Processes(options.jobs) as processes:
            yield processes
    else:
        yield Here()


def backbone_and_cache(options: argparse.Namespace, seed: int, reporter: Reporter) -> tuple[Backbone, FeatureCache]:
    """The frozen network and the folder for its features. Raises TrainError for weights that cannot be had."""
    from train.classifier.feature_cache import GIB, FeatureCache
    from train.classifier.features import open_backbone
    from train.classifier.pooling import CHANNELS, TILES
    from train.device import choose_arithmetic

    amp = choose_arithmetic(options.amp, options.device, reporter.say) == "bf16"
    backbone = open_backbone(options.weights, parse_size(options.size), seed=seed, amp=amp, device=options.device)
    folder = options.cache or options.out / CACHE_FOLDER
    return backbone, FeatureCache(folder, (TILES, CHANNELS), max_bytes=int(options.cache_gib * GIB), say=reporter.say)


def parse_methods(text: str, own: Method) -> list[Method]:
    """`naive,global` -> conversions; `own` the recipe's. Raises TrainError."""
    methods: list[Method] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        if name == "own":
            name = str(own)
        if name not in list(Method):
            raise TrainError(f"there is no conversion {name!r}", hint=f"choose from {', '.join(Method)}, or own")
        if Method(name) not in methods:
            methods.append(Method(name))
    if not methods:
        raise TrainError("no conversions", hint=f"--conversions {PAPER_METHODS}")
    return methods


VERBS = {
    "crossval": crossval,
    "ablation": ablation,
    "fit-features": learn,
    "learn": learn,
    "doctor": doctor,
    "calibrate": calibrate,
}


def add_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of these verbs."""
    verb = verbs.add_parser("crossval", help="leave one bundle out, for every conversion: Table 1")
    experiment_options(verb)
    verb.add_argument(
        "--conversions", default=PAPER_METHODS, help=f"of {','.join(Method)}, or own (default %(default)s)"
    )
    verb.add_argument("--recipe", default="paper", help="paper, best, or a TOML file (default %(default)s)")
    verb.add_argument("--beside", metavar="RECIPE", help="a further column: this recipe on its own conversion")
    verb = verbs.add_parser("ablation", help="from the paper's recipe to the best one, one row per step")
    experiment_options(verb)
    verb.add_argument(
        "--steps",
        type=int,
        nargs="+",
        metavar="N",
        help="only these rows, counted from 1; 15 and 16 train the backbone too, 17 and 18 want several labellers"
        " (default: all but 15 and 16)",
    )
    verb = verbs.add_parser(
        "fit-features", aliases=["learn"], help="fit a classifier to features of a frozen network, on all bundles"
    )
    experiment_options(verb)
    verb.add_argument("--recipe", default="best", help="paper, best, or a TOML file (default %(default)s)")
    verb = verbs.add_parser("doctor", help="what is in a folder of scans, and what is wrong with it")
    verb.add_argument("data", type=Path, metavar="DATA", help="folder with labels.csv, or BUNDLE/LABEL folders")
    verb.add_argument("--plot", type=Path, metavar="PATH", help="also write PATH.png and PATH.svg: counts by bundle")
    verb = verbs.add_parser("calibrate", help="set threshold and review band on bundles held back")
    verb.add_argument("run", type=Path, metavar="RUN", help="folder with classifier.pt, which is written again")
    verb.add_argument("data", type=Path, metavar="DATA", help="labelled scans that it has not learnt from")
    verb.add_argument("--alpha", type=float, help="level of the review band, such as 0.05 (default: no band)")
    wish = verb.add_mutually_exclusive_group()
    wish.add_argument("--miss-cost", type=float, help="of a missed abnormal scan, in false alarms")
    wish.add_argument("--max-escape-rate", type=float, help="greatest share of abnormal scans called normal")
    verb.add_argument("--check-bundles", metavar="NAME,...", help="where coverage is measured (default: the last)")


def experiment_options(verb: argparse.ArgumentParser) -> None:
    """What every experiment on a folder of scans takes."""
    verb.add_argument("data", type=Path, metavar="DATA", help="folder with labels.csv, or BUNDLE/LABEL folders")
    verb.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for results; may hold some already"
    )
    verb.add_argument("--size", default="2000x1000", metavar="HxW", help="of the network's input (default %(default)s)")
    verb.add_argument("--weights", default="imagenet", help="none, imagenet, or a .pth/.safetensors/.npz")
    verb.add_argument(
        "--seed", type=int, default=0, help="of first weights and of all that is drawn (default %(default)s)"
    )
    verb.add_argument("--jobs", type=int, default=1, help="processes on this machine (default %(default)s)")
    verb.add_argument("--ray", metavar="ADDRESS", help="run on a Ray cluster instead; `local` starts one here")
    verb.add_argument("--device", default="cpu", help="of the backbone: cpu or cuda (default %(default)s)")
    verb.add_argument(
        "--amp",
        choices=AMPS,
        default="auto",
        help=AMP_HELP,
    )
    verb.add_argument("--cache", type=Path, metavar="DIR", help="features already computed (default: OUT/cache)")
    verb.add_argument("--cache-gib", type=float, default=8.0, help="its greatest size (default %(default)s)")
    verb.add_argument("--skip-unreadable", action="store_true", help="leave out scans that cannot be read")
