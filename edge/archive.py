"""What happens to files after their verdict stands: moved away if asked to, copied if unreadable."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from edge.records import FileStamp

log = logging.getLogger(__name__)

QUARANTINE_NAME_BYTES = 180
"""Room for the hash prefix within the 255 bytes a file system allows."""


class Archive:
    """Moves judged scans out of the station folder. Only built when `after = "move"`."""

    def __init__(self, folder: Path, target: Path) -> None:
        self._folder = folder
        self._target = target

    def move(self, stamp: FileStamp) -> None:
        """Move one judged file, unless the station has replaced it since; a failure is logged and retried at start.

        The move keeps the relative path; a name that is taken gets the inode number as a suffix.
        """
        source = self._folder / stamp.file
        try:
            if not _is_unchanged(source, stamp):
                return
            destination = self._target / stamp.file
            destination.parent.mkdir(parents=True, exist_ok=True)
            if destination.exists():
                destination = destination.with_name(f"{destination.stem}.{stamp.inode}{destination.suffix}")
            shutil.move(source, destination)
        except OSError as error:
            log.warning("scan not moved", extra={"fields": {"file": stamp.file, "error": str(error)}})


class Quarantine:
    """Copies of unreadable files for the people who mend the station, within a byte budget."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._used_bytes = sum(entry.stat().st_size for entry in directory.iterdir() if entry.is_file())

    def keep(self, source: Path, sha256: str) -> None:
        """Copy `source` beside the others; silently skipped when it would exceed the budget or is no regular file."""
        name = os.fsencode(source.name)[-QUARANTINE_NAME_BYTES:]
        destination = self._directory / (f"{sha256[:16]}-" + os.fsdecode(name))
        try:
            if source.is_symlink() or not source.is_file() or destination.exists():
                return
            size_bytes = source.stat().st_size
            if self._used_bytes + size_bytes > self._max_bytes:
                log.warning("quarantine full", extra={"fields": {"directory": str(self._directory)}})
                return
            shutil.copyfile(source, destination)
            self._used_bytes += size_bytes
        except OSError as error:
            log.warning("no quarantine copy", extra={"fields": {"file": source.name, "error": str(error)}})


def _is_unchanged(path: Path, stamp: FileStamp) -> bool:
    now = path.lstat()
    return (now.st_ino, now.st_size, now.st_mtime_ns) == (stamp.inode, stamp.size_bytes, stamp.modified_ns)
