"""Leaves this process the few system calls that unpacking needs, for good.

Who takes over an unpacker through a flaw in its library can still compute, but reach nothing: no file by name or
descriptor, no other process, no memory but its own, no new code. What is refused returns EPERM. Killing the process
instead would make every coded file unreadable on the day a new C library asks for one harmless call more; nothing is
gained by it, since a refused call does nothing. Calls in another system call convention (32 bit, x32) kill: they mean
other things by the same numbers, and no code of ours makes them.

The filter is a classic BPF program, made here and handed to the kernel through prctl(2), for x86_64 and aarch64. The
bindings on PyPI load libseccomp, a system library which the base installation of a line PC need not have; what they
would save is less than a page. Source: seccomp(2), linux/filter.h, the kernel's tables of system calls.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from typing import Final, NamedTuple

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER = 2
PROT_EXEC = 4
X32 = 0x40000000

_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
_LOAD, _IS_EQUAL, _IS_AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _THIRD_ARGUMENT_AT = 0, 4, 32
"""Where the words of struct seccomp_data lie that are looked at; both processors are little-endian."""

CALLS: Final = (
    "brk",
    "clock_gettime",
    "close",
    "exit",
    "exit_group",
    "futex",
    "getrandom",
    "madvise",
    "mremap",
    "munmap",
    "recvfrom",
    "restart_syscall",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_yield",
    "sendto",
    "sigaltstack",
)
WITHOUT_EXEC: Final = ("mmap", "mprotect")
"""Allowed for memory that is not to be executed."""


class Processor(NamedTuple):
    """How the kernel names a processor to a filter, and its numbers of the calls above."""

    audit_arch: int
    numbers: dict[str, int]


PROCESSORS: Final = {
    "x86_64": Processor(
        0xC000003E,
        {
            "brk": 12,
            "clock_gettime": 228,
            "close": 3,
            "exit": 60,
            "exit_group": 231,
            "futex": 202,
            "getrandom": 318,
            "madvise": 28,
            "mmap": 9,
            "mprotect": 10,
            "mremap": 25,
            "munmap": 11,
            "recvfrom": 45,
            "restart_syscall": 219,
            "rt_sigaction": 13,
            "rt_sigprocmask": 14,
            "rt_sigreturn": 15,
            "sched_yield": 24,
            "sendto": 44,
            "sigaltstack": 131,
        },
    ),
    "aarch64": Processor(
        0xC00000B7,
        {
            "brk": 214,
            "clock_gettime": 113,
            "close": 57,
            "exit": 93,
            "exit_group": 94,
            "futex": 98,
            "getrandom": 278,
            "madvise": 233,
            "mmap": 222,
            "mprotect": 226,
            "mremap": 216,
            "munmap": 215,
            "recvfrom": 207,
            "restart_syscall": 128,
            "rt_sigaction": 134,
            "rt_sigprocmask": 135,
            "rt_sigreturn": 139,
            "sched_yield": 124,
            "sendto": 206,
            "sigaltstack": 132,
        },
    ),
}


def allow_only_unpacking() -> bool:
    """Filter the calls of this thread and those it starts; False where this kernel or processor has no filter."""
    libc = ctypes.CDLL(None, use_errno=True)
    processor = PROCESSORS.get(platform.machine())
    if processor is None or libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    instructions = program(processor)

    class Program(ctypes.Structure):
        """struct sock_fprog"""

        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    filtering = Program(len(instructions) // _INSTRUCTION.size, instructions)
    return bool(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filtering), 0, 0) == 0)


_INSTRUCTION = struct.Struct("=HBBI")


def program(processor: Processor) -> bytes:
    """The filter as the kernel takes it: an array of struct sock_filter."""
    steps = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_IS_EQUAL, 1, 0, processor.audit_arch),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_IS_AT_LEAST, 0, 1, X32),
        (_RETURN, 0, 0, _KILL),
    ]
    for call in CALLS:
        steps += [(_IS_EQUAL, 0, 1, processor.numbers[call]), (_RETURN, 0, 0, _ALLOW)]
    for call in WITHOUT_EXEC:
        steps += [
            (_IS_EQUAL, 0, 4, processor.numbers[call]),
            (_LOAD, 0, 0, _THIRD_ARGUMENT_AT),
            (_HAS_BITS, 0, 1, PROT_EXEC),
            (_RETURN, 0, 0, _REFUSE),
            (_RETURN, 0, 0, _ALLOW),
        ]
    steps.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(_INSTRUCTION.pack(*step) for step in steps)
