"""What makes changes to a directory last, and files whole."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Make renames in a directory last: the file's own fsync says nothing of its name."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def copy_whole(source: Path, draft: Path, target: Path) -> None:
    """Copy a regular file with its times and mode: what bears the name of `target` is whole, and lasts.

    `draft` lies in the same directory and is overwritten; only a kill leaves it behind. Raises OSError, and then there
    is no `target`, save that `target` was there before.
    """
    draft.unlink(missing_ok=True)
    try:
        shutil.copy2(source, draft)
        with draft.open("rb") as copy:
            os.fsync(copy.fileno())
        draft.rename(target)
    except OSError:
        with suppress(OSError):
            draft.unlink()
        raise
    try:
        sync_directory(target.parent)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync no directory
            raise
