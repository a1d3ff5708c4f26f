"""`edge-worker`: run the line, replay a folder, check an installation, resend what a broker lost."""

from __future__ import annotations

import argparse
import logging
import math
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import __version__
from edge.errors import BundleError, EdgeError, SettingsError
from edge.settings import Settings, load_settings, service_environment
from edge.system.logs import configure_logging
from edge.system.signals import stop_signals_held

if TYPE_CHECKING:
    from edge.validation.cost import Prices

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; errors become one line of what and one of what to try, and an exit code of sysexits.h."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings(options.config, _flags(options))
        configure_logging(settings.log.level, settings.log.format)
        return _run(options, settings)
    except EdgeError as error:
        print(f"edge-worker: {error.message}\n  try: {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output left, as `| head` does; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        log.critical("edge-worker ended by a defect", exc_info=True)
        print(f"edge-worker: {type(error).__name__}: {error}\n  try: report this with the log above", file=sys.stderr)
        return EdgeError.exit_code


def _run(options: argparse.Namespace, settings: Settings) -> int:
    # Imported here so that `--version` and a wrong setting answer at once.
    if options.replay is not None:
        from edge.validation.reliability import Plant
        from edge.validation.replay import ReplayOptions, replay
        from edge.validation.replay_publish import publishing, replay_settings

        if options.publish:
            settings = replay_settings(settings)
        replay_options = ReplayOptions(
            folder=options.replay,
            labels=options.labels,
            out=options.out,
            publish=options.publish,
            requirements=tuple(options.require),
            plant=Plant(options.defect_rate, options.prices),
        )
        return replay(replay_options, settings, partial(publishing, settings))
    if options.check:
        from edge.daemon.check import check

        return check(settings, tune_engine=options.tune)
    if options.build_engine:
        from edge.engines.tensorrt.open import build
        from edge.pipeline.loaded_model import plan_settings, verified_bundle
        from edge.system.privilege import refuse_root

        plans = plan_settings(settings)
        refuse_root((plans.folder, plans.key_file.parent), "edge-worker --build-engine")
        print(build(verified_bundle(settings.model), plans, max_batch=settings.model.max_batch))
        return 0
    if options.resend is not None:
        from edge.store.ledger import request_resend

        request_resend(settings.state.ledger, options.resend)
        print(f"verdicts sent since {options.resend.isoformat()} will be sent again with the same bytes")
        return 0
    if options.backup is not None:
        from edge.store.backup import back_up

        print(back_up(settings.state.ledger, settings.station, options.backup))
        return 0
    if options.restore is not None:
        from edge.store.backup import restore

        print(restore(settings.state.ledger, settings.station, options.restore, options.next_seq))
        return 0
    if options.accept_older_model:
        from edge.model.history import accept_older
        from edge.pipeline.loaded_model import verified_bundle

        print(accept_older(verified_bundle(settings.model), settings.state.dir, datetime.now(UTC)))
        return 0
    return _run_line(settings)


def _run_line(settings: Settings) -> int:
    with stop_signals_held():  # before the libraries are imported that start threads
        from edge.daemon.app import run_app
        from edge.model.history import refuse_older
        from edge.mqtt.start_refused import say_model_refused
        from edge.pipeline.loaded_model import open_model, verified_bundle

        try:
            bundle = verified_bundle(settings.model)
            refuse_older(bundle, settings.state.dir)
            return run_app(settings, service_environment(), open_model(settings, bundle))
        except BundleError as error:
            say_model_refused(settings, error)
            raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-worker",
        description="Judges 16-bit X-ray scans of electrodes as the station writes them and publishes verdicts "
        "over MQTT. Without a mode it runs until it is told to stop.",
        epilog="Every setting of the file can also be given as environment variable EDGE_SECTION__KEY.",
    )
    parser.add_argument("--config", type=_path, metavar="FILE", help="settings file (TOML)")
    parser.add_argument("--bundle", type=_path, metavar="DIR", help="model bundle, instead of the settings' one")
    parser.add_argument("--trusted-key", type=_path, metavar="PEM", help="public key the bundle must be signed with")
    parser.add_argument(
        "--version", action="version", version=f"edge-worker {__version__} (Python {platform.python_version()})"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--replay", type=_path, metavar="DIR", help="judge the files of a folder and write a report")
    mode.add_argument("--check", action="store_true", help="look at settings, model, folder, disk and broker")
    parser.add_argument("--tune", action="store_true", help="with --check: find the faster engine of the CPU")
    mode.add_argument(
        "--build-engine", action="store_true", help="build the TensorRT engine for this machine's GPU, if it has none"
    )
    mode.add_argument(
        "--resend",
        type=_moment,
        metavar="SINCE",
        help="send verdicts again that were sent since then: 2026-03-01T06:00, or an age such as 90m, 12h, 7d",
    )
    mode.add_argument("--backup", type=_path, metavar="FILE", help="copy the ledger there; the worker may keep running")
    mode.add_argument("--restore", type=_path, metavar="FILE", help="begin with the ledger of a backup")
    mode.add_argument(
        "--accept-older-model",
        action="store_true",
        help="let the bundle of the settings run although a newer one has run here",
    )
    parser.add_argument(
        "--next-seq",
        type=int,
        metavar="N",
        help="with --restore: number verdicts from N on, one more than the highest `seq` the MES has",
    )
    replay = parser.add_argument_group("with --replay")
    replay.add_argument("--labels", type=_path, metavar="CSV", help="columns file,bundle,label")
    replay.add_argument("--out", type=_path, metavar="DIR", help="where results go (default: replay-<folder>)")
    replay.add_argument("--publish", action="store_true", help="publish the verdicts too, marked as simulated")
    replay.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="RULE",
        help="fail unless it holds, such as 'balanced_accuracy>=0.9'; may be repeated",
    )
    replay.add_argument(
        "--defect-rate",
        type=_share,
        metavar="SHARE",
        help="the plant's share of defective electrodes, such as 0.02: adds escapes in ppm and the value of `normal`",
    )
    replay.add_argument(
        "--prices",
        type=_prices,
        metavar="ESCAPE,OVERKILL,REVIEW",
        help="what each costs, such as 500,10,1: adds the expected cost and its curve; needs --defect-rate",
    )
    return parser


def _flags(options: argparse.Namespace) -> dict[str, Any]:
    replay_only = {"labels": options.labels, "out": options.out, "publish": options.publish, "require": options.require}
    replay_only |= {"defect-rate": options.defect_rate, "prices": options.prices}
    if options.tune and not options.check:
        raise SettingsError("--tune given without --check", hint="measure with: edge-worker --check --tune")
    if options.prices is not None and options.defect_rate is None:
        raise SettingsError("--prices given without --defect-rate", hint="add the plant's own: --defect-rate 0.02")
    if options.replay is None and any(replay_only.values()):
        given = ", ".join(f"--{name}" for name, value in replay_only.items() if value)
        raise SettingsError(f"{given} given without --replay", hint="name the folder: --replay DIR")
    if options.next_seq is not None and options.restore is None:
        raise SettingsError("--next-seq given without --restore", hint="name the backup: --restore FILE")
    model = {"bundle": options.bundle, "trusted_key": options.trusted_key}
    chosen = {key: value for key, value in model.items() if value is not None}
    return {"model": chosen} if chosen else {}


def _path(text: str) -> Path:
    """Not the working directory where a script's variable was not set."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


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


def _moment(text: str) -> datetime:
    """A point in time (local unless it names a zone) or an age."""
    units = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
    try:
        if text[-1:] in units and text[:-1].isdigit():
            return datetime.now(UTC) - int(text[:-1]) * units[text[-1]]
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):  # the latter: before the first day of the calendar
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is neither a time like 2026-03-01T06:00 nor an age like 12h"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
