"""`edge-train patches`: the data of the gate's weld benchmark, and what it prints."""

from __future__ import annotations

import argparse
from pathlib import Path

from train.progress import Reporter


def patches(options: argparse.Namespace, reporter: Reporter) -> int:
    """Write contact sheets of every kind of patch; prints their folder. Needs no torch."""
    from train.patch_sheets import write_sheets
    from train.perturb import read_photos
    from train.welds import read_welds

    photos = read_photos(options.natural)
    paths = write_sheets(read_welds(options.welds), photos, options.out, options.seed, reporter.counter("folds"))
    reporter.say(f"{len(paths)} files; look at each before a network does")
    print(options.out)
    return 0


VERBS = {"patches": patches}


def add_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of these verbs."""
    group = verbs.add_parser("patches", help="look at the patches of the gate's weld benchmark")
    verb = group.add_subparsers(dest="action", required=True, metavar="ACTION").add_parser(
        "preview", help="contact sheets of every kind of patch"
    )
    weld_options(verb)
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the sheets")
    verb.add_argument("--seed", type=int, default=0)


def weld_options(verb: argparse.ArgumentParser) -> None:
    """Where welds and photographs are."""
    verb.add_argument("welds", type=Path, metavar="WELDS", help="folder with images/ and masks/ of the same names")
    verb.add_argument("--natural", type=Path, required=True, metavar="DIR", help="folder of grey photographs")
