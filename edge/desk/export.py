"""What people decided, as training reads it: scans as 16-bit TIFF and `labels.csv`, one column a reader."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edge.desk.pixels import scan_tiff
from edge.desk.readings import Choice, State, standing
from edge.desk.store import Answer, DeskStore, by_verdict, now
from edge.errors import DeskError, EvidenceError, SettingsError
from edge.evidence.record import Piece, open_piece, pieces
from edge.system.files import write_whole
from edge.validation.labels import Label, majority

LABELS_NAME = "labels.csv"


@dataclass(frozen=True, slots=True)
class Labelled:
    """A decided scan: what stands, what each reader said last, and what they said of it."""

    piece: Piece
    file: str
    label: Label
    votes: tuple[Label | None, ...]
    kinds: tuple[str, ...]
    severity: float | None
    boxes_px: tuple[Mapping[str, int], ...]


def export(store: DeskStore, evidence: Path, out: Path, by: str) -> str:
    """Write every decided scan whose pixels are kept into `out`, a new or empty folder; says what was written.

    `labels.csv` comes last, so that a folder with it is whole. The record notes the export and the hash of the labels.
    Raises SettingsError for a folder that holds something, DeskError where the disk fails.
    """
    kept = {piece.record.verdict_id: piece for piece in _whole(evidence)}
    labelled, missing, undecided = [], 0, 0
    for verdict_id, answers in by_verdict(store.answers()).items():
        stands = standing(answers[0].outcome, [answer.vote for answer in answers])
        if stands.state is not State.DECIDED or stands.choice is None:
            undecided += 1
            continue
        piece = kept.get(verdict_id)
        if piece is None or piece.record.counts_sha256 is None:
            missing += 1
        else:
            label = Label(stands.choice.value)
            labelled.append(_label_piece(store, piece, label, answers))
    if not labelled:
        raise DeskError(
            f"no decided scan has its picture in {evidence}", hint="answer some at the desk first, or check --config"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise SettingsError(f"{out} is not empty", hint="name a new folder with --out")
        damaged = _write_scans(out, labelled)
        table = _table([each for each in labelled if each.file not in damaged])
        with write_whole(out / LABELS_NAME, durable=True) as stream:
            stream.write(table)
    except OSError as error:
        raise DeskError(
            f"{error.filename or out}: {error.strerror}", hint="free some space or name another --out"
        ) from error
    count = len(labelled) - len(damaged)
    digest = hashlib.sha256(table).hexdigest()
    store.add_entry("export", by, now(), scans=count, labels_sha256=digest)
    notes = [f"{undecided} answered ones wait for another reader"] if undecided else []
    notes += [f"{missing} decided ones have no picture (any more)"] if missing else []
    notes += [f"{len(damaged)} are damaged: {', '.join(sorted(damaged.values()))}"] if damaged else []
    return "; ".join([f"{count} scans and {LABELS_NAME} written to {out}", *notes])


def _whole(evidence: Path) -> list[Piece]:
    found = []
    for name in pieces(evidence):
        with suppress(EvidenceError):  # damaged, or removed in this moment: counted as missing where it was answered
            found.append(open_piece(evidence, name))
    return found


def _label_piece(store: DeskStore, piece: Piece, label: Label, answers: Sequence[Answer]) -> Labelled:
    last = list({answer.vote.account: answer for answer in answers}.values())
    votes = tuple(None if each.vote.choice is Choice.UNDECIDED else Label(each.vote.choice.value) for each in last)
    if majority([vote for vote in votes if vote is not None] or [label]) is not label:
        votes = (label,)  # readers of labels.csv take the majority; the desk's rule says otherwise here
    said: list[dict[str, Any]] = [json.loads(store.entry(each.seq)) for each in last if each.vote.choice.value == label]
    severities = [fields["severity"] for fields in said if fields["severity"] is not None]
    return Labelled(
        piece=piece,
        file=_file_name(piece),
        label=label,
        votes=votes,
        kinds=tuple(sorted({kind for fields in said for kind in fields["kinds"]})),
        severity=max(severities, default=None),
        boxes_px=tuple(box for fields in said for box in fields["boxes_px"]),
    )


def _file_name(piece: Piece) -> str:
    """The scan's own name, in letters that every system takes, and its verdict: one name may have several scans."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", PurePosixPath(piece.record.file).stem).lstrip(".")[:80]
    return f"{stem or 'scan'}-{piece.record.verdict_id[:8]}.tif"


def _write_scans(out: Path, labelled: Sequence[Labelled]) -> dict[str, str]:
    """Write the scans; those that are damaged, by the name they would have had. Raises OSError."""
    damaged = {}
    for each in labelled:
        try:
            data = scan_tiff(each.piece)
        except EvidenceError:
            damaged[each.file] = each.piece.record.file
        else:
            with write_whole(out / each.file, durable=False) as stream:
                stream.write(data)
    return damaged


def _table(labelled: Sequence[Labelled]) -> bytes:
    most = max((len(each.votes) for each in labelled), default=1)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"label_{number}" for number in range(1, most + 1)]
    writer.writerow(["file", "bundle", *columns, "kinds", "severity", "part_id", "boxes_px", "verdict_id"])
    for each in sorted(labelled, key=lambda each: each.file):
        record = each.piece.record
        votes = [str(vote) if vote is not None else "" for vote in each.votes]
        severity = "" if each.severity is None else "|".join([str(each.severity)] * max(len(each.kinds), 1))
        writer.writerow(
            [
                each.file,
                _cell(record.bundle or "unknown"),
                *votes,
                *[""] * (most - len(votes)),
                "|".join(each.kinds),
                severity,
                _cell(record.part_id or ""),
                json.dumps(each.boxes_px),
                record.verdict_id,
            ]
        )
    return text.getvalue().encode()


def _cell(text: str) -> str:
    """A name of the station's as a cell that no spreadsheet takes for a formula, and no line ends in."""
    plain = re.sub(r"[\x00-\x1f]", " ", text)
    return f"'{plain}" if plain[:1] in ("=", "+", "-", "@") else plain
