"""Keeps what a person needs to see of a verdict, within a byte budget, without ever delaying one.

The worker's thread offers what it has in hand after the commit; a thread of its own makes the pictures and writes
them. Offering only appends to a queue. Where the queue is full the pictures are dropped, counted, and the piece says
so; where even that fails, the log does.

A piece is written as `.tmp-<verdict_id>` and renamed, and renamed away before it is removed, so a kill leaves nothing
under its name that is not whole: what begins with `.tmp-` is removed at the start. A piece that none waits behind is
flushed before it is renamed. Behind others, flushing each of its files would slow the ledger's own flushes on the same
disk: the kernel then writes it back within half a minute, and what a power cut left of the newest is found at the
start, by size and hash.

The folder of the first step stays the folder. Where it was moved, replaced or unmounted meanwhile, nothing is made in
its place, and nothing is written or removed through a link.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
import stat
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from edge.contract.messages import Verdict
from edge.errors import EvidenceError
from edge.evidence.piece import Offer, Scene, Selection, piece_of
from edge.evidence.record import (
    DISPOSITION,
    DRAFT_PREFIX,
    RECORD,
    Note,
    NoteCode,
    days,
    open_piece,
    pieces_of_day,
)
from edge.records import ExpectedFile, Outcome
from edge.system.files import open_regular, sync_directory, write_whole
from edge.system.logs import event

log = logging.getLogger(__name__)

QUEUE_BYTES = 96 << 20
"""Pixels that may wait for their turn: about 16 scans of 2000 x 1000. A larger scan waits alone."""

QUEUE_PIECES = 500
"""Verdicts that may wait, with or without pixels. Each may hold a file open; a process has 1024 of them as a rule."""

FEWEST_INODES = 3
"""A piece has its folder, a record and a verdict at least."""

MAX_PIECES = 50_000
"""Pieces on the disk, whatever `evidence.max_bytes` allows: each is remembered, in about 300 bytes of memory. The
default budget holds a seventh of that at 2000 x 1000."""

SAY_DROPPED_S = 60.0
"""Between two log lines about pieces that were dropped: a full disk drops them as fast as scans come."""

PRUNED_SHARE = 0.01
"""What pruning frees beyond what it must, of either limit, so that it does not sort every piece for each new one."""

FILE_MODE = 0o640
FOLDER_MODE = 0o750
"""The desk runs as another user of the worker's group."""

UNFLUSHED_S = 300.0
"""How long before the newest piece others may not have reached the disk; well beyond the kernel's writeback (30 s)."""

_BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the evidence since the start, and what it takes on the disk."""

    kept: int
    dropped: int
    """Pieces that lack their pictures, or that could not be written at all."""
    used_bytes: int
    failure: str | None
    """Why the newest piece, or its pictures, were dropped; None once one was kept whole after that."""


@dataclass(slots=True)
class _Entry:
    """A whole piece on the disk."""

    evidence: str
    outcome: Outcome
    decided_at: datetime
    used_bytes: int
    is_decided: bool

    @property
    def rank(self) -> tuple[bool, bool, datetime]:
        """The lower, the sooner it goes: what a person decided first, then all but `review`, then the oldest."""
        return not self.is_decided, self.outcome is Outcome.REVIEW, self.decided_at


@dataclass(slots=True)
class _Shelf:
    """Every whole piece and the bytes they take."""

    entries: dict[str, _Entry] = field(default_factory=dict)
    used_bytes: int = 0

    def put(self, entry: _Entry) -> None:
        self.remove(entry.evidence)
        self.entries[entry.evidence] = entry
        self.used_bytes += entry.used_bytes

    def remove(self, evidence: str) -> None:
        gone = self.entries.pop(evidence, None)
        self.used_bytes -= gone.used_bytes if gone else 0


class Keeper:
    """The folder of evidence. `offer` and `decided` may be called from any thread, `step` from one."""

    def __init__(
        self, folder: Path, scene: Scene, selection: Selection, *, max_bytes: int, min_free_bytes: int
    ) -> None:
        """Makes and reads nothing yet: the first `step` does."""
        self._folder = folder
        self._scene = scene
        self._selection = selection
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._changed = threading.Condition()
        self._queue: deque[Offer] = deque()
        self._queued_bytes = 0
        self._kept = 0
        self._dropped = self._unsaid = 0
        self._failure: str | None = None
        self._say_at_s = -math.inf
        self._shelf: _Shelf | None = None
        """None until the first step begins to read the folder."""
        self._identity: tuple[int, int] | None = None
        """Device and inode of the folder of the first step."""
        self._disk = threading.Lock()
        """For a change of the folder or the shelf."""

    def offer(self, offer: Offer, source: tuple[Path, ExpectedFile] | None = None) -> None:
        """Take what a committed verdict left, if it is to be kept. Never waits for the disk and never raises.

        `source`: the file of an `unreadable` verdict, opened here because it may be moved away next.
        """
        verdict = offer.verdict
        if verdict.evidence is None:
            return
        if source is not None:
            offer = _with_original(offer, *source)
        with self._changed:
            behind, pixel_bytes = len(self._queue), offer.pixel_bytes
            if pixel_bytes and self._queued_bytes and self._queued_bytes + pixel_bytes > QUEUE_BYTES:
                offer.close()
                offer = Offer(verdict, note=(note := Note(code=NoteCode.DROPPED, count=behind)))
                self._count_dropped(verdict, note.text)
            if behind >= QUEUE_PIECES:
                offer.close()
                self._count_dropped(verdict, f"{behind} other verdicts wait for their evidence")
                return
            self._queue.append(offer)
            self._queued_bytes += offer.pixel_bytes
            self._changed.notify_all()

    def step(self, wait_s: float) -> bool:
        """Write one piece; False if none came within `wait_s`. A disk that fails costs the piece, nothing else."""
        if self._shelf is None:
            self._open_shelf()
        with self._changed:
            if not self._queue:
                self._changed.wait(wait_s)
            if not self._queue:
                return False
            offer, is_behind = self._queue[0], len(self._queue) > 1
        try:
            self._keep(offer, is_flushed=not is_behind)
        except (OSError, EvidenceError, MemoryError) as error:
            self._count_dropped(offer.verdict, getattr(error, "strerror", None) or str(error) or "no memory")
        finally:
            with self._changed:
                self._queue.popleft()
                self._queued_bytes -= offer.pixel_bytes
            offer.close()
        return True

    def close(self) -> None:
        """Drop what still waits."""
        with self._changed:
            dropped, self._queue = list(self._queue), deque()
            for offer in dropped:
                offer.close()
                self._count_dropped(offer.verdict, "the worker was stopped before its turn")
            if self._unsaid:
                event(log.warning, "evidence dropped", pieces=self._unsaid)
                self._unsaid = 0

    def wake(self) -> None:
        """End the wait of `step`."""
        with self._changed:
            self._changed.notify_all()

    def tally(self) -> Tally:
        """Kept and dropped since the start; the bytes are 0 until the folder was read."""
        shelf = self._shelf
        with self._changed:
            return Tally(self._kept, self._dropped, shelf.used_bytes if shelf else 0, self._failure)

    def decided(self, evidence: str, payload: bytes) -> None:
        """Put a person's committed answer beside its evidence; nothing where that is gone. Raises OSError."""
        path = self._folder / evidence
        with self._disk:
            self._expect_same_folder()
            try:
                open_piece(self._folder, evidence)
            except EvidenceError:
                return
            with write_whole(path / DISPOSITION, durable=True, mode=FILE_MODE) as stream:
                stream.write(payload)
            entry = self._shelf.entries.get(evidence) if self._shelf else None
            if entry is not None:
                entry.is_decided = _is_decided(payload)

    def path_of(self, verdict_id: str) -> str | None:
        """Where the evidence of a verdict lies that the ledger has pruned since; None where there is none."""
        with self._disk:
            found = self._shelf.entries if self._shelf else {}
            return next((evidence for evidence in found if evidence.endswith(f"/{verdict_id}")), None)

    def _open_shelf(self) -> None:
        """Read what is there; remove what a kill or a power cut left of a piece."""
        self._shelf = _Shelf()
        try:
            self._expect_same_folder()
            for day in days(self._folder):
                for draft in (self._folder / day).glob(f"{DRAFT_PREFIX}*"):
                    _remove(draft)
                for evidence in pieces_of_day(self._folder, day):
                    with self._disk:  # one at a time: a decision does not wait for a large folder
                        entry = _entry_of(self._folder, evidence)
                        if entry is None:
                            event(log.warning, "broken evidence removed", evidence=evidence)
                            self._remove_piece(evidence)
                        else:
                            self._shelf.put(entry)
            self._check_newest()
        except (OSError, EvidenceError) as error:
            self._failure = getattr(error, "strerror", None) or str(error)
            event(log.warning, "evidence not readable", folder=str(self._folder), error=str(error))

    def _check_newest(self) -> None:
        """Remove what a power cut left of the pieces it found unflushed: of the right size, with other bytes."""
        assert self._shelf is not None
        newest = max((entry.decided_at for entry in self._shelf.entries.values()), default=None)
        if newest is None:
            return
        for entry in list(self._shelf.entries.values()):
            if (newest - entry.decided_at).total_seconds() <= UNFLUSHED_S:
                with self._disk:
                    try:
                        piece = open_piece(self._folder, entry.evidence)
                        for name in piece.record.files:
                            piece.read(name)
                    except EvidenceError as error:
                        event(log.warning, "broken evidence removed", evidence=entry.evidence, error=error.message)
                        self._remove_piece(entry.evidence)
                        self._shelf.remove(entry.evidence)

    def _expect_same_folder(self) -> None:
        """Make the folder, the first time. Raises OSError where it is not there later: a new one would not be found."""
        if self._identity is None:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            _make_folder(self._folder)
            self._identity = _identity(self._folder)
        elif _identity(self._folder) != self._identity:
            raise OSError(errno.ESTALE, "the folder was moved, replaced or unmounted since the start")

    def _keep(self, offer: Offer, *, is_flushed: bool) -> None:
        """Write one piece and make room for it. Raises OSError."""
        verdict = offer.verdict
        why = self._selection.why(verdict.outcome, verdict.scan.file, verdict.verdict_id)
        if verdict.evidence is None or why is None or self._shelf is None:
            return
        record, contents = piece_of(offer, why, self._scene)
        contents[RECORD] = record.model_dump_json(by_alias=True, indent=1).encode()
        size_bytes = sum(_on_disk(len(data)) for data in contents.values())
        with self._disk:
            day = (self._folder / verdict.evidence).parent
            self._expect_same_folder()
            self._make_room(size_bytes)  # which may remove the day's folder
            _make_folder(day)
            draft, target = day / f"{DRAFT_PREFIX}{verdict.verdict_id}", self._folder / verdict.evidence
            _remove(draft)
            try:
                _write_piece(draft, contents, is_flushed=is_flushed)
                if target.exists():  # of a ledger that was lost: this one has the numbers that count
                    self._remove_piece(verdict.evidence)
                draft.rename(target)
            except OSError:
                _remove(draft)
                raise
            if is_flushed:
                sync_directory(day)
            self._shelf.put(_Entry(verdict.evidence, verdict.outcome, verdict.times.decided_at, size_bytes, False))
        with self._changed:
            self._kept += 1
            if offer.note is None:  # else it may be one whose pictures were dropped
                self._failure = None

    def _make_room(self, size_bytes: int) -> None:
        """Remove pieces until there is room for `size_bytes`. Raises OSError where that is not enough.

        Budget and number of pieces make room among all pieces, a disk that others fill only among those that a person
        decided. As full counts a file system with a tenth of its inodes left, too: an empty file costs as many as any.
        """
        assert self._shelf is not None
        over_bytes = self._shelf.used_bytes + size_bytes - self._max_bytes
        over_pieces = len(self._shelf.entries) + 1 - MAX_PIECES
        disk = os.statvfs(self._folder)
        short_bytes = self._min_free_bytes + size_bytes - disk.f_bavail * disk.f_frsize
        short_inodes = disk.f_files // 10 - disk.f_favail  # 0 where a file system does not count them
        if over_bytes <= 0 and over_pieces <= 0 and short_bytes <= 0 and short_inodes <= 0:
            return
        if size_bytes > self._max_bytes:
            raise OSError(errno.EFBIG, f"{size_bytes} bytes are more than `evidence.max_bytes` {self._max_bytes}")
        over_bytes += round(self._max_bytes * PRUNED_SHARE) if over_bytes > 0 else 0
        over_pieces += round(MAX_PIECES * PRUNED_SHARE) if over_pieces > 0 else 0
        undecided = 0
        for entry in sorted(self._shelf.entries.values(), key=lambda entry: entry.rank):
            is_short = short_bytes > 0 or short_inodes > 0
            if over_bytes <= 0 and over_pieces <= 0 and not (is_short and entry.is_decided):
                break
            self._remove_piece(entry.evidence)
            self._shelf.remove(entry.evidence)
            over_bytes -= entry.used_bytes
            over_pieces -= 1
            short_bytes -= entry.used_bytes
            short_inodes -= FEWEST_INODES
            undecided += not entry.is_decided
        if undecided:
            event(log.warning, "undecided evidence removed", pieces=undecided, max_bytes=self._max_bytes)
        if short_bytes > 0:
            raise OSError(
                errno.ENOSPC, f"{short_bytes} bytes short of `evidence.min_free_bytes` {self._min_free_bytes}"
            )
        if short_inodes > 0:
            raise OSError(errno.ENOSPC, f"{disk.f_favail} of {disk.f_files} inodes are left, expected a tenth")

    def _remove_piece(self, evidence: str) -> None:
        """Under another name first: a kill leaves no half of it under its own."""
        path = self._folder / evidence
        if path.parent.is_symlink():
            return
        aside = path.with_name(f"{DRAFT_PREFIX}old-{path.name}")
        _remove(aside)
        with suppress(FileNotFoundError):  # removed by hand
            path.rename(aside)
        _remove(aside)
        with suppress(OSError):  # the day's last one
            path.parent.rmdir()

    def _count_dropped(self, verdict: Verdict, reason: str | None) -> None:
        """One more; the log names the newest of those since its last line about them."""
        with self._changed:
            self._dropped += 1
            self._unsaid += 1
            self._failure = reason
            if (now_s := time.monotonic()) < self._say_at_s:
                return
            pieces, self._unsaid, self._say_at_s = self._unsaid, 0, now_s + SAY_DROPPED_S
        file, verdict_id = verdict.scan.file, verdict.verdict_id
        event(log.warning, "evidence dropped", pieces=pieces, file=file, verdict_id=verdict_id, reason=reason)


def _with_original(offer: Offer, path: Path, expected: ExpectedFile) -> Offer:
    """With the open file, or with the reason why it is not kept."""
    try:
        with open_regular(path) as (stream, status):
            if expected.matches(status):
                return replace(offer, original=os.fdopen(os.dup(stream.fileno()), "rb"))
    except OSError as error:
        return replace(offer, note=Note(code=NoteCode.FILE_UNREADABLE, detail=error.strerror or str(error)))
    return replace(offer, note=Note(code=NoteCode.FILE_REPLACED))


def _entry_of(folder: Path, evidence: str) -> _Entry | None:
    """A piece as it lies there; None where it is not whole."""
    try:
        piece = open_piece(folder, evidence)
        for name, kept in piece.record.files.items():
            if (piece.path / name).lstat().st_size != kept.size_bytes:
                return None
        disposition = piece.disposition()
        used_bytes = _on_disk((piece.path / RECORD).lstat().st_size)
    except (EvidenceError, OSError):
        return None
    record = piece.record
    used_bytes += sum(_on_disk(kept.size_bytes) for kept in record.files.values())
    is_decided = disposition is not None and _is_decided(disposition)
    return _Entry(evidence, record.outcome, record.decided_at, used_bytes, is_decided)


def _is_decided(payload: bytes) -> bool:
    """Whether a disposition leaves nothing open: else the pictures wait for another reader."""
    try:
        content = json.loads(payload)
    except ValueError:
        return False
    return isinstance(content, dict) and content.get("stands") in ("normal", "abnormal")


def _write_piece(draft: Path, contents: dict[str, bytes], *, is_flushed: bool) -> None:
    _make_folder(draft)
    for name, data in contents.items():
        with (draft / name).open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(stream.fileno(), FILE_MODE)
            if is_flushed:
                os.fsync(stream.fileno())


def _make_folder(path: Path) -> None:
    """With the mode it is meant to have, whatever the umask. Raises OSError, also for a link that is there."""
    try:
        path.mkdir()
    except FileExistsError:
        _identity(path)
    else:
        path.chmod(FOLDER_MODE)


def _identity(folder: Path) -> tuple[int, int]:
    """Device and inode. Raises OSError for a link, and for anything but a folder."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise OSError(errno.ENOTDIR, "a link or a file, expected a folder: name the folder itself in `evidence.dir`")
    return status.st_dev, status.st_ino


def _remove(path: Path) -> None:
    """A folder and what is in it, if it is there. Raises OSError."""
    with suppress(FileNotFoundError):
        shutil.rmtree(path)


def _on_disk(size_bytes: int) -> int:
    return -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES
