"""The data that flows down the line, as frozen records without I/O."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.uint16]
"""Detector counts of one scan: uint16, shape (height_px, width_px)."""

Image = npt.NDArray[np.uint8]
"""A converted scan: uint8, shape (channels, height_px, width_px); 1 channel, or 3 for `mixed`."""


def counts_sha256(counts: Counts) -> str:
    """Hash of a scan's size and counts, whatever file they lie in: uint16 (height_px, width_px)."""
    digest = hashlib.sha256(f"{counts.shape[0]}x{counts.shape[1]}\0".encode())
    digest.update(np.ascontiguousarray(counts, "<u2").data)
    return digest.hexdigest()


class Size(NamedTuple):
    """Height before width, as numpy orders them, in pixels."""

    height_px: int
    width_px: int


class Outcome(StrEnum):
    """What the line does with the electrode. Only `normal` lets it pass unseen."""

    NORMAL = "normal"
    ABNORMAL = "abnormal"
    REVIEW = "review"
    UNREADABLE = "unreadable"


Rights = tuple[int, int, int, int]
"""Mode, owner, group and number of names of a file: its change time changes with them."""


def rights_of(status: os.stat_result) -> Rights:
    return _share(status.st_mode, status.st_uid, status.st_gid, status.st_nlink)


@lru_cache(maxsize=1024)
def _share(mode: int, owner: int, group: int, names: int) -> Rights:
    """One object for all files of the same rights: a backlog has 100,000 of them."""
    return mode, owner, group, names


@dataclass(frozen=True, slots=True)
class FileStamp:
    """A file as the directory showed it: enough to tell whether it is still the same file."""

    file: str
    """Path relative to the station folder, with forward slashes."""
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int = field(default=0, compare=False)
    """The change time, which tells a rewrite that kept size and time, but also changes with rights; 0 = not known."""
    is_whole: bool = field(default=True, compare=False)
    """False for a judged file that was given up as empty, torn, unwritten or barred: what is written to it later, or
    done to its rights, makes it the scan that it was to be."""
    kind: int = stat.S_IFREG
    """What stands under the name, as stat.S_IFMT says it: a pipe may get the inode number of the scan before it."""
    rights: Rights | None = field(default=None, compare=False)
    """None: not known."""

    @classmethod
    def of(cls, file: str, status: os.stat_result) -> FileStamp:
        """The stamp of `file`, of which `status` was read."""
        kind = stat.S_IFREG if stat.S_ISREG(status.st_mode) else stat.S_IFMT(status.st_mode)  # one object for all
        changed_ns, rights = status.st_ctime_ns, rights_of(status)
        return cls(file, status.st_ino, status.st_size, status.st_mtime_ns, changed_ns, kind=kind, rights=rights)

    @property
    def is_file(self) -> bool:
        """Whether it may be a scan: no directory, link, pipe, socket or device."""
        return self.kind == stat.S_IFREG

    def matches(self, status: os.stat_result, *, has_stable_inodes: bool) -> bool:
        """Whether `status` shows the stamped file, as far as kind, size, time and inode can tell.

        `has_stable_inodes`: whether a file that is not replaced keeps its inode number where this one lies; some
        shares invent the numbers anew.
        """
        if stat.S_IFMT(status.st_mode) != self.kind:
            return False
        has_stamped_inode = status.st_ino == self.inode or not has_stable_inodes
        if not self.is_file:
            return has_stamped_inode  # a directory's size and time change with what is put into it
        return has_stamped_inode and (status.st_size, status.st_mtime_ns) == (self.size_bytes, self.modified_ns)


@dataclass(frozen=True, slots=True)
class ExpectedFile:
    """Identity that a complete file must still have when it is read."""

    stamp: FileStamp
    has_stable_inodes: bool

    def matches(self, status: os.stat_result) -> bool:
        return self.stamp.matches(status, has_stable_inodes=self.has_stable_inodes)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A complete file, and when the line first saw it complete."""

    stamp: FileStamp
    first_seen_at: datetime
    is_final: bool
    """Waiting is over: if the file is incomplete, that is its verdict."""
    expected: ExpectedFile | None = None
    """Identity to check when reading. None: whatever stands there by then, as in a replay."""
    is_rewrite: bool = False
    """Written again in place, with no marker set since: the station gives a new scan the file of an old one."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What identifies one read file; `width_px` and `height_px` are None when its header is not readable."""

    file: str
    sha256: str
    size_bytes: int
    modified_at: datetime
    width_px: int | None = None
    height_px: int | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """A scan with its pixels."""

    scan: Scan
    counts: Counts


@dataclass(frozen=True, slots=True)
class Former:
    """Earlier verdicts that bear on a new arrival: of its name, of its bytes, of its pixels."""

    name_id: str | None = None
    """The last verdict under this name."""
    is_same: bool = False
    """Whether that verdict was on these very bytes, by this very model: nothing new arrived."""
    repeats: str | None = None
    """The first verdict on these bytes, or on these pixels in another file."""


@dataclass(frozen=True, slots=True)
class Box:
    """A window of the scan that the gate does not know, in pixels of the original scan."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class Scores:
    """What the two networks say of one scan; any of them may be NaN and then decides nothing but review."""

    p_abnormal: float
    gate_mean_max: float
    gate_std_max: float


@dataclass(frozen=True, slots=True)
class Policy:
    """The thresholds that turn scores into an outcome; they travel in the signed model."""

    threshold: float
    gate_mean_threshold: float
    gate_std_threshold: float
    review_band: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """An outcome and the words that justify it, in a fixed order."""

    outcome: Outcome
    reasons: tuple[str, ...]
