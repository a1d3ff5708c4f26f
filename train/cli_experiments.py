"""`edge-train crossval`, `ablation`, `doctor`, `calibrate`: their options and what they print."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from edge.conversion import Method
from train.dataset import read_labels
from train.errors import TrainError
from train.progress import Reporter
from train.recipe import parse_size
from train.runner import Here, Processes, RayCluster, Runner

PAPER_METHODS = "naive,global,local,mixed"
CACHE_FOLDER = "cache"


def crossval(options: argparse.Namespace, reporter: Reporter) -> int:
    """Leave-one-bundle-out for every conversion; prints the table."""
    from train.crossval import cross_validate
    from train.experiment import read_recipe
    from train.results import write_results
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
    print(write_results(options.out, results, surveyed, recipe, backbone, timing), end="")
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


def backbone_and_cache(options: argparse.Namespace, seed: int, reporter: Reporter):  # type: ignore[no-untyped-def]
    """The frozen network and the folder for its features. Raises TrainError for weights that cannot be had."""
    from train.feature_cache import GIB, FeatureCache
    from train.features import open_backbone
    from train.pooling import CHANNELS, TILES

    backbone = open_backbone(
        options.weights, parse_size(options.size), seed=seed, amp=options.amp == "bf16", device=options.device
    )
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


def add_verbs(verbs) -> None:  # type: ignore[no-untyped-def]
    """The options of these verbs."""
    verb = verbs.add_parser("crossval", help="leave one bundle out, for every conversion: Table 1")
    experiment_options(verb)
    verb.add_argument(
        "--conversions", default=PAPER_METHODS, help=f"of {','.join(Method)}, or own (default %(default)s)"
    )
    verb.add_argument("--recipe", default="paper", help="paper, best, or a TOML file (default %(default)s)")


def experiment_options(verb: argparse.ArgumentParser) -> None:
    """What every experiment on a folder of scans takes."""
    verb.add_argument("data", type=Path, metavar="DATA", help="folder with labels.csv, or BUNDLE/LABEL folders")
    verb.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for results; may hold some already"
    )
    verb.add_argument("--size", default="2000x1000", metavar="HxW", help="of the network's input (default %(default)s)")
    verb.add_argument("--weights", default="imagenet", help="none, imagenet, or a .pth/.safetensors/.npz")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--jobs", type=int, default=1, help="processes on this machine (default %(default)s)")
    verb.add_argument("--ray", metavar="ADDRESS", help="run on a Ray cluster instead; `local` starts one here")
    verb.add_argument("--device", default="cpu", help="of the backbone: cpu or cuda (default %(default)s)")
    verb.add_argument("--amp", choices=("off", "bf16"), default="off", help="arithmetic of the backbone")
    verb.add_argument("--cache", type=Path, metavar="DIR", help="features already computed (default: OUT/cache)")
    verb.add_argument("--cache-gib", type=float, default=8.0, help="its greatest size (default %(default)s)")
    verb.add_argument("--skip-unreadable", action="store_true", help="leave out scans that cannot be read")
