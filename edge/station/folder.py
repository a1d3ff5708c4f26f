"""One look at the station folder: which names are there, or why they cannot be seen.

The folder may be a mount that comes and goes. Its absence must never look like "all scans are gone" or, worse,
"there is nothing to do", so these count as away:

* it cannot be opened or listed;
* its file system was mounted at the last look and no longer is, whatever the mount point below holds;
* another folder stands in its place and is empty although it held scans before: a mount point that nothing was
  mounted on yet, or one that somebody recreated. It counts as there as soon as it holds anything.

A different folder that does hold something is taken for the new one: stations recreate theirs. Where the folder was is
kept over a restart (`whereabouts`), since a line that moves its scans on knows none of them then. At the start what an
unmounted file system leaves is away until it holds a scan: the station may have moved to the local disk for good.

Sub-folders, where they are asked for, are read from a work list, to a limit, and through no link. One that cannot be
read hides no other, and is reported.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from edge.records import FileStamp
from edge.station.mounts import FileSystem, Whereabouts, file_system
from edge.system.files import open_folder
from edge.system.logs import event
from edge.system.names import IGNORED_FOLDERS, IGNORED_STARTS, display_name, is_scan_name

log = logging.getLogger(__name__)

MAX_DEPTH = 32
"""Levels of sub-folders that are read; stations sort by day, lot and part."""

MAX_PATH_BYTES = 3800
"""Longest path of a folder that is read: with a file's name, the kernel takes 4096."""

TOO_DEEP = f"more than {MAX_DEPTH} levels deep, or a path of more than {MAX_PATH_BYTES} bytes"


class Away(StrEnum):
    """Why the folder cannot be read."""

    MISSING = "missing"
    NOT_A_FOLDER = "not-a-folder"
    NO_PERMISSION = "no-permission"
    IO_ERROR = "io-error"
    UNMOUNTED = "unmounted"
    EMPTY = "empty"


HINTS = {
    Away.MISSING: "mount the share, or correct `folder.path`",
    Away.NOT_A_FOLDER: "set `folder.path` to the folder the station writes into",
    Away.NO_PERMISSION: "let the worker's user list the folder and read the files (r-x on the folder)",
    Away.IO_ERROR: "check the network to the share, and the disk behind it",
    Away.UNMOUNTED: "mount the share again; if the folder moved to the local disk for good, restart the worker when "
    "the first scan is there",
    Away.EMPTY: "mount the share; nothing is to be done if the folder was emptied on purpose",
}


@dataclass(frozen=True, slots=True)
class FolderState:
    """Whether the folder was there at the last look; `away` is None when it was."""

    away: Away | None = None
    detail: str = ""
    hint: str = ""
    away_since_s: float | None = None
    """Monotonic seconds, as given to `poll`."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What one look found."""

    found: list[tuple[str, int]] = field(default_factory=list)
    """(file, inode of its directory entry) of the scans that are not known by both."""
    unmarked: list[tuple[str, int]] = field(default_factory=list)
    """Scans left out because their marker is missing, likewise."""
    away: Away | None = None
    detail: str = ""


class StationFolder:
    """Lists the folder and stats its files; never raises for what they are or become. Writes nothing."""

    def __init__(
        self, path: Path, *, done_suffix: str | None = None, recursive: bool = False, remembered: str | None = None
    ) -> None:
        """`recursive` also looks into sub-folders, except hidden ones and links. `done_suffix`: a scan counts
        only once `scan.tif.done` or `scan.done` stands beside it. `remembered`: `whereabouts` of an earlier run.
        """
        self.path = path
        self._root = f"{path}/"
        self._done_suffix = done_suffix.lower() if done_suffix else None
        self._recursive = recursive
        self._identity: tuple[int, int] | None = None
        self._home = FileSystem("unknown", Path("/"))
        self._seen = Whereabouts.from_text(remembered, path)
        self._has_held_scans = self._seen is not None
        self._denied = False
        self._complained: set[str] = set()
        self._unread: dict[str, str] = {}

    @property
    def unread(self) -> Mapping[str, str]:
        """Files and sub-folders that could not be read since the last look began, and why."""
        return self._unread

    @property
    def whereabouts(self) -> str | None:
        """Where the folder was at the last look that found it there, for the next run; None before it held a scan."""
        return self._seen.as_text() if self._seen is not None and self._has_held_scans else None

    @property
    def has_stable_inodes(self) -> bool:
        """Whether a file that is not replaced keeps its inode number here."""
        return self._home.has_stable_inodes

    @property
    def is_plain(self) -> bool:
        """Whether a scan is told by its own name alone: there are no markers and no sub-folders."""
        return self._done_suffix is None and not self._recursive

    def takes(self, file: str) -> bool:
        """Whether an entry of this name in a plain folder is a scan."""
        return self.is_plain and not file.startswith(IGNORED_STARTS) and is_scan_name(file)

    def look(self, known: Mapping[str, FileStamp], *, expects_scans: bool) -> Listing:
        """List the folder once, without a stat per file; a file in `known` costs about a microsecond."""
        self._denied = False
        self._unread = {}
        try:
            with open_folder(self.path, "") as descriptor:
                # What is identified is what is listed, whatever is mounted or renamed in between.
                return self._enter(descriptor, known, expects_scans)
        except OSError as error:
            return Listing(away=_reason(error), detail=f"{self.path}: {error.strerror}")

    def lstat(self, file: str) -> os.stat_result | None:
        """Status of the entry itself, links not followed; None when it is gone or cannot be had."""
        try:
            return os.lstat(self._root + file)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if isinstance(error, PermissionError) and "/" not in file:
                self._denied = True  # looking at a file takes a right on its folder, not on the file
            else:
                self.complain(file, error)
        return None

    def glance(self, file: str) -> os.stat_result | None:
        """Status of an entry for any thread, without a word on why it cannot be had."""
        try:
            return os.lstat(self._root + file)
        except OSError:
            return None

    def marked_ns(self, file: str) -> int | None:
        """Change time of the newest marker beside the file; None where there is none, or none is asked for."""
        if self._done_suffix is None:
            return None
        scan = self.path / file
        try:
            markers = find_markers(scan, marker_names(scan, self._done_suffix))
            return max((marker.lstat().st_ctime_ns for marker in markers), default=None)
        except OSError:
            return None

    def is_gone(self, file: str) -> bool:
        """False where that is not known."""
        try:
            os.lstat(self._root + file)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            pass
        return False

    def was_denied(self) -> bool:
        """Whether a stat in the folder itself was refused since the last look."""
        return self._denied

    def all_scans(self) -> set[str] | None:
        """Every file that matches, known or not, marked or not.

        None unless the folder of the last look is there, and every sub-folder can be read.
        """
        try:
            with open_folder(self.path, "") as descriptor:
                status = os.fstat(descriptor)
                if (status.st_dev, status.st_ino) != self._identity:
                    return None
                scans: set[str] = set()
                names = self._read_names(descriptor, {}, None, scans)
        except OSError:
            return None
        return scans if names.is_whole else None

    def complain(self, file: str, error: OSError) -> None:
        """Note that a file or sub-folder is skipped, and log it once; it is tried again at every look."""
        self._skip(file, error.strerror or str(error))

    def forget_complaints(self) -> None:
        self._complained.clear()

    def _enter(self, descriptor: int, known: Mapping[str, FileStamp], expects_scans: bool) -> Listing:
        status = os.fstat(descriptor)
        identity = status.st_dev, status.st_ino
        home = self._home
        if identity != self._identity:
            home = file_system(self.path)
            named = self.path.stat()
            if (named.st_dev, named.st_ino) != identity:
                return Listing(away=Away.IO_ERROR, detail=f"{self.path}: mounted or replaced while it was opened")
        names = self._read_names(descriptor, known, self._done_suffix)
        if identity != self._identity:
            seen, is_start = self._seen, self._identity is None
            if seen is not None and seen.is_unmounted(home) and not (is_start and names.holds_scans):
                was = f"{seen.kind} is not mounted at {seen.mount_point}"
                return Listing(away=Away.UNMOUNTED, detail=f"{self.path}: {was}")
            is_seen = is_start and seen is not None and (seen.inode == status.st_ino or not home.has_stable_inodes)
            if not names.holds_anything and not is_seen and (expects_scans or self._has_held_scans):
                return Listing(away=Away.EMPTY, detail=f"{self.path}: not the folder that held scans before, and empty")
        self._identity, self._home = identity, home
        self._seen = Whereabouts.of(self.path, home, status.st_ino)
        self._has_held_scans = self._has_held_scans or expects_scans or names.holds_scans
        return Listing(names.found, names.unmarked)

    def _read_names(
        self,
        descriptor: int,
        known: Mapping[str, FileStamp],
        done_suffix: str | None,
        scans: set[str] | None = None,
    ) -> _Names:
        """All names below the open folder that are not known. Raises OSError if it cannot be listed itself.

        `scans`: takes the names of scans, and nothing else of them is kept: of 100,000 that is a third of the memory.
        """
        names = _Names(scans=scans)
        self._read_folder(descriptor, "", known, done_suffix, names)
        while names.folders:
            folder = names.folders.pop()
            if folder.count("/") >= MAX_DEPTH or len(os.fsencode(self._root + folder)) > MAX_PATH_BYTES:
                self._skip(folder, TOO_DEEP)
                continue
            try:
                with open_folder(descriptor, folder) as inner:
                    self._read_folder(inner, f"{folder}/", known, done_suffix, names)
            except (FileNotFoundError, NotADirectoryError):
                pass  # taken away, or replaced by a link, since its name was read
            except OSError as error:
                names.is_whole = False
                self.complain(folder, error)
        return names

    def _skip(self, file: str, why: str) -> None:
        self._unread[file] = why
        if file not in self._complained:
            self._complained.add(file)
            event(log.warning, "file skipped", file=display_name(file), folder=str(self.path), error=why)

    def _read_folder(
        self, descriptor: int, prefix: str, known: Mapping[str, FileStamp], done_suffix: str | None, names: _Names
    ) -> None:
        """Add one folder's names; sub-folders to the work list."""
        candidates: list[tuple[str, int]] = []
        beside: set[str] = set()
        entry = None
        with os.scandir(descriptor) as entries:
            for entry in entries:
                name = entry.name
                is_folder = self._recursive and entry.is_dir(follow_symlinks=False)
                if not is_folder:
                    stamp = known.get(prefix + name)
                    if stamp is not None and stamp.inode == entry.inode():
                        names.holds_scans = True
                        continue  # the whole cost of a known file
                if done_suffix is not None:
                    beside.add(name.lower())
                if name.startswith(IGNORED_STARTS):
                    continue
                if is_folder:  # also one that is called like a scan
                    if name.lower() not in IGNORED_FOLDERS:
                        names.folders.append(prefix + name)
                elif not is_scan_name(name):
                    continue
                elif names.scans is not None:
                    names.scans.add(prefix + name)
                else:
                    candidates.append((prefix + name, entry.inode()))
        for candidate in candidates:
            if done_suffix is None or _is_marked(candidate[0][len(prefix) :].lower(), done_suffix, beside):
                names.found.append(candidate)
            else:
                names.unmarked.append(candidate)
        names.holds_anything = names.holds_anything or entry is not None
        names.holds_scans = names.holds_scans or bool(candidates)


@dataclass(slots=True)
class _Names:
    """What a walk through the folder has read so far."""

    found: list[tuple[str, int]] = field(default_factory=list)
    unmarked: list[tuple[str, int]] = field(default_factory=list)
    is_whole: bool = True
    """False if a sub-folder could not be read."""
    holds_anything: bool = False
    """Whether there is any entry at all."""
    holds_scans: bool = False
    """Whether any of them is a scan, known or not, marked or not."""
    folders: list[str] = field(default_factory=list)
    """Sub-folders still to be read."""
    scans: set[str] | None = None
    """Where the scans' names go, if not to `found` and `unmarked`."""


def marker_names(scan: Path, suffix: str) -> tuple[str, str]:
    """As a station calls its marker: `scan.tif.done` or `scan.done`."""
    return scan.name + suffix, scan.stem + suffix


def find_markers(scan: Path, names: Collection[str]) -> list[Path]:
    """Those of `names` that stand beside the scan, in any case of their letters, and are no scans. Raises OSError."""
    found = [name for name in names if os.path.lexists(scan.with_name(name))]
    if not found:  # in another case: the listing is dear where a backlog lies
        lower = {name.lower() for name in names}
        found = [path.name for path in scan.parent.iterdir() if path.name.lower() in lower]
    return [scan.with_name(name) for name in found if not is_scan_name(name)]


def _is_marked(name: str, suffix: str, names: set[str]) -> bool:
    return name + suffix in names or name.rpartition(".")[0] + suffix in names


def _reason(error: OSError) -> Away:
    if error.errno in (errno.ENOENT, errno.ELOOP):
        return Away.MISSING
    if error.errno == errno.ENOTDIR:
        return Away.NOT_A_FOLDER
    if error.errno in (errno.EACCES, errno.EPERM):
        return Away.NO_PERMISSION
    return Away.IO_ERROR
