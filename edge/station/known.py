"""Files that have their outcome, and whether what stands under their name still is that file.

Nothing here touches the disk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import replace

from edge.records import FileStamp, rights_of

NOISY_CHANGES = 1000
"""Change times alone that changed without a known reason: after so many they count for nothing."""

GONE_INODES = 5_000
"""Files whose last outcome is remembered by their inode although their names went: the newest, in about 2 MB."""

NOISY_INODES = 1000
"""Listed inodes that changed although their file did not: after so many they count for nothing."""


class KnownFiles:
    """What the inbox need not hand out again."""

    def __init__(self, known: Mapping[str, FileStamp]) -> None:
        self.stamps = dict(known)
        """The stamp of each file at its last outcome; to be read by others, changed only here."""
        self.by_inode = {stamp.inode: stamp for stamp in known.values()}
        """The last stamp of each inode that had its outcome, of some also after the name went; likewise."""
        self._noisy_changes = 0
        self._barred: dict[str, FileStamp] = {}
        self._listed_inodes: dict[str, int] = {}
        self._noisy_inodes = 0
        self._round: list[str] = []
        self._gone: set[str] = set()

    def __len__(self) -> int:
        return len(self.stamps)

    def add(self, stamp: FileStamp) -> None:
        """The file has its outcome; the stamp is of when it was handed out."""
        self.stamps[stamp.file] = stamp
        self.by_inode.pop(stamp.inode, None)
        self.by_inode[stamp.inode] = stamp
        while len(self.by_inode) > len(self.stamps) + GONE_INODES:
            del self.by_inode[next(iter(self.by_inode))]

    def discard(self, file: str) -> None:
        """Another file stands under this name. That it was barred is kept: the bar compares stamps itself."""
        self.stamps.pop(file, None)
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

        A change time other than the recorded one, all else being equal, speaks against it if the file was touched, or
        if its rights are what they were: then its bytes were rewritten under the former time, or a backup or a virus
        scanner left a mark. Reading it again tells; NOISY_CHANGES bounds that.
        """
        barred = self._barred.get(file)
        if barred is not None and barred.changed_ns != status.st_ctime_ns:
            return False
        stamp = self.stamps[file]
        if not stamp.matches(status, has_stable_inodes=has_stable_inodes):
            return False
        if stamp.changed_ns == status.st_ctime_ns or not stat.S_ISREG(status.st_mode):
            return True
        if was_touched:
            return False
        rights = rights_of(status)
        if stamp.changed_ns and stamp.rights in (None, rights) and self._noisy_changes < NOISY_CHANGES:
            self._noisy_changes += 1
            return False
        self.add(replace(stamp, changed_ns=status.st_ctime_ns, rights=rights))
        return True

    def bar(self, stamp: FileStamp) -> bool:
        """The file may not be read. False if that was said of this very file before."""
        barred, self._barred[stamp.file] = self._barred.get(stamp.file), stamp
        return barred != stamp

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
