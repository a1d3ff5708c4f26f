"""The files of a replay, listed on disk: sorted, one JSON string a line, so that a million of them fill no memory.

The list is cut into parts of consecutive files. A part is what one worker process judges at a time, and what is judged
again where a whole machine is lost.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

SORTED_AT_ONCE = 100_000
"""Names sorted in memory; longer lists are merged from sorted runs on disk."""
MOST_PART_FILES, LEAST_PART_FILES, WANTED_PARTS = 100, 8, 64


@dataclass(frozen=True, slots=True)
class FileList:
    """Names relative to the folder of scans, in order."""

    path: Path
    count: int
    sha256: str
    part_files: int
    """Files of every part but the last. It follows from their number alone."""
    starts: array[int]
    """Byte at which the first name of each part begins."""

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[str]:
        with self.path.open("rb") as stream:
            for line in stream:
                yield json.loads(line)

    @property
    def parts_count(self) -> int:
        """How many parts the list has."""
        return len(self.starts)

    def part(self, number: int) -> list[str]:
        """Names of one part."""
        with self.path.open("rb") as stream:
            stream.seek(self.starts[number])
            return [json.loads(line) for line in islice(stream, self.part_files)]


def write_file_list(names: Iterable[str], path: Path) -> FileList:
    """Sort `names` into a list at `path`. Raises OSError."""
    runs: list[Path] = []
    waiting = iter(names)
    count = 0
    try:
        while chunk := sorted(islice(waiting, SORTED_AT_ONCE)):
            runs.append(path.with_name(f"{path.name}.{len(runs)}"))
            runs[-1].write_bytes(b"".join(map(_line, chunk)))
            count += len(chunk)
        part_files = min(MOST_PART_FILES, max(LEAST_PART_FILES, -(-count // WANTED_PARTS)))
        digest, starts, position = hashlib.sha256(), array("Q"), 0
        with path.open("wb") as stream:
            for number, name in enumerate(heapq.merge(*map(_names, runs))):
                if number % part_files == 0:
                    starts.append(position)
                line = _line(name)
                digest.update(line)
                position += stream.write(line)
    finally:
        for run in runs:
            run.unlink(missing_ok=True)
    return FileList(path, count, digest.hexdigest(), part_files, starts)


def _line(name: str) -> bytes:
    return json.dumps(name).encode("ascii") + b"\n"  # bytes that are no UTF-8 become \udcXX, and come back


def _names(run: Path) -> Iterator[str]:
    with run.open("rb") as stream:
        for line in stream:
            yield json.loads(line)
