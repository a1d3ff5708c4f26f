"""`edge-train doctor`: what is in a folder of scans, and what is wrong with it."""

from __future__ import annotations

import argparse

from edge.system.command import add_file
from edge.system.progress import Reporter
from train.commands.options import RUNS, Verbs, add_command, add_data
from train.dataset import read_labels, unlabelled_files
from train.runner import Here
from train.survey import survey


def add_to(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    verb = add_command(
        verbs,
        "doctor",
        "look at a folder of scans: what is in it, and what is wrong with it",
        doctor,
        description="Counts, sizes and bounds, leaks between lots, outliers. Exits with 1 where it finds a problem.",
        examples=("edge-train doctor scans", "edge-train doctor scans --plot counts"),
        exits=RUNS,
        needs=("matplotlib",),
    )
    add_data(verb)
    add_file(verb, "--plot", about="also write PATH.png and PATH.svg: counts by lot (default: no plot)", metavar="PATH")


def doctor(options: argparse.Namespace, reporter: Reporter) -> int:
    """Print what is in a folder; 1 if there are problems."""
    from train.doctor import diagnose, histogram_plot

    found_in = survey(read_labels(options.data), Here(), reporter.counter("scans read"), skip_unreadable=True)
    found = diagnose(found_in, *unlabelled_files(options.data))
    print("\n".join(found.lines))
    if options.plot is not None:
        histogram_plot(found_in, options.plot)
    return int(found.problems > 0)
