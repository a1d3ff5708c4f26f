"""`edge-worker`: run the line, check an installation, replay a folder, resend what a broker lost."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge import __version__
from edge.errors import RequestError, SettingsError
from edge.reports import commands as reports
from edge.settings import DEFAULT_FILE, Settings, load_settings, service_environment, settings_to_tell, usual_file
from edge.system.command import (
    EXITS,
    add_config,
    add_file,
    add_folder,
    add_verb,
    as_typed,
    moment,
    new_parser,
    run_service,
    start_log,
)
from edge.system.logs import event
from edge.system.privilege import refuse_root
from edge.system.signals import hold_stop_signals, stop_ends_process
from edge.system.values import MAX_SEQ
from edge.validation import commands as validation

log = logging.getLogger(__name__)

PROGRAM = "edge-worker"
OLD_FLAGS = {
    "--tune": ("model", "tune"),
    "--check": ("check",),
    "--replay": ("replay",),
    "--resend": ("resend",),
    "--backup": ("backup",),
    "--restore": ("restore",),
    "--build-engine": ("model", "build"),
    "--accept-older-model": ("model", "accept-older"),
}
"""Aliases: what each flag of an earlier command line says today."""
BEFORE_VERB = {"--config", "--model", "--bundle", "--trusted-key"}
"""Options with a value that may stand before a verb."""
CHECK_EXITS = {0: "nothing fails, though it may warn", 78: "something fails"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_service(PROGRAM, _run, arguments, service_environment())


def in_verbs(words: Sequence[str]) -> list[str]:
    """The command line with verbs: an old flag becomes its verb, and no verb at all means `run`."""
    for flag, verb in OLD_FLAGS.items():
        for at, word in enumerate(words):
            if word == flag or word.startswith(f"{flag}="):
                value = [word.partition("=")[2]] if "=" in word else []
                rest = [*words[:at], *value, *words[at + 1 :]]
                if flag == "--tune" and "--check" in rest:  # the two were one mode
                    rest.remove("--check")
                return [*verb, *rest]
    index = 0
    while index < len(words) and words[index].startswith("-"):
        index += 2 if words[index] in BEFORE_VERB else 1
    asks_of_program = any(
        word.partition("=")[0] in ("-h", "--help", "--version", "--print-completion") for word in words
    )
    return list(words) if index < len(words) or asks_of_program else ["run", *words]


def _run(words: Sequence[str]) -> int:
    options = _parser().parse_args(in_verbs(words))
    if options.verb == "init":
        return _init(options)
    if options.verb == "study":
        return validation.study(options)
    config, overrides = getattr(options, "config", None) or usual_file(), _overrides(options)
    try:
        settings = load_settings(config, overrides)
    except SettingsError as error:
        if options.verb == "run" and (known := settings_to_tell(config, overrides)) is not None:
            _tell_start_refused(known, error)
        raise
    start_log(PROGRAM, settings.log, service_environment())
    verb = options.verb if options.verb != "model" else f"model {options.model_verb}"
    if verb != "run":  # which logs it
        print(f"settings: {settings.origin}", file=sys.stderr)
    if verb not in ("replay", "qualify"):
        try:
            refuse_root(_written_folders(verb, settings), as_typed(PROGRAM, words))
        except SettingsError as error:
            if verb == "run":
                _tell_start_refused(settings, error)
            raise
    return _VERBS[verb](options, settings)


def _tell_start_refused(settings: Settings, error: SettingsError) -> None:
    from edge.mqtt.start_refused import tell_start_refused

    tell_start_refused(settings, error)


def _written_folders(verb: str, settings: Settings) -> tuple[Path, ...]:
    if verb == "model build":
        from edge.pipeline.loaded_model import plan_settings

        plans = plan_settings(settings)
        return (plans.folder, plans.key_file.parent)
    return (settings.state.dir,)


# Each verb imports its own, so that `--version` and a wrong setting answer at once.


def _init(options: argparse.Namespace) -> int:
    from edge.daemon.init import QUESTIONS, write_settings

    given = {question.option: getattr(options, question.option.replace("-", "_")) for question in QUESTIONS}
    answers = {option: None if value is None else str(value) for option, value in given.items()}
    print(write_settings(getattr(options, "config", DEFAULT_FILE), answers, replace=options.replace))
    return 0


def _check(options: argparse.Namespace, settings: Settings) -> int:
    from edge.daemon.check import check

    return check(settings, probe=options.probe)


def _run_line(_: argparse.Namespace, settings: Settings) -> int:
    with hold_stop_signals():  # before the libraries are imported that start threads
        from edge.mqtt.start_refused import report_start_refusal

        with stop_ends_process(), report_start_refusal(settings):
            event(log.info, "starting", version=__version__, station=settings.station, settings=settings.origin)
            from edge.daemon.app import run_app
            from edge.model.history import refuse_older
            from edge.pipeline.loaded_model import LoadedModel, open_model, read_trusted_model

        def load() -> LoadedModel:
            model = read_trusted_model(settings.model)
            refuse_older(model, settings.state.dir)
            return open_model(settings, model)

        return run_app(settings, service_environment(), load)


def _resend(options: argparse.Namespace, settings: Settings) -> int:
    from edge.store.reader import LedgerReader
    from edge.store.requests import RequestKind, ResendRequest, leave

    try:
        request = ResendRequest(since=options.since, numbers=options.seq, verdict_id=options.verdict)
    except ValueError:  # each option was checked when it was parsed: what is left is how many are given
        raise SettingsError(
            "say one thing to send again: SINCE, --seq or --verdict",
            hint="edge-worker resend 12h, edge-worker resend --seq 12-15, edge-worker resend --verdict VERDICT_ID",
        ) from None
    with LedgerReader(settings.state.ledger) as ledger:
        count, held = ledger.sendable(request), ledger.held()
    holds = "no message" if held is None else f"messages {held[0]} to {held[1]}"
    if not count and request.since is None:
        raise RequestError(
            f"{request}: nothing to send again, the ledger holds {holds}",
            hint="what was sent is pruned after `state.keep_days`, and another `ledger_id` numbers anew: what the MES "
            "lacks and the ledger has not can only be inspected again",
        )
    if count:
        leave(settings.state.dir, RequestKind.RESEND, request)
    print(f"{request}: {count} will be sent again with the same bytes; the ledger holds {holds}")
    return 0


def _backup(options: argparse.Namespace, settings: Settings) -> int:
    from edge.store.backup import back_up

    print(back_up(settings.state.ledger, settings.station, options.file))
    return 0


def _restore(options: argparse.Namespace, settings: Settings) -> int:
    from edge.contract.messages import Kind, Topics
    from edge.store.backup import restore

    topic = Topics.of_station(settings).of(Kind.VERDICT)
    print(restore(settings.state.ledger, settings.station, options.file, options.next_seq, topic))
    return 0


def _model_show(_: argparse.Namespace, settings: Settings) -> int:
    from edge.model.history import newest_model
    from edge.pipeline.loaded_model import read_trusted_model

    model = read_trusted_model(settings.model)
    policy, newest = model.policy(), newest_model(settings.state.dir)
    band = "none" if policy.review_band is None else "{:.4g} to {:.4g}".format(*policy.review_band)
    rows = {
        "model": model.model_id,
        "digest": model.digest,
        "made": model.manifest.created_at.isoformat(),
        "signed by": model.signed_by,
        "directory": settings.model.dir,
        "images": f"{model.size.height_px} x {model.size.width_px} px, {model.channels} channels",
        "conversion": model.method.value,
        "threshold": f"{policy.threshold:.4g}, review band {band}",
        "gate": f"mean up to {policy.gate_mean_threshold:.4g}, deviation up to {policy.gate_std_threshold:.4g}",
        "newest run here": "none yet" if newest is None else f"{newest.model_id} of {newest.created_at.isoformat()}",
    }
    for name, value in rows.items():
        print(f"{name:<16} {value}")
    return 0


def _model_build(_: argparse.Namespace, settings: Settings) -> int:
    from edge.engines.tensorrt.open import build
    from edge.pipeline.loaded_model import plan_settings, read_trusted_model

    plans = plan_settings(settings)
    print(build(read_trusted_model(settings.model), plans, max_batch=settings.model.max_batch))
    return 0


def _model_tune(_: argparse.Namespace, settings: Settings) -> int:
    from edge.daemon.check import check

    return check(settings, tune_engine=True)


def _model_accept_older(_: argparse.Namespace, settings: Settings) -> int:
    from edge.model.history import accept_older
    from edge.pipeline.loaded_model import read_trusted_model

    print(accept_older(read_trusted_model(settings.model), settings.state.dir, datetime.now(UTC)))
    return 0


_VERBS = {
    "check": _check,
    "run": _run_line,
    "report": reports.report,
    "show": reports.show,
    "export": reports.export,
    "replay": validation.replay,
    "qualify": validation.qualify,
    "resend": _resend,
    "backup": _backup,
    "restore": _restore,
    "model show": _model_show,
    "model build": _model_build,
    "model tune": _model_tune,
    "model accept-older": _model_accept_older,
}


def _parser() -> argparse.ArgumentParser:
    parser = new_parser(
        PROGRAM,
        "Judges 16-bit X-ray scans of electrodes as the station writes them and publishes verdicts over MQTT. "
        "Without a verb it runs until it is told to stop. Every setting of the file can also be given as environment "
        "variable EDGE_SECTION__KEY. `--check`, `--replay DIR`, `--resend` and others are aliases of verbs.",
        examples=(
            "edge-worker init",
            "edge-worker check",
            "edge-worker",
            "edge-worker replay scans --labels labels.csv",
        ),
        exits=(65, 75, 78, 129),
    )
    _add_common(parser)
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_common(common)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_init(verbs)
    check = add_verb(
        verbs,
        "check",
        "look at settings, model, folder, disk and broker before the line runs",
        description="Judges and keeps nothing, and publishes nothing but what --probe sends.",
        examples=(
            "edge-worker check",
            "edge-worker check --probe",
            "edge-worker check --model /var/lib/edge-worker/model.new",
        ),
        exits=CHECK_EXITS,
        parents=[common],
    )
    check.add_argument(
        "--probe",
        action="store_true",
        help="send a message of schema probe/1 to each topic of the station, not retained, and say what the broker "
        "answers: finds an access list (default: send nothing)",
    )
    add_folder(
        check,
        "--qualification",
        about="record of `qualify` to hold against what would run here (default: `model.qualification`)",
    )
    add_verb(
        verbs,
        "run",
        "judge scans until SIGTERM or SIGHUP; a second SIGTERM does not wait for the drain",
        examples=("edge-worker run", "edge-worker --config ./edge.toml"),
        exits=(75, 78, 129),
        parents=[common],
    )
    reports.add_verbs(verbs, common)
    validation.add_verbs(verbs, common)
    resend = add_verb(
        verbs,
        "resend",
        "send messages again, with the same bytes: since a time, of a gap in `seq`, or one verdict",
        description="For what the broker or the MES lost. The worker may keep running.",
        examples=(
            "edge-worker resend --seq 12-15",
            "edge-worker resend 12h",
            "edge-worker resend 2026-03-01T06:00",
            "edge-worker resend --verdict fc25416784fbb21c4b30632bb0e2acdb",
        ),
        exits={65: "the ledger holds none of these messages", 78: EXITS[78]},
        parents=[common],
    )
    resend.add_argument(
        "since",
        type=moment,
        metavar="SINCE",
        nargs="?",
        help="what was decided, or first sent, since 2026-03-01T06:00 (local time, or with a zone), or an age: 90m, "
        "12h, 7d (default: see --seq)",
    )
    resend.add_argument(
        "--seq", type=_numbers, metavar="FIRST-LAST", help="these numbers, both included, such as 12-15 (default: none)"
    )
    resend.add_argument("--verdict", type=_verdict_id, metavar="ID", help="this verdict (default: none)")
    backup = add_verb(
        verbs,
        "backup",
        "copy the ledger, verified; the worker may keep running",
        examples=("edge-worker backup /var/backups/edge-worker-2026-03-01.sqlite",),
        exits=(78,),
        parents=[common],
    )
    add_file(backup, "file", about="the copy; must not exist yet")
    restore = add_verb(
        verbs,
        "restore",
        "begin with the ledger of a backup; the worker must be stopped",
        examples=("edge-worker restore /var/backups/edge-worker-2026-03-01.sqlite --next-seq 1000",),
        exits=(78,),
        parents=[common],
    )
    add_file(restore, "file", about="the backup")
    restore.add_argument(
        "--next-seq",
        type=_number,
        metavar="N",
        help="number verdicts from N on: one more than the highest `seq` the MES has; at least the backup's own next "
        "(default: go on after the backup, under a new ledger_id)",
    )
    _add_model(verbs, common)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Options of the program and of each verb; without a default, so that a verb does not undo what stood before it."""
    add_config(parser, f"settings file, TOML (default: {DEFAULT_FILE} where it is there)")
    add_folder(
        parser,
        "--model",
        "--bundle",
        dest="model_dir",
        about="directory of the signed model (default: `model.dir` of the settings)",
        default=argparse.SUPPRESS,
    )
    add_file(
        parser,
        "--trusted-key",
        metavar="PEM",
        about="public key the model must be signed with (default: `model.trusted_key` of the settings)",
        default=argparse.SUPPRESS,
    )


def _add_init(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    init = add_verb(
        verbs,
        "init",
        "ask for the five values of an installation and write its settings file",
        description="What no option gives is asked on standard input, one line each; an empty line takes the default.",
        examples=(
            "edge-worker init",
            "edge-worker init --station xray-1 --folder /srv/xray/scans --broker mes.example.com "
            "--topic acme/lyon/coating/line-2 --trusted-key /etc/edge-worker/trusted",
        ),
        exits={78: "a value is refused, or the file exists"},
    )
    add_config(init, f"settings file to write (default: {DEFAULT_FILE})")
    init.add_argument("--station", metavar="NAME", help="name of this station, one level of the topic (default: asked)")
    add_folder(init, "--folder", about="folder the station writes its scans into (default: asked)")
    init.add_argument("--broker", metavar="HOST", help="name or address of the MQTT broker (default: asked)")
    init.add_argument(
        "--topic", metavar="ROOT/SITE/AREA/LINE", help="the line's topic, before the station (default: asked)"
    )
    add_file(init, "--trusted-key", metavar="PEM", about="public key of signed models, or a folder (default: asked)")
    init.add_argument("--replace", action="store_true", help="write over an existing file (default: refuse)")


def _add_model(verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    model = add_verb(
        verbs,
        "model",
        "show the model, prepare its engine, or go back to an older one",
        examples=("edge-worker model show", "edge-worker model tune"),
        exits=(78,),
    )
    verbs = model.add_subparsers(dest="model_verb", metavar="VERB", required=True)
    add_verb(
        verbs,
        "show",
        "verify the model's signature and say what it is",
        examples=("edge-worker model show --model /var/lib/edge-worker/model.new",),
        exits=(78,),
        parents=[common],
    )
    add_verb(
        verbs,
        "build",
        "build the TensorRT engine for this machine's GPU, if it has none",
        description="Takes minutes.",
        examples=("edge-worker model build",),
        exits=(78,),
        parents=[common],
    )
    add_verb(
        verbs,
        "tune",
        "measure which engine of the CPU is faster, then check",
        examples=("edge-worker model tune",),
        exits=CHECK_EXITS,
        parents=[common],
    )
    add_verb(
        verbs,
        "accept-older",
        "let the model run although a newer one has run here",
        description="Logged, and kept in the state directory.",
        examples=("edge-worker model accept-older",),
        exits=(78,),
        parents=[common],
    )


def _numbers(text: str) -> tuple[int, int]:
    """`12-15`, or a single number."""
    first, _, last = text.partition("-")
    try:
        numbers = _number(first), _number(last or first)
    except argparse.ArgumentTypeError:
        numbers = 1, 0
    if numbers[0] > numbers[1]:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no span of numbers: expected FIRST-LAST, such as 12-15")
    return numbers


def _number(text: str) -> int:
    """A sequence number."""
    if re.fullmatch(r"[0-9]{1,16}", text) is None or not 1 <= int(text) <= MAX_SEQ:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no sequence number: expected 1 to {MAX_SEQ}")
    return int(text)


def _verdict_id(text: str) -> str:
    if re.fullmatch(r"[0-9a-f]{32}", text) is None:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no verdict_id: expected 32 digits 0 to 9, a to f")
    return text


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    """What the options say in place of the settings, nested like these."""
    model = {
        "dir": getattr(options, "model_dir", None),
        "trusted_key": getattr(options, "trusted_key", None),
        "qualification": getattr(options, "qualification", None),
    }
    chosen = {key: value for key, value in model.items() if value is not None}
    return {"model": chosen} if chosen else {}


if __name__ == "__main__":
    sys.exit(main())
