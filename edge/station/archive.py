"""What happens to files after their verdict stands: moved with their markers if asked to."""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import math
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from edge.errors import LedgerError
from edge.records import FileStamp
from edge.station.folder import find_markers, marker_names
from edge.station.mounts import Whereabouts, file_system
from edge.system.files import CHUNK_BYTES, copy_open, copy_whole, open_folder, open_regular
from edge.system.logs import event
from edge.system.names import SCAN_SUFFIXES, display_name, finds_again, is_scan_name

log = logging.getLogger(__name__)

DRAFT_SUFFIX = ".part"
"""Suffix of a draft. Its name is hidden, and no listing of a folder takes it for a scan."""

TAKEN_SUFFIX = ".moving"
"""Suffix of a file between its two places, hidden likewise."""

MAX_NAME_BYTES = 255

RETRY_S = 10.0
"""Between two tries to move what could not be moved."""

SIBLING_SUFFIXES = (*SCAN_SUFFIXES, *(suffix.upper() for suffix in SCAN_SUFFIXES))


class Archive:
    """Moves judged scans and their markers out of the station folder. Only built when `after = "move"`.

    A scan is first **taken** under a name that nothing else uses, then looked at, then given its name in the archive:
    what has replaced it a moment before is put back unread. No link is followed below either folder. What cannot be
    moved, as the target is full or away, is tried again every RETRY_S, and after a restart. One thread calls `step`,
    any thread `add`.
    """

    def __init__(
        self,
        folder: Path,
        target: Path,
        *,
        is_judged: Callable[[str, str], bool],
        recursive: bool = False,
        done_suffix: str | None = None,
        remembered: str | None = None,
    ) -> None:
        """`is_judged`: whether the last verdict on a file was on bytes of this SHA-256; may raise LedgerError.
        `recursive`: the inbox looks into sub-folders; nothing is moved to where it would find it again.
        `remembered`: `whereabouts` of an earlier run; a target that was never seen is made.
        """
        self._folder = folder
        self._target = target
        self._is_judged = is_judged
        self._recursive = recursive
        self._done_suffix = done_suffix
        self._seen = Whereabouts.from_text(remembered, target)
        self._identity: tuple[int, int] | None = None
        self._added: deque[FileStamp] = deque()
        self._failed: dict[str, FileStamp] = {}
        self._why = ""
        self._retry_at_s = -math.inf
        self.wake = threading.Event()
        """Set when there is something to move."""
        self.overwritten_count = 0
        """Files that were replaced before they were read, as a move found: the inbox never saw them."""
        self.busy_since_s: float | None = None
        """Monotonic; None between two moves. A target that hangs shows by it."""

    @property
    def whereabouts(self) -> str | None:
        """Where the target is, to be kept for the next run; None before it was seen."""
        return self._seen.as_text() if self._seen is not None else None

    @property
    def failure(self) -> str | None:
        """How many scans could not be moved, and why the last one; None while there is none."""
        if not self._failed:
            return None
        return f"scans not moved to {self._target}: {len(self._failed)}; last {display_name(self._why)}"

    def add(self, stamp: FileStamp) -> None:
        """A file has its verdict: move it."""
        self._added.append(stamp)
        self.wake.set()

    def step(self, now_s: float, go_on: Callable[[], bool] = lambda: True) -> float:
        """Move what was added, and try again what is due; how long to wait, in seconds, unless `wake` is set."""
        self.wake.clear()
        while self._added and go_on():
            self.move(self._added.popleft())
        if self._failed and now_s >= self._retry_at_s:
            self._retry_at_s = now_s + RETRY_S
            for stamp in list(self._failed.values()):
                if not go_on() or not self.move(stamp):
                    break  # the others have the same reason, as a rule; this one is the last to be tried again
        return max(self._retry_at_s - now_s, 0.0) if self._failed else RETRY_S

    def move(self, stamp: FileStamp) -> bool:
        """Move one judged file, unless the station has replaced it since; False if it has to be tried again.

        The move keeps the relative path; a name that is taken gets the inode number added. Only regular files are
        moved, as a whole or not at all.
        """
        self.busy_since_s = time.monotonic()
        try:
            return self._move(stamp)
        finally:
            self.busy_since_s = None

    def _move(self, stamp: FileStamp) -> bool:
        inner, _, name = stamp.file.rpartition("/")
        was_failed = self._failed.pop(stamp.file, None) is not None
        try:
            with open_folder(self._folder, inner) as source_fd:
                has_stable_inodes = file_system(self._folder).has_stable_inodes
                if self._seen is None and not _is_unchanged(_path(source_fd) / name, stamp, has_stable_inodes):
                    return True  # nothing was ever moved, so there is nothing to recover
                with (
                    self._open_target() as target_fd,
                    open_folder(target_fd, inner, create=True) as inner_fd,
                ):
                    move = _Move(_path(source_fd), _path(inner_fd), name, stamp, has_stable_inodes)
                    try:
                        self._carry_out(move)
                    finally:
                        self.overwritten_count += move.overwritten_count
        except (FileNotFoundError, NotADirectoryError) as error:
            if self._folder_is_there(inner):
                return self._fail(stamp, error, was_failed)
        except OSError as error:
            return self._fail(stamp, error, was_failed)
        return True

    def _carry_out(self, move: _Move) -> None:
        move.recover()
        if not move.is_judged_one():
            return
        # Stamped before the look that counts: a station sets its marker after the scan, so while the judged one stands
        # these are its own, and a marker that is set later is another, which stays.
        markers = self._stamped_markers(move.source)
        if move.is_judged_one() and self._has_judged_bytes(move.source, move.stamp):
            # First: a marker without its scan would make the part's next scan count as marked. A scan without its
            # marker has its verdict, and is moved at the next try.
            for marked in markers:
                with suppress(FileNotFoundError):  # another process took it
                    _Move(move.source.parent, move.target, marked.file, marked, has_stable_inodes=True).carry_out()
            move.carry_out()

    def _has_judged_bytes(self, source: Path, stamp: FileStamp) -> bool:
        """Asked for what has its size and time, but changed since: while a move waits, much can be done to a file.

        Other bytes stay, for the inbox to hand out.
        """
        if stamp.changed_ns in (0, source.lstat().st_ctime_ns):
            return True
        with open_regular(source) as (file, _):
            sha256 = _digest(file).hex()
        try:
            return self._is_judged(stamp.file, sha256)
        except LedgerError as error:
            raise OSError(errno.EIO, error.message) from error

    def _fail(self, stamp: FileStamp, error: OSError, was_failed: bool) -> bool:
        self._failed[stamp.file] = stamp
        self._why = f"{stamp.file}: {error.strerror or error}"
        if not was_failed:
            event(log.warning, "scan not moved", file=display_name(stamp.file), error=str(error))
        return False

    def _folder_is_there(self, inner: str) -> bool:
        """Whether it is the target that is missing, and not the place the scan was in."""
        try:
            with open_folder(self._folder, inner):
                return True
        except OSError:
            return False

    @contextmanager
    def _open_target(self) -> Iterator[int]:
        """Raises OSError if it is away: the mount point below a share that is not mounted is another place."""
        if self._seen is None:
            self._target.mkdir(parents=True, exist_ok=True)
        with open_folder(self._target, "") as descriptor:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) != self._identity:
                home = file_system(self._target)
                if self._seen is not None and self._seen.is_unmounted(home):
                    was = f"{self._seen.kind} is not mounted at {self._seen.mount_point}"
                    raise OSError(errno.ENOTCONN, was)
                real = Path(os.path.realpath(self._target))
                if finds_again(Path(os.path.realpath(self._folder)), real, recursive=self._recursive):
                    raise OSError(errno.ELOOP, f"it leads to {real}, where the worker looks for new scans")
                self._identity = status.st_dev, status.st_ino
                self._seen = Whereabouts.of(self._target, home, status.st_ino)
            yield descriptor

    def _stamped_markers(self, scan: Path) -> list[FileStamp]:
        """Those of this scan, save one that another scan of this stem still needs; of files in the scan's folder."""
        if self._done_suffix is None:
            return []
        own, shared = marker_names(scan, self._done_suffix)
        is_shared = any(_is_other(scan.with_suffix(suffix), scan) for suffix in SIBLING_SUFFIXES)
        stamps = []
        for marker in find_markers(scan, (own,) if is_shared else (own, shared)):
            with suppress(FileNotFoundError):
                stamps.append(FileStamp.of(marker.name, marker.lstat()))
        return stamps


class _Move:
    """One file from an open folder to another.

    `source` and `target` go through descriptors (/proc/self/fd), so that whatever is swapped on the way to them
    meanwhile, they stay the folders that were opened.
    """

    def __init__(self, folder: Path, target: Path, name: str, stamp: FileStamp, has_stable_inodes: bool) -> None:
        self.source = folder / name
        self.target = target
        self.stamp = stamp
        self.overwritten_count = 0
        self._has_stable_inodes = has_stable_inodes
        taken = f".{stamp.inode}{TAKEN_SUFFIX}"
        self._taken = target / taken
        self._taken_here = folder / taken

    def is_judged_one(self) -> bool:
        return _is_unchanged(self.source, self.stamp, self._has_stable_inodes)

    def recover(self) -> None:
        """Finish what a kill cut short between the taking and the naming, in either place."""
        if os.path.lexists(self._taken):
            self._name_or_put_back()
        if os.path.lexists(self._taken_here):
            self._remove_or_put_back()

    def carry_out(self) -> None:
        """Raises OSError, with the file where it was, or whole in both places."""
        try:
            self.source.rename(self._taken)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._across()
        else:
            self._name_or_put_back()

    def _name_or_put_back(self) -> None:
        if _is_unchanged(self._taken, self.stamp, self._has_stable_inodes):
            self._taken.rename(self._free_name())
        else:
            self._put_back(self._taken)

    def _remove_or_put_back(self) -> None:
        if _is_unchanged(self._taken_here, self.stamp, self._has_stable_inodes):
            self._taken_here.unlink()
        else:
            self._put_back(self._taken_here)

    def _across(self) -> None:
        """Copy to another file system, then remove."""
        if not self.is_judged_one():
            return
        with open_regular(self.source) as (original, status):
            if not self.stamp.matches(status, has_stable_inodes=self._has_stable_inodes):
                return
            for name in self._names():
                if not os.path.lexists(name):
                    copy_open(original, status, self.target / f".{self.stamp.inode}{DRAFT_SUFFIX}", name)
                    break
                if _is_copy(self.source, name):  # made before, and a kill came before the removal
                    break
        self.source.rename(self._taken_here)
        self._remove_or_put_back()

    def _put_back(self, taken: Path) -> None:
        """It is not the judged one: the station had replaced that a moment before. Not over a still newer one."""
        try:
            self.source.hardlink_to(taken)
            taken.unlink()
        except FileExistsError:
            if not is_scan_name(self.source.name):
                taken.unlink()  # of two markers of the next scan one is enough
                return
            name = self._free_name()
            try:
                taken.rename(name)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                copy_whole(taken, self.target / f".{self.stamp.inode}{DRAFT_SUFFIX}", name)
                taken.unlink()
            self.overwritten_count += 1
            event(log.warning, "overwritten before it was read", file=display_name(self.stamp.file), by="another file")
        except OSError:  # a directory, or a file system without hard links
            if os.path.lexists(self.source):
                raise
            taken.rename(self.source)

    def _free_name(self) -> Path:
        return next(name for name in self._names() if not os.path.lexists(name))

    def _names(self) -> Iterator[Path]:
        """The name itself, then others for when it is taken; a file system gives a freed inode number again."""
        destination = self.target / self.source.name
        yield destination
        for number in itertools.count(1):
            addition = f".{self.stamp.inode}" + (f"-{number}" if number > 1 else "") + destination.suffix
            room = MAX_NAME_BYTES - len(addition)
            yield destination.with_name(os.fsencode(destination.stem)[:room].decode("utf-8", "ignore") + addition)


def _path(descriptor: int) -> Path:
    """A path that stays with the open folder."""
    return Path(f"/proc/self/fd/{descriptor}")


def _is_other(path: Path, scan: Path) -> bool:
    """Whether a file of this name is there, and not the scan itself: some file systems know no upper and lower case."""
    try:
        return not os.path.samestat(path.lstat(), scan.lstat())
    except FileNotFoundError:
        return False


def _is_copy(source: Path, other: Path) -> bool:
    if other.is_symlink() or not other.is_file() or other.stat().st_size != source.stat().st_size:
        return False
    with source.open("rb") as one, other.open("rb") as another:
        return _digest(one) == _digest(another)


def _digest(file: BinaryIO) -> bytes:
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.digest()


def _is_unchanged(path: Path, stamp: FileStamp, has_stable_inodes: bool) -> bool:
    """False if it is gone, too: it was moved before, or another process took it; and for no regular file."""
    try:
        now = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(now.st_mode) and stamp.matches(now, has_stable_inodes=has_stable_inodes)
