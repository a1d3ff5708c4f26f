"""Whole scans that were not read yet, by the file they lie in: where they went, and how many were lost.

A name tells little: a station renames its scan and begins the next one at once, or writes into an old file under a new
name. So a file is followed by its inode, and by its time of birth, since file systems give freed numbers again. Where
they tell no birth, a file with a number of before is taken for a new one, unless its former name still shows it.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Collection, Mapping

from edge.records import FileStamp
from edge.station.folder import StationFolder
from edge.station.known import KnownFiles
from edge.system.files import birth_ns
from edge.system.logs import event
from edge.system.names import display_name

log = logging.getLogger(__name__)

COARSEST_NS = 2_000_000_000
"""Two times of one file differ by so much on FAT, whatever happened first."""


class UnreadScans:
    """What the inbox has seen of files without an outcome; one thread owns it."""

    def __init__(self, folder: StationFolder, known: KnownFiles) -> None:
        self._folder = folder
        self._known = known
        self._whole: dict[int, FileStamp] = {}  # by inode
        self._newest: dict[str, FileStamp] = {}  # by name
        self._replaced: list[FileStamp] = []
        self.overwritten_count = 0
        self.removed_count = 0

    @property
    def has_replaced(self) -> bool:
        """Whether `note_replaced` has to tell what became of files."""
        return bool(self._replaced)

    def note_arrival(self, stamp: FileStamp) -> None:
        """This file stands under its name; what stood there before may be lost. An empty one is a placeholder."""
        former = self._newest.pop(stamp.file, None)
        if former is not None:
            has_other_number = former.inode != stamp.inode and self._folder.has_stable_inodes
            if has_other_number or former.kind != stamp.kind:
                self._replaced.append(former)
        if stamp.size_bytes:
            self._newest[stamp.file] = stamp

    def has_arrived(self, file: str) -> bool:
        """Whether the file under this name came after the last one that was handed out."""
        return file in self._newest

    def note_whole(self, stamp: FileStamp) -> None:
        """It stood still for long enough to be a scan."""
        self._whole[stamp.inode] = stamp

    def release(self, inode: int) -> bool:
        """What lies in this file is no whole unread scan, or no longer; whether it was one."""
        return self._whole.pop(inode, None) is not None or not self._folder.has_stable_inodes

    def read(self, stamp: FileStamp) -> None:
        """It has its outcome."""
        if self._whole.get(stamp.inode) == stamp:
            del self._whole[stamp.inode]

    def drop(self, file: str) -> None:
        """The name is gone, or its file was handed out."""
        self._newest.pop(file, None)

    def former(self, file: str, status: os.stat_result) -> tuple[FileStamp, bool] | None:
        """The whole scan that this very file held last under another name, and whether that was not read."""
        unread = self._whole.get(status.st_ino)
        former = unread or self._known.by_inode.get(status.st_ino)
        if former is None or former.file == file or not former.is_whole or not self._folder.has_stable_inodes:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        lived = self._lived_then(file, former)
        if lived is None:
            named = self._folder.glance(former.file)
            lived = named is not None and named.st_ino == former.inode
        return (former, unread is not None) if lived else None

    def was_made_anew(self, former: FileStamp) -> bool:
        """Whether the file under this name surely is another than `former`, which had its inode number."""
        born_ns = birth_ns(self._folder.path / former.file)
        return born_ns is not None and bool(former.changed_ns) and born_ns > former.changed_ns + COARSEST_NS

    def note_overwritten(self, file: str, by: str) -> None:
        self.overwritten_count += 1
        event(log.warning, "overwritten before it was read", file=display_name(file), by=by)

    def note_replaced(self, names: Mapping[int, str]) -> None:
        """Count what was replaced under its name and is gone. `names`: of the listed files, by inode."""
        for former in self._replaced:
            if not self._is_kept(former, names):
                self.note_overwritten(former.file, "another file")
        self._replaced.clear()

    def note_removed(self, stamp: FileStamp, names: Mapping[int, str]) -> None:
        """Count a whole scan whose name is gone, unless it has another one now, or had its outcome under one."""
        if self._folder.has_stable_inodes and not self._is_kept(stamp, names) and self._folder.is_gone(stamp.file):
            self.removed_count += 1
            event(log.warning, "removed before it was read", file=display_name(stamp.file))

    def forget(self, present: Collection[str]) -> None:
        """Forget names that are gone. That bounds memory and decides nothing."""
        self._whole = {inode: stamp for inode, stamp in self._whole.items() if stamp.file in present}
        self._newest = {file: stamp for file, stamp in self._newest.items() if file in present}

    def _is_kept(self, former: FileStamp, names: Mapping[int, str]) -> bool:
        judged = self._known.by_inode.get(former.inode)
        if judged is not None and judged.changed_ns >= former.changed_ns:
            return True
        file = names.get(former.inode)
        return file is not None and file != former.file and self._lived_then(file, former) is not False

    def _lived_then(self, file: str, former: FileStamp) -> bool | None:
        """Whether `file`, which has the inode number of `former`, was made before that last changed; None: not told."""
        born_ns = birth_ns(self._folder.path / file)
        return None if born_ns is None else born_ns <= former.changed_ns
