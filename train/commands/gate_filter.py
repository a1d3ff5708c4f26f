"""`edge-train gate-filter`: give a gate that was trained without it the filter."""

from __future__ import annotations

import argparse

from edge.system.command import add_file
from edge.system.progress import Reporter
from train.commands.options import TRAINS, Verbs, add_command, add_data, add_out


def add_to(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    verb = add_command(
        verbs,
        "gate-filter",
        "give a gate that was trained without it the filter, and leave all else as it stands",
        gate_filter,
        description="`edge-train gate --filter` does so by itself. The filter is calibrated on the normal scans of the"
        " folder that the gate learnt from; no other folder is taken. Prints the path of the new checkpoint.",
        examples=("edge-train gate-filter scans --gate old/gate.pt --out run",),
        exits=TRAINS,
    )
    add_data(verb)
    add_file(verb, "--gate", about="gate.pt to start from", required=True)
    add_out(verb, "folder for gate.pt", "RUN")


def gate_filter(options: argparse.Namespace, reporter: Reporter) -> int:
    """Write the gate with a filter; prints the path of the checkpoint."""
    from train.gate.training import add_filter

    add_filter(options.data, options.gate, options.out, reporter)
    print(options.out / "gate.pt")
    return 0
