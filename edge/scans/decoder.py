"""Coded scans are unpacked in a process apart: whatever breaks an unpacker costs one verdict, never the line.

Uncompressed scans are read by this product's own code, in the daemon. LZW and Deflate are unpacked by a library in C,
and files come from outside: the library runs in `edge.scans.decode_child`, under limits on memory, processor time and
everything else it does not need. Such a process starts with the first coded scan, serves many, and is replaced when
it dies. It is as many processes as threads ask at the same moment, each about 60 MB.

A file is condemned (`decoder-crash`) by two deaths, in a row and of fresh processes, or by being unpacked for too long
twice: one death may have another cause. A SIGKILL, the deed of an operator or of a machine without memory, proves
nothing: two deaths with one among them let the file wait.

Request: length of the file (uint64) and its bytes, which the other side parses once more. Answer: a kind and a length,
then the pixels (native uint16, row by row), or a reason, a line feed and a message.
"""

from __future__ import annotations

import logging
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from edge.errors import ScanError, ScanIncomplete
from edge.records import Counts
from edge.scans.pixels import decode
from edge.scans.scan import Limits
from edge.scans.tiff import Compression, Layout, contradiction
from edge.system.logs import event

log = logging.getLogger(__name__)

READY = b"R"
PIXELS = b"P"
REFUSAL = b"E"
REQUEST = struct.Struct("<Q")
ANSWER = struct.Struct("<cQ")

DECODER_CRASH = "decoder-crash"
ATTEMPTS = 2
WALL_S = 20.0
"""For one scan. The child ends itself after half of it spent computing; this is for one that hangs."""
START_S = 60.0
"""For a child to load its libraries; a loaded machine is slow."""
EXIT_S = 1.0
"""From the end of the conversation to the end of the process."""
MAX_REFUSAL_BYTES = 4096
REFUSALS = frozenset({"decoder-failed", "inconsistent-header"})
"""What the child may say of a file whose layout has passed here."""


class ChildDied(Exception):
    """How the process that was unpacking ended."""

    def __init__(self, how: str, *, was_killed: bool = False) -> None:
        """`was_killed`: by a SIGKILL, which no limit of ours sends."""
        super().__init__(how)
        self.was_killed = was_killed


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

    def decode(self, data: bytes, layout: Layout) -> Counts:
        """As edge.scans.pixels.decode; what is coded is unpacked elsewhere.

        Raises ScanError: `decoder-crash` for a file that ends its unpacker. Raises ScanIncomplete if there is no
        unpacker to be had, which is no fault of the file's.
        """
        if layout.compression is Compression.NONE:
            return decode(data, layout)
        deaths: list[ChildDied] = []
        for _ in range(ATTEMPTS):
            child = self._idle_child() if not deaths else None
            child = child or self._new_child()
            try:
                counts = child.unpack(data, layout, self._wall_s)
            except ChildDied as death:
                deaths.append(death)
                event(log.warning, "decoder died", how=str(death))
            except ScanError:
                self._give_back(child)
                raise
            else:
                self._give_back(child)
                return counts
        message = f"unpacking it ended {len(deaths)} processes: {', '.join(map(str, deaths))}"
        if any(death.was_killed for death in deaths):
            raise ScanIncomplete("read-failed", message, hint="look at the memory the service may use")
        raise ScanError(
            DECODER_CRASH,
            message,
            hint="keep the file for whoever maintains this program, and scan the electrode again",
        )

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.end()

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
            return _Child(self._program)
        except (OSError, ChildDied) as error:
            raise ScanIncomplete(
                "read-failed",
                f"no process can be started to unpack it: {error}",
                hint="look at the memory and the number of processes the service may use; `edge-worker --replay` on a "
                "folder with one coded scan repeats the attempt",
            ) from error

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
        self._receive(len(READY), time.monotonic() + START_S)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def unpack(self, data: bytes, layout: Layout, wall_s: float) -> Counts:
        """Raises ScanError as the child does, or ChildDied, after which there is nothing left to end."""
        until_s = time.monotonic() + wall_s
        try:
            self._channel.settimeout(wall_s)
            self._channel.sendall(REQUEST.pack(len(data)))
            self._channel.sendall(data)
        except OSError as error:
            raise self._death(error) from error
        kind, length = ANSWER.unpack(self._receive(ANSWER.size, until_s))
        if kind == REFUSAL and length <= MAX_REFUSAL_BYTES:
            reason, _, message = self._receive(length, until_s).decode(errors="replace").partition("\n")
            if reason in REFUSALS:
                raise contradiction(message, reason=reason)
        counts = np.empty(layout.size, np.uint16)
        if kind != PIXELS or length != counts.nbytes:
            raise self._death(ValueError("an answer that is none"))
        self._receive_into(counts.data.cast("B"), until_s)
        return counts

    def end(self) -> None:
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def _receive(self, length: int, until_s: float) -> bytearray:
        buffer = bytearray(length)
        self._receive_into(memoryview(buffer), until_s)
        return buffer

    def _receive_into(self, view: memoryview, until_s: float) -> None:
        try:
            while view:
                self._channel.settimeout(max(0.001, until_s - time.monotonic()))
                count = self._channel.recv_into(view)
                if count == 0:
                    raise self._death(EOFError())
                view = view[count:]
        except OSError as error:
            raise self._death(error) from error

    def _death(self, cause: Exception) -> ChildDied:
        """End the process, if it has not ended by itself; how it went."""
        if isinstance(cause, EOFError | ConnectionError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_S)
        code = self._process.poll()
        self.end()
        if code is None:
            return ChildDied("no answer in time" if isinstance(cause, TimeoutError) else str(cause) or "it hung up")
        if code >= 0:
            return ChildDied(f"exit code {code}")
        return ChildDied(f"killed by {signal.Signals(-code).name}", was_killed=-code == signal.SIGKILL)
