"""One piece of evidence: the names of its files, its record, and the strict reader of both.

    {evidence.dir}/YYYY-MM-DD/<verdict_id>/     UTC day of `decided_at`; appears whole, by a rename
        record.json        `Record`: what is here, the hash of each file, what is missing and why
        verdict.json       the verdict, byte for byte as it was published
        scan.png           16-bit grey: the scan's counts, lossless
        scan.bin           instead of it where the file is no readable scan: its bytes
        image.png          8-bit: the image as the networks saw it; colour (red, green, blue) for three channels
        residual.png       8-bit grey: the gate's residual map, one pixel a cell
        reason.png         8-bit grey: the classifier's reason map, one pixel a cell; not from every model
        disposition.json   a person's newest answer: added later, so not named in the record

Its reader trusts nothing: names are fixed, links are refused, sizes are bounded, hashes are compared.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from edge.contract.messages import BoundsCounts, BoxPx, Count, Hex32, Hex64, Part, Text, Timestamp, Verdict
from edge.errors import EvidenceError, EvidenceFault
from edge.records import Counts, Outcome, counts_sha256
from edge.system.text import first_error

RECORD = "record.json"
VERDICT = "verdict.json"
SCAN = "scan.png"
ORIGINAL = "scan.bin"
IMAGE = "image.png"
RESIDUAL = "residual.png"
REASON = "reason.png"
DISPOSITION = "disposition.json"
NAMES = (VERDICT, SCAN, ORIGINAL, IMAGE, RESIDUAL, REASON)
"""Files that a record may name."""
KeptName = Annotated[str, Field(pattern=f"^({'|'.join(map(re.escape, NAMES))})$")]

DRAFT_PREFIX = ".tmp-"
"""Begins the name of a piece that is not whole yet, in the day's folder."""

MAX_TEXT_BYTES = 1 << 20
"""Largest record or disposition that is read."""

_PATH = re.compile(r"\d{4}-\d{2}-\d{2}/[0-9a-f]{32}", re.ASCII)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_PNG_BEGIN = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_CHUNK_BYTES = 1 << 20
_HINT = "the piece is damaged or was changed by hand: judge by the scan itself, if the station still has it"


class KeptFile(Part):
    """A file of the piece as it was written."""

    sha256: Hex64
    size_bytes: Count


class ResidualScale(Part):
    """How to read `residual.png`.

    Grey level g of the cell in row i, column j: |residual mean| = g * `per_level` (255: at least that), over the
    pixels of `image.png` from `offset_px + cell_px * (i, j)` on, `cell_px` wide and high.
    """

    per_level: Annotated[float, Field(gt=0.0)]
    threshold: Annotated[float, Field(ge=0.0)] = Field(description="from here on the gate sends the scan to review")
    cell_px: Annotated[int, Field(ge=1)]
    offset_px: int


class ReasonScale(Part):
    """How to read `reason.png`.

    Grey level g of the cell in row i, column j: the place says (g - 128) * `per_level` more than the threshold, as
    log(p / (1 - p)), over the pixels of the network's image from `offset_px + cell_px * (i, j)` on, `cell_px` wide and
    high. The mean over the map is what the scan says.
    """

    per_level: Annotated[float, Field(gt=0.0)]
    cell_px: Annotated[int, Field(ge=1)]
    offset_px: int
    image_height_px: Annotated[int, Field(ge=1)] = Field(description="of the network's image")
    image_width_px: Annotated[int, Field(ge=1)] = Field(description="of the network's image")
    box_px: BoxPx | None = Field(description="strongest place, on the scan; null: none says more than the threshold")
    share: Annotated[float, Field(ge=0.0, le=1.0)] | None = Field(
        description="part that lies in `box_px` of all that says more than the threshold"
    )


class NoteCode(StrEnum):
    """What a piece may lack, and why; the desk has words for each in every language."""

    DROPPED = "dropped"
    FILE_CHANGED = "file-changed"
    FILE_REPLACED = "file-replaced"
    FILE_TOO_LARGE = "file-too-large"
    FILE_UNREADABLE = "file-unreadable"
    IMAGE_TOO_LARGE = "image-too-large"
    NO_PIXELS = "no-pixels"
    NO_REASON_MAP = "no-reason-map"
    OUT_OF_RANGE = "out-of-range"
    REPEATED = "repeated"
    SCAN_TOO_LARGE = "scan-too-large"


NOTES: Final = {
    NoteCode.DROPPED: "the pictures were dropped: {count} other verdicts waited for theirs",
    NoteCode.FILE_CHANGED: "the file is not kept: its bytes are no longer those that were judged",
    NoteCode.FILE_REPLACED: "the file is not kept: another one has its name by now",
    NoteCode.FILE_TOO_LARGE: "the file is not kept: more than {count} bytes",
    NoteCode.FILE_UNREADABLE: "the file is not kept",
    NoteCode.IMAGE_TOO_LARGE: "the network's image is not kept: the scan compresses too badly; its conversion gives it",
    NoteCode.NO_PIXELS: "no pictures: the file has no pixels that can be trusted",
    NoteCode.NO_REASON_MAP: "no reason map",
    NoteCode.OUT_OF_RANGE: "no image and no residual map: the networks were not asked about a scan the model was not"
    " made for",
    NoteCode.REPEATED: "no residual map: the networks were not asked about an image that was judged before",
    NoteCode.SCAN_TOO_LARGE: "the scan is not kept: more pixels than are held of a scan that is not judged",
}
"""In English, as in logs and reports."""


class Note(Part):
    """What is missing of a piece, and why."""

    code: NoteCode
    count: Count | None = None
    detail: Text | None = Field(None, description="message of the system or of this program, in English")

    @property
    def text(self) -> str:
        """All of it in English."""
        said = NOTES[self.code].format(count=self.count)
        return said if self.detail is None else f"{said}: {self.detail}"


class Record(Part):
    """What a piece holds. Schema `evidence/1`; for this product's own programs, it is not part of the contract."""

    schema_name: Literal["evidence/1"] = Field("evidence/1", alias="schema")
    verdict_id: Hex32
    file: Text = Field(description="name of the scan in the station's folder, as in the verdict")
    part_id: Text | None
    bundle: Text | None
    outcome: Outcome
    reasons: tuple[Text, ...]
    decided_at: Timestamp
    kept: Literal["outcome", "sample", "challenge"] = Field(description="why")
    files: dict[KeptName, KeptFile]
    height_px: Count | None
    width_px: Count | None
    counts_sha256: Hex64 | None = Field(description="of size and counts, see `counts_sha256`; null without pixels")
    bounds_counts: BoundsCounts | None = Field(description="the model's black and white, in counts")
    residual: ResidualScale | None
    reason_map: ReasonScale | None = Field(None, description="null: the classifier gives none, or see `notes`")
    boxes_px: tuple[BoxPx, ...]
    notes: tuple[Note, ...]

    @property
    def note(self) -> str | None:
        """All notes in English."""
        return "; ".join(note.text for note in self.notes) or None


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece whose record was read; its files are read, and compared with the record, when they are asked for."""

    path: Path
    record: Record

    def read(self, name: str) -> bytes:
        """The bytes of one file of the record. Raises EvidenceError where it is missing, a link, or other bytes."""
        kept = self.record.files.get(name)
        if kept is None:
            why = f": {self.record.note}" if self.record.note else ""
            raise EvidenceError(
                f"{self.path}: no {name} was kept{why}", hint="nothing is wrong with what is there", reason="not-kept"
            )
        with _open(self.path, name) as handle:
            data = _read(handle, kept.size_bytes, self.path / name)
        if len(data) != kept.size_bytes or hashlib.sha256(data).hexdigest() != kept.sha256:
            raise EvidenceError(f"{self.path / name}: not the bytes that were kept", hint=_HINT)
        return data

    def verdict(self) -> Verdict:
        """The verdict as it was published. Raises EvidenceError."""
        try:
            verdict = Verdict.model_validate_json(self.read(VERDICT))
        except ValidationError as error:
            raise EvidenceError(f"{self.path / VERDICT}: {first_error(error, 'the verdict')}", hint=_HINT) from None
        found = (verdict.verdict_id, verdict.scan.file, verdict.outcome)
        if found != (self.record.verdict_id, self.record.file, self.record.outcome):
            raise EvidenceError(f"{self.path / VERDICT}: another one, {' '.join(map(str, found))}", hint=_HINT)
        return verdict

    def counts(self) -> Counts:
        """The scan: uint16 (height_px, width_px). Raises EvidenceError."""
        pixels = self._pixels(SCAN)
        if pixels.dtype != np.uint16 or pixels.ndim != 2:
            raise EvidenceError(f"{self.path / SCAN}: {pixels.dtype} of shape {pixels.shape}", hint=_HINT)
        counts = np.asarray(pixels, np.uint16)
        if counts_sha256(counts) != self.record.counts_sha256:
            raise EvidenceError(f"{self.path / SCAN}: not the counts that were judged", hint=_HINT)
        return counts

    def image(self) -> npt.NDArray[np.uint8]:
        """The image as the networks saw it: uint8 (channels, height_px, width_px). Raises EvidenceError."""
        pixels = self._pixels(IMAGE)
        if pixels.dtype != np.uint8:
            raise EvidenceError(f"{self.path / IMAGE}: {pixels.dtype} of shape {pixels.shape}", hint=_HINT)
        channels = pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)[::-1]  # OpenCV: blue first
        return np.ascontiguousarray(channels, np.uint8)

    def residual(self) -> npt.NDArray[np.float32]:
        """The residual map as far as 8 bits tell: float32 (map_height, map_width). Raises EvidenceError."""
        levels = self._pixels(RESIDUAL)
        if levels.dtype != np.uint8 or levels.ndim != 2 or self.record.residual is None:
            raise EvidenceError(f"{self.path / RESIDUAL}: {levels.dtype} of shape {levels.shape}", hint=_HINT)
        return levels.astype(np.float32) * np.float32(self.record.residual.per_level)

    def reason(self) -> npt.NDArray[np.float32]:
        """What each place says more than the threshold: float32 (map_height, map_width). Raises EvidenceError."""
        levels = self._pixels(REASON)
        if levels.dtype != np.uint8 or levels.ndim != 2 or self.record.reason_map is None:
            raise EvidenceError(f"{self.path / REASON}: {levels.dtype} of shape {levels.shape}", hint=_HINT)
        return (levels.astype(np.float32) - 128) * np.float32(self.record.reason_map.per_level)

    def disposition(self) -> bytes | None:
        """The payload of a person's newest answer; None before the first. Raises EvidenceError."""
        try:
            with _open(self.path, DISPOSITION) as handle:
                return _read(handle, MAX_TEXT_BYTES, self.path / DISPOSITION)
        except EvidenceError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def _pixels(self, name: str) -> npt.NDArray[np.generic]:
        data = self.read(name)
        # The header first: a few bytes of PNG can unfold into gigabytes.
        width_px, height_px = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
        expected = (self.record.height_px, self.record.width_px) if name == SCAN else (height_px, width_px)
        if not data.startswith(_PNG_BEGIN) or (height_px, width_px) != expected:
            raise EvidenceError(f"{self.path / name}: {height_px} x {width_px} px, expected {expected}", hint=_HINT)
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise EvidenceError(f"{self.path / name}: {error.err}", hint=_HINT) from error
        if pixels is None:
            raise EvidenceError(f"{self.path / name}: no PNG that can be read", hint=_HINT)
        return pixels


def evidence_path(decided_at: datetime, verdict_id: str) -> str:
    """Where the evidence of a verdict lies, relative to `evidence.dir`: the field `evidence` of the verdict."""
    return f"{decided_at.astimezone(UTC).date().isoformat()}/{verdict_id}"


def open_piece(folder: Path, evidence: str) -> Piece:
    """The piece at `evidence` (as in the verdict) below `folder`, which is `evidence.dir`.

    Raises EvidenceError where there is none, where its record is not to be trusted, or where `evidence` is no such
    path.
    """
    if not _PATH.fullmatch(evidence):
        raise EvidenceError(f"{evidence!r} is no path of evidence", hint="expected YYYY-MM-DD/<verdict_id>")
    path = folder / evidence
    try:
        with _open(path, RECORD) as handle:
            data = _read(handle, MAX_TEXT_BYTES, path / RECORD)
    except EvidenceError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            hint = "it was removed to stay within `evidence.max_bytes`, or dropped: the log says which"
            raise EvidenceError(f"no evidence at {path}", hint=hint, reason="gone") from error.__cause__
        raise
    try:
        record = Record.model_validate_json(data)
    except ValidationError as error:
        raise EvidenceError(f"{path / RECORD}: {first_error(error, 'the record')}", hint=_HINT) from None
    if evidence_path(record.decided_at, record.verdict_id) != evidence:
        raise EvidenceError(f"{path / RECORD}: the record of {record.verdict_id}", hint=_HINT)
    return Piece(path, record)


def evidence_of(verdict: Verdict, folder: Path) -> Piece | str:
    """Its pictures below `folder` (`evidence.dir`), or why there are none."""
    if verdict.evidence is None and verdict.outcome is Outcome.NORMAL:
        return "none: of normal ones only a share is kept, drawn by lot (`evidence.sample`)"
    if verdict.evidence is None:
        return "none: it was decided while `evidence.max_bytes` was 0"
    try:
        return open_piece(folder, verdict.evidence)
    except EvidenceError as error:
        return f"{error.message}: {error.hint}"


def days(folder: Path) -> list[str]:
    """Days that have evidence, oldest first; empty where `folder` is not there. Raises EvidenceError."""
    return sorted(name for name in _entries(folder) if _DAY.fullmatch(name))


def pieces_of_day(folder: Path, day: str) -> list[str]:
    """Paths of the whole pieces of one of `days`, for `open_piece`; in no order that means anything."""
    if not _DAY.fullmatch(day):
        raise EvidenceError(f"{day!r} is no day", hint="expected YYYY-MM-DD")
    return [f"{day}/{name}" for name in sorted(_entries(folder / day)) if _ID.fullmatch(name)]


def pieces(folder: Path) -> list[str]:
    """Paths of the whole pieces of all `days`, oldest day first. Raises EvidenceError."""
    return [evidence for day in days(folder) for evidence in pieces_of_day(folder, day)]


def _entries(folder: Path) -> list[str]:
    """Names of the folders in a folder; through no link."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:  # never made, or its last piece was just removed
        return []
    except OSError as error:
        raise EvidenceError(
            f"{folder}: {error.strerror}", hint="see whether this user may read it", reason="no-access"
        ) from error


@contextmanager
def _open(path: Path, name: str) -> Iterator[int]:
    """A regular file of the piece, open for reading; nothing on the way from the day's folder on is a link."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        day = os.open(path.parent, flags | os.O_DIRECTORY)
        try:
            directory = os.open(path.name, flags | os.O_DIRECTORY, dir_fd=day)
        finally:
            os.close(day)
        try:
            handle = os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=directory)
        finally:
            os.close(directory)
    except OSError as error:
        is_damage = isinstance(error, FileNotFoundError) or error.errno in (errno.ELOOP, errno.ENOTDIR)
        reason: EvidenceFault = "damaged" if is_damage else "no-access"
        raise EvidenceError(f"{path / name}: {error.strerror}", hint=_HINT, reason=reason) from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise EvidenceError(f"{path / name}: no regular file", hint=_HINT)
        yield handle
    finally:
        os.close(handle)


def _read(handle: int, max_bytes: int, path: Path) -> bytes:
    """All bytes of an open file. Raises EvidenceError if it has more than `max_bytes`."""
    parts: list[bytes] = []
    left = max_bytes + 1
    try:
        while left and (part := os.read(handle, min(left, _CHUNK_BYTES))):
            parts.append(part)
            left -= len(part)
    except OSError as error:
        raise EvidenceError(f"{path}: {error.strerror}", hint="check the disk", reason="no-access") from error
    if not left:
        raise EvidenceError(f"{path}: more than {max_bytes} bytes", hint=_HINT)
    return b"".join(parts)
