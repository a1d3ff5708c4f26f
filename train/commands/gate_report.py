"""The verbs `gate-report` and `gate-study` of `edge-train`: what a gate refuses, and what it costs."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from edge.system.progress import Reporter
from train.bounds import read_bounds
from train.dataset import read_labels
from train.recipe import AMP_HELP, AMPS, GateRecipe, parse_size

if TYPE_CHECKING:
    from train.gate.foreign_sets import ForeignImage


def gate_report(options: argparse.Namespace, reporter: Reporter) -> int:
    """Judge scans and foreign images by a run's gate; prints the path of the report."""
    from train.gate.findings import find
    from train.gate.report import write_report

    rows = read_labels(options.data)
    findings = find(options.run, rows, foreign_images(options)(), reporter, options.device)
    write_report(findings, options.out, _command())
    print(options.out / "gate_report.md")
    return 0


def gate_study(options: argparse.Namespace, reporter: Reporter) -> int:
    """Train and report at several resolutions; prints the path of the table."""
    from train.papers.gate_study import study

    recipe = GateRecipe(
        size=parse_size(options.size),
        rotate=False,  # a quarter of a full-size scan has no room for a patch at any angle
        steps=options.steps,
        settle_steps=options.settle_steps,
        batch=options.batch,
        lr=options.lr,
        amp=options.amp,
        seed=options.seed,
    )
    bounds = None if options.bounds is None else read_bounds(options.bounds)
    study(
        options.data,
        read_labels(options.test),
        foreign_images(options),
        options.out,
        recipe,
        options.reductions,
        reporter,
        bounds=bounds,
        device=options.device,
        jobs=options.jobs,
        command=_command(),
    )
    print(options.out / "gate_study.md")
    return 0


def foreign_images(options: argparse.Namespace) -> Callable[[], Iterable[ForeignImage]]:
    """The images that are no scans, as the options name them; drawn anew at every call."""
    from train.gate.foreign_sets import drawn, of_folder

    def images() -> Iterator[ForeignImage]:
        return chain(
            drawn(options.drawn, options.seed, options.jobs), chain.from_iterable(map(of_folder, options.foreign))
        )

    return images


VERBS = {"gate-report": gate_report, "gate-study": gate_study}


def add_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of these verbs."""
    recipe = GateRecipe()
    verb = verbs.add_parser("gate-report", help="what a gate refuses: anomalies by kind, foreign images, normal scans")
    verb.add_argument("run", type=Path, metavar="RUN", help="folder with gate.pt")
    verb.add_argument("data", type=Path, metavar="DATA", help="labelled scans of bundles that it has not learnt from")
    _common(verb)
    verb = verbs.add_parser("gate-study", help="the gate at full, half and quarter resolution: detection beside time")
    verb.add_argument("data", type=Path, metavar="DATA", help="labelled scans to learn from")
    verb.add_argument("test", type=Path, metavar="TEST", help="labelled scans of other bundles")
    verb.add_argument("--bounds", type=Path, help="bounds.json (default: found in the training bundles)")
    verb.add_argument("--size", default="2000x1000", metavar="HxW", help="of the image, px (default %(default)s)")
    verb.add_argument(
        "--reductions",
        type=int,
        nargs="+",
        choices=(1, 2, 4),
        default=(1, 2, 4),
        metavar="R",
        help="of 1, 2 and 4, those to try (default: all)",
    )
    verb.add_argument("--steps", type=int, default=recipe.steps, help="batches of patches (default %(default)s)")
    verb.add_argument("--settle-steps", type=int, default=recipe.settle_steps, help="the last ones, without dropout")
    verb.add_argument("--batch", type=int, default=recipe.batch, help="patches per step")
    verb.add_argument("--lr", type=float, default=recipe.lr, help="greatest learning rate (default %(default)s)")
    verb.add_argument(
        "--amp",
        choices=AMPS,
        default=recipe.amp,
        help=AMP_HELP,
    )
    _common(verb)


def _common(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the report")
    verb.add_argument(
        "--foreign", type=Path, nargs="+", default=[], metavar="DIR", help="folders of images that are no scans"
    )
    verb.add_argument("--drawn", type=int, default=30, help="images drawn of every foreign kind (default %(default)s)")
    verb.add_argument("--seed", type=int, default=0, help="of what is drawn")
    verb.add_argument("--device", default="cpu", help="cpu or cuda (default %(default)s)")
    verb.add_argument("--jobs", type=int, default=1, help="processes that draw (default %(default)s)")


def _command() -> str:
    return shlex.join(["edge-train", *sys.argv[1:]])
