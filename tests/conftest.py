"""What tests that run beside others need: `make test` runs three at a time."""

import ctypes
import os
import signal
from collections.abc import Iterator

import pytest

if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # Under nohup: the tests go on not to hear a hangup, the commands that they start do hear it.
    signal.signal(signal.SIGHUP, lambda *_: None)

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker keeps to one core, and so does all that it starts. Torch, onnxruntime, OpenVINO and the commands
    # take as many threads as they see cores, and threads that wait for one another spin: a small fit then
    # costs four times its processor time.
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) % len(_cores)]})
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture
def rights_hold() -> Iterator[None]:
    """Root, too, may read in this thread only what the permissions of files and folders say."""
    if os.geteuid() != 0:
        yield
        return
    # capget(2): a version and a thread, then effective, permitted, inheritable, low 32 bits and high ones.
    thread, held = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(thread, held) == 0
    fewer = (ctypes.c_uint32 * 6)(*held)
    fewer[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(thread, fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(thread, held) == 0
