"""`edge-train patches` and `gate-benchmark`, the gate on real welds: their options and what they print."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from edge.system.progress import Reporter
from train.errors import TrainError
from train.papers.welds.variants import RECIPES
from train.recipe import AMP_HELP, AMPS
from train.runner import Here, Processes

BASELINES = "baselines"
CACHE_FOLDER = "cache"
NETWORKS_FOLDER = "networks"


def patches(options: argparse.Namespace, reporter: Reporter) -> int:
    """Write contact sheets of every kind of patch; prints their folder. Needs no torch."""
    from train.gate.perturb import read_photos
    from train.papers.welds.images import read_welds
    from train.papers.welds.sheets import write_sheets

    photos = read_photos(options.natural)
    paths = write_sheets(read_welds(options.welds), photos, options.out, options.seed, reporter.counter("folds"))
    reporter.say(f"{len(paths)} files; look at each before a network does")
    print(options.out)
    return 0


def gate_benchmark(options: argparse.Namespace, reporter: Reporter) -> int:
    """Train, evaluate and draw the gate on real welds; prints the tables. Raises TrainError without photographs."""
    if options.recipe == BASELINES:
        return _baselines(options, reporter)
    if options.natural is None:
        raise TrainError(
            f"recipe {options.recipe!r} learns from photographs, and none are given", hint="add --natural DIR"
        )
    from train.device import choose_arithmetic
    from train.papers.welds.benchmark import run_benchmark, scaled
    from train.papers.welds.data import PatchCounts
    from train.papers.welds.figures import draw_figures
    from train.papers.welds.other_welds import try_elsewhere
    from train.papers.welds.plan import Request
    from train.papers.welds.recipes import benchmark_recipe
    from train.papers.welds.results import write_benchmark
    from train.papers.welds.variants import Training

    started = time.perf_counter()
    amp = choose_arithmetic(options.amp, options.device, reporter.say)  # before minutes of cutting patches
    defaults = Training()
    request = Request(
        welds=options.welds,
        natural=options.natural,
        out=options.out,
        cache=options.cache or options.out / CACHE_FOLDER,
        networks=options.networks or options.out / NETWORKS_FOLDER,
        recipe=benchmark_recipe(options.recipe),
        training=Training(
            autoencoder_steps=options.steps or defaults.autoencoder_steps,
            classifier_steps=options.classifier_steps or options.steps or defaults.classifier_steps,
            batch=options.batch,
            lr=options.lr,
            bf16=amp == "bf16",
        ),
        counts=scaled(PatchCounts(), options.patches),
        runs=options.runs,
        seed=options.seed,
        device=options.device,
        jobs=options.jobs,
        folds=tuple(options.folds or ()),
    )
    if options.jobs > 1:
        with Processes(options.jobs) as runner:
            benchmark = run_benchmark(request, runner, reporter)
    else:
        benchmark = run_benchmark(request, Here(), reporter)
    command = shlex.join(["edge-train", *sys.argv[1:]])
    print(write_benchmark(request, benchmark, command, time.perf_counter() - started), end="")
    if options.test_welds is not None:
        print("\n" + try_elsewhere(request, benchmark, options.test_welds, reporter), end="")
    reporter.say("figures")
    draw_figures(request, benchmark)
    return 0


def _baselines(options: argparse.Namespace, reporter: Reporter) -> int:
    """Filters without training; prints the tables."""
    from train.papers.welds.baselines import run_baselines
    from train.papers.welds.benchmark import scaled
    from train.papers.welds.data import PatchCounts

    counts = scaled(PatchCounts(), options.patches)
    command = shlex.join(["edge-train", *sys.argv[1:]])
    with Processes(options.jobs) if options.jobs > 1 else nullcontext(Here()) as runner:
        print(
            run_baselines(
                options.welds, options.out, counts, options.seed, runner, reporter, command, options.test_welds
            ),
            end="",
        )
    return 0


VERBS = {"patches": patches, "gate-benchmark": gate_benchmark}


def add_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of these verbs."""
    group = verbs.add_parser("patches", help="look at the patches of the gate's weld benchmark")
    verb = group.add_subparsers(dest="action", required=True, metavar="ACTION").add_parser(
        "preview", help="contact sheets of every kind of patch"
    )
    weld_options(verb)
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the sheets")
    verb.add_argument("--seed", type=int, default=0, help="of what is drawn (default %(default)s)")
    verb = verbs.add_parser("gate-benchmark", help="the gate and its comparison on real welds: tables and figures")
    weld_options(verb, photographs=False)
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="for results; may hold some already")
    verb.add_argument("--test-welds", type=Path, metavar="DIR", help="other welds, like WELDS: a table of their own")
    about = "; ".join(f"{name}: {what}" for name, what in RECIPES.items())
    about += f"; {BASELINES}: filters without any training, no photographs needed"
    recipes = (*RECIPES, BASELINES)
    verb.add_argument("--recipe", choices=recipes, default="paper", help=f"{about} (default %(default)s)")
    verb.add_argument("--runs", type=int, default=3, help="trainings of every network (default %(default)s)")
    verb.add_argument("--folds", type=int, nargs="+", metavar="N", help="only these, counted from 1 (default: all)")
    verb.add_argument("--steps", type=int, help="of every training")
    verb.add_argument("--classifier-steps", type=int, help="of a patch classifier's training (default: --steps)")
    verb.add_argument("--batch", type=int, default=16, help="accepted patches per step (default %(default)s)")
    verb.add_argument("--lr", type=float, default=2e-3, help="greatest learning rate (default %(default)s)")
    verb.add_argument(
        "--amp",
        choices=AMPS,
        default="auto",
        help=AMP_HELP,
    )
    verb.add_argument("--device", default="cpu", help="cpu or cuda (default %(default)s)")
    verb.add_argument("--jobs", type=int, default=1, help="networks trained at once, in processes")
    verb.add_argument("--cache", type=Path, metavar="DIR", help="for the folds' patches, GBs (default: OUT/cache)")
    verb.add_argument("--networks", type=Path, metavar="DIR", help="for what is trained (default: OUT/networks)")
    verb.add_argument("--patches", type=float, default=1.0, help="share of the usual number of patches")
    verb.add_argument("--seed", type=int, default=0, help="of folds, patches and networks (default %(default)s)")


def weld_options(verb: argparse.ArgumentParser, *, photographs: bool = True) -> None:
    """Where welds and photographs are."""
    verb.add_argument("welds", type=Path, metavar="WELDS", help="folder with images/ and masks/ of the same names")
    verb.add_argument("--natural", type=Path, required=photographs, metavar="DIR", help="folder of grey photographs")
