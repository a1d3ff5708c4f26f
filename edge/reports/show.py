"""`edge-worker show`: everything about a part, and whether its file is still the one that was judged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge.contract.messages import Disposition, ScanInfo
from edge.contract.reasons import in_words
from edge.errors import EvidenceError
from edge.evidence.record import IMAGE, ORIGINAL, REASON, RESIDUAL, SCAN, evidence_of
from edge.reports.verdicts import PastVerdict, read
from edge.scans.scan import modified_at
from edge.settings import Settings
from edge.store.ledger import to_ms
from edge.store.reader import LedgerReader
from edge.system.files import CHUNK_BYTES, open_regular
from edge.system.names import display_name
from edge.system.text import rfc3339, visible

CHANGED = 65
MOST = 20
"""Verdicts shown of one word."""


@dataclass(frozen=True, slots=True)
class FileCheck:
    """What the station's folder holds of a judged file."""

    is_changed: bool
    words: str


def show_all(word: str, settings: Settings) -> int:
    """Print what is known; 0, or CHANGED where a file or a verdict is no longer what was judged or written.

    Raises EvidenceError for nothing.
    """
    with LedgerReader(settings.state.ledger) as reader:
        found = [read(stored) for stored in reader.find(word, MOST)]
        newest = {file: reader.of_file(file, 1) for file in {past.verdict.scan.file for past in found}}
    if not found:
        raise EvidenceError(
            f"{settings.state.ledger}: no verdict on {word!r}",
            hint="give a part id, a file or a verdict id as it stands in a verdict; what was sent more than "
            f"`state.keep_days` = {settings.state.keep_days:g} days ago is no longer in the ledger",
        )
    code = 0
    for index, past in enumerate(found):
        scan, last = past.verdict.scan, newest[past.verdict.scan.file]
        if last and last[0].verdict_id != past.verdict.verdict_id:
            check = FileCheck(False, f"{scan.file}: another one of this name was judged since, by {last[0].verdict_id}")
        else:
            check = check_file(scan, settings)
            code = CHANGED if check.is_changed else code
        code = code if past.stored.is_intact else CHANGED
        if index:
            print()
        for name, value in _rows(past, check, settings):
            print(f"{name:<10} {visible(value)}")
    if len(found) == MOST:
        print(f"\nthe newest {MOST} are shown; others: edge-worker export")
    return code


def check_file(scan: ScanInfo, settings: Settings) -> FileCheck:
    """Whether the file in the folder, or where judged ones are moved, has the bytes that were judged."""
    folders = [settings.folder.path, *([settings.folder.move_to] if settings.folder.move_to is not None else [])]
    for folder in folders:
        path = _path_of(folder, scan.file)
        try:
            with open_regular(path) as (stream, status):
                digest = hashlib.sha256()
                while chunk := stream.read(CHUNK_BYTES):
                    digest.update(chunk)
                sha256 = digest.hexdigest()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return FileCheck(False, f"{path}: cannot be read: {error.strerror}")
        if sha256 == scan.sha256:
            return FileCheck(False, f"{path}: unchanged, SHA-256 {sha256}")
        changed_at = modified_at(status.st_mtime_ns)
        if to_ms(changed_at) == to_ms(scan.modified_at) and status.st_size == scan.size_bytes:
            return FileCheck(False, f"{path}: cannot be compared, its bytes could not be read when it was judged")
        return FileCheck(
            True,
            f"{path}: CHANGED since it was judged: {status.st_size} bytes of {rfc3339(changed_at)}, SHA-256 {sha256}; "
            f"judged were {scan.size_bytes} bytes of {rfc3339(scan.modified_at)}, SHA-256 {scan.sha256}",
        )
    gone = f"{scan.file}: no longer in {' nor '.join(map(str, folders))}"
    return FileCheck(False, f"{gone}; SHA-256 {scan.sha256} was judged")


def _rows(past: PastVerdict, check: FileCheck, settings: Settings) -> Iterator[tuple[str, str]]:
    stored, verdict = past.stored, past.verdict
    piece = evidence_of(verdict, settings.evidence_dir)
    decision = past.decision
    damage = "" if stored.is_intact else "; DAMAGED: the ledger no longer has the bytes that were written"
    yield "verdict", f"{verdict.verdict_id}, seq {verdict.seq} of ledger {verdict.ledger_id}{damage}"
    yield "part", f"{verdict.part_id or 'unknown'}, lot {verdict.bundle or 'unknown'}"
    yield "outcome", f"{verdict.outcome}: {in_words(verdict)}"
    yield "decision", _decision(decision) if decision else "none by a person yet"
    yield "file", check.words
    yield "decided", f"{_moment(stored.decided_at)}, {past.latency_s:.1f} s after it was seen"
    yield "sent", _moment(stored.sent_at) if stored.sent_at else "not yet"
    degraded = f", degraded: {verdict.model.degraded}" if verdict.model.degraded else ""
    engine = f"{verdict.model.engine} {verdict.model.precision}{degraded}"
    yield "model", f"{verdict.model.id}, {engine}, SHA-256 {verdict.model.sha256}"
    if isinstance(piece, str):
        yield "evidence", piece
        return
    pictures = ", ".join(name for name in (SCAN, IMAGE, RESIDUAL, REASON, ORIGINAL) if name in piece.record.files)
    yield (
        "evidence",
        f"{piece.path}: {pictures or 'no pictures'}" + (f"; {piece.record.note}" if piece.record.note else ""),
    )


def _decision(newest: Disposition) -> str:
    """What stands of all answers, and the newest one where it says something else."""
    said = f"{newest.decision} by {newest.by}, {_moment(newest.at)}"
    if newest.stands == newest.decision:
        return said
    return f"{newest.stands or 'open, another reader is asked'}; newest answer: {said}"


def _path_of(folder: Path, file: str) -> Path:
    r"""The file that a verdict calls so: names with control characters or foreign bytes stand there as `\xff`."""
    path = folder / file
    if "\\" not in file:
        return path
    parent = folder / Path(file).parent
    try:
        names = [entry.name for entry in parent.iterdir()]
    except OSError:
        return path
    wanted = Path(file).name
    return next((parent / name for name in names if display_name(name) == wanted), path)


def _moment(moment: datetime) -> str:
    """By the clock on the wall, and in UTC where that differs."""
    local = moment.astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S %Z}" + (f" ({rfc3339(moment)})" if local.utcoffset() else "")
