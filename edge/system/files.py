"""Files that are there whole or not at all, and changes to a directory that last."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 1 << 20

_AT_FDCWD, _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, _STATX_BYTES, _BTIME_AT = -100, 0x100, 0x800, 256, 80
"""What statx(2) is asked for, and where its answer holds the time of birth, 64 bit of seconds and 32 of nanoseconds."""


@contextmanager
def write_whole(
    path: Path, *, durable: bool, mode: int | None = None, replace: bool = True, draft: Path | None = None
) -> Iterator[BinaryIO]:
    """A stream whose content takes the name `path` once it is written; after an exception it does not.

    `durable`: flush the file and its name to the disk before returning. `mode`: exactly this one; by default as
    open() makes it. `replace`: False raises FileExistsError where `path` exists. `draft`: name in the same directory
    to write under, where what a kill left of an earlier attempt shall not stay.

    The draft is made anew and never through a link, so that no other user of the directory chooses what is
    written to. Raises OSError.
    """
    draft = draft or path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(draft, flags, 0o666 if mode is None else 0o600)
    try:
        with open(draft, "wb", opener=lambda *_: fd) as stream:  # so that its name is the path, as libraries expect
            yield stream
            stream.flush()
            if mode is not None:
                os.fchmod(fd, mode)
            if durable:
                os.fsync(fd)
        if replace:
            draft.replace(path)
        else:
            path.hardlink_to(draft)  # unlike a rename it fails where the name is taken
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    if durable:
        try:
            sync_directory(path.parent)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync no directory
                raise


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Inside, no other process holds this folder, where its file system knows locks.

    Raises BlockingIOError where one holds it, OSError where it cannot be opened.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
                raise
        yield
    finally:
        os.close(fd)


def sync_directory(directory: Path) -> None:
    """Make renames in a directory last: the file's own fsync says nothing of its name."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def copy_whole(source: Path, draft: Path, target: Path) -> None:
    """Copy a regular file with its times and mode: what bears the name of `target` is whole, and lasts.

    `draft`: as in `write_whole`. Raises OSError, also where `source` is a link or no regular file.
    """
    with open_regular(source) as (original, status):
        copy_open(original, status, draft, target)


def copy_open(original: BinaryIO, status: os.stat_result, draft: Path, target: Path) -> None:
    """As copy_whole, of an open file: exactly the bytes it had by `status`, however it grows meanwhile."""
    with write_whole(target, durable=True, draft=draft) as copy:
        left_bytes = status.st_size
        while left_bytes > 0:
            chunk = original.read(min(left_bytes, CHUNK_BYTES))
            if not chunk:
                raise OSError(errno.ESTALE, "the file became shorter while it was copied")
            copy.write(chunk)
            left_bytes -= len(chunk)
        copy.flush()
        os.fchmod(copy.fileno(), status.st_mode & 0o777)
        os.utime(copy.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))


def birth_ns(path: Path) -> int | None:
    """When the file itself was made, whatever its names were since; None where the file system does not tell.

    A file that has the inode number of a deleted one was made later than that was last changed.
    """
    answer = ctypes.create_string_buffer(_STATX_BYTES)
    try:
        failed = ctypes.CDLL(None).statx(_AT_FDCWD, os.fsencode(path), _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, answer)
    except (OSError, AttributeError):  # a C library without it
        return None
    (mask,) = struct.unpack_from("=I", answer)
    if failed or not mask & _STATX_BTIME:
        return None
    seconds, nanoseconds = struct.unpack_from("=qI", answer, _BTIME_AT)
    return int(seconds) * 10**9 + int(nanoseconds)


@contextmanager
def open_folder(root: Path | int, relative: str, *, create: bool = False) -> Iterator[int]:
    """Descriptor of the folder `relative` below `root` (a path, or a descriptor that stays open); "" is `root` itself.

    No link is followed below `root`: what is done by the descriptor is done below it, whatever is swapped meanwhile.
    `create`: make what is missing below `root`. Raises OSError.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    fd = os.dup(root) if isinstance(root, int) else os.open(root, flags)
    try:
        for name in filter(None, relative.split("/")):
            if create:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=fd)
            inner = os.open(name, flags | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def read_named(path: Path, most_bytes: int) -> bytes:
    """All bytes of a file that a person names, perhaps by a link. Raises OSError with the file's name.

    A pipe would be waited for and a device read without end, in the name of a service that says nothing meanwhile.
    """
    with open_regular(path, may_be_link=True) as (stream, _):
        data = stream.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"more than {most_bytes} bytes", str(path))
    return data


@contextmanager
def open_regular(path: Path, *, may_be_link: bool = False) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """An open regular file and what its descriptor says of it. Raises OSError for a link or anything else."""
    follow = 0 if may_be_link else os.O_NOFOLLOW
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | follow)
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with open(fd, "rb", closefd=False) as stream:
            yield stream, status
    finally:
        os.close(fd)
