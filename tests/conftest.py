"""What tests that run beside others need: `make test` runs three at a time."""

import os
import signal

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
