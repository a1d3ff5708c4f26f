"""TensorRT's own words: warnings into our log, the last errors into our exceptions."""

from __future__ import annotations

import logging
from collections import deque

import tensorrt as trt

from edge.system.logs import event

log = logging.getLogger(__name__)

TRT_ERRORS = (RuntimeError, TypeError, ValueError, MemoryError, AttributeError)
"""What its bindings raise; a factory that fails returns null, which they turn into a TypeError."""


class TrtLog(trt.ILogger):
    """One for each engine or build."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._errors: deque[str] = deque(maxlen=3)

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self._errors.append(msg.strip())
            event(log.error, "tensorrt", message=msg.strip())
        elif severity == trt.ILogger.WARNING:
            event(log.warning, "tensorrt", message=msg.strip())

    def last_words(self) -> str:
        """The last errors, or that there were none."""
        return "; ".join(self._errors) or "TensorRT gave no reason"
