"""Features on disk, one file per scan, view and conversion, found by what they were made from. Plain numpy.

A key is the SHA-256 over everything the numbers depend on, so a changed scan, weight or setting is another key and
nothing is ever out of date. A file is written beside its name and renamed, and begins with the hash of its content: a
kill or a power cut leaves either nothing or a file that is seen to be broken and made again. The folder is bounded;
what was used longest ago goes first. A full disk ends the caching, not the run.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge.system.files import write_whole

GIB = 1 << 30
DEFAULT_MAX_BYTES = 8 * GIB
"""A paper-sized set (714 scans, 4 views, 4 conversions) takes 1.4 GiB."""
_SUFFIX = ".features"


@dataclass(frozen=True, slots=True)
class Features:
    """What one view of a scan leaves behind: `whole` float32 (3, channels), `tiles` float16 (2, tiles, channels)."""

    whole: npt.NDArray[np.float32]
    tiles: npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class FeatureKey:
    """Everything that features depend on."""

    scan_sha256: str
    conversion: str
    """Method and, where it uses them, bounds."""
    size: str
    view: int
    weights_sha256: str
    statistics: str
    arithmetic: str
    """`float32` or `bfloat16`, and the kind of device."""

    def digest(self) -> str:
        """SHA-256 of all of it, hexadecimal."""
        parts = (self.scan_sha256, self.conversion, self.size, str(self.view), self.weights_sha256)
        return hashlib.sha256("\0".join((*parts, self.statistics, self.arithmetic)).encode()).hexdigest()


class FeatureCache:
    """A bounded folder of features; one process writes it."""

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, int],
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`shape` is (tiles, channels) of the features kept here."""
        self._folder, self._shape, self._max_bytes, self._say = folder, shape, max_bytes, say
        self._used: set[Path] = set()
        self._is_off = False
        self._bytes = 0
        for path in folder.glob("*/*"):
            if path.suffix == _SUFFIX:
                self._bytes += path.stat().st_size
            elif path.name.startswith(".") and f"{_SUFFIX}." in path.name:
                path.unlink(missing_ok=True)  # what a killed run had begun to write; all else here is not ours

    def get(self, key: FeatureKey) -> Features | None:
        """The features of a key, or None where there are none or they are damaged."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        tiles, channels = self._shape
        digest, content = data[:32], data[32:]
        if len(content) != 4 * 3 * channels + 4 * tiles * channels or hashlib.sha256(content).digest() != digest:
            return None
        self._used.add(path)
        whole = np.frombuffer(content, np.float32, 3 * channels).reshape(3, channels)
        return Features(whole, np.frombuffer(content, np.float16, offset=whole.nbytes).reshape(2, tiles, channels))

    def put(self, key: FeatureKey, features: Features) -> None:
        """Keep features; where the disk is full or everything in the bound is in use, say so once and go on."""
        if self._is_off:
            return
        content = features.whole.tobytes() + features.tiles.tobytes()
        data = hashlib.sha256(content).digest() + content
        if not self._make_room(len(data)):
            self._give_up(f"the bound of {self._max_bytes / GIB:.1f} GiB is reached; raise --cache-gib")
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_whole(path, durable=False) as stream:
                stream.write(data)
        except OSError as error:
            self._give_up(f"{self._folder} cannot be written: {error}")
            return
        self._bytes += len(data)
        self._used.add(path)

    def finish(self) -> None:
        """Note when the files of this run were used, for the next one that needs room."""
        for path in self._used:
            try:
                os.utime(path)
            except OSError:
                return

    def _make_room(self, needed_bytes: int) -> bool:
        if self._bytes + needed_bytes <= self._max_bytes:
            return True
        idle = [path for path in self._folder.glob(f"*/*{_SUFFIX}") if path not in self._used]
        for path in sorted(idle, key=lambda path: path.stat().st_mtime):
            self._bytes -= path.stat().st_size
            path.unlink(missing_ok=True)
            if self._bytes + needed_bytes <= self._max_bytes * 0.9:  # room for more than this one
                break
        return self._bytes + needed_bytes <= self._max_bytes

    def _give_up(self, why: str) -> None:
        self._is_off = True
        self._say(f"no more features are kept on disk: {why}. The run goes on, a later one computes them again")

    def _path(self, key: FeatureKey) -> Path:
        digest = key.digest()
        return self._folder / digest[:2] / (digest + _SUFFIX)
