"""`edge-worker qualify DIR --plan plan.toml --out DIR`: a replay by protocol, and the signed record of it."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from importlib.resources import files
from pathlib import Path
from uuid import uuid4

import jinja2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.contract.messages import Verdict
from edge.errors import SettingsError
from edge.model.manifest import signed_json
from edge.model.private_key import load_private_key
from edge.model.qualification import (
    RECORD_FILE,
    SIGNATURE_FILE,
    Claim,
    Qualification,
    TestedSet,
    decisive_settings,
    engine_words,
    software,
    tested_model,
)
from edge.model.signed_model import TrustedKey
from edge.pipeline.loaded_model import LoadedModel, load_model
from edge.settings import Settings
from edge.system.files import write_whole
from edge.system.names import display_name
from edge.validation.labels import match_labels, read_labels
from edge.validation.protocol import FixedSet, Protocol, fix_set, fixed_set, read_protocol, set_sha256
from edge.validation.replay import (
    LABELS_NAME,
    REQUIREMENT_UNMET,
    ReplayOptions,
    ReplayResult,
    check_replay,
    folder_named,
    only_one_into,
    run_replay,
)
from edge.validation.sources import open_source
from edge.validation.workers import Workers

HTML_FILE = "qualification.html"
PLAN_FILE, LABELS_COPY = "plan.toml", "labels.csv"


@dataclass(frozen=True, slots=True)
class QualifyOptions:
    """What the command line asks for."""

    folder: Path
    plan: Path
    labels: Path | None = None
    out: Path | None = None
    signing_key: Path | None = None
    fix: bool = False
    workers: Workers = field(default_factory=Workers)


def qualify(options: QualifyOptions, settings: Settings) -> int:
    """The command: 0 if qualified, REQUIREMENT_UNMET if not. Raises EdgeError, OSError."""
    protocol = read_protocol(options.plan)
    labels = options.labels or options.folder / LABELS_NAME
    source = open_source(options.folder, recursive=settings.folder.recursive)
    if options.fix:
        match_labels(labels, read_labels(labels), source.names())  # a set is fixed once: not with labels that cannot be
        found = fixed_set(source, labels)
        fix_set(options.plan, protocol, found)
        print(f"{options.plan} names the set of {found.files} files, {found.sha256[:16]}; keep it as it is from now on")
        return 0
    if options.out is None or options.signing_key is None:
        raise SettingsError(
            "a record needs a folder and a key", hint="add --out DIR and --signing-key PEM, or --fix to fix the set"
        )
    key = load_private_key(options.signing_key)
    _check_set(protocol, fixed_set(source, labels), options.plan)
    model = load_model(settings)
    try:
        record = run_qualification(options, protocol, labels, settings, model, key)
    finally:
        model.engine.close()
    for claim in record.claims:
        observed = "not measured" if claim.observed is None else f"{claim.observed:.6g}"
        print(f"{'met    ' if claim.met else 'NOT MET'} {claim.name}: {claim.rule}, observed {observed}")
    for shortfall in record.shortfalls:
        print(shortfall)
    print(f"{'qualified' if record.is_qualified else 'NOT QUALIFIED'}: {options.out / HTML_FILE}")
    return 0 if record.is_qualified else REQUIREMENT_UNMET


def run_qualification(
    options: QualifyOptions,
    protocol: Protocol,
    labels: Path,
    settings: Settings,
    model: LoadedModel,
    key: Ed25519PrivateKey,
) -> Qualification:
    """Judge the set and write the signed record into `options.out`. Raises EdgeError, OSError."""
    assert options.out is not None and protocol.set is not None
    replay_options = ReplayOptions(
        folder=options.folder,
        labels=labels,
        out=options.out,
        requirements=(*(claim.require for claim in protocol.claim), *_sample_rules(protocol)),
        plant=protocol.plant_figures,
        size_scale=protocol.size_scale,
        workers=options.workers,
    )
    with folder_named(options.out), only_one_into(options.out):
        for stale in (RECORD_FILE, SIGNATURE_FILE, HTML_FILE):  # a record must not stand beside another run's report
            (options.out / stale).unlink(missing_ok=True)
        result = run_replay(check_replay(replay_options, settings), settings, model, uuid4())
        kept = {PLAN_FILE: options.plan.read_bytes(), LABELS_COPY: labels.read_bytes()}
        for name, data in kept.items():
            _write(options.out / name, data)
        _check_set(protocol, _judged_set(result, labels), options.plan)
        record = _record(protocol, options, settings, model, key, result)
        page = _page(record)
        digests = {**record.files, HTML_FILE: hashlib.sha256(page).hexdigest()}
        record = record.model_copy(update={"files": digests})
        data = signed_json(record)
        _write(options.out / HTML_FILE, page)
        _write(options.out / RECORD_FILE, data)
        _write(options.out / SIGNATURE_FILE, key.sign(data))
    return record


def _record(
    protocol: Protocol,
    options: QualifyOptions,
    settings: Settings,
    model: LoadedModel,
    key: Ed25519PrivateKey,
    result: ReplayResult,
) -> Qualification:
    assert protocol.set is not None
    planned = len(protocol.claim)
    claims = tuple(
        Claim(name=claim.name, rule=str(checked.requirement), observed=_float(checked.observed), met=checked.met)
        for claim, checked in zip(protocol.claim, result.requirements[:planned], strict=True)
    )
    samples = tuple(
        Claim(name=name, rule=str(checked.requirement), observed=_float(checked.observed), met=checked.met)
        for name, checked in zip(_sample_rules(protocol).values(), result.requirements[planned:], strict=True)
    )
    shortfalls = [f"claim not met: {claim.name} ({claim.rule})" for claim in claims if not claim.met]
    shortfalls += [f"{sample.name}: {sample.rule} does not hold" for sample in samples if not sample.met]
    if result.warning is not None:
        shortfalls.insert(0, result.warning)
    if model.engine.spec.degraded:
        shortfalls.append(f"the engine ran degraded: {model.engine.spec.degraded}")
    valid = None if protocol.valid_days is None else result.run.finished_at + timedelta(days=protocol.valid_days)
    tested = protocol.set
    names = (PLAN_FILE, LABELS_COPY, "report.html", "summary.json", "verdicts.jsonl", "scans.csv", "run.json")
    out, spec = result.report.parent, model.engine.spec
    engine = engine_words(spec.name, spec.precision, spec.degraded)
    return Qualification(
        schema="qualification/1",
        title=protocol.title,
        disposition=protocol.disposition,
        prepared_by=protocol.prepared_by,
        approved_by=protocol.approved_by,
        is_qualified=not shortfalls,
        shortfalls=tuple(shortfalls),
        claims=(*claims, *samples),
        plan_sha256=hashlib.sha256(options.plan.read_bytes()).hexdigest(),
        tested=TestedSet(files_count=tested.files, sha256=tested.sha256, labels_sha256=tested.labels_sha256),
        model=tested_model(model.signed),
        engine=engine,
        software=software(engine),
        settings=decisive_settings(settings),
        started_at=result.run.started_at.astimezone(UTC).replace(microsecond=0),
        finished_at=result.run.finished_at.astimezone(UTC).replace(microsecond=0),
        valid_until=None if valid is None else valid.replace(microsecond=0),
        machine=f"{platform.system()} {platform.release()} on {platform.machine()}, station {settings.station}",
        files={name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names},
        signing_key=TrustedKey("", key.public_key()).fingerprint,
    )


def _sample_rules(protocol: Protocol) -> dict[str, str]:
    """Rules that every set must fulfil, with what each means."""
    samples = protocol.samples
    rules = {
        "learnt_count==0": "no scan of the set was learnt from",
        "calibrated_count==0": "no threshold was set on a scan of the set",
        "copies_count==0": "no file of the set is a copy of another",
        "labels_without_file_count==0": "every row of the labels has its scan",
        "unlabelled_count==0": "every scan has a label",
        f"labelled_abnormal_count>={samples.abnormal}": "abnormal scans",
        f"labelled_normal_count>={samples.normal}": "normal scans",
        f"lots_count>={samples.lots}": "lots",
        "lots_alike_count==0": "no lot goes by two names that are alike",
    }
    if samples.people:
        rules[f"people_count>={samples.people}"] = "people who labelled"
    if samples.rescanned_parts:
        rules[f"rescanned_parts_count>={samples.rescanned_parts}"] = "parts scanned more than once"
    return rules


def _judged_set(result: ReplayResult, labels: Path) -> FixedSet:
    """The set by the bytes that were judged."""
    count = 0

    def entries() -> Iterator[tuple[str, str]]:
        nonlocal count
        with result.verdicts.open("rb") as stream:
            for line in stream:
                scan = Verdict.model_validate_json(line).scan
                count += 1
                yield scan.file, scan.sha256

    digest = set_sha256(entries())
    return FixedSet(files=count, sha256=digest, labels_sha256=hashlib.sha256(labels.read_bytes()).hexdigest())


def _check_set(protocol: Protocol, found: FixedSet, plan: Path) -> None:
    """Refuse a set that is not the one fixed beforehand."""
    if protocol.set is None:
        raise SettingsError(
            f"the plan {plan} names no set", hint="fix the set before it is judged: edge-worker qualify DIR --fix"
        )
    if protocol.set == found:
        return
    what = "labels" if protocol.set.sha256 == found.sha256 else "scans"
    raise SettingsError(
        f"the {what} are not those of the plan {plan}: {found.files} files, scans {found.sha256[:16]}, labels "
        f"{found.labels_sha256[:16]}; expected {protocol.set.files}, {protocol.set.sha256[:16]}, "
        f"{protocol.set.labels_sha256[:16]}",
        hint="restore the set, or write another plan: this one was made for a set that is fixed",
    )


def _page(record: Qualification) -> bytes:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        files("edge.validation").joinpath("qualification.html.j2").read_text(encoding="utf-8")
    )
    return template.render(record=record, shown=display_name, settings=json.dumps(record.settings)).encode()


def _float(value: int | float | None) -> float | None:
    return None if value is None else float(value)


def _write(path: Path, data: bytes) -> None:
    with write_whole(path, durable=True) as stream:
        stream.write(data)
