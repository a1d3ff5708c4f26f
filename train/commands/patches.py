"""`edge-train patches preview`: look at the patches of the gate's weld benchmark."""

from __future__ import annotations

import argparse

from edge.system.command import whole
from edge.system.progress import Reporter
from train.commands.gate_benchmark import add_welds
from train.commands.options import Verbs, add_command, add_out


def add_to(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add the verb, its one action, and its options."""
    summary, example = (
        "look at the patches of the gate's weld benchmark",
        "edge-train patches preview welds --photos photos --out sheets",
    )
    group = add_command(verbs, "patches", summary, patches, examples=(example,), needs=())
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    verb = add_command(
        actions,
        "preview",
        "write contact sheets of every kind of patch",
        patches,
        description="Look at each before a network does.",
        examples=(example,),
        needs=(),
    )
    add_welds(verb)
    add_out(verb, "folder for the sheets")
    verb.add_argument("--seed", type=whole, default=0, metavar="N", help="seed of what is drawn (default: 0)")


def patches(options: argparse.Namespace, reporter: Reporter) -> int:
    """Write contact sheets of every kind of patch; prints their folder."""
    from train.gate.perturb import read_photos
    from train.papers.welds.images import read_welds
    from train.papers.welds.sheets import write_sheets

    photos = read_photos(options.photos)
    paths = write_sheets(read_welds(options.welds), photos, options.out, options.seed, reporter.counter("folds"))
    reporter.say(f"{len(paths)} files; look at each before a network does")
    print(options.out)
    return 0
