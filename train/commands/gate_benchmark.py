"""`edge-train gate-benchmark`: the gate on real welds, beside its comparison (Lindgren, Zach 2022)."""

from __future__ import annotations

import argparse
import time

from edge.system.command import add_folder, count, finite
from edge.system.progress import Reporter
from train.commands.options import (
    CACHE_FOLDER,
    TRAINS,
    Verbs,
    add_command,
    add_data,
    add_fields,
    add_jobs,
    add_out,
    command_line,
    runner,
)
from train.errors import TrainError
from train.files import clear_results
from train.papers.welds.variants import RECIPES, Training
from train.recipe import GateRecipe

BASELINES = "baselines"
NETWORKS_FOLDER = "networks"


def add_to(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    verb = add_command(
        verbs,
        "gate-benchmark",
        "compare the gate with other detectors on real welds: tables and figures",
        gate_benchmark,
        description="Tables 2 and 3 of Lindgren and Zach (2022). Goes on after a kill.",
        examples=(
            "edge-train gate-benchmark welds --photos photos --out benchmark --device cuda",
            "edge-train gate-benchmark welds --out filters --recipe baselines",
        ),
        exits=TRAINS,
    )
    add_welds(verb, needs_photos=False)
    add_out(verb, "folder for results; may hold some already")
    add_folder(verb, "--test-welds", about="other welds, like WELDS: a table of their own (default: none)")
    about = "; ".join(f"{name}: {what}" for name, what in RECIPES.items())
    verb.add_argument(
        "--recipe",
        choices=(*RECIPES, BASELINES),
        default="paper",
        help=f"{about}; {BASELINES}: filters without any training, no photographs needed (default: paper)",
    )
    about = f"{BASELINES}: rows of nearest neighbours on these frozen features, imagenet or a file (default: none)"
    verb.add_argument("--weights", help=about)
    verb.add_argument("--runs", type=count, default=3, metavar="N", help="trainings of every network (default: 3)")
    verb.add_argument("--folds", type=count, nargs="+", metavar="N", help="only these, counted from 1 (default: all)")
    verb.add_argument("--steps", type=count, metavar="N", help="steps of every training (default: each kind's own)")
    verb.add_argument(
        "--classifier-steps", type=count, metavar="N", help="steps of a patch classifier's training (default: --steps)"
    )
    add_fields(verb, Training(), only=("batch", "lr"))
    add_fields(verb, GateRecipe(), only=("amp", "device", "seed"))
    add_jobs(verb, "networks trained at once, in processes")
    add_folder(verb, "--cache", about="folder for the folds' patches, several GB (default: OUT/cache)")
    add_folder(verb, "--networks", about="folder for what is trained (default: OUT/networks)")
    verb.add_argument(
        "--patch-share", type=finite, default=1.0, metavar="X", help="share of the usual number of patches (default: 1)"
    )


def add_welds(verb: argparse.ArgumentParser, *, needs_photos: bool = True) -> None:
    """Where welds and photographs are."""
    add_data(verb, "welds", "folder with images/ and masks/ of the same names")

    about = "folder of grey photographs" + ("" if needs_photos else ", for all recipes but baselines (default: none)")
    add_folder(verb, "--photos", "--natural", about=about, required=needs_photos)


def gate_benchmark(options: argparse.Namespace, reporter: Reporter) -> int:
    """Train, evaluate and draw the gate on real welds; prints the tables.

    Raises TrainError without photographs, and for weights where none are used.
    """
    if options.recipe == BASELINES:
        return _baselines(options, reporter)
    if options.weights is not None:
        raise TrainError(
            f"--weights belongs to recipe {BASELINES!r}",
            hint="leave it out: the networks of the others start from random weights",
        )
    if options.photos is None:
        raise TrainError(
            f"recipe {options.recipe!r} learns from photographs, and none are given", hint="add --photos DIR"
        )
    from train.device import choose_arithmetic
    from train.papers.welds.benchmark import run_benchmark, scaled
    from train.papers.welds.cells import TRUTH_FILE
    from train.papers.welds.data import PatchCounts
    from train.papers.welds.figures import draw_figures
    from train.papers.welds.film_networks import TABLE_FILE as FILMS_FILE
    from train.papers.welds.film_networks import try_films
    from train.papers.welds.images import read_welds
    from train.papers.welds.other_welds import TABLE_FILE as ELSEWHERE_FILE
    from train.papers.welds.other_welds import try_elsewhere
    from train.papers.welds.patches import other_welds
    from train.papers.welds.plan import Request
    from train.papers.welds.recipes import benchmark_recipe
    from train.papers.welds.results import write_benchmark
    from train.papers.welds.variants import Training

    started = time.perf_counter()
    # Both before minutes of cutting patches.
    amp = choose_arithmetic(options.amp, options.device, reporter.say)
    elsewhere = None if options.test_welds is None else other_welds(options.test_welds, read_welds(options.welds))
    defaults = Training()
    request = Request(
        welds=options.welds,
        natural=options.photos,
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
        counts=scaled(PatchCounts(), options.patch_share),
        runs=options.runs,
        seed=options.seed,
        device=options.device,
        jobs=options.jobs,
        folds=tuple(options.folds or ()),
    )
    clear_results(options.out, "tables.*", "curves.csv", ELSEWHERE_FILE, FILMS_FILE, "figures/figure-*")
    with runner(options.jobs) as where:
        benchmark = run_benchmark(request, where, reporter)
    print(write_benchmark(request, benchmark, command_line(), time.perf_counter() - started), end="")
    if elsewhere is not None:
        print("\n" + try_elsewhere(request, benchmark, elsewhere, reporter), end="")
    if request.recipe.beside and (request.welds / TRUTH_FILE).exists():
        print("\n" + try_films(request, benchmark, reporter), end="")
    reporter.say("figures")
    draw_figures(request, benchmark)
    return 0


def _baselines(options: argparse.Namespace, reporter: Reporter) -> int:
    """Filters without training; prints the tables. Raises TrainError for folds: thresholds need all of them."""
    if options.folds:
        raise TrainError(
            f"--folds {' '.join(map(str, options.folds))} is for recipes that train, {BASELINES!r} judges all folds",
            hint="leave it out",
        )
    from train.papers.welds.baselines import run_baselines
    from train.papers.welds.benchmark import scaled
    from train.papers.welds.data import PatchCounts

    counts = scaled(PatchCounts(), options.patch_share)
    with runner(options.jobs) as where:
        table = run_baselines(
            options.welds,
            options.out,
            counts,
            options.seed,
            where,
            reporter,
            command_line(),
            options.test_welds,
            options.weights,
        )
    print(table, end="")
    return 0
