"""Which file was being decoded when the process died, and whether it was to blame.

A mark is a small file written before a decode and removed after it. It needs no fsync: it has to outlive
the process, not the power. A file found marked at start is a suspect: it is first decoded in a child
process with limits. If the child dies too, the file is condemned; if not, the death had another cause
(an operator's kill, the memory of another program) and the file is judged like any other. So a good scan
can be interrupted any number of times without being called bad.
"""

from __future__ import annotations

import contextlib
import hashlib
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from edge.errors import LedgerError, ScanError, ScanIncomplete
from edge.records import FileStamp
from edge.scans.scan import Limits, read_scan

PROBE_TIMEOUT_S = 60.0
PROBE_CPU_S = 30
PROBE_BYTES_PER_FILE_BYTE = 8
PROBE_BASE_BYTES = 2 << 30
"""Address space of the child: interpreter and libraries map about 1 GiB before the first pixel."""


class DecodeMarks:
    """Marks of the decodes in progress, one small file each; thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._suspects = {entry.name for entry in directory.iterdir()}
        except OSError as error:
            raise LedgerError(
                f"decode marks {directory}: {error.strerror}", hint="check that the state directory can be written"
            ) from None

    @contextlib.contextmanager
    def decoding(self, stamp: FileStamp) -> Iterator[None]:
        """Hold the file's mark while its bytes are decoded."""
        mark = self._directory / _name(stamp)
        with contextlib.suppress(OSError):  # a full disk must not stop the reading: only the blame is lost
            mark.touch()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                mark.unlink(missing_ok=True)
            with self._lock:
                self._suspects.discard(mark.name)

    def is_suspect(self, stamp: FileStamp) -> bool:
        """Whether an earlier process died while it decoded this very file."""
        with self._lock:
            return _name(stamp) in self._suspects


def kills_its_reader(path: Path, limits: Limits) -> str | None:
    """Decode `path` in a child with limits on time and memory; how the child died, or None if it lived.

    Raises ScanIncomplete if there is no child to be had, which is no fault of the file's.
    """
    # -P: what lies in the working directory, a folder of scans perhaps, is no module of ours.
    program = (sys.executable, "-P", "-m", "edge.scans.suspects")
    command = [*program, str(path), str(limits.max_px), str(limits.max_bytes)]
    try:
        child = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_TIMEOUT_S)  # noqa: S603
    except subprocess.TimeoutExpired:
        return f"no end after {PROBE_TIMEOUT_S:.0f} s"
    except OSError as error:
        raise ScanIncomplete(
            "read-failed",
            f"{path.name}: no process can be started to try it in: {error.strerror}",
            hint="look at the memory and the number of processes the service may use",
        ) from error
    if child.returncode < 0:
        return f"killed by {signal.Signals(-child.returncode).name}"
    return None if child.returncode == 0 else f"exit code {child.returncode}"


def _name(stamp: FileStamp) -> str:
    identity = f"{stamp.file}\0{stamp.inode}\0{stamp.size_bytes}\0{stamp.modified_ns}"
    return hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _probe(path: Path, limits: Limits) -> None:
    """The child: living through the decode is the answer, whatever the decode says."""
    address_space = PROBE_BASE_BYTES + PROBE_BYTES_PER_FILE_BYTE * limits.max_bytes
    with contextlib.suppress(OSError):  # a service's system call filter may forbid it; then its own limits hold
        resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
        resource.setrlimit(resource.RLIMIT_CPU, (PROBE_CPU_S, PROBE_CPU_S))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ScanError):
        read_scan(path, file=path.name, limits=limits)


if __name__ == "__main__":
    _probe(Path(sys.argv[1]), Limits(max_px=int(sys.argv[2]), max_bytes=int(sys.argv[3])))
