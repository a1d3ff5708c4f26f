"""`edge-train bounds`: the grey-level bounds of labelled scans."""

from __future__ import annotations

import argparse

from edge.system.command import add_file, count
from edge.system.progress import Reporter
from train.bounds import MODES, bounds_json, find_bounds
from train.commands.options import Verbs, add_command, add_data
from train.dataset import read_labels
from train.files import write_text


def add_to(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    verb = add_command(
        verbs,
        "bounds",
        "find the grey-level bounds of labelled scans",
        bounds,
        description="For several trainings that are to convert scans alike; a training finds its own otherwise.",
        examples=("edge-train bounds scans --out bounds.json",),
        needs=(),
    )
    add_data(verb)
    verb.add_argument(
        "--mode",
        choices=MODES,
        default="per_scan",
        help="extremes of the scans' own bounds, or bounds of all pixels together (default: per_scan)",
    )
    add_file(verb, "--out", dest="file", about="JSON file to write (default: print)")
    verb.add_argument("--jobs", type=count, metavar="N", help="threads (default: one per core)")


def bounds(options: argparse.Namespace, reporter: Reporter) -> int:
    """Find the bounds of a folder; prints them as JSON or writes them."""
    text = bounds_json(
        find_bounds(read_labels(options.data), options.mode, jobs=options.jobs, progress=reporter.counter("scans"))
    )
    if options.file is None:
        print(text, end="")
    else:
        write_text(options.file, text)
    return 0
