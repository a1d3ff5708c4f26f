"""The state of the GPU for the health message, from `nvidia-smi`.

A process apart: the CUDA context belongs to the worker's thread, and no library is needed for five numbers a minute.
"""

from __future__ import annotations

import logging
import subprocess
from contextlib import suppress

from edge.contract.messages import Gpu
from edge.system.logs import event

log = logging.getLogger(__name__)

QUERY = (
    "nvidia-smi",
    "--query-gpu=name,memory.used,memory.total,temperature.gpu,utilization.gpu",
    "--format=csv,noheader,nounits",
)
TIMEOUT_S = 5.0
KILL_TIMEOUT_S = 1.0
MIB_BYTES = 1 << 20


def gpu_state() -> Gpu | None:
    """None where nvidia-smi is missing or fails, or lists several GPUs: it does not say which one runs the model."""
    try:
        (row,) = _query().splitlines()
        name, used_mib, total_mib, temperature_c, utilization_percent = row.rsplit(", ", 4)
        return Gpu(
            name=name,
            memory_used_bytes=int(used_mib) * MIB_BYTES,
            memory_total_bytes=int(total_mib) * MIB_BYTES,
            temperature_c=_number(temperature_c),
            utilization_percent=_number(utilization_percent),
        )
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        event(log.debug, "state of the GPU not known", error=str(error))
        return None


def _query() -> str:
    """Standard output of `nvidia-smi`. Raises OSError, subprocess.SubprocessError."""
    process = subprocess.Popen(  # noqa: S603
        QUERY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            stdout, _ = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            # Not waited for any longer: a driver that hangs lets nothing end that asks it, and this thread feeds the
            # watchdog.
            with suppress(subprocess.TimeoutExpired):
                process.wait(KILL_TIMEOUT_S)
            raise
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, QUERY)
    return stdout


def _number(text: str) -> float | None:
    """None for the `[N/A]` of a GPU that does not measure it."""
    try:
        return float(text)
    except ValueError:
        return None
