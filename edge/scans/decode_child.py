"""The process in which coded scans are unpacked, for edge/scans/decoder.py.

`python -m edge.scans.decode_child MAX_PX MAX_BYTES`.

On its standard input it has a socket. It says FILTERED or UNFILTERED, then answers one request after the other until
the other end closes. Before the first request it gives up what an unpacker never needs: more memory than the largest
scan takes, and every system call but the few in edge/scans/syscall_filter.py. Where the kernel filters none (it says
so), limits alone still keep it from opening and writing files and from starting processes. A limit exceeded is this
process's end, and never the line's; its processor time is watched from outside.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import sys
from pathlib import Path

os.putenv("OPENBLAS_NUM_THREADS", "1")  # before numpy is loaded, which starts a thread per processor else

import imagecodecs

from edge.errors import ScanError
from edge.records import Counts
from edge.scans.decoder import ANSWER, FILTERED, PIXELS, REFUSAL, REQUEST, UNFILTERED
from edge.scans.pixels import decode
from edge.scans.syscall_filter import allow_only_unpacking
from edge.scans.tiff import read_layout

SPARE_BYTES = 64 << 20
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4


def main(max_px: int, max_bytes: int) -> None:
    channel = socket.socket(fileno=sys.stdin.fileno())
    channel.sendall(FILTERED if confine(max_px, max_bytes) else UNFILTERED)
    while (header := receive(channel, REQUEST.size)) is not None:
        (length,) = REQUEST.unpack(header)
        data = receive(channel, length)
        if data is None:
            return
        try:
            counts = unpack(data, max_px)
        except ScanError as error:
            said = f"{error.reason}\n{error.message}".encode()
            channel.sendall(ANSWER.pack(REFUSAL, len(said)) + said)
        else:
            channel.sendall(ANSWER.pack(PIXELS, counts.nbytes))
            channel.sendall(counts.data.cast("B"))


def unpack(data: bytes, max_px: int) -> Counts:
    """What the file holds; trusts no word on its layout. Raises ScanError."""
    return decode(data, read_layout(lambda start, length: data[start : start + length], len(data), max_px))


def confine(max_px: int, max_bytes: int) -> bool:
    """Give up, for good, whatever unpacking does not need; whether the kernel filters system calls.

    Memory: the file twice, and three times its pixels.
    """
    for loaded in ("lzw_decode", "deflate_decode", "delta_decode", "LzwError", "DeflateError"):
        getattr(imagecodecs, loaded)  # loads a library, which cannot be done afterwards
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(PR_SET_DUMPABLE, 0)
    mapped_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    memory_bytes = mapped_bytes + SPARE_BYTES + 2 * max_bytes + 3 * 2 * max_px
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE):
        _limit(kind, 0, 0)
    _limit(resource.RLIMIT_AS, memory_bytes, memory_bytes)
    return allow_only_unpacking()


def receive(channel: socket.socket, length: int) -> bytes | None:
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
