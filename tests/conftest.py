"""What tests that run beside others need: `make test` runs two at a time."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has a core of its own. Threads of torch and numpy that wait for one another would spin on the other's.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
