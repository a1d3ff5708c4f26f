"""`edge-worker check`: would the line run here? A table of ok, warn and fail; the exit code tells of a fail.

Nothing is judged, published or written, save a probe file in the state directory that is removed at once, and with
`--probe` a message to each topic. `edge-worker model tune` measures the engines of the CPU first.
"""

from __future__ import annotations

import grp
import json
import os
import re
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge.contract.messages import Kind, Topics
from edge.engines import EngineSpec, RawEngine
from edge.engines.choose import CPU_ENGINES, Degraded, gpu_is_expected
from edge.engines.tensorrt.device import find_device
from edge.engines.tuning import tune
from edge.errors import EdgeError, EngineError, LedgerBusy, ModelError, PublishError, ScanError
from edge.model.history import refuse_older
from edge.model.qualification import engine_words, read_qualification, void_reasons
from edge.model.signed_model import SignedModel, load_trusted_keys
from edge.mqtt.connection import DIAL_GRACE_S, NO_MATCHING_SUBSCRIBERS, REFUSED, Outgoing, exchange
from edge.pipeline.loaded_model import DEMO_KEY, open_model, read_trusted_model
from edge.pipeline.verdicts import parse_name
from edge.scans.decoder import UNFILTERED_HINT, Decoder
from edge.scans.scan import Limits
from edge.settings import BrokerSettings, Settings
from edge.station.folder import StationFolder
from edge.station.mounts import file_system
from edge.store.ledger import open_ledger
from edge.store.ledger_file import keep_free
from edge.system.names import display_name, finds_again
from edge.system.text import rfc3339

GOOD_SQLITE = (3, 51, 3)
"""Older ones can corrupt a WAL database that two connections write; one writes the ledger, readers cannot."""

CREDENTIALS = Path("/run/credentials")
"""Where systemd shows each running service its secrets, in a folder of the unit's name."""

PROBE = "probe/1"
"""Schema of the message that `--probe` publishes, which a consumer ignores like any other that it does not know."""

GROUP_READS = stat.S_IRGRP | stat.S_IXGRP
"""What the desk's user needs of the folder of evidence."""

EXIT_FAILED = 78
"""EX_CONFIG of sysexits.h, whatever it is that failed."""


class Grade(IntEnum):
    """What a finding means for the line."""

    OK = 0
    WARN = 1
    FAIL = 2


@dataclass(frozen=True, slots=True)
class Finding:
    grade: Grade
    subject: str
    observed: str
    hint: str = ""


def check(settings: Settings, *, tune_engine: bool = False, probe: bool = False) -> int:
    """Look at everything, print the table; 0, with or without warnings, or EXIT_FAILED when anything fails.

    `tune_engine`: first measure which engine of the CPU is faster.
    `probe`: in the end publish a message to each of the station's topics, to find what an access list refuses.
    """
    looks = (_settings, *((_tune,) if tune_engine else ()), *_LOOKS, *((_probe,) if probe else ()))
    findings = [finding for look in looks for finding in _run_look(look, settings)]
    table = Table("", "what", "observed", "try", box=None, pad_edge=False)
    colours = {Grade.OK: "green", Grade.WARN: "yellow", Grade.FAIL: "red"}
    for finding in findings:
        grade = Text(finding.grade.name.lower(), colours[finding.grade])
        table.add_row(grade, finding.subject, finding.observed, finding.hint)
    Console(markup=False, highlight=False).print(table)
    return EXIT_FAILED if any(finding.grade is Grade.FAIL for finding in findings) else 0


def _run_look(look: Callable[[Settings], Iterator[Finding]], settings: Settings) -> Iterator[Finding]:
    try:
        yield from look(settings)
    except EdgeError as error:
        yield Finding(Grade.FAIL, look.__name__.strip("_"), error.message, error.hint)


def _settings(settings: Settings) -> Iterator[Finding]:
    observed = f"station {settings.station}; all keys valid"
    if settings.ignored_variables:
        observed += f"; not ours: {', '.join(settings.ignored_variables)}"
    yield Finding(Grade.OK, "settings", observed)


def _tune(settings: Settings) -> Iterator[Finding]:
    model = read_trusted_model(settings.model)
    tuned = tune(model, threads=settings.model.threads)
    times = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in tuned.seconds.items())
    used = CPU_ENGINES[0] if settings.model.engine == "auto" else settings.model.engine
    hint = "" if tuned.faster == used else f'set `model.engine = "{tuned.faster}"`, unless a GPU is to judge'
    yield Finding(Grade.OK, "tune", f"{tuned.faster} is the faster engine here: {times} per scan", hint)
    for name, reason in tuned.failures.items():
        yield Finding(Grade.WARN, "tune", f"{name} took no part: {reason}", "needed only where it would be faster")


def _model(settings: Settings) -> Iterator[Finding]:
    signed = read_trusted_model(settings.model)
    yield Finding(
        Grade.OK if settings.model.trusted_key else Grade.WARN,
        "model",
        f"{signed.model_id}, {signed.digest[:12]}, signed by {signed.signed_by}",
        "" if settings.model.trusted_key else "no `model.trusted_key` is set: only the demo model runs",
    )
    refuse_older(signed, settings.state.dir)
    started = time.perf_counter()
    model = open_model(settings, signed, may_build=False)
    spec = model.engine.spec
    model.engine.close()
    took_s = time.perf_counter() - started
    grade = Grade.WARN if spec.degraded else Grade.OK
    observed = f"{spec.name} {spec.precision}, batch {spec.max_batch}; golden scans reproduced, {took_s:.1f} s"
    if isinstance(model.engine, Degraded):
        yield Finding(grade, "engine", f"{observed}; degraded: {spec.degraded}", model.engine.hint)
    else:
        yield Finding(grade, "engine", observed)
    yield from _qualification(settings, signed, spec)
    if settings.model.engine in ("auto", "tensorrt") and gpu_is_expected():
        yield from _gpu(isinstance(model.engine, RawEngine))


def _qualification(settings: Settings, model: SignedModel, engine: EngineSpec) -> Iterator[Finding]:
    """Whether the record speaks of what would run here."""
    folder = settings.model.qualification
    if folder is None:
        return
    try:
        record = read_qualification(folder, load_trusted_keys(settings.model.trusted_key or DEMO_KEY))
    except ModelError as error:
        yield Finding(Grade.FAIL, "qualification", error.message, error.hint)
        return
    words = engine_words(engine.name, engine.precision, engine.degraded)
    reasons = void_reasons(record, folder, model, words, settings, datetime.now(UTC))
    if reasons:
        observed = f"void, {record.title}: {'; '.join(reasons)}"
        yield Finding(Grade.FAIL, "qualification", observed, "qualify what runs here, or run what was qualified")
    else:
        until = "" if record.valid_until is None else f", valid until {record.valid_until:%Y-%m-%d}"
        observed = f"{record.title}: {len(record.claims)} requirements met on {record.tested.files_count} scans{until}"
        yield Finding(Grade.OK, "qualification", observed)


def _gpu(converts_there: bool) -> Iterator[Finding]:
    """What a plan depends on: an unattended driver upgrade shows here before the night shift does."""
    try:
        device = find_device()
    except EngineError as error:
        yield Finding(Grade.WARN, "gpu", error.message, error.hint)
        return
    observed = (
        f"{device.gpu}, {device.memory_bytes / 1e9:.0f} GB, compute capability {device.compute_capability}; driver "
        f"{device.driver}, CUDA {device.cuda}, TensorRT {device.tensorrt}; "
        f"scans are converted on the {'GPU' if converts_there else 'CPU'}"
    )
    yield Finding(Grade.OK, "gpu", observed, "" if converts_there else "install nvcc and build the engine again")


def _unpacker(_: Settings) -> Iterator[Finding]:
    decoder = Decoder(Limits())
    try:
        if decoder.is_filtered():
            yield Finding(Grade.OK, "unpacker", "LZW and Deflate: a process with the few system calls it needs")
        else:
            yield Finding(Grade.WARN, "unpacker", "this kernel does not filter its system calls", UNFILTERED_HINT)
    except ScanError as error:
        yield Finding(Grade.FAIL, "unpacker", error.message, error.hint)
    finally:
        decoder.close()


def _folder(settings: Settings) -> Iterator[Finding]:
    folder = settings.folder
    listing = StationFolder(folder.path, done_suffix=folder.done_suffix, recursive=folder.recursive).look(
        {}, expects_scans=False
    )
    if listing.away is not None:
        yield Finding(Grade.FAIL, "folder", f"{folder.path}: {listing.detail}", "check the path, the mount, the rights")
        return
    mount = file_system(folder.path)
    way = "inotify wakes the inbox" if mount.is_local else f"looked at every {folder.poll_s:g} s"
    yield Finding(Grade.OK, "folder", f"{folder.path}: {len(listing.found)} scans; {mount.kind}, {way}")
    yield _names(settings.naming.pattern, [display_name(file) for file, _ in listing.found])
    if folder.after == "move" and folder.move_to is not None:
        real = Path(os.path.realpath(folder.move_to))
        if finds_again(Path(os.path.realpath(folder.path)), real, recursive=folder.recursive):
            observed = f"{folder.move_to} leads to {real}, where the worker looks for new scans"
            yield Finding(Grade.FAIL, "move_to", observed, f"set `move_to` to a folder outside of {folder.path}")
        yield _writable("move_to", folder.move_to)
        if not os.access(folder.path, os.W_OK):
            yield Finding(Grade.FAIL, "folder", f"{folder.path} is read-only", 'needed for `after = "move"`')


def _names(pattern: str, files: list[str]) -> Finding:
    """What the naming expression makes of the scans that are there."""
    if not files:
        return Finding(Grade.OK, "names", "no scan to try `naming.pattern` on")
    parts = {file: parse_name(re.compile(pattern), file) for file in sorted(files)}
    strangers = [file for file, name in parts.items() if name.get("part_id") is None]
    example = strangers[0] if strangers else files[0]
    gives = ", ".join(f"{group}={value}" for group, value in parts[example].items()) or "nothing"
    observed = f"{len(files) - len(strangers)} of {len(files)} fit, for example {example} gives {gives}"
    if not strangers:
        return Finding(Grade.OK, "names", observed)
    grade = Grade.FAIL if len(strangers) == len(files) else Grade.WARN
    return Finding(grade, "names", observed, "write `naming.pattern` for these names: their verdicts name no part")


def _state(settings: Settings) -> Iterator[Finding]:
    state = settings.state
    directory = next(parent for parent in (state.dir, *state.dir.parents) if parent.exists())
    yield _writable("state", directory)
    if (trouble := file_system(directory).state_trouble) is not None:
        yield Finding(Grade.FAIL, "state", f"{directory} is {trouble.message}", trouble.hint)
    free_bytes = shutil.disk_usage(directory).free
    enough = free_bytes >= state.min_free_bytes
    yield Finding(
        Grade.OK if enough else Grade.WARN,
        "disk",
        f"{free_bytes / 1e9:.1f} GB free in {directory}",
        "" if enough else f"expected {state.min_free_bytes / 1e9:.1f} GB",
    )
    version = sqlite3.sqlite_version_info
    observed = f"SQLite {sqlite3.sqlite_version}"
    if version < GOOD_SQLITE:
        observed += ", one writing connection keeps clear of its WAL defect"
    yield Finding(Grade.OK, "sqlite", observed)


def _evidence(settings: Settings) -> Iterator[Finding]:
    """Nothing here stops the line: a verdict without pictures is still a verdict."""
    evidence = settings.evidence
    if evidence.max_bytes == 0:
        yield Finding(Grade.OK, "evidence", "none is kept: `evidence.max_bytes` is 0")
        return
    folder = settings.evidence_dir
    directory = next(parent for parent in (folder, *folder.parents) if parent.exists())
    writable = _writable("evidence", directory)
    if writable.grade is not Grade.OK:
        yield replace(writable, grade=Grade.WARN)
        return
    try:
        used_bytes = _bytes_below(folder)
    except OSError as error:
        yield Finding(
            Grade.WARN,
            "evidence",
            f"what {folder} holds is not known: {error.filename}: {error.strerror}",
            "run this as the user of the service",
        )
        return
    room_bytes = shutil.disk_usage(directory).free - evidence.min_free_bytes + used_bytes
    observed = f"{used_bytes / 1e9:.1f} of {evidence.max_bytes / 1e9:.1f} GB used in {folder}"
    if room_bytes < evidence.max_bytes:
        yield Finding(
            Grade.WARN,
            "evidence",
            f"{observed}, the disk has room for {max(room_bytes, 0) / 1e9:.1f} GB beside `evidence.min_free_bytes`",
            "new evidence is dropped when the disk is full: lower `evidence.max_bytes` or take a larger disk",
        )
        return
    status = directory.stat()
    group = _group_name(status.st_gid)
    if folder.exists() and status.st_mode & GROUP_READS != GROUP_READS:
        yield Finding(
            Grade.WARN,
            "evidence",
            f"{observed}, mode {stat.S_IMODE(status.st_mode):04o}: members of group {group} cannot read it",
            f"chmod 0750 {folder}, else the review desk shows nothing",
        )
        return
    yield Finding(Grade.OK, "evidence", f"{observed}, read by group {group}" if folder.exists() else observed)


def _bytes_below(folder: Path) -> int:
    """Sizes of all files below a folder; none where it is not there. Raises OSError where one may not be listed."""

    def tell(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    used_bytes = 0
    for below, _, names in os.walk(folder, onerror=tell):
        for name in names:
            with suppress(FileNotFoundError):  # a worker that runs removes what is old
                used_bytes += Path(below, name).lstat().st_size
    return used_bytes


def _group_name(group: int) -> str:
    try:
        return grp.getgrgid(group).gr_name
    except KeyError:  # in a container
        return str(group)


def _ledger(settings: Settings) -> Iterator[Finding]:
    path = settings.state.ledger
    if not path.exists():
        yield Finding(Grade.OK, "ledger", f"none yet, {path} will be made")
        return
    try:
        with open_ledger(path, settings.station) as ledger:
            ledger.database.check()
            pending, renewed = ledger.pending(), ledger.renewed
    except LedgerBusy as error:
        yield Finding(Grade.WARN, "ledger", error.message, "right if the worker runs; stop it to check the ledger")
    else:
        observed = f"{path} intact, {pending.count} verdicts unsent"
        if renewed is not None:
            observed += f"; it goes on under a new `ledger_id`, which the MES is told at the start: {renewed}"
        grade = Grade.OK if renewed is None else Grade.WARN
        yield Finding(grade, "ledger", observed, "" if renewed is None else "look at disk and memory, or for the copy")


def _broker(settings: Settings) -> Iterator[Finding]:
    broker = settings.broker
    if (missing := _missing_secret(broker)) is not None:
        yield missing
        return
    client_id = broker.client_id or Topics.of_station(settings).client_id
    # Not the worker's own, whose connection the broker would end.
    accepted, _ = exchange(broker, f"{client_id}-check", patience_s=broker.connect_timeout_s + DIAL_GRACE_S)
    packet = accepted.maximum_packet_bytes
    observed = (
        f"{broker.host}:{broker.port} speaks MQTT {broker.protocol}, receive maximum {accepted.receive_maximum}, "
        f"packets up to {packet if packet is not None else 'any number of'} bytes; the worker is client {client_id}"
    )
    if broker.protocol != "5":
        yield Finding(Grade.WARN, "broker", observed, "MQTT 3.1.1 cannot report refused messages: use 5 if it can")
    else:
        yield Finding(Grade.OK, "broker", observed)
    if not accepted.can_retain:
        observed = "no retained messages: status, model and health reach those alone who are connected"
        yield Finding(Grade.WARN, "retain", observed, "allow them in the broker; verdicts do not need them")
    if not broker.tls and broker.host not in ("localhost", "127.0.0.1", "::1"):
        yield Finding(Grade.WARN, "tls", "off on a network connection", "set `broker.tls` and `broker.ca_file`")


def _missing_secret(broker: BrokerSettings) -> Finding | None:
    for file in (broker.password_file, broker.ca_file, broker.cert_file, broker.key_file):
        if file is not None and file.is_relative_to(CREDENTIALS) and not file.parent.exists():
            observed = f"not tried: {file} is there only while the service runs"
            return Finding(Grade.WARN, "broker", observed, "start the service, then check again")
    return None


def _probe(settings: Settings) -> Iterator[Finding]:
    """Not retained, each over a connection of its own: a broker may answer by ending it."""
    broker, topics = settings.broker, Topics.of_station(settings)
    if (missing := _missing_secret(broker)) is not None:
        yield replace(missing, subject="probe")
        return
    own_id, patience_s = broker.client_id or topics.client_id, broker.connect_timeout_s + DIAL_GRACE_S
    content = {"at": rfc3339(datetime.now(UTC)), "schema": PROBE, "station": settings.station}
    payload = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    with ExitStack() as stack:
        try:
            is_ours = stack.enter_context(keep_free(settings.state.ledger))
        except OSError:
            is_ours = False
        client_id = own_id if is_ours else f"{own_id}-check"  # a running worker stays connected
        exchange(broker, client_id, patience_s=patience_s)
        yield Finding(Grade.OK, "probe", f"as client {client_id}, not retained: {payload.decode()}")
        for kind in Kind:
            message = Outgoing(topics.of(kind), payload, 1, retained=False, schema=PROBE)
            try:
                _, (answer,) = exchange(broker, client_id, (message,), patience_s=patience_s)
            except PublishError as error:
                yield Finding(Grade.FAIL, f"probe:{kind}", f"{message.topic}: {error.message}", error.hint)
                continue
            is_unheard = answer.code == NO_MATCHING_SUBSCRIBERS and kind is Kind.VERDICT
            if answer.code >= REFUSED:
                grade, hint = Grade.FAIL, f"let client {own_id!r}, user {broker.username!r}, publish there: access list"
            elif is_unheard and broker.no_subscriber == "keep":
                grade, hint = Grade.WARN, "subscribe the MES before the line starts"
            elif broker.protocol != "5":
                grade, hint = Grade.WARN, "MQTT 3.1.1 acknowledges what it refuses: look whether it arrived"
            else:
                grade, hint = Grade.OK, ""
            yield Finding(grade, f"probe:{kind}", f"{message.topic}: {answer.reason}", hint)


def _writable(subject: str, directory: Path) -> Finding:
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".edge-check-"):
            pass
    except OSError as error:
        return Finding(Grade.FAIL, subject, f"{directory}: {error.strerror}", "give the worker's user write access")
    return Finding(Grade.OK, subject, f"{directory} is writable")


_LOOKS = (_model, _unpacker, _folder, _state, _evidence, _ledger, _broker)
