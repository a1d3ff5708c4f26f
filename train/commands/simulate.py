"""`edge-train simulate`: write simulated scans and their labels."""

from __future__ import annotations

import argparse

from edge.system.command import count, whole
from edge.system.progress import Reporter
from train.classifier.regions import write_simulated_regions
from train.commands.options import Verbs, add_command, add_jobs, add_out
from train.dataset import read_labels
from train.errors import TrainError
from train.second_simulator.simulate import simulate_lots
from train.simulator.simulate import ABNORMAL_FRACTION, write_lots


def add_to(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    verb = add_command(
        verbs,
        "simulate",
        "write simulated scans and their labels",
        simulate,
        description="Prints the path of the labels. They show that a training runs; they say nothing about real scans.",
        examples=(
            "edge-train simulate --out lot",
            "edge-train simulate --out small --lots 3 --scans-per-lot 8 --scale 0.1 --regions",
        ),
        exits=(),
        needs=(),
    )
    add_out(verb, "an empty folder")
    verb.add_argument(
        "--simulator",
        choices=("first", "second"),
        default="first",
        help="two programs that share nothing (default: first)",
    )
    verb.add_argument(
        *("--lots", "--bundles"), type=count, default=12, metavar="N", help="lots, each of one coating (default: 12)"
    )
    verb.add_argument(
        *("--scans-per-lot", "--scans"), type=count, default=20, metavar="N", help="scans of each lot (default: 20)"
    )
    verb.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="the same seed writes the same scans (default: 0)"
    )
    verb.add_argument(
        *("--first-lot", "--first-bundle"),
        type=int,
        default=1,
        metavar="N",
        help="number of the first lot (default: 1)",
    )
    verb.add_argument(
        "--scale", type=float, default=1.0, metavar="X", help="size relative to full format, 0.05 to 1 (default: 1)"
    )
    verb.add_argument(
        "--abnormal-fraction",
        type=float,
        default=ABNORMAL_FRACTION,
        metavar="X",
        help="share of abnormal scans (default: the paper's, %(default).3f)",
    )
    verb.add_argument(
        "--no-grey-zone",
        action="store_true",
        help="first simulator: draw no severity from 0.30 to 0.55, which makes the task easier (default: draw all;"
        " abnormal is what has an anomaly of 0.425 or more)",
    )
    add_jobs(verb)
    verb.add_argument(
        "--regions", action="store_true", help="also write where the anomalies lie: regions/*.png (default: do not)"
    )


def simulate(options: argparse.Namespace, reporter: Reporter) -> int:
    """Write simulated scans; prints the path of their labels. Raises TrainError for options the simulator lacks."""
    if options.simulator == "second":
        if options.regions or options.first_lot != 1 or options.no_grey_zone:
            raise TrainError(
                "the second simulator writes no regions, counts its lots from 1 and always draws a grey zone",
                hint="leave out --regions, --first-lot and --no-grey-zone, or take --simulator first",
            )
        labels = simulate_lots(
            options.out,
            options.lots,
            options.scans_per_lot,
            scale=options.scale,
            seed=options.seed,
            abnormal_share=options.abnormal_fraction,
            jobs=options.jobs,
            progress=reporter.counter("scans"),
        )
    else:
        labels = write_lots(
            options.out,
            seed=options.seed,
            lots=options.lots,
            scans_per_lot=options.scans_per_lot,
            abnormal_fraction=options.abnormal_fraction,
            first_lot=options.first_lot,
            grey_zone=not options.no_grey_zone,
            scale=options.scale,
            jobs=options.jobs,
            progress=reporter.counter("scans"),
        )
    if options.regions:
        write_simulated_regions(
            options.out,
            read_labels(options.out),
            options.seed,
            reporter.counter("regions"),
            grey_zone=not options.no_grey_zone,
        )
    print(labels)
    return 0
