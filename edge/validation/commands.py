"""The verbs that test a model: their options, and what each runs. Imports nothing heavy before a verb runs."""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import SettingsError
from edge.settings import Settings
from edge.system.command import EXITS, add_file, add_folder, add_verb, completes_folders, count, path

if TYPE_CHECKING:
    from edge.validation.cost import Prices


def add_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add `replay`, `qualify` and `study`."""
    _add_replay(verbs, common)
    _add_qualify(verbs, common)
    _add_study(verbs)


def replay(options: argparse.Namespace, settings: Settings) -> int:
    """Run `replay`; its exit code. Raises EdgeError."""
    from edge.validation import replay as replaying
    from edge.validation.detection import SizeScale
    from edge.validation.reliability import Plant
    from edge.validation.replay_publish import publishing, replay_settings
    from edge.validation.workers import Workers

    if options.prices is not None and options.defect_rate is None:
        raise SettingsError("--prices given without --defect-rate", hint="add the plant's own: --defect-rate 0.02")
    if options.publish:
        settings = replay_settings(settings)
    replay_options = replaying.ReplayOptions(
        folder=options.folder,
        labels=options.labels,
        out=options.out,
        publish=options.publish,
        requirements=tuple(options.require),
        plant=Plant(options.defect_rate, options.prices),
        size_scale=SizeScale(options.size_scale),
        against=options.against,
        workers=Workers(options.jobs, options.ray),
    )
    return replaying.replay(replay_options, settings, partial(publishing, settings))


def qualify(options: argparse.Namespace, settings: Settings) -> int:
    """Run `qualify`; its exit code. Raises EdgeError."""
    from edge.validation import qualify as qualifying
    from edge.validation.workers import Workers

    qualify_options = qualifying.QualifyOptions(
        folder=options.folder,
        plan=options.plan,
        labels=options.labels,
        out=options.out,
        signing_key=options.signing_key,
        fix=options.fix,
        workers=Workers(options.jobs),
    )
    return qualifying.qualify(qualify_options, settings)


def study(options: argparse.Namespace) -> int:
    """Run `study`, which needs no settings; its exit code. Raises SettingsError, TableError."""
    from edge.validation.detection import SizeScale
    from edge.validation.study import StudyOptions, study_json, study_lines
    from edge.validation.study import study as measure

    found = measure(
        StudyOptions(
            table=options.table,
            size=options.size,
            found=options.found,
            response=options.response,
            decision=options.decision,
            floor=-math.inf if options.floor is None else options.floor,
            ceiling=math.inf if options.ceiling is None else options.ceiling,
            size_scale=SizeScale(options.size_scale),
            people=tuple(options.people or ()),
            reference=options.reference,
            defective=options.defective,
            part=options.part,
            count=options.count,
            lot=options.lot,
        )
    )
    print(study_json(found) if options.json else "\n".join(study_lines(found)))
    return 0


def _add_replay(verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    replay = add_verb(
        verbs,
        "replay",
        "judge the files of a folder and write a validation report",
        examples=(
            "edge-worker replay scans",
            "edge-worker replay scans --labels scans/labels.csv --require 'escape_rate_high<=0.01' "
            "--require 'review_rate<=0.05'",
            "edge-worker replay s3://archive/2025 --jobs 16 --out year",
            "edge-worker replay scans --labels scans/labels.csv --model new-model --against /var/lib/edge-worker/model",
        ),
        exits={
            1: "a requirement is not met, or a defect",
            **{code: EXITS[code] for code in (65, 75, 78)},
        },
        parents=[common],
    )
    completes_folders(
        replay.add_argument(
            "folder",
            type=_folder_or_store,
            metavar="DIR",
            help="folder of scans, or the address of one in a store that fsspec reaches, such as s3://bucket/scans",
        )
    )
    add_file(
        replay, "--labels", metavar="CSV", about="columns file,bundle,label (default: none, no figures of accuracy)"
    )
    add_folder(replay, "--out", about="where results go (default: replay-<folder>)")
    replay.add_argument(
        "--publish", action="store_true", help="publish the verdicts too, marked as simulated (default: do not)"
    )
    replay.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="RULE",
        help="fail unless it holds, such as 'escape_rate_bound<=0.05'; may be repeated; docs/qualification.md lists "
        "all figures (default: none)",
    )
    add_folder(
        replay,
        "--against",
        about="another signed model to judge the same files: paired table, McNemar's test, changed decisions "
        "(default: none)",
    )
    _add_jobs(replay)
    replay.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="judge on a Ray cluster, `auto`, `local` or its address; its machines see DIR under the same path "
        "(default: this machine; --jobs: number of workers, default all cores)",
    )
    _add_size_scale(replay)
    replay.add_argument(
        "--defect-rate",
        type=_share,
        metavar="SHARE",
        help="the plant's share of defective electrodes, such as 0.02: adds escapes in ppm and the value of `normal` "
        "(default: not known)",
    )
    replay.add_argument(
        "--prices",
        type=_prices,
        metavar="ESCAPE,OVERKILL,REVIEW",
        help="what each costs, such as 500,10,1: adds the expected cost and its curve; needs --defect-rate "
        "(default: not known)",
    )


def _add_qualify(verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    qualify = add_verb(
        verbs,
        "qualify",
        "test the model by a protocol on a set that was fixed beforehand, and sign the record",
        description="Writes what `replay` writes, and qualification.json, .sig and .html. docs/qualification.md shows "
        "a plan. `check --qualification DIR` says whether a record speaks of what runs here.",
        examples=(
            "edge-worker qualify set --plan plan.toml --fix",
            "edge-worker qualify set --plan plan.toml --out record --signing-key quality.pem",
        ),
        exits={
            0: "qualified, or the set was fixed",
            1: "not qualified, or a defect",
            **{code: EXITS[code] for code in (65, 78)},
        },
        parents=[common],
    )
    add_folder(qualify, "folder", about="folder of the set")
    add_file(
        qualify,
        "--plan",
        metavar="TOML",
        required=True,
        about="the protocol: claims and samples",
    )
    add_file(qualify, "--labels", metavar="CSV", about="labels of the set (default: DIR/labels.csv)")
    _add_jobs(qualify)
    qualify.add_argument(
        "--fix", action="store_true", help="write the digests of the set into the plan, judge nothing (default: judge)"
    )
    add_folder(qualify, "--out", about="where the record goes (default: none, for --fix)")
    add_file(
        qualify,
        "--signing-key",
        metavar="PEM",
        about="private key of `edge-export keygen` that signs the record (default: none, for --fix)",
    )


def _add_study(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    study = add_verb(
        verbs,
        "study",
        "measure probability of detection and agreement from a table, without scans or a model",
        description="Cells are separated by commas, semicolons or tabs; the first line names the columns; what is "
        "empty or says NA is left out.",
        examples=(
            "edge-worker study cracks.csv --size length_mm --found hit --size-scale linear",
            "edge-worker study echoes.csv --size depth_mm --response mV --decision 200 --floor 50 --ceiling 1375",
            "edge-worker study msa.csv --people anna,ben,carla --reference truth --part part --defective NG",
        ),
        exits=(65, 78),
    )
    add_file(study, "table", metavar="TABLE", about="CSV file, a part or a decision a row")
    columns = {
        "--size": "column of sizes, in any unit (default: none, no curve)",
        "--found": "column that says 1, yes, hit, found or 0, no, miss, missed (default: none)",
        "--response": "column of a signal, for signal response; needs --decision (default: none)",
        "--reference": "column of the truth about each part (default: none)",
        "--part": "column that names the part; of one judged more than once all decisions count together for "
        "effectiveness (default: each row is a part of its own)",
        "--count": "column that says how many rows a row stands for (default: one)",
        "--lot": "column that names the lot: intervals over lots beside the others (default: none)",
    }
    for option, about in columns.items():
        study.add_argument(option, metavar="COLUMN", help=about)
    limits = {
        "--decision": "signal from which an anomaly is found (default: none)",
        "--floor": "signals down here or below are censored (default: none are)",
        "--ceiling": "signals up here or above are censored (default: none are)",
    }
    for option, about in limits.items():
        study.add_argument(option, type=float, metavar="SIGNAL", help=about)
    _add_size_scale(study)
    study.add_argument(
        "--people",
        type=lambda text: text.split(","),
        metavar="COLUMN,COLUMN",
        help="columns of what people said, one each: kappas (default: none)",
    )
    study.add_argument(
        "--defective",
        metavar="WORD",
        help="what people say of a defective part (default: NG, bad, abnormal and the like)",
    )
    study.add_argument("--json", action="store_true", help="print JSON, curves included (default: lines of text)")


def _add_size_scale(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--size-scale",
        choices=("log", "linear"),
        default="log",
        help="what curves of detection run over: the logarithm of size, or size itself (default: log)",
    )


def _add_jobs(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--jobs",
        type=count,
        metavar="N",
        help="processes of one core each that judge (default: this process, on the cores of `model.threads`)",
    )


def _folder_or_store(text: str) -> Path | str:
    """A folder, or an address as it is written: a path would lose its slashes."""
    return text if "://" in text else path(text)


def _share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no share: expected a number from 0 to 1")
    return share


def _prices(text: str) -> Prices:
    """Three numbers of at least 0."""
    from edge.validation.cost import Prices

    try:
        escape, overkill, review = (float(price) for price in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not of the form ESCAPE,OVERKILL,REVIEW") from None
    if not all(0 <= price < math.inf for price in (escape, overkill, review)):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: a price is a number of at least 0")
    return Prices(escape, overkill, review)
