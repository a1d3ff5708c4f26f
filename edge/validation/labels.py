"""What people said about the scans of a folder: `labels.csv`. The only parser, for replay, training and export.

The first line names the columns, in any order: `file` and `bundle` (the lot) are required, and `label` or `label_1`,
`label_2` and so on, one column a person. Further columns are read where they are there: `kinds`, `severity`,
`size_px`, `size_mm` (lengths), `area_px`, `area_mm2` (several joined by `|`, one for each anomaly) and `part_id`;
all others are left alone. Cells are
separated by commas, semicolons or tabs; the file is UTF-8, with or without byte order mark.

A label is a word of `LABEL_WORDS`, in capitals or not, or empty: a scan without a judgement (a foreign image planted in
a test lot, say) is listed but unlabelled. Beside the votes of several people `label` is the reference they are held
against; where it is missing or empty their majority is the label, and abnormal where they are even.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Final

from edge.errors import TableError

REQUIRED_COLUMNS = ("file", "bundle")
SEPARATORS = ",;\t"
MOST_PROBLEMS = 100
"""Bad rows told at once; of more, their number."""
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f]")
_HEADER_HINT = "the first line names the columns: file,bundle,label (or label_1,label_2,...) and any others"


class Label(StrEnum):
    """The truth about an electrode, as far as people know it."""

    NORMAL = "normal"
    ABNORMAL = "abnormal"


LABEL_WORDS: Final = {
    **dict.fromkeys(("normal", "ok", "good", "pass", "i.o.", "io"), Label.NORMAL),
    **dict.fromkeys(("abnormal", "ng", "nok", "bad", "fail", "n.i.o.", "nio"), Label.ABNORMAL),
}
"""Words for a label, in lower case."""


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One line of `labels.csv`."""

    line: int
    file: str
    """Path relative to the folder, with forward slashes."""
    lot: str | None
    """The column `bundle`; None where the cell is empty."""
    label: Label | None
    """None for a scan without a judgement."""
    votes: tuple[Label | None, ...] = ()
    """One for each person, in the order of the columns label_1, label_2, ...; None where the person left it open."""
    kinds: tuple[str, ...] = ()
    severities: tuple[float, ...] = ()
    sizes_px: tuple[float, ...] = ()
    sizes_mm: tuple[float, ...] = ()
    part_id: str | None = None
    areas_px: tuple[float, ...] = ()
    areas_mm2: tuple[float, ...] = ()
    is_majority: bool = False
    """Whether the label is what most of the votes say, for want of a reference."""


@dataclass(frozen=True, slots=True)
class MatchedLabels:
    """Rows by the scan they belong to."""

    by_file: dict[str, LabelRow]
    without_file: tuple[LabelRow, ...]
    """Rows whose scan is not there."""


def read_labels(path: Path) -> list[LabelRow]:
    """The rows of a labels file, in its order.

    Raises TableError: the file cannot be read, lacks a column, has no rows; or naming the line of every bad row.
    """
    try:
        # Names of files may hold bytes that are not UTF-8; they must equal the names the folder gives.
        data = path.read_bytes()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise TableError(f"labels {path} is UTF-16: expected UTF-8", hint="save it as CSV UTF-8")
        return _rows(path, data.decode("utf-8-sig", "surrogateescape"))
    except OSError as error:
        raise TableError(
            f"labels {path} cannot be read: {error.strerror}", hint="name the CSV file with --labels"
        ) from None
    except csv.Error as error:
        raise TableError(f"labels {path} is not a CSV file: {error}", hint=_HEADER_HINT) from None


def match_labels(path: Path, rows: Sequence[LabelRow], files: Iterable[str]) -> MatchedLabels:
    """Give each row its scan: by relative path, else by base name where one scan has it and one path ends as the other.

    `path` is named in errors. Raises TableError naming the line of every row that fits several scans, or a
    scan that another row has already, or none because its file is not UTF-8.
    """
    by_file: dict[str, LabelRow] = {}
    by_name: dict[str, list[str]] = defaultdict(list)
    exact = {row.file for row in rows}
    names = {PurePosixPath(file).name for file in exact}
    known: set[str] = set()
    for file in files:  # of a million files, only what rows may mean is kept
        if file in exact:
            known.add(file)
        if (name := file.rpartition("/")[2]) in names:
            by_name[name].append(file)
    without_file, problems, hints = [], [], []
    for row in sorted(rows, key=lambda row: row.file not in known):  # exact paths first, then ends of them
        fitting = [row.file]
        if row.file not in known:
            fitting = by_name[PurePosixPath(row.file).name]
            if len(fitting) == 1 and not (_is_end_of(fitting[0], row.file) or _is_end_of(row.file, fitting[0])):
                fitting = []  # lot1/a.tif is no label of lot2/a.tif
        if not fitting and (wrong := _not_utf8("file", row.file)):  # another encoding, not a scan that went
            problems.append(f"line {row.line}: {wrong}, and no scan has this name")
            hints.append("save the labels as UTF-8")
        elif not fitting:
            without_file.append(row)
        elif len(fitting) > 1:
            problems.append(
                f"line {row.line}: {row.file!r} fits {len(fitting)} scans, {fitting[0]!r} and {fitting[1]!r} among them"
            )
            hints.append("give paths relative to the folder of scans")
        elif fitting[0] in by_file:
            problems.append(
                f"line {row.line}: {row.file!r} names the scan {fitting[0]!r}, which line "
                f"{by_file[fitting[0]].line} labels already"
            )
            hints.append("label every scan once")
        else:
            by_file[fitting[0]] = row
    if problems:
        raise TableError(bad_rows(path, problems), hint="; ".join(dict.fromkeys(hints)))
    return MatchedLabels(by_file, tuple(without_file))


def _is_end_of(part: str, whole: str) -> bool:
    return f"/{whole}".endswith(f"/{part}")


def _not_utf8(name: str, cell: str) -> str | None:
    found = re.search("[\udc80-\udcff]", cell)
    return f"{name} is not UTF-8: byte 0x{ord(found[0]) - 0xDC00:02x}" if found else None


def bad_rows(path: Path, problems: Sequence[str], what: str = "labels") -> str:
    """One message for all bad rows of a file, each `line N: what`."""
    told = list(problems[:MOST_PROBLEMS])
    if len(problems) > len(told):
        told.append(f"and {len(problems) - len(told)} more")
    return (
        f"{what} {path} {told[0]}"
        if len(told) == 1
        else "\n  ".join([f"{what} {path}: {len(problems)} bad rows", *told])
    )


def separator_of(text: str) -> str:
    """The separator of a table: the one of SEPARATORS that its first line has most of."""
    first_line = next(iter(text.splitlines()), "")
    return max(SEPARATORS, key=first_line.count)


def _rows(path: Path, text: str) -> list[LabelRow]:
    first_line = next(iter(text.splitlines()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator_of(text))
    header = [name.strip().lower() for name in next(reader, [])]
    voters = [name for name in header if re.fullmatch(r"label_\d+", name)]
    needed = (*REQUIRED_COLUMNS, *(() if voters else ("label",)))
    wrong = [name for name in needed if name not in header]
    wrong += [name for name in dict.fromkeys(header) if name in _KNOWN | {*voters} and header.count(name) > 1]
    if wrong:
        raise TableError(
            f"labels {path} line 1: no column, or more than one, named {', '.join(wrong)} in {first_line[:120]!r}",
            hint=_HEADER_HINT,
        )
    rows: list[LabelRow] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        line = reader.line_num
        if len(cells) != len(header):
            problems.append(
                f"line {line}: {len(cells)} cells, the header has {len(header)}; quote a cell with a separator"
            )
            continue
        row, wrong_here = _row(line, dict(zip(header, map(str.strip, cells), strict=True)), voters)
        if row.file in seen:
            wrong_here.append(f"{row.file!r} is listed already on line {seen[row.file]}")
        seen.setdefault(row.file, line)
        problems += [f"line {line}: {problem}" for problem in wrong_here]
        rows.append(row)
    if problems:
        raise TableError(
            bad_rows(path, problems),
            hint="a label is normal, OK, good or abnormal, NG, bad, or empty; numbers are joined by |; it is UTF-8",
        )
    if not rows:
        raise TableError(f"labels {path} has no rows below its header", hint="list one scan per line")
    return rows


_KNOWN = frozenset(
    {"file", "bundle", "label", "kinds", "severity", "size_px", "size_mm", "area_px", "area_mm2", "part_id"}
)


def _row(line: int, cells: dict[str, str], voters: Sequence[str]) -> tuple[LabelRow, list[str]]:
    """A row, and what is wrong with it."""
    problems: list[str] = []
    file = str(PurePosixPath(cells["file"])) if cells["file"] else ""  # one spelling of a path, to find it twice
    if not file:
        problems.append("the file is empty")
    elif PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
        problems.append(f"{file!r} lies outside the folder")
    elif "\0" in file:
        problems.append(f"{file!r} holds a NUL character: no file has such a name")
    for name in sorted(_KNOWN & cells.keys() - {"file"}):
        if wrong := _not_utf8(name, cells[name]):
            problems.append(wrong)
        if control := _CONTROL.search(cells[name]):
            problems.append(f"{name} {cells[name]!r} holds the control character {control[0]!r}")
    votes = tuple(_label(cells[name], name, file, problems) for name in voters)
    cast = [vote for vote in votes if vote is not None]
    alone = _label(cells.get("label", ""), "label", file, problems)
    row = LabelRow(
        line=line,
        file=file,
        lot=sys.intern(cells["bundle"]) or None,
        label=majority(cast) if alone is None and cast else alone,
        is_majority=alone is None and bool(cast),
        votes=votes,
        # `;` joined kinds before the separator could be one.
        kinds=tuple(kind for part in re.split(r"[|;]", cells.get("kinds", "")) if (kind := part.strip())),
        severities=_numbers(cells, "severity", file, problems),
        sizes_px=_numbers(cells, "size_px", file, problems),
        sizes_mm=_numbers(cells, "size_mm", file, problems),
        part_id=cells.get("part_id") or None,
        areas_px=_numbers(cells, "area_px", file, problems),
        areas_mm2=_numbers(cells, "area_mm2", file, problems),
    )
    return row, problems


def majority(votes: Sequence[Label]) -> Label:
    """The label most people gave; abnormal where they are even."""
    return Label.ABNORMAL if 2 * sum(vote is Label.ABNORMAL for vote in votes) >= len(votes) else Label.NORMAL


def _label(word: str, column: str, file: str, problems: list[str]) -> Label | None:
    label = LABEL_WORDS.get(word.lower())
    if word and label is None:
        problems.append(f"{column} {word!r} of {file!r}")
    return label


def _numbers(cells: dict[str, str], column: str, file: str, problems: list[str]) -> tuple[float, ...]:
    text = cells.get(column, "")
    try:
        # Python reads 1_000 as a thousand; a person may have meant a range.
        numbers = tuple(float(part.replace(",", ".").replace("_", "?")) for part in text.split("|")) if text else ()
    except ValueError:
        numbers = (math.nan,)
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        problems.append(f"{column} {text!r} of {file!r}: numbers from 0, joined by |")
    return numbers
