"""Scans as the networks see them, for calibration and comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.errors import ScanError
from edge.images.conversion import Bounds, prepare
from edge.images.method import Method
from edge.records import Image, Size
from edge.scans.scan import Limits, read_scan
from edge.system.names import is_scan_name
from edge.validation.labels import Label, match_labels, read_labels
from export.errors import ExportError
from train.files import files_below

LABELS_NAME = "labels.csv"


@dataclass(frozen=True, slots=True)
class ConvertedScan:
    """A converted scan; `label`: 1 abnormal, 0 normal, None without a label."""

    file: str
    image: Image
    label: int | None
    sha256: str
    """Digest of the file."""


def scan_files(folder: Path) -> list[Path]:
    """The TIFF files of a folder and its sub-folders, sorted.

    Raises ExportError where there are none, DataError where a folder cannot be listed.
    """
    files = [path for path in files_below(folder) if is_scan_name(path.name)]
    if not files:
        raise ExportError(f"{folder} holds no TIFF files", hint="give a folder of scans")
    return files


def converted_scans(
    folder: Path,
    method: Method,
    bounds: Bounds | None,
    size: Size,
    at_most: int | None = None,
    labels: Path | None = None,
) -> list[ConvertedScan]:
    """The scans of `scan_files`; `at_most` of them, evenly spread.

    Labels come from `labels`, else from the folder's labels.csv, else from nowhere. Raises ExportError for a folder
    without scans or a scan that cannot be read, SettingsError for labels that make no sense.
    """
    files = {path.relative_to(folder).as_posix(): path for path in scan_files(folder)}
    labels = labels or folder / LABELS_NAME
    known = match_labels(labels, read_labels(labels), files).by_file if labels.is_file() else {}
    names = list(files)
    if at_most is not None and len(names) > at_most:
        names = [names[index * len(names) // at_most] for index in range(at_most)]
    scans = []
    for name in names:
        path = files[name]
        try:
            frame = read_scan(path.resolve(), file=name, limits=Limits(expected_zero_px=None))
        except ScanError as error:
            raise ExportError(f"{path} cannot be read: {error.message}", hint=error.hint) from error
        label = known[name].label if name in known else None
        abnormal = None if label is None else int(label is Label.ABNORMAL)
        scans.append(ConvertedScan(name, prepare(frame.counts, method, bounds, size), abnormal, frame.scan.sha256))
    return scans


def labels_of(scans: Sequence[ConvertedScan]) -> list[int] | None:
    """The label of each, None unless every one has one."""
    labels = [scan.label for scan in scans if scan.label is not None]
    return labels if len(labels) == len(scans) else None
