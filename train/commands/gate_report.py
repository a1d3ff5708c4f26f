"""`edge-train gate-report`: what a gate refuses."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from edge.system.command import add_folder, whole
from edge.system.progress import Reporter
from train.commands.options import (
    TRAINS,
    Verbs,
    add_command,
    add_data,
    add_fields,
    add_jobs,
    add_out,
    command_line,
)
from train.dataset import read_labels
from train.files import clear_results
from train.recipe import GateRecipe

if TYPE_CHECKING:
    from train.gate.foreign_sets import ForeignImage


def add_to(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    verb = add_command(
        verbs,
        "gate-report",
        "count what a gate refuses: anomalies by kind, foreign images, normal scans",
        gate_report,
        description="Prints the path of the report.",
        examples=("edge-train gate-report run other-scans --out report --foreign photographs radiographs",),
        exits=TRAINS,
    )
    add_data(verb, "run", "folder with gate.pt")
    add_data(verb, about="labelled scans of lots that it has not learnt from")
    add_foreign(verb)
    add_fields(verb, GateRecipe(), only=("device", "seed"))


def add_foreign(verb: argparse.ArgumentParser) -> None:
    """Arguments of a report on foreign images."""
    add_out(verb, "folder for the report")
    add_folder(verb, "--foreign", nargs="+", about="folders of images that are no scans (default: none)")
    verb.add_argument(
        "--drawn", type=whole, default=30, metavar="N", help="images drawn of every foreign kind (default: 30)"
    )
    add_jobs(verb, "processes that draw")


def gate_report(options: argparse.Namespace, reporter: Reporter) -> int:
    """Judge scans and foreign images by a run's gate; prints the path of the report."""
    from train.gate.findings import find
    from train.gate.report import write_report

    rows, foreign = read_labels(options.data), foreign_images(options)
    clear_results(options.out, "gate_report.*", "gate_scores.*", "gate_kinds.*")
    findings = find(options.run, rows, foreign(), reporter, options.device)
    write_report(findings, options.out, command_line())
    print(options.out / "gate_report.md")
    return 0


def foreign_images(options: argparse.Namespace) -> Callable[[], Iterable[ForeignImage]]:
    """The images that are no scans, as the options name them; drawn anew at every call.

    Raises DataError, before any is judged, for a folder without images and for one that cannot be read.
    """
    from train.gate.foreign_sets import draw_foreign, of_folder

    folders = options.foreign or ()
    for _ in chain.from_iterable(map(of_folder, folders)):
        pass  # else a broken one would end a report, or a training, that has taken hours

    def images() -> Iterator[ForeignImage]:
        return chain(
            draw_foreign(options.drawn, options.seed, options.jobs),
            chain.from_iterable(map(of_folder, folders)),
        )

    return images
