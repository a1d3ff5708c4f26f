"""The signed record of a qualification: which model, program and settings were tested, on what, with what result.

    RECORD/qualification.json   the record
    RECORD/qualification.sig    Ed25519 signature (64 bytes) over the bytes of qualification.json, RFC 8032
    RECORD/qualification.html, report.html, ...   files the record holds the SHA-256 of

A record speaks of one combination of model, program, libraries, engine and settings. Any other makes it void.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, Field, ValidationError

import edge
from edge.errors import ModelError
from edge.model.manifest import Hex64, Part
from edge.model.signed_model import SignedModel, TrustedKey, signer_of
from edge.settings import Settings
from edge.system.text import first_error

RECORD_FILE, SIGNATURE_FILE = "qualification.json", "qualification.sig"
MAX_RECORD_BYTES = 1 << 20
LIBRARIES = ("numpy", "opencv-python", "opencv-python-headless", "imagecodecs")
"""Beside the engine's own, the libraries that a score passes through."""


class TestedSet(Part):
    """The scans and labels, as they were fixed before."""

    files_count: int
    sha256: Hex64
    """Digest of the names and SHA-256 of all files."""
    labels_sha256: Hex64


class TestedModel(Part):
    """The model, with the constants of its decision in plain sight."""

    id: str
    sha256: Hex64
    """Digest of the manifest, which holds thresholds and the digests of the networks."""
    conversion: str
    threshold: float
    review_band: tuple[float, float] | None
    gate_mean_threshold: float
    gate_std_threshold: float


class Claim(Part):
    """One requirement of the protocol against what was observed."""

    name: str
    rule: str
    observed: float | None
    met: bool


class Qualification(Part):
    """The signed content of `qualification.json`."""

    schema_name: Literal["qualification/1"] = Field(alias="schema")
    title: str
    disposition: Literal["assisted", "automatic"]
    prepared_by: str
    approved_by: str
    is_qualified: bool
    shortfalls: tuple[str, ...]
    """Why it is not qualified; empty if it is."""
    claims: tuple[Claim, ...]
    plan_sha256: Hex64
    tested: TestedSet
    model: TestedModel
    engine: str
    software: dict[str, str]
    settings: dict[str, str]
    started_at: AwareDatetime
    finished_at: AwareDatetime
    valid_until: AwareDatetime | None
    machine: str
    files: dict[str, Hex64]
    signing_key: Hex64
    """SHA-256 of the 32-byte public key, to tell keys apart. Trust never comes from it."""


def tested_model(model: SignedModel) -> TestedModel:
    """What a record says of a model."""
    thresholds = dict(model.manifest.policy)
    return TestedModel(id=model.model_id, sha256=model.digest, conversion=model.method.value, **thresholds)


def engine_words(name: str, precision: str, degraded: str | None) -> str:
    """What a record says of an engine."""
    return f"{name} {precision}" + (" degraded" if degraded else "")


def software(engine: str) -> dict[str, str]:
    """Versions of this program and of the libraries a score passes through, and a digest of the program's files.

    `engine`: its words; the first is its library's name.
    """
    found = {"electrode-line": edge.__version__, "program": program_sha256(), "python": platform.python_version()}
    for library in (*LIBRARIES, engine.partition(" ")[0]):
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def program_sha256() -> str:
    """Digest of the names and bytes of every file of the package `edge`."""
    root = Path(edge.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def decisive_settings(settings: Settings) -> dict[str, str]:
    """The settings that can change a verdict."""
    folder = settings.folder
    return {
        "folder.max_px": str(folder.max_px),
        "folder.max_bytes": str(folder.max_bytes),
        "folder.expected_zero_px": str(folder.expected_zero_px),
    }


def read_qualification(folder: Path, keys: Sequence[TrustedKey]) -> Qualification:
    """A record signed by one of `keys`. Raises ModelError: missing, changed, or signed by another."""
    try:
        with (folder / RECORD_FILE).open("rb") as stream:
            data = stream.read(MAX_RECORD_BYTES)
        signature = (folder / SIGNATURE_FILE).read_bytes()
    except OSError as error:
        raise ModelError(
            f"the qualification in {folder} cannot be read: {error.strerror}",
            hint="name the folder that `edge-worker qualify` wrote",
        ) from None
    if signer_of(data, signature, keys) is None:
        names = ", ".join(f"{trusted.name} ({trusted.fingerprint[:16]})" for trusted in keys)
        raise ModelError(
            f"{folder / RECORD_FILE} was changed after signing, or is signed by another key; trusted here: {names}",
            hint="copy the record again; if you trust its signer, add that public key to `trusted_key`",
        )
    try:
        return Qualification.model_validate_json(data)
    except ValidationError as error:
        found = first_error(error, "the record")
        raise ModelError(f"{folder / RECORD_FILE}: {found}", hint="qualify again with this release") from None


def void_reasons(
    record: Qualification, folder: Path, model: SignedModel, engine: str, settings: Settings, now: datetime
) -> list[str]:
    """Why a record does not speak of what would run here; empty if it does."""
    reasons = [] if record.is_qualified else [f"it says not qualified: {'; '.join(record.shortfalls)}"]
    if record.valid_until is not None and now > record.valid_until:
        reasons.append(f"it was valid until {record.valid_until.astimezone(UTC):%Y-%m-%d}")
    here = tested_model(model)
    if record.model != here:
        changed = [
            f"{name} {getattr(here, name)} instead of {getattr(record.model, name)}"
            for name in TestedModel.model_fields
            if name != "sha256" and getattr(here, name) != getattr(record.model, name)
        ]
        reasons.append(f"the model is another: {', '.join(changed) or f'digest {here.sha256[:12]}'}")
    if record.engine != engine:
        reasons.append(f"the engine is {engine}, tested was {record.engine}")
    reasons += _differences("software", record.software, software(engine))
    reasons += _differences("setting", record.settings, decisive_settings(settings))
    for name, sha256 in record.files.items():
        path = folder / name
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            reasons.append(f"{name} was changed after signing")
    return reasons


def _differences(what: str, tested: dict[str, str], here: dict[str, str]) -> list[str]:
    found = []
    for name in sorted(tested.keys() | here.keys()):
        was, now = tested.get(name, "none"), here.get(name, "none")
        if was != now:
            found.append(f"{what} {name} is {now[:16]}, tested was {was[:16]}")
    return found
