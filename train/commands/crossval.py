"""`edge-train crossval`: leave one lot out, for every conversion."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from edge.images.method import Method
from edge.system.progress import Reporter
from train.commands.options import TRAINS, Verbs, add_command, add_experiment, backbone_and_cache, surveyed
from train.dataset import read_labels
from train.errors import TrainError

PAPER_METHODS = "naive,global,local,mixed"


def add_to(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    verb = add_command(
        verbs,
        "crossval",
        "leave one lot out after the other, for every conversion",
        crossval,
        description="Table 1 of Jensen et al. 2022: what to expect of a recipe on lots it has not learnt from. Goes"
        " on after a kill; writes tables, intervals and plots.",
        examples=(
            "edge-train crossval scans --out table",
            "edge-train crossval scans --out table --conversions own --recipe best --jobs 4",
        ),
        exits=TRAINS,
    )
    add_experiment(verb, recipe="paper")
    verb.add_argument(
        "--conversions",
        default=PAPER_METHODS,
        metavar="NAME,...",
        help=f"of {','.join(Method)}, or own for the recipe's (default: {PAPER_METHODS})",
    )
    verb.add_argument(
        "--beside", metavar="RECIPE", help="a further column: this recipe on its own conversion (default: none)"
    )


def crossval(options: argparse.Namespace, reporter: Reporter) -> int:
    """Leave one lot out for every conversion; prints the table."""
    from train.classifier.crossval import cross_validate
    from train.classifier.experiment import read_recipe
    from train.classifier.results import clear, write_results

    recipe = replace(read_recipe(options.recipe), seed=options.seed)
    methods = parse_methods(options.conversions, recipe.method)
    rows = read_labels(options.data)
    backbone, cache = backbone_and_cache(options, reporter)
    with surveyed(options, rows, reporter) as (survey, where):
        clear(options.out)
        results, timing = cross_validate(survey, methods, recipe, backbone, cache, where, options.out, reporter)
        reporter.say(f"backbone {timing.backbone_s:.1f} s, heads of {timing.folds} folds {timing.heads_s:.1f} s")
        beside = {}
        if options.beside is not None:
            other = replace(read_recipe(options.beside), seed=options.seed)
            name, folder = f"{Path(options.beside).stem}-{other.method}", options.out / "beside"
            reporter.say(f"beside it: {name}")
            theirs, _ = cross_validate(survey, [other.method], other, backbone, cache, where, folder, reporter)
            results += [replace(result, method=name) for result in theirs]
            beside = {name: other}
    print(write_results(options.out, results, survey, recipe, backbone, timing, beside), end="")
    return 0


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
