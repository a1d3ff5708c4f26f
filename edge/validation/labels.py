"""What a person said about the scans of a folder: `labels.csv`, matched to the files.

The columns `file`, `bundle` and `label` are required; `kinds` and `severity` are shown beside a scan where
they are given; other columns are left alone. A label is `normal`, `abnormal`, or empty: a scan that is
listed but was not judged by anybody (a foreign image planted in a test lot, say) counts as unlabelled.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

from edge.errors import SettingsError

REQUIRED_COLUMNS = ("file", "bundle", "label")
_HEADER_HINT = "the first line names the columns, separated by commas: file,bundle,label and any others"


class Label(StrEnum):
    """The truth about an electrode, as far as people know it."""

    NORMAL = "normal"
    ABNORMAL = "abnormal"


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One line of `labels.csv`; `label` is None where the cell is empty."""

    line: int
    file: str
    bundle: str | None
    label: Label | None
    kinds: tuple[str, ...] = ()
    severity: str | None = None


@dataclass(frozen=True, slots=True)
class MatchedLabels:
    """Rows by the scan they belong to, and the rows that belong to none."""

    by_file: dict[str, LabelRow]
    without_file: tuple[LabelRow, ...]


def read_labels(path: Path) -> list[LabelRow]:
    """The rows of a labels file (UTF-8, with or without byte order mark), in its order.

    Raises SettingsError naming the line: a missing column, a cell too many or too few, an unknown label,
    a file that is listed twice.
    """
    try:
        # Names of files may hold bytes that are no UTF-8; they must equal the names the folder gives.
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            rows = list(_rows(path, stream))
    except OSError as error:
        raise SettingsError(
            f"labels {path} cannot be read: {error.strerror}", hint="name the CSV file with --labels"
        ) from None
    except csv.Error as error:
        raise SettingsError(f"labels {path} is not a CSV file: {error}", hint=_HEADER_HINT) from None
    if not rows:
        raise SettingsError(f"labels {path} has no rows below its header", hint="list one scan per line")
    return rows


def match_labels(path: Path, rows: Sequence[LabelRow], files: Sequence[str]) -> MatchedLabels:
    """Give each row its scan: by relative path, else by base name where only one scan has it.

    `path` is named in errors. Raises SettingsError naming the line of a row that fits several scans, or a
    scan that another row has already.
    """
    by_file: dict[str, LabelRow] = {}
    by_name: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_name[PurePosixPath(file).name].append(file)
    known = set(files)
    without_file = []
    for row in sorted(rows, key=lambda row: row.file not in known):  # exact paths first, then base names
        fitting = [row.file] if row.file in known else by_name[PurePosixPath(row.file).name]
        if not fitting:
            without_file.append(row)
        elif len(fitting) > 1:
            raise SettingsError(
                f"labels {path} line {row.line}: {row.file!r} fits {len(fitting)} scans, {fitting[0]!r} and "
                f"{fitting[1]!r} among them",
                hint="give the path relative to the replayed folder",
            )
        elif fitting[0] in by_file:
            raise SettingsError(
                f"labels {path} line {row.line}: {row.file!r} names the scan {fitting[0]!r}, which line "
                f"{by_file[fitting[0]].line} labels already",
                hint="label every scan once; where base names repeat, give paths relative to the replayed folder",
            )
        else:
            by_file[fitting[0]] = row
    return MatchedLabels(by_file, tuple(without_file))


def _rows(path: Path, stream: Iterator[str]) -> Iterator[LabelRow]:
    reader = csv.reader(stream)
    header = [name.strip() for name in next(reader, [])]
    if missing := [name for name in REQUIRED_COLUMNS if header.count(name) != 1]:
        raise SettingsError(
            f"labels {path} line 1: expected one column each named {', '.join(REQUIRED_COLUMNS)}; "
            f"{', '.join(missing)} missing or repeated in {','.join(header)[:120]!r}",
            hint=_HEADER_HINT,
        )
    seen: dict[str, int] = {}
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise SettingsError(
                f"labels {path} line {reader.line_num}: {len(cells)} cells, the header has {len(header)}",
                hint="quote a cell that holds a comma",
            )
        row = _row(path, reader.line_num, dict(zip(header, map(str.strip, cells), strict=True)))
        if row.file in seen:
            raise SettingsError(
                f"labels {path} line {row.line}: {row.file!r} is listed already on line {seen[row.file]}",
                hint="list every scan once",
            )
        seen[row.file] = row.line
        yield row


def _row(path: Path, line: int, cells: dict[str, str]) -> LabelRow:
    file, label = cells["file"].removeprefix("./"), cells["label"]
    if not file:
        raise SettingsError(f"labels {path} line {line}: the file is empty", hint="every row names its scan")
    if label and label not in set(Label):
        raise SettingsError(
            f"labels {path} line {line}: label {label!r} of {file!r}",
            hint="write normal or abnormal, or leave it empty for a scan nobody has judged",
        )
    return LabelRow(
        line=line,
        file=file,
        bundle=cells["bundle"] or None,
        label=Label(label) if label else None,
        kinds=tuple(kind for kind in cells.get("kinds", "").split(";") if kind),
        severity=cells.get("severity") or None,
    )
