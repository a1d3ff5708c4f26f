"""Plays the X-ray station: a simulated lot with bad files in it, and a folder it is written into."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from edge.validation.labels import read_labels
from train.simulator.foreign import foreign_scan
from train.simulator.simulate import lot_name, simulate_scan, write_lots

SEED = 2  # no model here is trained on scans of it
FIRST_LOT = 215  # the first of four in which found and missed severities overlap, so that the report draws a curve
LOTS = 4
SCANS_PER_LOT = 8
ABNORMAL_FRACTION = 0.5
SPARE_INDEX = 9_000  # sheets that are in the lot only in a broken form

CHUNKS = 4
CHUNK_PAUSE_S = 0.1
STALL_S = 2.5
"""One file stands still half-written for this long: longer than a file that merely looks finished."""


@dataclass(frozen=True, slots=True)
class Lot:
    """Files in the order the station writes them, what is known of each, and the labels of the good ones."""

    files: tuple[Path, ...]
    truths: dict[str, str]
    """`normal` or `abnormal` by label; otherwise what is wrong with the file."""
    labels: Path


def make_lot(folder: Path, progress: Callable[[int, int], None] | None = None, *, scale: float = 1.0) -> Lot:
    """Simulate the electrodes, one foreign image and the three bad files into `folder`."""
    labels = write_lots(
        folder,
        seed=SEED,
        lots=LOTS,
        scans_per_lot=SCANS_PER_LOT,
        abnormal_fraction=ABNORMAL_FRACTION,
        first_lot=FIRST_LOT,
        scale=scale,
        progress=progress,
    )
    truths = {row.file: str(row.label) for row in read_labels(labels)}
    makers = {"jpeg": _jpeg, "truncated": _truncate, "8-bit": _eight_bit, "foreign": _foreign}
    for offset, (truth, write) in enumerate(makers.items()):
        path = folder / f"{lot_name(FIRST_LOT + offset)}_{truth}.tif"
        write(path, offset, scale)
        truths[path.name] = truth
    return Lot(tuple(folder / name for name in sorted(truths)), truths, labels)


class Station:
    """Writes files into the folder from a thread of its own, as instruments do: slowly, and not all alike.

    Every third file is written under a temporary name and renamed; the others grow under their own name, one of
    them with a long pause in the middle. `error` holds what ended the thread early, None if nothing did.
    """

    def __init__(self, files: Sequence[Path], folder: Path, *, pace_s: float) -> None:
        self.error: OSError | None = None
        self.finished_at: dict[str, datetime] = {}
        self._files = files
        self._folder = folder
        self._pace_s = pace_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="station")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Writes from entry to exit; a file in hand at exit stays unfinished."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def _write_all(self) -> None:
        try:
            for number, path in enumerate(self._files):
                due = time.monotonic() + self._pace_s
                self._write(path, renamed=number % 3 == 2, stalls=number == 4)
                self.finished_at[path.name] = datetime.now(UTC)
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    return
        except OSError as error:
            self.error = error

    def _write(self, source: Path, *, renamed: bool, stalls: bool) -> None:
        content = source.read_bytes()
        target = self._folder / source.name
        written = target.with_name(f"~{source.name}.part") if renamed else target
        size = -(-len(content) // CHUNKS)
        with written.open("wb") as stream:
            for start in range(0, len(content), size):
                pause_s = STALL_S if stalls and start >= len(content) // 2 > start - size else CHUNK_PAUSE_S
                if self._stop.wait(pause_s if start else 0.0):
                    return
                stream.write(content[start : start + size])
                stream.flush()
        if renamed:
            written.rename(target)


def _eight_bits(offset: int, scale: float) -> npt.NDArray[np.uint8]:
    """A good sheet as an 8-bit picture: uint8 (H, W)."""
    counts = simulate_scan(SEED, FIRST_LOT + offset, SPARE_INDEX, abnormal=False, scale=scale).counts
    stretched = (counts.astype(np.float32) - 1700.0) * (255.0 / 1100.0)
    picture: npt.NDArray[np.uint8] = np.clip(stretched, 0, 255).astype(np.uint8)
    return picture


def _jpeg(path: Path, offset: int, scale: float) -> None:
    """A screenshot somebody saved under a scan's name."""
    path.write_bytes(cv2.imencode(".jpg", _eight_bits(offset, scale))[1].tobytes())


def _truncate(path: Path, offset: int, scale: float) -> None:
    """The station lost power while writing."""
    counts = simulate_scan(SEED, FIRST_LOT + offset, SPARE_INDEX, abnormal=False, scale=scale).counts
    tifffile.imwrite(path, counts, photometric="minisblack", metadata=None)
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size * 6 // 10)


def _eight_bit(path: Path, offset: int, scale: float) -> None:
    """An export with the wrong bit depth."""
    tifffile.imwrite(path, _eight_bits(offset, scale), photometric="minisblack", metadata=None)


def _foreign(path: Path, offset: int, scale: float) -> None:
    """Another part lay on the carrier."""
    counts = foreign_scan("other-part", SEED + offset, 1, scale)
    tifffile.imwrite(path, counts, photometric="minisblack", metadata=None)
