"""What the process knows of its machine: its memory, whether the clock follows a reference, which machine it is."""

from __future__ import annotations

import ctypes
import hashlib
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

STATM: Final = Path("/proc/self/statm")
TIMESYNC: Final = Path("/run/systemd/timesync")
"""Where systemd-timesyncd notes that it has set the clock."""

MACHINE_ID: Final = Path("/etc/machine-id")
"""One number for each installation, by machine-id(5); not to be given away as it is."""

_TIMEX_BYTES = 512
"""More than a `struct timex` on any Linux; all zero, it asks and sets nothing (adjtimex(2))."""
_TIME_ERROR = 5


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM, in bytes; None where the kernel does not tell."""
    try:
        return int(STATM.read_text().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return None


def return_free_memory() -> None:
    """Give back to the kernel what is free in the C library's heaps, one per thread: it keeps what a peak took.

    malloc_trim(3), a few milliseconds; nothing where the C library has none. What was freed within the last minute is
    needed again soon, so this is for once a minute.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def machine_key() -> str:
    """Sixteen digits that no other machine has, unless its disk was cloned; "" where it has no number (a container)."""
    try:
        number = MACHINE_ID.read_bytes().strip()
    except OSError:
        return ""
    return hashlib.blake2b(number, digest_size=8, person=b"edge-worker").hexdigest() if number else ""


def clock_synchronised() -> bool | None:
    """Whether the kernel counts the clock as set by a reference such as NTP; None where neither it nor systemd tells.

    A unit with `ProtectClock=` may not ask the kernel; systemd-timesyncd's note is then what there is.
    """
    answer = _clock_state()
    if answer >= 0:
        return answer != _TIME_ERROR
    return (TIMESYNC / "synchronized").exists() if TIMESYNC.is_dir() else None


def _clock_state() -> int:
    """The kernel's clock state, 0 to 5; -1 where it may not be asked."""
    try:
        return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    except (OSError, AttributeError):
        return -1
