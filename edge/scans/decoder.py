"""Coded scans are unpacked in a process apart: whatever breaks an unpacker costs one verdict, never the line.

Uncompressed scans are read by this product's own code, in the daemon. LZW and Deflate are unpacked by a library in C,
and files come from outside: the library runs in `edge.scans.decode_child`, with as much memory and processor time as
a scan needs and the few system calls of `edge.scans.syscall_filter`. Such a process starts with the first coded scan,
serves many, and is replaced when it dies. It is as many processes as threads ask at the same moment, each about 60 MB.

A file is condemned (`decoder-crash`) by two deaths in a row, the second of a fresh process: one death may have another
cause. A SIGKILL, the deed of an operator or of a machine without memory, proves nothing: two deaths with one among
them let the file wait. It is also condemned when unpacking it takes more processor time than its pixels explain, as
the kernel accounts it to that process alone. Time on the clock is never the file's fault: a process that was stopped
or got no processor lets the file wait. If it computed a little it is kept, stopped, and goes on when the file comes
again: so on a starved machine, too, a scan is unpacked in the end, and a file that burns time is found out.

Request: length of the file (uint64) and its bytes, which the other side parses once more. Answer: a kind and a length,
then the pixels (native uint16, row by row), or a reason, a line feed and a message.
"""

from __future__ import annotations

import hashlib
import logging
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import numpy as np

from edge.errors import ScanError, ScanIncomplete
from edge.records import Counts
from edge.scans.pixels import decode
from edge.scans.scan import Limits
from edge.scans.tiff import Compression, Layout, contradiction
from edge.system.logs import event

log = logging.getLogger(__name__)

FILTERED, UNFILTERED = b"F", b"U"
PIXELS = b"P"
REFUSAL = b"E"
REQUEST = struct.Struct("<Q")
ANSWER = struct.Struct("<cQ")

DECODER_CRASH = "decoder-crash"
ATTEMPTS = 2
CPU_S = 1.0
CPU_S_PER_PX = 3e-7
CPU_S_PER_SEGMENT = 4e-4
"""Processor time for one scan (segments: strips or tiles): thrice what noise, the worst content, takes as LZW."""
WALL_S = 20.0
"""On the clock beyond that, for a process that computes too little to be blamed: it was stopped or got no processor."""
LEAST_CPU_S = 0.02
"""Processor time in an attempt by which a process shows that it is not stopped and does not hang: it may go on."""
MAX_KEPT = 4
"""Processes that are kept for files that wait; the files of the oldest begin anew."""
LOOK_S = 0.1
"""Between two looks at the processor time of a child that has not answered."""
START_S = 60.0
"""For a child to load its libraries; a loaded machine is slow."""
CPUCLOCK_SCHED = 2
EXIT_S = 1.0
"""From the end of the conversation to the end of the process."""
MAX_REFUSAL_BYTES = 4096
REFUSALS = frozenset({"decoder-failed", "inconsistent-header"})
"""What the child may say of a file whose layout has passed here."""


UNFILTERED_HINT = "run a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64; limits alone hold the unpacker"


class ChildDied(Exception):
    """How the process that was unpacking ended."""

    def __init__(self, how: str, *, was_killed: bool = False) -> None:
        """`was_killed`: by a SIGKILL, which no limit of ours sends."""
        super().__init__(how)
        self.was_killed = was_killed


class Overrun(ChildDied):
    """The child used up the processor time that the file's pixels explain."""


class Starved(ChildDied):
    """The child neither answered in time nor computed for long. It lives."""


class Decoder:
    """Counts of any scan; safe to call from any thread. Close it when no thread is in it."""

    def __init__(self, limits: Limits, *, program: Sequence[str] | None = None, wall_s: float = WALL_S) -> None:
        """`program`: what is started to unpack, by default this product's own."""
        # -P: what lies in the working directory, a folder of scans perhaps, is no module of ours.
        own = (sys.executable, "-P", "-m", "edge.scans.decode_child", str(limits.max_px), str(limits.max_bytes))
        self._program = tuple(program or own)
        self._wall_s = wall_s
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._kept: dict[bytes, _Child] = {}
        """By the hash of the file that each is about."""

    def decode(self, data: bytes, layout: Layout) -> Counts:
        """As edge.scans.pixels.decode; what is coded is unpacked elsewhere.

        Raises ScanError: `decoder-crash` for a file that ends its unpacker. Raises ScanIncomplete if there is no
        unpacker to be had, which is no fault of the file's.
        """
        if layout.compression is Compression.NONE:
            return decode(data, layout)
        deaths: list[ChildDied] = []
        for _ in range(ATTEMPTS):
            child = (self._kept_child(data) or self._idle_child()) if not deaths else None
            child = child or self._new_child()
            try:
                counts = child.unpack(data, layout, self._wall_s)
            except Starved as starved:
                self._keep(child, data)
                raise ScanIncomplete(
                    "read-failed",
                    f"the process that unpacks it was stopped or starved: {starved}",
                    hint="look at the load of the machine and the processor time the service may use",
                ) from starved
            except Overrun as overrun:
                deaths = [overrun]
                break
            except ChildDied as death:
                deaths.append(death)
                event(log.warning, "decoder died", how=str(death))
            except ScanError:
                self._give_back(child)
                raise
            else:
                self._give_back(child)
                return counts
        ended = "a process" if len(deaths) == 1 else f"{len(deaths)} processes"
        message = f"unpacking it ended {ended}: {', '.join(map(str, deaths))}"
        if any(death.was_killed for death in deaths):
            raise ScanIncomplete("read-failed", message, hint="look at the memory the service may use")
        raise ScanError(
            DECODER_CRASH,
            message,
            hint="keep the file for the maintainers of this program, and scan the electrode again",
        )

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            children, self._idle, self._kept = [*self._idle, *self._kept.values()], [], {}
        for child in children:
            child.end()

    def is_filtered(self) -> bool:
        """Whether the kernel filters the unpackers' system calls; starts one. Raises ScanIncomplete if it cannot."""
        child = self._idle_child() or self._new_child()
        self._give_back(child)
        return child.is_filtered

    def _kept_child(self, data: bytes) -> _Child | None:
        """The one that has begun with this file."""
        if not self._kept:
            return None
        key = hashlib.sha256(data).digest()
        with self._lock:
            child = self._kept.pop(key, None)
        if child is not None:
            child.go_on()
        return child

    def _keep(self, child: _Child, data: bytes) -> None:
        """For when the file comes again; not one that stands still."""
        if not child.is_computing:
            child.end()
            return
        child.stop()
        key = hashlib.sha256(data).digest()
        with self._lock:
            surplus = [self._kept.pop(key)] if key in self._kept else []  # of another thread: the bytes have two names
            self._kept[key] = child
            surplus += [self._kept.pop(oldest) for oldest in [*self._kept][:-MAX_KEPT]]
        for other in surplus:
            other.end()

    def _idle_child(self) -> _Child | None:
        """One that waits for work; those that died while they waited are no file's fault."""
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.is_alive():
                    return child
                child.end()
        return None

    def _new_child(self) -> _Child:
        try:
            child = _Child(self._program)
        except (OSError, ChildDied) as error:
            raise ScanIncomplete(
                "read-failed",
                f"no process can be started to unpack it: {error}",
                hint="look at the memory and the number of processes the service may use; `edge-worker replay` on a "
                "folder with one coded scan repeats the attempt",
            ) from error
        if not child.is_filtered:
            event(log.warning, "system calls of the unpacker not filtered", hint=UNFILTERED_HINT)
        return child

    def _give_back(self, child: _Child) -> None:
        with self._lock:
            self._idle.append(child)


class _Child:
    """One process that unpacks, and the socket to it."""

    def __init__(self, program: Sequence[str]) -> None:
        """Returns when it is ready. Raises OSError if it cannot be started, ChildDied if it ends at once."""
        self._channel, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603
                    program, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            except OSError:
                self._channel.close()
                raise
        self._is_asked = False
        self._begin(START_S, cpu_s=START_S / 2)
        try:
            self.is_filtered = self._receive(1) == FILTERED
        except Starved:
            self.end()
            raise

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def unpack(self, data: bytes, layout: Layout, wall_s: float) -> Counts:
        """Raises ScanError as the child does, or ChildDied, after which there is nothing left to end.

        After Starved, a call with the same file goes on where that one ended.
        """
        if self._is_asked:
            self._resume()
        else:
            size = layout.size
            segments = len(layout.offsets_bytes)
            self._begin(wall_s, CPU_S + CPU_S_PER_PX * size.height_px * size.width_px + CPU_S_PER_SEGMENT * segments)
            self._send(REQUEST.pack(len(data)))
            self._send(data)
            self._is_asked = True
        kind, length = ANSWER.unpack(self._receive(ANSWER.size))
        self._is_asked = False
        if kind == REFUSAL and length <= MAX_REFUSAL_BYTES:
            reason, _, message = self._receive(length).decode(errors="replace").partition("\n")
            if reason in REFUSALS:
                raise contradiction(message, reason=reason)
        counts = np.empty(layout.size, np.uint16)
        if kind != PIXELS or length != counts.nbytes:
            raise self._death(ValueError("an answer that is none"))
        self._receive_into(counts.data.cast("B"))
        return counts

    @property
    def is_computing(self) -> bool:
        """Whether it is about its file's pixels and has got on with them in this attempt."""
        return self._is_asked and _processor_time_s(self._process.pid) - self._resumed_at_s >= LEAST_CPU_S

    def stop(self) -> None:
        """Let it use no more time until `go_on`."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def _begin(self, wall_s: float, cpu_s: float) -> None:
        """Give the child so much time from now on."""
        self._wall_s = wall_s + cpu_s
        self._cpu_s, self._cpu_before_s = cpu_s, _processor_time_s(self._process.pid)
        self._channel.settimeout(LOOK_S)
        self._resume()

    def _resume(self) -> None:
        """Give the child as long again on the clock, and what is left of its processor time."""
        self._until_s = time.monotonic() + self._wall_s
        self._resumed_at_s = _processor_time_s(self._process.pid)

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._patiently(partial(self._channel.send, view)) :]

    def _receive(self, length: int) -> bytearray:
        buffer = bytearray(length)
        self._receive_into(memoryview(buffer))
        return buffer

    def _receive_into(self, view: memoryview) -> None:
        while view:
            count = self._patiently(partial(self._channel.recv_into, view))
            if count == 0:
                raise self._death(EOFError())
            view = view[count:]

    def _patiently(self, move: Callable[[], int]) -> int:
        """Bytes moved through the channel; raises ChildDied when the child's time is up."""
        while True:
            try:
                return move()
            except TimeoutError:
                self._check_time()
            except OSError as error:
                raise self._death(error) from error

    def _check_time(self) -> None:
        used_s = _processor_time_s(self._process.pid) - self._cpu_before_s
        if used_s > self._cpu_s:
            self.end()
            raise Overrun(f"more than {self._cpu_s:.1f} s of processor time")
        if time.monotonic() > self._until_s:
            raise Starved(f"{max(used_s, 0.0):.1f} s of processor time in {self._wall_s:.0f} s, and no answer")

    def _death(self, cause: Exception) -> ChildDied:
        """End the process, if it has not ended by itself; how it went."""
        if isinstance(cause, EOFError | ConnectionError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_S)
        code = self._process.poll()
        self.end()
        if code is None:
            return ChildDied(str(cause) or "it hung up")
        if code >= 0:
            return ChildDied(f"exit code {code}")
        return ChildDied(f"killed by {signal.Signals(-code).name}", was_killed=-code == signal.SIGKILL)


def _processor_time_s(pid: int) -> float:
    """Processor time a process of this user has used; 0 once it is gone.

    By its own clock, as clock_getcpuclockid(3) makes it: /proc may hide a process that cannot be traced.
    """
    try:
        return time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED)
    except OSError:
        return 0.0
