"""`edge-train VERB`: from scans to checkpoints, and how good they are.

Each verb is a module of `train.commands`, which imports torch only when it runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from edge.system.command import new_parser, run_program
from train.commands import (
    ablation,
    across,
    adapt,
    bounds,
    calibrate,
    crossval,
    doctor,
    fine_tune,
    fit_features,
    gate,
    gate_benchmark,
    gate_filter,
    gate_report,
    gate_study,
    patches,
    pretrain,
    simulate,
    transfer,
)
from train.commands.options import TRAIN_EXITS, run_command

PROGRAM: Final = "edge-train"
WORK: Final = (
    doctor,
    simulate,
    pretrain,
    bounds,
    crossval,
    fit_features,
    fine_tune,
    gate,
    gate_filter,
    gate_report,
    calibrate,
    adapt,
)
"""Verbs in the order of work."""
PAPERS: Final = (ablation, across, gate_study, gate_benchmark, patches, transfer)
"""Verbs that repeat what papers and the documents report."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    return run_program(PROGRAM, lambda: run_command(parser().parse_args(arguments)))


def parser() -> argparse.ArgumentParser:
    """The command line of `edge-train`."""
    program = new_parser(
        PROGRAM,
        "Trains the two networks of the line on labelled scans, and says how good they are. DATA is a folder with"
        " labels.csv, or folders LOT/LABEL of scans. edge-export makes a model of what was trained.",
        examples=(
            "edge-train doctor scans",
            "edge-train fit-features scans --out run",
            "edge-train gate scans --out run",
            "edge-train calibrate run held-back --alpha 0.05",
        ),
        exits=TRAIN_EXITS,
    )
    verbs = program.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in (*WORK, *PAPERS):
        verb.add_to(verbs)
    return program


if __name__ == "__main__":
    sys.exit(main())
