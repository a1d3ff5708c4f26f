"""The state of the GPU for the health message, as `nvidia-smi` tells it.

A process apart: the CUDA context belongs to the worker's thread, and no library is needed for five numbers a minute.
"""

from __future__ import annotations

import logging
import subprocess

from edge.messages import Gpu

log = logging.getLogger(__name__)

QUERY = (
    "nvidia-smi",
    "--query-gpu=name,memory.used,memory.total,temperature.gpu,utilization.gpu",
    "--format=csv,noheader,nounits",
)
TIMEOUT_S = 5.0
MIB_BYTES = 1 << 20


def gpu_state() -> Gpu | None:
    """None where nvidia-smi is missing or fails, or lists several GPUs: which of them judges, it does not tell."""
    try:
        told = subprocess.run(  # noqa: S603
            QUERY, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
        )
        (row,) = told.stdout.splitlines()
        name, used_mib, total_mib, temperature_c, utilization_percent = row.rsplit(", ", 4)
        return Gpu(
            name=name,
            memory_used_bytes=int(used_mib) * MIB_BYTES,
            memory_total_bytes=int(total_mib) * MIB_BYTES,
            temperature_c=_number(temperature_c),
            utilization_percent=_number(utilization_percent),
        )
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        log.debug("state of the GPU not known", extra={"fields": {"error": str(error)}})
        return None


def _number(text: str) -> float | None:
    """None for the `[N/A]` of a GPU that does not measure it."""
    try:
        return float(text)
    except ValueError:
        return None
