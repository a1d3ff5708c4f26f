"""Whether a file still is the one that was looked at, as far as its size, time and inode can tell."""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass

from edge.records import FileStamp

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """A file that stood still and was found complete."""

    stamp: FileStamp
    has_stable_inodes: bool
    """Whether a file that is not replaced keeps its inode number where this one lies."""

    def is_shown_by(self, status: os.stat_result) -> bool:
        return is_same(self.stamp, status, has_stable_inodes=self.has_stable_inodes)


def is_same(stamp: FileStamp, status: os.stat_result, *, has_stable_inodes: bool) -> bool:
    """Whether a file is the one that was stamped, as far as size, time and inode can tell."""
    has_stamped_inode = status.st_ino == stamp.inode or not has_stable_inodes
    if not stat.S_ISREG(status.st_mode):
        return has_stamped_inode  # a directory's size and time change with what is put into it
    return has_stamped_inode and (status.st_size, status.st_mtime_ns) == (stamp.size_bytes, stamp.modified_ns)


def report_overwritten(former: Standing, status: os.stat_result) -> None:
    """Log that what stood there was lost unread; not of a file that merely grew: its writer goes on with it."""
    stamp = former.stamp
    is_same_file = status.st_ino == stamp.inode or not former.has_stable_inodes
    if is_same_file and status.st_size > stamp.size_bytes:
        return
    fields = {
        "file": stamp.file,
        "expected": {"inode": stamp.inode, "size_bytes": stamp.size_bytes, "modified_ns": stamp.modified_ns},
        "observed": {"inode": status.st_ino, "size_bytes": status.st_size, "modified_ns": status.st_mtime_ns},
    }
    log.warning("overwritten before it was read", extra={"fields": fields})
