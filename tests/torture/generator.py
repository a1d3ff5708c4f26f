"""The station of the torture runs: writes scans in every way a station may, and keeps its own list of them.

The list is the one truth the checker starts from: file name, SHA-256 of the final bytes, and the score a
verdict on them must carry. Whatever the worker does or forgets cannot change it.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.records import Counts
from tests.support.tiff_files import tiff
from tests.torture.stub import SIZE, expected_p_abnormal

BLOCK_BYTES = 64
"""Slow writers lack whole blocks when they pause: fewer than 16 missing samples cannot be told from a dark corner."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One file with its final bytes."""

    file: str
    sha256: str
    p_abnormal: float | None
    """None for a file that is no scan: its verdict carries no score."""
    visible_at_s: float
    """Wall clock when the final bytes stood under the final name."""


class Generator:
    """Writes into `folder`; `listed` grows in order of arrival."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.listed: list[Listed] = []
        self._random = np.random.default_rng([seed, 1])
        self._base = self._random.integers(1750, 2750, SIZE).astype(np.uint16)
        self._count = 0

    @property
    def files(self) -> list[str]:
        return [listed.file for listed in self.listed]

    def scan(self) -> tuple[Counts, bytes]:
        """A scan nobody has seen before, and its file."""
        self._count += 1
        counts = self._base.copy()
        counts[0, :16] = self._random.integers(1750, 2750, 16)
        counts[1, :4] = [1750 + (self._count >> shift & 0xFF) * 4 for shift in (0, 8, 16, 24)]
        return counts, tiff(counts)

    def arrive(self, count: int = 1, prefix: str = "B01") -> list[Listed]:
        """Careful writers: each file under another name first, then renamed."""
        return [self._arrive_one(prefix) for _ in range(count)]

    def put(self, name: str, data: bytes, p_abnormal: float | None) -> Listed:
        """Bytes under a name in one step: a draft, then a rename over whatever is there."""
        draft = self.folder / f".{self._count}.{len(self.listed)}.draft"
        draft.write_bytes(data)
        visible_at_s = time.time()
        os.rename(draft, self.folder / name)  # noqa: PTH104 - the hot loop
        return self.note(name, data, p_abnormal, visible_at_s)

    def note(self, name: str, data: bytes, p_abnormal: float | None, visible_at_s: float | None = None) -> Listed:
        """Enter into the list what somebody else wrote."""
        listed = Listed(name, hashlib.sha256(data).hexdigest(), p_abnormal, visible_at_s or time.time())
        self.listed.append(listed)
        return listed

    def _arrive_one(self, prefix: str) -> Listed:
        counts, data = self.scan()
        return self.put(f"{prefix}_{self._count:06}.tif", data, expected_p_abnormal(counts))


class SlowWriter:
    """Writes one file straight under its final name, in pieces and with pauses, as careless stations do."""

    KINDS = ("chunks", "preallocated", "end-first", "dies-short", "dies-preallocated", "rewritten")

    def __init__(self, generator: Generator, kind: str, chance: random.Random, span_s: float) -> None:
        """`span_s`: how long the writing takes in all."""
        self.kind = kind
        self._generator = generator
        self.counts, self.data = generator.scan()
        self.name = f"slow-{kind}_{generator._count:06}.tif"
        pieces = chance.randint(1, 50)
        places = range(BLOCK_BYTES, len(self.data) - BLOCK_BYTES, BLOCK_BYTES)
        cuts = sorted(chance.sample(places, pieces - 1))
        self._parts = list(zip([0, *cuts], [*cuts, len(self.data)], strict=True))
        if kind == "end-first":
            self._parts.reverse()
        self.is_abandoned = kind.startswith("dies")
        if self.is_abandoned:
            # The strip begins at byte 400: the header is there, pixels are missing.
            keep = len(self.data) * chance.choice([1, 2]) // 3
            self._parts = [(start, min(end, keep)) for start, end in self._parts if start < keep]
        waits = [chance.random() for _ in self._parts]
        scale = span_s / sum(waits)
        self._due_s = list(np.cumsum([wait * scale for wait in waits]))
        self._began_s: float | None = None
        self._has_rewritten = False

    def step(self, now_s: float) -> bool:
        """Write what is due; True when nothing is left and the file is entered into the list."""
        path = self._generator.folder / self.name
        if self._began_s is None:
            self._began_s = now_s
            with path.open("wb") as file:
                if self.kind in ("preallocated", "end-first", "dies-preallocated"):
                    file.truncate(len(self.data))
                if self.kind == "rewritten":
                    file.write(self._generator.scan()[1][:300])
        with path.open("r+b") as file:
            while self._parts and self._began_s + self._due_s[0] <= now_s:
                start, end = self._parts.pop(0)
                self._due_s.pop(0)
                file.seek(start)
                file.write(self.data[start:end])
        if self._parts:
            return False
        final = path.read_bytes()
        p_abnormal = None if self.is_abandoned else expected_p_abnormal(self.counts)
        self._generator.note(self.name, final, p_abnormal)
        return True
