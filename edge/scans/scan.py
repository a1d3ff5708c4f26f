"""One file to one Frame: every byte bounded, hashed, decoded, and seen to be final. `tiff.py` knows the format.

A file becomes pixels only if all of this holds: it is a regular file of at most `Limits.max_bytes`; it is one
16-bit grey page of at most `Limits.max_px` whose parts lie inside the file and fit each other; what was decoded
has exactly the size the header declares; no part of it looks unwritten; and a second reading, after decoding, finds
the same bytes under the same name. Anything else is a ScanError, or a ScanIncomplete where a second look may help.

Symbolic links are refused: their own size and time do not change while the file they point to grows, so the inbox
could not tell when it is complete. Files are read, never memory-mapped: a mapped file that shrinks kills the process.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from edge.errors import ScanError, ScanIncomplete
from edge.records import Counts, ExpectedFile, Frame, Scan
from edge.scans.pixels import decode as decode_here
from edge.scans.tiff import Layout, foreign, read_layout, unfinished
from edge.scans.unwritten import check_codes, check_pixels, has_unwritten_codes
from edge.system.logs import event

log = logging.getLogger(__name__)

REASONS = frozenset(
    {
        "changed-while-reading",
        "decoder-crash",
        "decoder-failed",
        "empty",
        "inconsistent-header",
        "multi-page",
        "multi-sample",
        "no-permission",
        "not-16-bit",
        "not-a-file",
        "not-grayscale",
        "not-tiff",
        "read-failed",
        "too-large",
        "truncated",
        "unsupported-compression",
        "vanished",
        "zero-tail",
    }
)
"""Every reason word a ScanError of this module carries; they are part of the contract with the MES."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Limits:
    """What is read of a folder: the largest scan, in pixels and in bytes of its file, and zeros that are no hole."""

    max_px: int = 64_000_000
    max_bytes: int = 268_435_456
    expected_zero_px: int | None = 0
    """Samples of zero in a finished uncompressed scan; None where no station writes, see edge/scans/unwritten.py."""


Decode = Callable[[bytes, Layout], Counts]
"""As edge.scans.pixels.decode: native uint16 (height_px, width_px), C-contiguous, or ScanError."""


class _Opened(NamedTuple):
    fd: int
    before: os.stat_result


def read_scan(
    path: Path, *, file: str, limits: Limits, decode: Decode = decode_here, expected: ExpectedFile | None = None
) -> Frame:
    """Read, hash and decode one scan; `file` is the name it goes by in the verdict.

    `decode`: who turns bytes into counts; the line gives coded files to a process apart, see edge/scans/decoder.py.
    `expected`: what was found complete; anything else under its name is `changed-while-reading`, and logged.
    Returns counts as native uint16 (height_px, width_px), C-contiguous, possibly read-only. Raises ScanError or
    ScanIncomplete with a reason of REASONS; its `scan` is set as soon as the bytes were read.
    """
    with _open(path, file, limits, expected) as (fd, before):
        data = _read_whole(fd, before.st_size, file)
        scan = Scan(file, hashlib.sha256(data).hexdigest(), len(data), modified_at(before.st_mtime_ns))
        try:
            layout = read_layout(lambda start, length: data[start : start + length], len(data), limits.max_px)
            scan = replace(scan, width_px=layout.size.width_px, height_px=layout.size.height_px)
            check_codes(data, layout)
            counts = _decode(data, layout, decode)
            check_pixels(layout, counts, limits.expected_zero_px)
        except ScanError as error:
            # Torn bytes explain any error: whether they still stand decides which one is reported.
            _check_unchanged(path, fd, before, data, scan)
            raise _with_file_name(error, file, scan) from error
        _check_unchanged(path, fd, before, data, scan)
    return Frame(scan, counts)


def _decode(data: bytes, layout: Layout, decode: Decode) -> Counts:
    try:
        return decode(data, layout)
    except ScanError as error:
        if error.reason in ("decoder-failed", "inconsistent-header") and has_unwritten_codes(data, layout):
            raise unfinished("zero-tail", f"{error.message}; some coded bytes are zeros: not written yet") from error
        raise


def check_complete(path: Path, limits: Limits) -> None:
    """Whether the header parses and every strip or tile lies inside the file; reads no pixel.

    For the inbox: raises ScanIncomplete while the file may still grow. Any other ScanError means that waiting does
    not help: `read_scan` will raise the same one, with the file's hash.
    """
    with _open(path, path.name, limits) as (fd, before):

        def read_at(start: int, length: int) -> bytes:
            return os.pread(fd, length, start)

        try:
            read_layout(read_at, before.st_size, limits.max_px)
        except ScanError as error:
            raise _with_file_name(error, path.name, None) from error


def check_expected(path: Path, expected: ExpectedFile) -> None:
    """Raises ScanIncomplete, and logs it, if another file stands at `path`, or the same one rewritten; not if none."""
    try:
        # Asked as the stamp was made, by name: what an open file says of itself may differ on a network share.
        status = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _from_os(error, path.name, None) from error
    if not expected.matches(status):
        report_overwritten(expected, status)
        raise unfinished("changed-while-reading", f"{path.name}: changed after it was found complete")


def report_overwritten(former: ExpectedFile, status: os.stat_result) -> None:
    """Log that a scan was lost unread. A file that merely grew was not: its writer goes on with it."""
    stamp = former.stamp
    is_same_file = status.st_ino == stamp.inode or not former.has_stable_inodes
    if is_same_file and status.st_size > stamp.size_bytes:
        return
    event(
        log.warning,
        "overwritten before it was read",
        file=stamp.file,
        expected={"inode": stamp.inode, "size_bytes": stamp.size_bytes, "modified_ns": stamp.modified_ns},
        observed={"inode": status.st_ino, "size_bytes": status.st_size, "modified_ns": status.st_mtime_ns},
    )


@contextmanager
def _open(path: Path, file: str, limits: Limits, expected: ExpectedFile | None = None) -> Iterator[_Opened]:
    """A regular file of permitted size; every OSError on it in the body is mapped here, too."""
    try:
        # O_NONBLOCK: opening a named pipe without a writer would otherwise wait for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY)
        try:
            before = os.fstat(fd)
            if expected is not None:  # after `before` was taken: no change from here on escapes the check at the end
                check_expected(path, expected)
            if not stat.S_ISREG(before.st_mode):
                raise _not_a_file(file)
            if before.st_size > limits.max_bytes:
                raise foreign("too-large", f"{file}: {before.st_size} bytes: at most {limits.max_bytes} are read")
            yield _Opened(fd, before)
        finally:
            os.close(fd)
    except OSError as error:
        raise _from_os(error, file, None) from error


def _read_whole(fd: int, size_bytes: int, file: str) -> bytes:
    """All bytes of the file in one bytes object; never more than `size_bytes` and the one that shows it grew."""
    parts: list[bytes] = []
    read = 0
    while read <= size_bytes:
        part = os.read(fd, size_bytes + 1 - read)
        if not part:
            break
        parts.append(part)
        read += len(part)
    if read != size_bytes:
        raise unfinished("changed-while-reading", f"{file}: had {size_bytes} bytes, then {read}")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _check_unchanged(path: Path, fd: int, before: os.stat_result, data: bytes, scan: Scan) -> None:
    """Read the file again and compare: equal bytes, so equal hashes, and still the same file under this name."""
    try:
        after = os.fstat(fd)
        same = (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        position = 0
        while same and position < len(data):
            chunk = os.pread(fd, _CHUNK_BYTES, position)
            same = bool(chunk) and chunk == data[position : position + len(chunk)]
            position += len(chunk)
        named = path.lstat()
        same = same and (named.st_dev, named.st_ino) == (before.st_dev, before.st_ino)
    except FileNotFoundError:
        pass  # moved on after it was read whole, twice the same: its verdict must not be lost
    except OSError as error:
        raise _from_os(error, scan.file, scan) from error
    if not same:
        changed = unfinished("changed-while-reading", "its bytes, time or identity changed while it was read")
        raise _with_file_name(changed, scan.file, scan)


def modified_at(modified_ns: int) -> datetime:
    """A file's time as an aware UTC datetime; times no calendar of ours has are clamped to its first or last."""
    try:
        return _EPOCH + timedelta(microseconds=modified_ns // 1000)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if modified_ns > 0 else datetime.min.replace(tzinfo=UTC)


def _with_file_name(error: ScanError, file: str, scan: Scan | None) -> ScanError:
    """Copy of the error with the file's name in its message, and the bytes it is about."""
    return type(error)(error.reason, f"{file}: {error.message}", hint=error.hint, scan=scan)


def _not_a_file(file: str) -> ScanError:
    return ScanError(
        "not-a-file",
        f"{file}: expected a regular file, found a link, directory, pipe or device",
        hint="have the station write the scan itself into its folder",
    )


def _from_os(error: OSError, file: str, scan: Scan | None) -> ScanError:
    """The operating system's word on a file, mapped here and nowhere else."""
    if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR):
        return _not_a_file(file)
    reason, hint = "read-failed", "check the disk or the network share of the station's folder"
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
        reason, hint = "vanished", "see whether the station moved or deleted the scan"
    if error.errno in (errno.EACCES, errno.EPERM):
        reason, hint = "no-permission", "give the worker's user the right to read the station's folder and files"
    return ScanIncomplete(reason, f"{file}: {error.strerror}", hint=hint, scan=scan)
