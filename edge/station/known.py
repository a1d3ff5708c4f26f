"""Files that have their outcome, and whether what stands under their name still is that file.

Recorded are the stamps of the ledger and, for files of this run, the change time. Nothing here touches the disk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping

from edge.records import FileStamp

NOISY_INODES = 1000
"""Listed inodes that changed although their file did not: after so many they count for nothing."""


class KnownFiles:
    """What the inbox need not hand out again."""

    def __init__(self, known: Mapping[str, FileStamp]) -> None:
        self.stamps = dict(known)
        """The stamp of each file at its last outcome; to be read by others, changed only here."""
        self._changed_ns: dict[str, int] = {}
        self._barred: dict[str, tuple[FileStamp, int]] = {}
        self._listed_inodes: dict[str, int] = {}
        self._noisy_inodes = 0
        self._round: list[str] = []
        self._gone: set[str] = set()

    def __len__(self) -> int:
        return len(self.stamps)

    def add(self, stamp: FileStamp, changed_ns: int | None = None) -> None:
        """The file has its outcome; `changed_ns` is its change time when it was handed out."""
        self.stamps[stamp.file] = stamp
        if changed_ns is not None:
            self._changed_ns[stamp.file] = changed_ns

    def discard(self, file: str) -> None:
        """Another file stands under this name. That it was barred is kept: the bar compares stamps itself."""
        self.stamps.pop(file, None)
        self._changed_ns.pop(file, None)
        self._listed_inodes.pop(file, None)

    def explains(self, file: str, inode: int) -> bool:
        """Whether a directory entry with another inode than the stamp's is no reason to look at the file.

        An entry's inode may differ from its file's (overlays, mounts inside), and some systems invent it.
        """
        if file not in self.stamps:
            return False
        return self._listed_inodes.get(file) == inode or self._noisy_inodes > NOISY_INODES

    def note_inode(self, file: str, inode: int) -> None:
        """The file was looked at because of its entry's inode, and is what it was."""
        self._noisy_inodes += file in self._listed_inodes
        self._listed_inodes[file] = inode

    def is_still(self, file: str, status: os.stat_result, *, was_touched: bool, has_stable_inodes: bool) -> bool:
        """Whether `status` shows the file that is known.

        If it was touched, a change time other than the recorded one speaks against it. If not, that says
        nothing: backups, virus scanners and administrators change it without changing a byte.
        """
        barred = self._barred.get(file)
        if barred is not None and barred[1] != status.st_ctime_ns:
            return False
        if was_touched and stat.S_ISREG(status.st_mode) and self._changed_ns.get(file) != status.st_ctime_ns:
            return False
        return self.stamps[file].matches(status, has_stable_inodes=has_stable_inodes)

    def bar(self, stamp: FileStamp, changed_ns: int) -> bool:
        """The file may not be read. False if that was said of this very file before."""
        barred = self._barred.get(stamp.file)
        self._barred[stamp.file] = stamp, changed_ns
        return barred is None or barred[0] != stamp

    def unbar(self, file: str) -> None:
        self._barred.pop(file, None)

    def next_round(self, count: int) -> list[str]:
        """The next `count` files at most, so that all of them get their turn."""
        if not self._round:
            self._round = list(self.stamps)
        rest = max(0, len(self._round) - count)
        chosen = self._round[rest:]
        del self._round[rest:]
        return chosen

    def forget_gone(self, present: Collection[str]) -> None:
        """Forget files that are missing for the second time. That bounds memory and decides nothing."""
        gone = self.stamps.keys() - present
        for file in gone & self._gone:
            self.discard(file)
            self.unbar(file)
        self._gone = gone
