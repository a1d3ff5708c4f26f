"""Files of a folder become prepared scans in a small pool, in order, while the networks are busy with others."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2

from edge.engines.preprocessor import Preprocessor
from edge.errors import ScanIncomplete
from edge.pipeline.crash_guard import DecodeMarks, kills_its_reader
from edge.pipeline.prepare import Prepared, condemn, prepare_scan
from edge.records import Arrival
from edge.scans.scan import Decode, Limits
from edge.system.heartbeat import Beats


class ReadAhead:
    """Prepares the files of a folder ahead of the networks, in order. One thread uses it."""

    def __init__(
        self,
        folder: Path,
        *,
        limits: Limits,
        decode: Decode,
        marks: DecodeMarks,
        threads: int,
        reads: Beats | None = None,
    ) -> None:
        """`reads`: told of each file while it is read, for who watches over reads that do not end."""
        self.threads = threads
        self._reads = reads or Beats()
        self._folder = folder
        self._limits = limits
        self._decode = decode
        self._marks = marks
        cv2.setNumThreads(1)  # OpenCV's own spin between its calls, and gain nothing beside the pool
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._jobs: deque[tuple[Arrival, Future[Prepared]]] = deque()

    def __len__(self) -> int:
        """Files that were added and not given out."""
        return len(self._jobs)

    def add(self, arrival: Arrival, preprocessor: Preprocessor) -> None:
        """Begin to read a file and to make of it what the engine takes."""
        self._jobs.append((arrival, self._pool.submit(self._read, arrival, preprocessor)))

    def next(self, *, wait: bool) -> tuple[Arrival, Prepared | ScanIncomplete] | None:
        """The oldest file, as a scan or with what it lacks; None: there is none, or (not `wait`) it is not ready."""
        if not self._jobs or not (wait or self._jobs[0][1].done()):
            return None
        arrival, job = self._jobs[0]
        try:
            read: Prepared | ScanIncomplete = job.result()
        except ScanIncomplete as error:
            read = error
        self._jobs.popleft()
        return arrival, read

    def close(self) -> None:
        """Drop what is in hand."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, arrival: Arrival, preprocessor: Preprocessor) -> Prepared:
        path = self._folder / arrival.stamp.file
        with self._reads.turn(arrival.stamp.file):
            if self._marks.is_suspect(arrival.stamp):
                death = kills_its_reader(path, self._limits, preprocessor.spec)
                if death is not None:
                    return condemn(path, arrival, self._limits, death)
            with self._marks.decoding(arrival.stamp):
                return prepare_scan(path, arrival, preprocessor, self._limits, self._decode)
