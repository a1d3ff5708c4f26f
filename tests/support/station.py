"""A station folder for tests: scans that appear in it, and an inbox with a clock of its own."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import tifffile

from edge.records import Arrival, FileStamp
from edge.scans.scan import Limits
from edge.station.inbox import Inbox

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LIMITS = Limits()
LOOK_S = 0.25
MINUTE_AGO_NS = 1_700_000_000_000_000_000
LOCAL_MOUNT = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"


def tiff(seed: int = 0, height_px: int = 24, width_px: int = 16) -> bytes:
    """A scan as a station writes it: 16-bit, uncompressed, one strip."""
    counts = np.random.default_rng(seed).integers(1000, 60_000, (height_px, width_px), dtype=np.uint16)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, counts, photometric="minisblack")
    return buffer.getvalue()


TIFF = tiff()


def mounts(*lines: str) -> str:
    """A mount table: a local root, and these lines."""
    return LOCAL_MOUNT + "".join(f"{line}\n" for line in lines)


def drop(path: Path, data: bytes = TIFF, *, modified_s: float | None = None) -> Path:
    """Let a file appear complete, as a rename does."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(data)
    if modified_s is not None:
        os.utime(temporary, (modified_s, modified_s))
    return temporary.rename(path)


def stamp_of(path: Path, folder: Path) -> FileStamp:
    return FileStamp.of(str(path.relative_to(folder)), path.lstat())


def hang_below(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share whose server is gone, to who must not ask it: any question to it is an error."""

    def hanging(really: Callable[..., object]) -> Callable[..., object]:
        def ask(path: object, *arguments: object, **options: object) -> object:
            assert not str(path).startswith(str(folder)), f"{path} hangs"
            return really(path, *arguments, **options)

        return ask

    for name in ("access", "lstat", "mkdir", "open", "readlink", "scandir", "stat"):
        monkeypatch.setattr(os, name, hanging(getattr(os, name)))


class Line:
    """An inbox with a clock of its own, on which looks take no time; what it hands out is noted."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.folder = folder
        known = options.pop("known", {})
        options = {"rewrite_hold_s": 0.0, "stopwatch": lambda: (0.0, 0.0)} | options
        self.inbox = Inbox(folder, known=known, limits=LIMITS, **options)  # type: ignore[arg-type]
        self.now_s = 1000.0
        self.handed_out: list[FileStamp] = []
        self.arrivals: list[Arrival] = []
        self.final: dict[FileStamp, bool] = {}

    def look(self, after_s: float = LOOK_S, room: int = 64) -> list[str]:
        self.now_s += after_s
        arrivals = self.inbox.poll(self.now_s, NOW, room)
        self.final |= {arrival.stamp: arrival.is_final for arrival in arrivals}
        self.arrivals += arrivals
        self.handed_out += [arrival.stamp for arrival in arrivals]
        return [arrival.stamp.file for arrival in arrivals]

    def is_final(self, stamp: FileStamp) -> bool:
        """Whether the file was last handed out as final."""
        return self.final[stamp]

    def looks(self, count: int, *, finish: bool = False) -> list[str]:
        """All files handed out in `count` looks."""
        files: list[str] = []
        for _ in range(count):
            files += self.look()
            if finish:
                self.finish()
        return files

    def finish(self) -> None:
        """Report everything handed out so far as judged."""
        for stamp in self.handed_out:
            self.inbox.finished(stamp)
        self.handed_out.clear()

    def judge_all(self) -> list[str]:
        return self.looks(3, finish=True)


class Calls:
    """Counts what is asked of the file system about the folder and what is in it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = {"scandir": 0, "lstat": 0, "stat": 0, "open": 0}
        self._folder = folder
        for name in self.count:
            monkeypatch.setattr(os, name, self._counting(name, getattr(os, name)))

    def _counting(self, name: str, function: Callable[..., object]) -> Callable[..., object]:
        def counting(source: int | str, *args: object, **options: object) -> object:
            if isinstance(source, int) or source == self._folder or str(source).startswith(f"{self._folder}/"):
                self.count[name] += 1
            return function(source, *args, **options)

        return counting
