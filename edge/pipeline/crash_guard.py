"""Which file was being read and converted when the process died, and whether it was to blame.

A mark is a few bytes in one file, written before a scan is read and overwritten once it is converted: a file made and
removed for each scan would cost more than its hash, and slow every flush of the disk. It needs no flush: it has to
outlive the process, not the power. A scan found marked at start is a suspect: it is first read and converted in a child
process with limits, as the worker would do it. If the child dies too, and a second one after a pause, the file
is condemned; if not, the death had another cause (an operator's kill, the memory of another program) and the file is
judged like any other. A child that was killed from outside, or that came to no end and computed for less than
PROBE_CPU_S, proves nothing: the file waits. So a good scan can be interrupted any number of times without being
called bad.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from edge.errors import LedgerError, ScanError, ScanIncomplete
from edge.images.conversion import Bounds, histogram, prepare
from edge.images.method import Method
from edge.images.spec import InputSpec
from edge.records import FileStamp, Size
from edge.scans.decoder import Decoder
from edge.scans.scan import Limits, read_scan
from edge.system.logs import event

log = logging.getLogger(__name__)

ATTEMPTS = 2
PAUSE_S = 5.0
"""Between them: what ended the first, if it was not the file, may be over by then."""
PROBE_TIMEOUT_S = 35.0
"""Two of them and the pause pass before the worker's silence counts as stuck."""
PROBE_CPU_S = 15
PROBE_BYTES_PER_FILE_BYTE = 8
PROBE_BASE_BYTES = 2 << 30
"""Address space of the child: interpreter and libraries map about 1 GiB before the first pixel."""
MARKS = 256
"""Marks that the file has room for: of the decodes in progress, and of suspects that never came again."""
MARK_BYTES = 16
NO_MARK = bytes(MARK_BYTES)
_OWN_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
OPENING = b"opening"
"""The child's word that it is there and that what follows is the file's doing."""
SHORT_OF_MEMORY = "look at the memory and the number of processes the service may use"


class DecodeMarks:
    """Marks of the decodes in progress, side by side in one small file; thread-safe."""

    def __init__(self, path: Path, others: Iterable[Path] = ()) -> None:
        """`others`: files of marks of other processes, which are suspects here too.

        Raises LedgerError where a file cannot be made or read, or is a link.
        """
        self._path = path
        self._lock = threading.Lock()
        self._suspects: dict[bytes, int | None] = {mark: None for other in others for mark in _marks(other)}
        self._suspects |= {mark: place for place, mark in enumerate(_marks(path))}
        self._suspects.pop(NO_MARK, None)
        self._free = sorted(set(range(MARKS)) - set(self._suspects.values()), reverse=True)

    @contextlib.contextmanager
    def decoding(self, stamp: FileStamp) -> Iterator[None]:
        """Hold the file's mark while its bytes are decoded. A suspect keeps the mark it has until then."""
        mark = _mark(stamp)
        with self._lock:
            place = self._suspects.get(mark)
            if place is None and self._free:
                place = self._free.pop()
        self._write(place, mark)
        try:
            yield
        finally:
            self._write(place, NO_MARK)
            with self._lock:
                self._suspects.pop(mark, None)
                if place is not None:
                    self._free.append(place)

    def is_suspect(self, stamp: FileStamp) -> bool:
        """Whether an earlier process died while it decoded this very file."""
        with self._lock:
            return _mark(stamp) in self._suspects

    def _write(self, place: int | None, mark: bytes) -> None:
        """A full disk or a file that was taken away must not stop the reading: only the blame is lost."""
        if place is not None:
            with contextlib.suppress(OSError):
                handle = os.open(self._path, os.O_WRONLY | _OWN_FILE)
                try:
                    os.pwrite(handle, mark, place * MARK_BYTES)
                finally:
                    os.close(handle)


def kills_its_reader(path: Path, limits: Limits, spec: InputSpec) -> str | None:
    """Read and convert `path` in children with limits on time and memory; how they died, or None if one lived.

    Raises ScanIncomplete if there is no child to be had, or if something else ended or stopped it, which is no fault
    of the file's.
    """
    deaths: list[_Death] = []
    while len(deaths) < ATTEMPTS:
        if deaths:
            time.sleep(PAUSE_S)
        death = _death_of_a_child(path, limits, spec)
        if death is None:
            return None
        event(log.warning, "suspect ended its child", file=path.name, how=death.how)
        deaths.append(death)
    how = ", ".join(death.how for death in deaths)
    if not all(death.is_its_own for death in deaths):
        raise ScanIncomplete(
            "read-failed", f"{path.name}: a process that tries it does not last: {how}", hint=SHORT_OF_MEMORY
        )
    return how


class _Death(NamedTuple):
    how: str
    is_its_own: bool
    """Whether decoding explains it: not before the file is opened, not by a SIGKILL, which no limit of ours sends, and
    not by the clock, which runs on for a child that was stopped."""


def _death_of_a_child(path: Path, limits: Limits, spec: InputSpec) -> _Death | None:
    # -P: what lies in the working directory, a folder of scans perhaps, is no module of ours.
    program = (sys.executable, "-P", "-m", "edge.pipeline.crash_guard")
    job = {
        "path": os.fspath(path),
        "limits": dataclasses.astuple(limits),
        "method": spec.method.value,
        "bounds": None if spec.bounds is None else (spec.bounds.lo_counts, spec.bounds.hi_counts),
        "size": spec.size,
    }
    command = [*program, json.dumps(job)]
    try:
        child = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_TIMEOUT_S)  # noqa: S603
    except subprocess.TimeoutExpired:
        return _Death(f"no end after {PROBE_TIMEOUT_S:.0f} s", is_its_own=False)
    except OSError as error:
        raise ScanIncomplete(
            "read-failed",
            f"{path.name}: no process can be started to try it in: {error.strerror}",
            hint=SHORT_OF_MEMORY,
        ) from error
    if child.returncode == 0:
        return None
    if child.returncode > 0:
        return _Death(f"exit code {child.returncode}", OPENING in child.stdout)
    received = signal.Signals(-child.returncode)
    return _Death(f"killed by {received.name}", OPENING in child.stdout and received != signal.SIGKILL)


def _marks(path: Path) -> list[bytes]:
    """All places of a file of marks, which is made where it is not there. Raises LedgerError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDONLY | os.O_CREAT | _OWN_FILE, 0o600)
        try:
            found = os.read(handle, MARKS * MARK_BYTES)
        finally:
            os.close(handle)
    except OSError as error:
        raise LedgerError(
            f"decode marks {path}: {error.strerror}", hint="check that the state directory can be written"
        ) from None
    return [found[at : at + MARK_BYTES] for at in range(0, len(found), MARK_BYTES)]


def _mark(stamp: FileStamp) -> bytes:
    identity = f"{stamp.file}\0{stamp.inode}\0{stamp.size_bytes}\0{stamp.modified_ns}"
    return hashlib.sha256(identity.encode("utf-8", "surrogateescape")).digest()[:MARK_BYTES]


def _probe(path: Path, limits: Limits, method: Method, bounds: Bounds | None, size: Size) -> None:
    """The child: living through it is the answer, whatever comes of it.

    It unpacks coded files where the line does, apart and behind the filter: a suspect is trusted no more than others.
    What the worker does with pixels beyond this (engines, pictures) takes arrays of the model's own size.
    """
    address_space = PROBE_BASE_BYTES + PROBE_BYTES_PER_FILE_BYTE * limits.max_bytes
    # A service's system call filter may forbid it, and its own limits may be lower: then those hold.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
        # The soft limit is a SIGXCPU, the hard one a SIGKILL as of an operator or a machine out of memory.
        resource.setrlimit(resource.RLIMIT_CPU, (PROBE_CPU_S, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(OPENING.decode(), flush=True)
    with contextlib.suppress(ScanError), contextlib.closing(Decoder(limits)) as decoder:
        counts = read_scan(path, file=path.name, limits=limits, decode=decoder.decode).counts
        prepare(counts, method, bounds, size, histogram(counts))


def _main(text: str) -> None:
    job = json.loads(text)
    bounds = None if job["bounds"] is None else Bounds(*job["bounds"])
    _probe(Path(job["path"]), Limits(*job["limits"]), Method(job["method"]), bounds, Size(*job["size"]))


if __name__ == "__main__":
    _main(sys.argv[1])
