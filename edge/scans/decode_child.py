"""The process in which coded scans are unpacked, for edge/scans/decoder.py.

`python -m edge.scans.decode_child MAX_PX MAX_BYTES`.

On its standard input it has a socket. It says READY, then answers one request after the other until the other end
closes. Before the first request it gives away what an unpacker never needs: more memory than the largest scan takes,
opening anything (a file, a connection to anywhere), writing a file, starting a process. One request may use so much
processor time and no more. A limit exceeded is this process's end, and never the line's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path

os.putenv("OPENBLAS_NUM_THREADS", "1")  # before numpy is loaded, which starts a thread per processor else

import imagecodecs

from edge.errors import ScanError
from edge.records import Counts
from edge.scans.decoder import ANSWER, PIXELS, READY, REFUSAL, REQUEST
from edge.scans.pixels import decode
from edge.scans.tiff import read_layout

CPU_S = 10
"""For one scan; the largest that is read takes two or three seconds on a slow core."""
SPARE_BYTES = 64 << 20
PR_SET_PDEATHSIG = 1


def main(max_px: int, max_bytes: int) -> None:
    channel = socket.socket(fileno=sys.stdin.fileno())
    confine(max_px, max_bytes)
    channel.sendall(READY)
    while (header := received(channel, REQUEST.size)) is not None:
        (length,) = REQUEST.unpack(header)
        data = received(channel, length)
        if data is None:
            return
        _limit(resource.RLIMIT_CPU, int(time.process_time()) + CPU_S, resource.RLIM_INFINITY)
        try:
            counts = unpacked(data, max_px)
        except ScanError as error:
            said = f"{error.reason}\n{error.message}".encode()
            channel.sendall(ANSWER.pack(REFUSAL, len(said)) + said)
        else:
            channel.sendall(ANSWER.pack(PIXELS, counts.nbytes))
            channel.sendall(counts.data.cast("B"))


def unpacked(data: bytes, max_px: int) -> Counts:
    """What the file holds; trusts nobody's word on its layout. Raises ScanError."""
    return decode(data, read_layout(lambda start, length: data[start : start + length], len(data), max_px))


def confine(max_px: int, max_bytes: int) -> None:
    """Give up, for good, whatever unpacking does not need. Memory: the file twice, and three times its pixels."""
    for loaded in ("lzw_decode", "deflate_decode", "delta_decode", "LzwError", "DeflateError"):
        getattr(imagecodecs, loaded)  # loads a library, which cannot be done afterwards
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    mapped_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    memory_bytes = mapped_bytes + SPARE_BYTES + 2 * max_bytes + 3 * 2 * max_px
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE):
        _limit(kind, 0, 0)
    _limit(resource.RLIMIT_AS, memory_bytes, memory_bytes)


def received(channel: socket.socket, length: int) -> bytes | None:
    """Exactly so many bytes; None when the other end has closed."""
    buffer = bytearray(length)
    filled = 0
    with memoryview(buffer) as view:
        while filled < length:
            count = channel.recv_into(view[filled:])
            if count == 0:
                return None
            filled += count
    return bytes(buffer)


def _limit(kind: int, soft: int, hard: int) -> None:
    with contextlib.suppress(OSError):  # a stricter sandbox may forbid even this; then its own limits hold
        resource.setrlimit(kind, (soft, hard))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
