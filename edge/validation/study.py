"""`edge-worker study TABLE`: figures of an inspection study from its table alone, without scans and without a model.

A row is a part, or one decision on it. Probability of detection needs a column of sizes and one that says what was
found, or holds a signal; agreement needs a column for each person. Cells that are empty or say NA are unknown.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edge.errors import SettingsError, TableError
from edge.system.text import visible
from edge.validation.agreement import AttributeRow, Kappa, attribute_row, cohen_kappa, fleiss_kappa
from edge.validation.detection import NoCurve, PodCurve, SizeScale, hit_miss, signal_response
from edge.validation.labels import LABEL_WORDS, Label, bad_rows, separator_of
from edge.validation.lots import NO_LOT, LotInterval
from edge.validation.statistics import none_if_nan, wilson

FOUND_WORDS: Final = {
    **dict.fromkeys(("1", "yes", "y", "true", "hit", "found"), True),
    **dict.fromkeys(("0", "no", "n", "false", "miss", "missed"), False),
}
"""Words for an anomaly that was found or missed, in lower case."""
UNKNOWN_WORDS: Final = frozenset({"", "na", "n/a", "nan"})

Words = npt.NDArray[np.object_]
"""Words in lower case, None where unknown."""


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """What the command line asks for; names are those of columns."""

    table: Path
    size: str | None = None
    found: str | None = None
    response: str | None = None
    decision: float | None = None
    """Signal from which an anomaly counts as found."""
    floor: float = -math.inf
    ceiling: float = math.inf
    size_scale: SizeScale = SizeScale.LOG
    people: tuple[str, ...] = ()
    reference: str | None = None
    defective: str | None = None
    """Word that calls a part defective; None: the words of labels.csv."""
    part: str | None = None
    count: str | None = None
    """Column that says how many rows a row stands for."""
    lot: str | None = None
    """Column that names the lot; None: no intervals over lots."""


@dataclass(frozen=True, slots=True)
class Study:
    """What the table holds."""

    curves: tuple[tuple[str, PodCurve | NoCurve], ...]
    kappas: tuple[tuple[str, Kappa | None], ...]
    attributes: tuple[AttributeRow, ...]
    notes: tuple[str, ...]


def study(options: StudyOptions) -> Study:
    """Read the table and measure.

    Raises SettingsError where an option is missing or names no column, TableError naming the line of every bad row.
    """
    if options.size is None and not options.people:
        raise SettingsError(
            "nothing to measure is named",
            hint="--size COLUMN with --found COLUMN or --response COLUMN, or --people COLUMN,COLUMN",
        )
    if options.size is not None and options.found is None and options.response is None:
        raise SettingsError("--size given without what was found", hint="--found COLUMN, or --response COLUMN")
    if options.response is not None and options.decision is None:
        raise SettingsError("--response given without --decision", hint="say from which signal an anomaly is found")
    table = _Table(options.table)
    weights = None if options.count is None else table.numbers(options.count)
    curves, notes = _curves(table, options, weights) if options.size is not None else ([], [])
    kappas, attributes, more = _agreement(table, options, weights) if options.people else ([], [], [])
    return Study(tuple(curves), tuple(kappas), tuple(attributes), (*notes, *more))


def study_lines(found: Study) -> list[str]:
    """The study as lines of text."""
    lines: list[str] = []
    for name, curve in found.curves:
        if isinstance(curve, NoCurve):
            lines.append(f"{name}: {curve.reason}")
            continue
        hits = "" if curve.hits is None else f"{curve.hits} found of "
        lines.append(f"{name}: {hits}{curve.targets} anomalies, {curve.scale} scale of size")
        if curve.a50 is not None and curve.a90 is not None:
            a50 = _estimate(
                curve.a50, (curve.a50_low, curve.a50_high), curve.lots, (curve.a50_lots_low, curve.a50_lots_high)
            )
            a90 = _estimate(
                curve.a90, (curve.a90_low, curve.a90_high), curve.lots, (curve.a90_lots_low, curve.a90_lots_high)
            )
            lines += [
                f"  a50 = {a50}",
                f"  a90 = {a90}, a90/95 of MIL-HDBK-1823A = {_size(curve.a90_95, 'not reached')}",
                f"  intercept {curve.intercept:.5g}, slope {curve.slope:.5g}",
            ]
        lines += [f"  {note}" for note in curve.notes]
    for name, kappa in found.kappas:
        if kappa is None or math.isnan(kappa.kappa):
            lines.append(f"{name}: no kappa, chance alone would agree always or nothing was judged twice")
        else:
            lines.append(
                f"{name}: kappa {kappa.kappa:.3f} (95 % {kappa.low:.3f} to {kappa.high:.3f}{_over_lots(kappa)}), "
                f"{kappa.subjects} judged by both or more, agreement {kappa.observed:.1%}"
            )
    for row in found.attributes:
        effective = _share(row.right, row.parts, row.right_over_lots)
        missed = _share(row.missed, row.defective, row.missed_over_lots)
        alarms = _share(row.false_alarms, row.good, row.false_alarms_over_lots)
        lines += [
            f"{row.appraiser}: {row.verdict}",
            f"  effectiveness {effective}",
            f"  missed {missed}",
            f"  false alarms {alarms}",
        ]
        if row.worst is not None and row.right_over_lots is not None and row.right_over_lots.lots > 1:
            lines.append(f"  worst lot {row.worst.lot}: {row.worst.errors} of {row.worst.scans} wrong")
    return [*lines, *found.notes]


def study_json(found: Study) -> str:
    """The study for programs."""
    facts = {
        "schema": "study/1",
        "curves": {name: _curve_facts(curve) for name, curve in found.curves},
        "kappas": {name: None if kappa is None else _kappa_facts(kappa) for name, kappa in found.kappas},
        "attributes": {
            row.appraiser: {
                **{name: value for name, value in asdict(row).items() if name != "appraiser"},
                "effectiveness": row.effectiveness,
                "miss_rate": row.miss_rate,
                "false_alarm_rate": row.false_alarm_rate,
            }
            for row in found.attributes
        },
        "notes": list(found.notes),
    }
    return json.dumps(facts, indent=2, allow_nan=False) + "\n"


class _Table:
    """Cells by column."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            text = path.read_bytes().decode("utf-8-sig")
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator_of(text))
            self._header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
        except OSError as error:
            raise TableError(f"{path} cannot be read: {error.strerror}", hint="name a CSV file") from None
        except (UnicodeDecodeError, csv.Error) as error:
            raise TableError(f"{path} is no CSV file in UTF-8: {error}", hint="save the table as such") from None
        width = len(self._header)
        self._refuse(
            [f"line {line}: {len(cells)} cells, the header has {width}" for line, cells in rows if len(cells) != width]
        )
        self._lines = [line for line, _ in rows]
        self._rows = [cells for _, cells in rows]

    def words(self, column: str) -> list[str | None]:
        """Cells in lower case, None where unknown."""
        at = self._place(column)
        return [None if (word := row[at].casefold()) in UNKNOWN_WORDS else word for row in self._rows]

    def lots(self, column: str | None) -> list[str]:
        """Names of the lots; rows whose cell is empty are of one together, and so are all without a column."""
        if column is None:
            return [""] * len(self._rows)
        at = self._place(column)
        return [NO_LOT if row[at].casefold() in UNKNOWN_WORDS else row[at] for row in self._rows]

    def numbers(self, column: str, *, above: float = -math.inf) -> list[float | None]:
        """Numbers beyond `above`, with a point or a comma; None where unknown."""
        return self._read(column, lambda word: _number(word, above), "a number" + _beyond(above))

    def flags(self, column: str) -> list[bool | None]:
        """Whether an anomaly was found; None where unknown."""
        return self._read(column, FOUND_WORDS.get, "1, yes, hit, found or 0, no, miss, missed")

    def _read(self, column: str, meaning: Callable[[str], Any], expected: str) -> list[Any]:
        words = self.words(column)
        values = [None if word is None else meaning(word) for word in words]
        self._refuse(
            [
                f"line {line}: {column} {visible(word)!r}, expected {expected}"
                for line, word, value in zip(self._lines, words, values, strict=True)
                if word is not None and value is None
            ]
        )
        return values

    def _place(self, column: str) -> int:
        if self._header.count(column) != 1:
            raise SettingsError(
                f"{self._path} has no column, or more than one, named {column!r}: {', '.join(self._header)[:200]}",
                hint="name a column of its first line",
            )
        return self._header.index(column)

    def _refuse(self, problems: Sequence[str]) -> None:
        if problems:
            raise TableError(
                bad_rows(self._path, problems, "table"), hint="correct these cells; an empty one is unknown"
            )


def _curves(
    table: _Table, options: StudyOptions, weights: Sequence[float | None] | None
) -> tuple[list[tuple[str, PodCurve | NoCurve]], list[str]]:
    assert options.size is not None
    sizes = table.numbers(options.size, above=0.0)
    names = table.lots(options.lot)
    curves: list[tuple[str, PodCurve | NoCurve]] = []
    notes = []
    for column, values in (
        (options.found, None if options.found is None else table.flags(options.found)),
        (options.response, None if options.response is None else table.numbers(options.response)),
    ):
        if column is None or values is None:
            continue
        known = [at for at, pair in enumerate(zip(sizes, values, strict=True)) if None not in pair]
        if len(known) < len(sizes):
            notes.append(f"{len(sizes) - len(known)} of {len(sizes)} rows have no {options.size} or no {column}.")
        size = _repeat(np.array([sizes[at] for at in known], np.float64), known, weights)
        lots = _repeat(np.array([names[at] for at in known], object), known, weights).tolist() if options.lot else ()
        value = _repeat(np.array([values[at] for at in known], np.float64), known, weights)
        if column is options.found:
            curves.append(("Hit/miss", hit_miss(size, value > 0, options.size_scale, lots)))
        else:
            assert options.decision is not None
            ends = options.floor, options.ceiling
            curve = signal_response(size, value, options.decision, *ends, options.size_scale, lots)
            curves.append(("Signal response", curve))
    return curves, notes


def _agreement(
    table: _Table, options: StudyOptions, weights: Sequence[float | None] | None
) -> tuple[list[tuple[str, Kappa | None]], list[AttributeRow], list[str]]:
    columns = (*options.people, *(() if options.reference is None else (options.reference,)))
    rows = list(range(len(table.words(columns[0]))))
    words = {name: _repeat(np.array(table.words(name), object), rows, weights) for name in columns}
    lots = _repeat(np.array(table.lots(options.lot), object), rows, weights).tolist()
    classes = sorted({word for column in words.values() for word in column if word is not None})
    kappas: list[tuple[str, Kappa | None]] = []
    if len(options.people) > 1:
        votes = np.stack(
            [sum((words[name] == each).astype(np.int64) for name in options.people) for each in classes], axis=1
        )
        kappas.append(("All (Fleiss)", fleiss_kappa(votes, lots)))
    for one, other in itertools.combinations(columns, 2):
        kappas.append((f"{one} and {other} (Cohen)", cohen_kappa(_pairs(words[one], words[other], classes, lots))))
    if options.reference is None:
        return kappas, [], []
    meanings = _defective(classes, options.defective)
    if meanings is None:
        return kappas, [], ["Misses and false alarms: --defective WORD says which word calls a part defective."]
    named = [None] * len(rows) if options.part is None else table.words(options.part)
    parts = _repeat(np.array(named, object), rows, weights).tolist()
    truth = [None if word is None else meanings[word] for word in words[options.reference]]
    return (
        kappas,
        [
            attribute_row(name, [None if word is None else meanings[word] for word in words[name]], truth, parts, lots)
            for name in options.people
        ],
        [],
    )


def _repeat(values: npt.NDArray[Any], rows: Sequence[int], weights: Sequence[float | None] | None) -> npt.NDArray[Any]:
    """Each value as often as its row counts."""
    if weights is None:
        return values
    return np.repeat(values, [int(weights[at] or 0) for at in rows])


def _pairs(one: Words, other: Words, classes: Sequence[str], lots: Sequence[str]) -> npt.NDArray[np.int64]:
    """Counts of two people's words by lot, shape (lots, classes, classes); rows that one left open are left out."""
    place = {word: at for at, word in enumerate(classes)}
    of_lot = {lot: at for at, lot in enumerate(dict.fromkeys(lots))}
    table = np.zeros((len(of_lot), len(classes), len(classes)), np.int64)
    for first, second, lot in zip(one, other, lots, strict=True):
        if first is not None and second is not None:
            table[of_lot[lot], place[first], place[second]] += 1
    return table


def _defective(classes: Sequence[str], word: str | None) -> dict[str, bool] | None:
    """Words with whether each calls a part defective; None where that is not known. Raises SettingsError."""
    if word is None:
        known = {each: LABEL_WORDS.get(each) for each in classes}
        return None if None in known.values() else {each: label is Label.ABNORMAL for each, label in known.items()}
    if word.casefold() not in classes:
        raise SettingsError(
            f"the columns do not hold {visible(word)!r}; their words are {', '.join(map(visible, classes))[:200]}",
            hint="give --defective one of these",
        )
    return {each: each == word.casefold() for each in classes}


def _number(word: str, above: float) -> float | None:
    try:
        number = float(word.replace(",", "."))
    except ValueError:
        return None
    return number if math.isfinite(number) and number > above else None


def _beyond(above: float) -> str:
    return f" above {above:g}" if math.isfinite(above) else ""


def _over_lots(kappa: Kappa) -> str:
    over = kappa.over_lots
    return "" if over is None else f"; over {over.lots} lots {over.low:.3f} to {over.high:.3f}"


def _share(hits: int, total: int, over: LotInterval | None) -> str:
    if not total:
        return "not measured"
    low, high = wilson(hits, total)
    lots = f"; over {over.lots} lots {over.low:.1%} to {over.high:.1%}" if over is not None and over.lots > 1 else ""
    return f"{hits / total:.1%} (95 % {low:.1%} to {high:.1%}{lots})"


_Ends = tuple[float | None, float | None]


def _estimate(size: float, ends: _Ends, lots: int, over_lots: _Ends) -> str:
    said = f"; over {lots} lots {_span(over_lots)}" if lots > 1 else ""
    return f"{size:.4g} (95 % {_span(ends)}{said})"


def _span(ends: _Ends) -> str:
    return f"{_size(ends[0], 'from 0')} to {_size(ends[1], 'no limit')}"


def _size(size: float | None, otherwise: str) -> str:
    return otherwise if size is None else f"{size:.4g}"


def _curve_facts(curve: PodCurve | NoCurve) -> dict[str, Any]:
    if isinstance(curve, NoCurve):
        return asdict(curve)
    drawn = ("sizes", "pod", "pod_low")
    facts = {item.name: getattr(curve, item.name) for item in fields(curve) if item.name not in drawn}
    return {**facts, "scale": curve.scale.value, "notes": list(curve.notes)} | {
        name: getattr(curve, name).tolist() for name in drawn
    }


def _kappa_facts(kappa: Kappa) -> dict[str, Any]:
    return {**asdict(kappa), **{name: none_if_nan(getattr(kappa, name)) for name in ("kappa", "low", "high")}}
