"""What happens to files after their verdict stands: moved with their markers if asked to, copied if unreadable."""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from edge.records import ExpectedFile, FileStamp
from edge.scans.scan import SUFFIXES
from edge.system.files import copy_open, copy_whole, opened_regular
from edge.system.logs import event

log = logging.getLogger(__name__)

QUARANTINE_NAME_BYTES = 180
"""Room for the hash prefix within the 255 bytes a file system allows."""

DRAFT_SUFFIX = ".part"
"""Suffix of a draft. Its name is hidden, and no listing of a folder takes it for a scan."""

SIBLING_SUFFIXES = (*SUFFIXES, *(suffix.upper() for suffix in SUFFIXES))


class Archive:
    """Moves judged scans and their markers out of the station folder. Only built when `after = "move"`."""

    def __init__(
        self, folder: Path, target: Path, *, done_suffix: str | None = None, has_stable_inodes: bool = True
    ) -> None:
        """`has_stable_inodes`: whether a file in `folder` keeps its inode number while it is not replaced."""
        self._folder = folder
        self._target = target
        self._done_suffix = done_suffix
        self._has_stable_inodes = has_stable_inodes

    def move(self, stamp: FileStamp) -> None:
        """Move one judged file, unless the station has replaced it since; a failure is logged and retried at start.

        The move keeps the relative path; a name that is taken gets the inode number added. To another file system only
        regular files are moved, as a whole or not at all.
        """
        source, destination = self._folder / stamp.file, self._target / stamp.file
        try:
            if not _is_unchanged(source, stamp, self._has_stable_inodes):
                return
            destination.parent.mkdir(parents=True, exist_ok=True)
            # First: a marker without its scan would make the part's next scan count as marked. A scan without its
            # marker has its verdict, and is moved at the next start.
            for marker in self._markers(source):
                with suppress(FileNotFoundError):  # whoever else took it has it
                    _move(marker, destination.with_name(marker.name), FileStamp.of(marker.name, marker.lstat()), True)
            _move(source, destination, stamp, self._has_stable_inodes)
        except OSError as error:
            event(log.warning, "scan not moved", file=stamp.file, error=str(error))

    def _markers(self, scan: Path) -> list[Path]:
        """Those of this scan, save one that another scan of this stem still needs."""
        if self._done_suffix is None:
            return []
        names = [scan.name + self._done_suffix]
        if not any(_is_other(scan.with_suffix(suffix), scan) for suffix in SIBLING_SUFFIXES):
            names.append(scan.stem + self._done_suffix)
        found = [name for name in names if os.path.lexists(scan.with_name(name))]
        if not found:  # in another case: the listing is dear where a backlog lies
            lower = {name.lower() for name in names}
            found = [path.name for path in scan.parent.iterdir() if path.name.lower() in lower]
        return [scan.with_name(name) for name in found if not name.lower().endswith(SUFFIXES)]


class Quarantine:
    """Copies of unreadable files for the people who mend the station, within a byte budget.

    The ledger lies on the same disk and comes first: no copy takes what is left below `min_free_bytes`, nor the last
    tenth of the file system's inodes, of which an empty file costs as many as any.
    """

    def __init__(self, directory: Path, max_bytes: int, *, min_free_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for draft in directory.glob(f".*{DRAFT_SUFFIX}"):  # a kill cut it short; the original is where it was
            with suppress(OSError):
                draft.unlink()
        self._used_bytes = sum(entry.stat().st_size for entry in directory.iterdir() if entry.is_file())

    def keep(self, source: Path, expected: ExpectedFile, sha256: str) -> None:
        """Copy `source` beside the others, if there is room for it and it still is the expected file.

        It is opened once, and what is copied is the expected number of bytes of that open file: nobody can put a link
        in its place or let it grow meanwhile. Silently skipped if it is no regular file.
        """
        size_bytes = expected.stamp.size_bytes
        name = os.fsencode(source.name)[-QUARANTINE_NAME_BYTES:]
        destination = self._directory / (f"{sha256[:16]}-" + os.fsdecode(name))
        try:
            if not stat.S_ISREG(source.lstat().st_mode) or os.path.lexists(destination):
                return
            with opened_regular(source) as (original, status):
                if not expected.matches(status):
                    event(log.info, "no quarantine copy of a file that changed", file=source.name)
                    return
                if self._used_bytes + size_bytes > self._max_bytes:
                    event(log.warning, "quarantine full", directory=str(self._directory))
                    return
                self._check_room(size_bytes)
                draft = self._directory / f".{sha256[:16]}{DRAFT_SUFFIX}"
                copy_open(original, status, draft, destination)
            self._used_bytes += size_bytes
        except OSError as error:
            event(log.warning, "no quarantine copy", file=source.name, error=str(error))

    def _check_room(self, size_bytes: int) -> None:
        """Raises OSError if a file of that size would take what the ledger needs."""
        left = os.statvfs(self._directory)
        left_bytes = left.f_bavail * left.f_frsize - size_bytes
        if left_bytes < self._min_free_bytes:
            raise OSError(errno.ENOSPC, f"{left_bytes} bytes would be left, expected {self._min_free_bytes}")
        if left.f_favail < left.f_files // 10:  # none at all where a file system does not count them
            raise OSError(errno.ENOSPC, f"{left.f_favail} of {left.f_files} inodes are left, expected a tenth")


def _move(source: Path, destination: Path, stamp: FileStamp, has_stable_inodes: bool) -> None:
    try:
        source.rename(next(name for name in _names(destination, stamp) if not os.path.lexists(name)))
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _move_across(source, destination, stamp, has_stable_inodes)


def _move_across(source: Path, destination: Path, stamp: FileStamp, has_stable_inodes: bool) -> None:
    """Copy, then remove: a kill at any moment leaves the scan whole in one of the two places, or in both."""
    if not stat.S_ISREG(source.lstat().st_mode):
        raise OSError(errno.EXDEV, "only regular files are moved to another file system")
    for name in _names(destination, stamp):
        if not os.path.lexists(name):
            copy_whole(source, destination.with_name(f".{stamp.inode}{DRAFT_SUFFIX}"), name)
            break
        if _is_copy(source, name):  # made before, and a kill came before the removal
            break
    if _is_unchanged(source, stamp, has_stable_inodes):
        source.unlink()


def _is_other(path: Path, scan: Path) -> bool:
    """Whether a file of this name is there, and not the scan itself: some file systems know no upper and lower case."""
    try:
        return not os.path.samestat(path.lstat(), scan.lstat())
    except FileNotFoundError:
        return False


def _names(destination: Path, stamp: FileStamp) -> Iterator[Path]:
    """The name itself, then others for when it is taken; a file system gives a freed inode number again."""
    yield destination
    yield destination.with_stem(f"{destination.stem}.{stamp.inode}")
    for number in itertools.count(2):
        yield destination.with_stem(f"{destination.stem}.{stamp.inode}-{number}")


def _is_copy(source: Path, other: Path) -> bool:
    if other.is_symlink() or not other.is_file() or other.stat().st_size != source.stat().st_size:
        return False
    digests = []
    for path in (source, other):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").digest())
    return digests[0] == digests[1]


def _is_unchanged(path: Path, stamp: FileStamp, has_stable_inodes: bool) -> bool:
    """False if it is gone, too: it was moved before, or whoever else took it has it."""
    try:
        now = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stamp.matches(now, has_stable_inodes=has_stable_inodes)
