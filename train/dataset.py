"""A folder of labelled scans: reading its labels, splitting it by lot, loading it as network images.

Two layouts are read: `labels.csv` at the top of the folder, as `edge.validation.labels` describes it, or, without one,
folders `LOT/normal/*.tif` and `LOT/abnormal/*.tif`.
Needs no torch: `edge-train bounds` runs on the base installation.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edge.errors import ScanError, TableError
from edge.images.conversion import Bounds, Histogram, clipped_fraction, histogram, prepare
from edge.images.exposure import Exposure, exposure
from edge.images.method import Method
from edge.images.sharpness import Sharpness, sharpness
from edge.records import Frame, Image, Size, counts_sha256
from edge.scans.scan import Limits, read_scan
from edge.system.names import is_scan_name
from edge.system.text import visible
from edge.validation.labels import MatchedLabels, bad_rows, match_labels
from edge.validation.labels import read_labels as read_label_rows
from train.errors import DataError
from train.files import entries_of, files_below, folders_of

LABELS_NAME = "labels.csv"
LABELS = ("normal", "abnormal")
"""Class 0 and class 1."""

_LAYOUT_HINT = "give a folder with labels.csv (file,bundle,label) or with LOT/normal and LOT/abnormal in it"

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

Progress = Callable[[int, int], None]
"""Called with (done, total) after every scan."""


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled scan."""

    path: Path
    file: str
    """Path relative to the data folder, with forward slashes."""
    lot: str
    label: int
    """Index into `LABELS`."""
    kinds: tuple[str, ...] = ()
    severity: float | None = None
    votes: tuple[int, ...] = ()
    """Labels that several people gave; `label` is then their majority, and abnormal where they are even."""

    @property
    def is_disputed(self) -> bool:
        """Whether not all of them agreed."""
        return len(set(self.votes)) > 1


@dataclass(frozen=True, slots=True)
class ScanFacts:
    """What was measured of one scan while it was read."""

    sha256: str
    """Hash of the file's bytes."""
    pixels_sha256: str
    """Hash of size and counts, whatever file they lie in."""
    height_px: int
    width_px: int
    clipped_fraction: float
    """Share of pixels outside the bounds; 0 without bounds."""
    exposure: Exposure
    sharpness: Sharpness


@dataclass(frozen=True)
class LoadedScans:
    """Scans as the networks see them, all in memory: uint8 (n, channels, height_px, width_px)."""

    rows: tuple[Row, ...]
    images: npt.NDArray[np.uint8]
    facts: tuple[ScanFacts, ...]

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Classes (n,), indices into `LABELS`."""
        return np.array([row.label for row in self.rows], np.int64)


@dataclass(frozen=True)
class SplitScans:
    """Scans to learn from, and scans of other lots that are held out."""

    training: LoadedScans
    held_out: LoadedScans

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.training.rows + self.held_out.rows

    @property
    def facts(self) -> tuple[ScanFacts, ...]:
        return self.training.facts + self.held_out.facts

    @property
    def digest(self) -> str:
        return data_digest(self.rows, [fact.sha256 for fact in self.facts])

    @property
    def order(self) -> list[str]:
        """Digests of the files in their order: a training that goes on draws scans by number."""
        return [fact.sha256 for fact in self.facts]


def read_labels(data: Path) -> list[Row]:
    """The labelled scans of a folder, in the order of `labels.csv` or sorted by path; unlabelled ones are left out.

    Raises:
        DataError: no such folder, no labels, or rows that make no sense or name no scan (all of them, by their lines).
    """
    if not data.is_dir():
        raise DataError(f"{data} is not a folder", hint=_LAYOUT_HINT)
    labels = data / LABELS_NAME
    try:
        rows = _rows_of_csv(data, labels) if labels.is_file() else list(_rows_of_folders(data))
    except TableError as error:
        raise DataError(error.message, hint=error.hint) from error
    except OSError as error:
        raise DataError(f"{data} cannot be read: {error}", hint="look at the folder and who may read it") from error
    if not rows:
        raise DataError(f"no labelled scans in {data}", hint=_LAYOUT_HINT)
    return rows


def _rows_of_csv(data: Path, labels: Path) -> list[Row]:
    matched = _match(data, labels)
    problems = {row.line: f"there is no file {data / row.file}" for row in matched.without_file}
    for row in matched.by_file.values():
        if row.lot is None and row.label is not None:
            problems[row.line] = f"{row.file!r} has no lot in the column `bundle`"
        elif row.lot is not None and visible(row.lot) != row.lot:
            problems[row.line] = f"the lot {visible(row.lot)!r} holds invisible characters, such as a line end"
    if problems:
        raise DataError(
            bad_rows(labels, [f"line {line}: {problems[line]}" for line in sorted(problems)]),
            hint="copy the scans there or drop their rows; every labelled row names its lot, in one line",
        )
    rows = []
    for file, row in sorted(matched.by_file.items(), key=lambda item: item[1].line):
        if row.label is not None and row.lot is not None:
            votes = tuple(LABELS.index(vote) for vote in row.votes if vote is not None)
            severity = max(row.severities, default=None)
            rows.append(Row(data / file, file, row.lot, LABELS.index(row.label), row.kinds, severity, votes))
    return rows


def _match(data: Path, labels: Path) -> MatchedLabels:
    listed = read_label_rows(labels)
    files = dict.fromkeys([*_tiff_files(data), *(row.file for row in listed if (data / row.file).is_file())])
    return match_labels(labels, listed, list(files))


def unlabelled_files(data: Path) -> tuple[list[str], list[str]]:
    """Scans in a folder that its labels do not list, or that lie in no LOT/LABEL folder; and those listed without one.

    Raises DataError, TableError.
    """
    labels = data / LABELS_NAME
    if labels.is_file():
        listed = {file: row.label is not None for file, row in _match(data, labels).by_file.items()}
    else:
        listed = {row.file: True for row in _rows_of_folders(data)}
    unlisted = [file for file in _tiff_files(data) if file not in listed]
    return unlisted, [file for file, is_labelled in listed.items() if not is_labelled]


def _tiff_files(data: Path) -> list[str]:
    return [path.relative_to(data).as_posix() for path in files_below(data) if is_scan_name(path.name)]


def _rows_of_folders(data: Path) -> Iterator[Row]:
    for path in (path for lot in folders_of(data) for label in folders_of(lot) for path in entries_of(label)):
        if not is_scan_name(path.name) or not path.is_file():
            continue
        lot, label = path.parts[-3:-1]
        if label not in LABELS:
            raise DataError(f"{path}: the folder {label!r} is not a label", hint="folders are LOT/normal, LOT/abnormal")
        if visible(lot) != lot:
            raise DataError(
                f"the lot {visible(lot)!r} holds invisible characters, or such as are not UTF-8",
                hint="rename its folder",
            )
        yield Row(path, path.relative_to(data).as_posix(), lot, LABELS.index(label))


def split_by_lot(
    rows: Sequence[Row], share: float, seed: int, needs: Sequence[int] = (0, 1)
) -> tuple[list[Row], list[Row]]:
    """Training rows and validation rows; a lot is never split (J 2.2).

    About `share` of the lots, at least one, go to validation, chosen by `seed`; both parts must hold the classes
    in `needs`. Raises DataError where there are too few lots for that.
    """
    if not 0.0 < share < 1.0:
        raise DataError(
            f"a validation share of {share} leaves nothing on one side",
            hint="give a share of the lots between 0 and 1, such as 0.2",
        )
    lots = sorted({row.lot for row in rows})
    if len(lots) < 2:
        raise DataError(
            f"all {len(rows)} scans are of lot {lots[0]}",
            hint="validation takes whole lots: label scans of at least 2 lots",
        )
    count = min(len(lots) - 1, max(1, round(share * len(lots))))
    held = {lots[i] for i in np.random.default_rng(seed).permutation(len(lots))[:count]}
    training = [row for row in rows if row.lot not in held]
    validation = [row for row in rows if row.lot in held]
    for part, name in ((training, "training"), (validation, "validation")):
        if missing := [LABELS[label] for label in needs if all(row.label != label for row in part)]:
            raise DataError(
                f"the {name} lots ({', '.join(sorted({row.lot for row in part}))}) hold no {missing[0]} scan",
                hint="try another --seed or a larger --validation-share, or label more scans",
            )
    return training, validation


def refuse_copies(rows: Sequence[Row], pixels_sha256s: Sequence[str]) -> None:
    """Raise DataError where one scan lies in two lots, by its counts: what is learnt from one is tested on the other.

    `pixels_sha256s`: digests of the rows' counts, in their order.
    """
    first: dict[str, Row] = {}
    copies = [
        (kept, row)
        for row, sha256 in zip(rows, pixels_sha256s, strict=True)
        if (kept := first.setdefault(sha256, row)).lot != row.lot
    ]
    if copies:
        one, other = copies[0]
        more = f", and {len(copies) - 1} more are in two lots" if len(copies) > 1 else ""
        raise DataError(
            f"{one.file} of lot {one.lot} and {other.file} of lot {other.lot} are the same scan{more}",
            hint="a scan is of one lot, or what is learnt from it is tested on it: keep one of each;"
            " `edge-train doctor` lists them",
        )


def read_frame(row: Row) -> Frame:
    """The scan of a row. Raises DataError, naming the file, where the line itself could not read it."""
    try:
        # Data sets are often folders of links; the station's folder, where the line refuses them, has none to offer.
        return read_scan(row.path.resolve(), file=row.file, limits=Limits(expected_zero_px=None))
    except ScanError as error:
        message = error.message if error.message.startswith(row.file) else f"{row.file}: {error.message}"
        raise DataError(message, hint=f"{error.hint}; or drop its row") from error


def scan_histograms(
    rows: Sequence[Row], *, jobs: int | None = None, progress: Progress | None = None
) -> Iterator[tuple[Row, str, Histogram]]:
    """Row, SHA-256 and histogram of every scan, in order."""

    def measure(row: Row) -> tuple[Row, str, Histogram]:
        frame = read_frame(row)
        return row, frame.scan.sha256, histogram(frame.counts)

    yield from _in_order(measure, rows, jobs, progress)


def load_scans(
    rows: Sequence[Row],
    method: Method,
    bounds: Bounds | None,
    size: Size,
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> LoadedScans:
    """Read, convert and resize scans by the line's own `edge.images.conversion.prepare`.

    The result takes `height * width * channels` bytes of memory per scan. Raises DataError.
    """

    def load(row: Row) -> tuple[Image, ScanFacts]:
        frame = read_frame(row)
        return prepare(frame.counts, method, bounds, size), _facts_of(frame, bounds)

    images = np.empty((len(rows), method.channels, *size), np.uint8)
    facts: list[ScanFacts] = []
    for number, (image, fact) in enumerate(_in_order(load, rows, jobs, progress)):
        images[number] = image
        facts.append(fact)
    return LoadedScans(tuple(rows), images, tuple(facts))


def load_split(
    training: Sequence[Row],
    held_out: Sequence[Row],
    method: Method,
    bounds: Bounds | None,
    size: Size,
    counter: Callable[[str], Progress],
) -> SplitScans:
    """Both parts of a split by lot; `counter` shows how far each is. Raises DataError, also for a scan in two lots."""
    split = SplitScans(
        load_scans(training, method, bounds, size, progress=counter("training scans")),
        load_scans(held_out, method, bounds, size, progress=counter("held out scans")),
    )
    refuse_copies(split.rows, [fact.pixels_sha256 for fact in split.facts])
    return split


def scan_facts(
    rows: Sequence[Row], bounds: Bounds | None, *, progress: Progress | None = None
) -> tuple[ScanFacts, ...]:
    """What `load_scans` measures of scans, without their images. Raises DataError."""
    return tuple(_in_order(lambda row: _facts_of(read_frame(row), bounds), rows, None, progress))


def _facts_of(frame: Frame, bounds: Bounds | None) -> ScanFacts:
    hist = histogram(frame.counts)
    clipped = 0.0 if bounds is None else clipped_fraction(hist, bounds)
    height_px, width_px = frame.counts.shape
    return ScanFacts(
        sha256=frame.scan.sha256,
        pixels_sha256=counts_sha256(frame.counts),
        height_px=height_px,
        width_px=width_px,
        clipped_fraction=clipped,
        exposure=exposure(hist),
        sharpness=sharpness(frame.counts, hist),
    )


def data_digest(rows: Sequence[Row], sha256s: Sequence[str]) -> str:
    """SHA-256 over (file hash, lot, label) of every scan, whatever their order and file names."""
    lines = sorted(f"{sha256},{row.lot},{LABELS[row.label]}\n" for row, sha256 in zip(rows, sha256s, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _in_order(
    work: Callable[[_Item], _Result], items: Sequence[_Item], jobs: int | None, progress: Progress | None
) -> Iterator[_Result]:
    # Threads, not processes: reading, hashing and converting all release the interpreter lock.
    with ThreadPoolExecutor(jobs or len(os.sched_getaffinity(0))) as pool:
        window = 64  # bounds the images waiting in memory
        for start in range(0, len(items), window):
            for done, result in enumerate(pool.map(work, items[start : start + window]), start + 1):
                yield result
                if progress is not None:
                    progress(done, len(items))
