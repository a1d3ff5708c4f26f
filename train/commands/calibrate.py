"""`edge-train calibrate`: set threshold and review band on lots held back."""

from __future__ import annotations

import argparse

from edge.system.progress import Reporter
from train.commands.options import TRAINS, Verbs, add_command, add_data
from train.dataset import read_labels


def add_to(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    verb = add_command(
        verbs,
        "calibrate",
        "set threshold and review band of a classifier on lots held back",
        calibrate,
        description="Refuses scans and lots it has learnt from, and fewer lots than the band's level needs. Both"
        " travel in the model: run it before edge-export.",
        examples=(
            "edge-train calibrate run held-back --alpha 0.05",
            "edge-train calibrate run held-back --miss-cost 50",
        ),
        exits=TRAINS,
    )
    add_data(verb, "run", "folder with classifier.pt, which is written again")
    add_data(verb, about="labelled scans that it has not learnt from")
    verb.add_argument(
        "--alpha", type=float, metavar="X", help="level of the review band, such as 0.05 (default: no band)"
    )
    wish = verb.add_mutually_exclusive_group()
    wish.add_argument(
        "--miss-cost",
        type=float,
        metavar="X",
        help="cost of a missed abnormal scan, in false alarms (default: best balanced accuracy)",
    )
    wish.add_argument(
        "--max-escape-rate",
        type=float,
        metavar="X",
        help="greatest share of abnormal scans called normal (default: not limited)",
    )
    verb.add_argument(
        *("--check-lots", "--check-bundles"),
        metavar="NAME,...",
        help="lots on which coverage is measured (default: the last)",
    )


def calibrate(options: argparse.Namespace, reporter: Reporter) -> int:
    """Set threshold and review band of a run; prints what was found and the path of the full figures."""
    from train.checkpoint import CALIBRATION_REPORT
    from train.classifier.calibrate import Wish, sentences
    from train.classifier.calibrate import calibrate as find

    wish = Wish(options.alpha, options.miss_cost, options.max_escape_rate)
    checked = [name for name in (options.check_lots or "").split(",") if name]
    found = find(options.run, read_labels(options.data), checked, wish, reporter)
    print("\n".join(sentences(found)))
    print(options.run / CALIBRATION_REPORT)
    return 0
